"""The internal names of Flower that we lean on: these tests fail when Flower changes them."""

from __future__ import annotations

import inspect
import logging
import random
import threading

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import arrayrecord
from flwr.serverapp import strategy as strategies
from flwr.serverapp.strategy import dp_adaptive_clipping, strategy_utils
from flwr.supercore import differential_privacy
from flwr.supercore.logger import FLOWER_LOGGER

from flautim_lab.training import flower


class _Nodes:
    def __init__(self, count):
        self.count = count

    def get_node_ids(self):
        return range(self.count)


def test_flower_draws_only_where_we_redirect_it():
    flower.prepare()
    source = inspect.getsource(strategy_utils.sample_nodes)
    assert "random.sample(" in source
    assert "np.random.normal(" in inspect.getsource(differential_privacy.add_gaussian_noise_inplace)
    assert "np.random.normal(" in inspect.getsource(
        dp_adaptive_clipping.DifferentialPrivacyAdaptiveBase
    )
    for name in dir(strategies):  # no other strategy draws by itself
        kind = getattr(strategies, name)
        if inspect.isclass(kind):
            module = inspect.getmodule(kind)
            if module in (dp_adaptive_clipping, strategy_utils):
                continue
            text = inspect.getsource(module)
            assert "random." not in text.replace("strategy_utils", ""), name


def test_sampling_is_private_and_keyed_by_round():
    flower.prepare()
    random.seed(1)
    before = random.getstate()

    def sample(seed, round_number):
        with flower.private_random(seed, "train", round_number):
            return strategy_utils.sample_nodes(_Nodes(50), 5, 5)[0]

    first = sample(7, 1)
    assert first == sample(7, 1)
    assert first != sample(7, 2)
    assert first != sample(8, 1)
    assert random.getstate() == before


def test_outside_a_run_flower_draws_from_the_global_stream():
    flower.prepare()
    random.seed(3)
    expected = random.sample(list(range(50)), 5)
    random.seed(3)
    assert strategy_utils.sample_nodes(_Nodes(50), 5, 5)[0] == expected


def test_noise_is_private_and_threads_do_not_share_it():
    flower.prepare()
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    seen = {}

    def draw(key):
        with flower.private_random(key, "aggregate", 1):
            array = np.zeros(1000, dtype=np.float32)
            differential_privacy.add_gaussian_noise_inplace([array], 2.0)
            seen[threading.current_thread().name] = array

    threads = [
        threading.Thread(target=draw, args=(k,), name=f"{k}-{n}") for k in (1, 2) for n in (0, 1)
    ]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert np.array_equal(seen["1-0"], seen["1-1"])
    assert not np.array_equal(seen["1-0"], seen["2-0"])
    assert 1.8 < seen["1-0"].std() < 2.2
    assert np.array_equal(np.random.get_state()[1], state)


def test_records_force_no_collection_inside_a_run(monkeypatch):
    flower.prepare()
    assert set(arrayrecord.__dict__["gc"].__class__.__dict__) >= {"collect"}
    assert "gc.collect()" in inspect.getsource(arrayrecord.ArrayRecord.to_numpy_ndarrays)
    collected = []
    monkeypatch.setattr(flower.gc, "collect", lambda: collected.append(1) or 0)
    record = ArrayRecord([np.ones(3)])
    with flower.log_to(print):
        record.to_numpy_ndarrays(keep_input=False)
    assert collected == []
    ArrayRecord([np.ones(3)]).to_numpy_ndarrays(keep_input=False)
    assert collected == [1]


def test_a_message_can_be_made_outside_flowers_processes():
    flower.prepare()
    content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord()})
    message = Message(content, 0, "train")
    reply = Message(RecordDict(), reply_to=message)
    assert message.metadata.dst_node_id == 0
    assert reply.metadata.src_node_id == 0


