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