def test_flowers_log_goes_to_the_run_and_not_to_the_console(caplog):
    flower.prepare()
    lines = []
    heard = []

    class Ear(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    ear = Ear()
    FLOWER_LOGGER.addHandler(ear)
    try:
        with flower.log_to(lines.append):
            FLOWER_LOGGER.info("chatter")
            FLOWER_LOGGER.warning("mind this")
        FLOWER_LOGGER.info("outside")
    finally:
        FLOWER_LOGGER.removeHandler(ear)
    assert lines == ["Flower: mind this"]
    assert heard == ["outside"]


def test_its_views_of_a_content_are_as_before():
    flower.prepare()
    # What makes them is replaced; the class of the view, which writes back what is set, is not.
    content = RecordDict({"a": ArrayRecord(), "m": MetricRecord({"loss": 1.0})})
    assert list(content.array_records) == ["a"]
    assert content.metric_records["m"] is content["m"]
    assert list(content.config_records) == []
    content.array_records["b"] = ArrayRecord()
    del content.metric_records["m"]
    assert list(content) == ["a", "b"]
    with pytest.raises(TypeError, match="for the value"):
        content.array_records["c"] = MetricRecord()
    assert type(content.array_records) is type(content.config_records)


def test_its_dicts_check_what_is_set_as_before():
    flower.prepare()
    record = RecordDict()
    record["metrics"] = MetricRecord({"loss": 1.0})
    with pytest.raises(TypeError, match="for the key"):
        record[1] = MetricRecord()
    with pytest.raises(TypeError, match="for the value"):
        record["metrics"] = 3
    with pytest.raises(TypeError):
        record["metrics"]["loss"] = "low"
    record.metric_records["more"] = MetricRecord({"f1": 0.5})
    assert list(record) == ["metrics", "more"]
    assert record["metrics"] == {"loss": 1.0}


class _Sized(_Nodes):
    def asked(self, strategy, what):
        configure = getattr(strategy, f"configure_{what}")
        with flower.private_random(7, what, 1):
            return configure(1, ArrayRecord(), ConfigRecord(), self)


@pytest.mark.parametrize("what", ["train", "evaluate"])
def test_messages_that_are_made_when_looked_at_are_those_that_flower_makes(what):
    flower.prepare()
    grid = _Sized(5)
    for kind in (strategies.FedAvg, strategies.FedProx, strategies.FedAdam):
        made = grid.asked(kind(), what)
        strategy = kind()
        with flower.messages_of(strategy):
            alike = grid.asked(strategy, what)
        assert isinstance(made, list)
        assert isinstance(alike, flower.Alike)
        assert len(alike) == len(made) == 5
        for one, other in zip(alike, made, strict=True):
            assert one.content is alike.message.content
            assert one.content == other.content
            ours, theirs = vars(one.metadata), vars(other.metadata)
            assert ours | {"_created_at": 0} == theirs | {"_created_at": 0}
            assert vars(one).keys() == vars(other).keys()
            assert not one.has_error()
        assert [m.metadata.dst_node_id for m in alike[1:3]] == alike.nodes[1:3]
        assert Message(RecordDict(), reply_to=alike[4]).metadata.src_node_id == alike.nodes[4]


def test_a_strategy_that_may_change_its_messages_gets_one_for_each():
    flower.prepare()

    class Own(strategies.FedAvg):
        def configure_train(self, *asked):
            messages = super().configure_train(*asked)
            for message in messages:
                message.metadata.group_id = "mine"
            return messages

    around = strategies.DifferentialPrivacyServerSideFixedClipping(strategies.FedAvg(), 1.0, 1.0, 5)
    bent = strategies.FedAvg()
    bent.configure_train = Own().configure_train
    for strategy in (Own(), around, bent):
        with flower.messages_of(strategy):
            messages = _Sized(5).asked(strategy, "train")
        assert isinstance(messages, list)
    assert {message.metadata.group_id for message in messages} == {"mine"}


def test_no_strategy_of_flowers_changes_the_messages_that_it_has_made():
    for name in dir(strategies):
        kind = getattr(strategies, name)
        if inspect.isclass(kind) and issubclass(kind, strategies.FedAvg):
            for what in ("configure_train", "configure_evaluate"):
                source = inspect.getsource(getattr(kind, what))
                last = source.rstrip().splitlines()
                begin = max(n for n, line in enumerate(last) if line.lstrip().startswith("return"))
                words = " ".join("".join(last[begin:]).split())
                assert words.startswith(("return self._construct_messages", "return super()")), name
