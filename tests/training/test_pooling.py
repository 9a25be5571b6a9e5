"""Answers that are added up as they come: the strategy comes to the weights it would have come to.

The tolerance is the promise: of the largest change of each weight, 1e-12 in float64 and 2e-5 in
float32 for strategies that take the mean as it is; 1e-9 and 1e-3 for those that divide by small
numbers.
"""

from __future__ import annotations

import functools

import flwr.serverapp.strategy as flower_strategies
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

import flautim_lab as lab
from flautim_lab.errors import TrainingError
from flautim_lab.experiment.strategies import STRATEGIES
from flautim_lab.records.event import ALL_CLIENTS
from flautim_lab.records.store import Records
from flautim_lab.training import flower, weights
from flautim_lab.training.client_app import ClientHost, make_client_app
from flautim_lab.training.content import pack
from flautim_lab.training.grid import Deadline, LocalGrid
from flautim_lab.training.pooling import (
    RunningMean,
    mean_weights,
    measures_of,
    members_of,
    take_members,
    takes_mean_measures,
    takes_means,
)
from flautim_lab.training.server_app import serve
from flautim_lab.training.strategies import make_strategy
from flautim_lab.training.worker import Worker, make_work, read_answers
from tests.federations import Net, tensors
from tests.training.test_checkpoint import server_of

CPU = torch.device("cpu")
MEANS = [name for name, facts in STRATEGIES.items() if facts.of_the_mean]


class Double(Net):
    """In float64, with a weight that is frozen and one that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = torch.nn.Parameter(torch.full((3,), 0.1), requires_grad=False)
        self.idle = torch.nn.Parameter(torch.full((3,), 0.1))
        self.double()

    def forward(self, x):
        return super().forward(x.to(self.idle.dtype)) + self.frozen + 0 * self.idle


def sampled(model=Net, **settings):
    settings = {"clients": 20, "rounds": 3, "batch_size": 4, "lr": 0.1, "seed": 7} | settings
    sizes = lab.by_size([1 + number % 7 for number in range(20)])
    return lab.Experiment(tensors(330), model, partition=sizes, **settings)


def grid_of(made, pools, workers=1):
    host = ClientHost(made, CPU, pools=pools)
    assert made.engine == host.engine.name or made.engine == "auto", host.engine.why
    return LocalGrid(
        make_client_app(host, []),
        len(made.splits),
        Deadline(lambda: False),
        workers=workers,
        blocks=functools.partial(host.engine.blocks, made),
        prepare=host.cohorts.prepare,
    )


def learn(made, pools, run_id, workers=1):
    """Return weights and metrics; without ``pools`` the strategy is given each client's answer."""
    server = server_of(made, make_strategy(made), run_id)
    server._takes_means = pools
    grid = grid_of(made, pools, workers)
    serve(server, grid)
    grid.close()
    server.recorder.flush()
    metrics = [
        (event.round, event.client, event.split, event.name, event.value)
        for event in Records.default().events(run_id, kinds=("metric",))
    ]
    return server.state_dict(), metrics


@pytest.mark.parametrize(
    ("strategy", "model", "engine"),
    [(strategy, model, "cohort") for strategy in MEANS for model in (Net, Double)]
    + [("FedAvg", Net, "loop"), ("FedAvg", Double, "loop"), ("FedAdam", Double, "loop")],
)
def test_the_strategy_comes_to_the_same_weights(strategy, model, engine):
    made = sampled(model, strategy=strategy, engine=engine)
    begin = {name: tensor.clone() for name, tensor in made.build_model().state_dict().items()}
    (ours, mine), (theirs, other) = learn(made, True, "pooled"), learn(made, False, "each")
    divides = strategy in ("FedAdam", "FedYogi", "FedAdagrad")
    tolerance = (1e-9 if divides else 1e-12) if model is Double else (1e-3 if divides else 2e-5)
    for name, value in theirs.items():
        change = (value - begin[name]).abs().max()
        assert (ours[name] - value).abs().max() <= tolerance * change, name
    for name in ("frozen", "idle") if model is Double else ():
        assert torch.equal(ours[name], begin[name])
    # Each client's own measures are recorded as ever, those of the first round to the bit.
    assert [row[:4] for row in mine] == [row[:4] for row in other]
    first = [(row, there) for row, there in zip(mine, other, strict=True) if row[0] == 1]
    train = [(row, there) for row, there in first if row[2] == "train" and row[1] != ALL_CLIENTS]
    assert len(train) == 20
    assert all(row == there for row, there in train)
    assert [row[4] for row in mine] == pytest.approx([row[4] for row in other], rel=1e-2)


@pytest.mark.parametrize("engine", ["cohort", "loop"])
def test_the_bits_do_not_depend_on_who_is_done_first(engine):
    made = sampled(engine=engine, rounds=2)
    (one, mine), (several, theirs) = learn(made, True, "one"), learn(made, True, "several", 4)
    assert all(torch.equal(one[name], value) for name, value in several.items())
    assert mine == theirs


@pytest.mark.parametrize("engine", ["cohort", "loop"])
def test_the_strategy_is_given_one_answer_for_all_and_who_failed(engine, monkeypatch):
    made = sampled(engine=engine, rounds=1)
    made.dataset.tensors[0][torch.from_numpy(made.splits[13].train)] = torch.nan
    given = []

    def aggregate(self, server_round, replies, known=flower_strategies.FedAvg.aggregate_train):
        given.extend(replies)
        return known(self, server_round, given)

    monkeypatch.setattr(flower_strategies.FedAvg, "aggregate_train", aggregate)
    learn(made, True, "given")
    whole, failed = given
    rows = [len(one.train) for client, one in enumerate(made.splits) if client != 13]
    assert whole.content["metrics"]["num-examples"] == sum(rows)
    assert failed.has_error()
    assert failed.metadata.src_node_id == 13


def ask(made, kind="train"):
    flower.prepare()
    config = ConfigRecord({"server-round": 1})
    content = RecordDict({"arrays": weights.to_record(made.build_model()), "config": config})
    return content, [Message(content, client, kind) for client in range(len(made.splits))]


def test_a_round_holds_one_answer_a_cohort_and_who_failed():
    made = sampled()
    data = made.dataset
    bad = made.splits[13].train
    data.tensors[0][torch.from_numpy(bad)] = torch.nan
    _, questions = ask(made)
    got = grid_of(made, True).send_and_receive(questions)
    # Cohorts of ten; client 13 is not in the mean of the second.
    assert [members_of(m.content) if m.has_content() else "failed" for m in got] == [
        list(range(10)),
        [10, 11, 12, 14, 15, 16, 17, 18, 19],
        "failed",
    ]
    assert got[2].metadata.src_node_id == 13
    assert all(np.isfinite(a.numpy()).all() for a in got[1].content["arrays"].values())
    rows = [len(made.splits[client].train) for client in range(10)]
    assert got[0].content["metrics"]["num-examples"] == sum(rows)


def validated(kind):
    """An experiment of a class, in which each client holds rows back."""
    settings = {"clients": 20, "validation": 0.25, "seed": 3, "batch_size": 8}
    return kind(tensors(330), Net, partition=lab.by_size([8 + n for n in range(20)]), **settings)


class Measured(lab.Experiment):
    def metrics(self, outputs, targets):
        return {"clients": float(len(targets)), "spread": outputs.std()}


@pytest.mark.parametrize("kind", [lab.Experiment, Measured])
def test_an_evaluation_is_answered_once_a_cohort(kind):
    made = validated(kind)
    each = grid_of(made, False).send_and_receive(ask(made, "evaluate")[1])
    got = grid_of(made, True).send_and_receive(ask(made, "evaluate")[1])
    assert [members_of(m.content) for m in got] == [list(range(10)), list(range(10, 20))]
    alone = measures_of(each)
    assert measures_of(got) == measures_of(got[::-1]) == alone
    assert alone["loss"].clients == list(range(20))
    assert alone["loss"].rows == [len(rows.validation) for rows in made.splits]
    rows = sum(alone["loss"].rows[:10])
    for message in got:
        take_members(message)
        assert list(message.content) == ["metrics"]
    means = got[0].content["metrics"]
    assert set(means) == {"num-examples", *alone}
    assert means["num-examples"] == rows
    wanted = np.dot(alone["loss"].values[:10], alone["loss"].rows[:10]) / rows
    assert means["loss"] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("pools", [True, False])
@pytest.mark.parametrize("failing", [{3}, set(range(20))])
def test_who_cannot_be_measured_leaves_the_others_as_they_are(pools, failing):
    """As a score that needs rows of two classes."""
    sizes = [len(rows.validation) for rows in validated(lab.Experiment).splits]
    unlucky = {sizes[client] for client in failing}
    failing = {client for client, size in enumerate(sizes) if size in unlucky}
    calls = []

    class Own(lab.Experiment):
        def metrics(self, outputs, targets):
            calls.append(len(targets))
            if len(targets) in unlucky and calls[0] == "begun":
                raise ValueError("only one class")
            return {"one": 1.0}

    made = validated(Own)
    calls[:] = ["begun"]
    lines = []
    grid = grid_of(made, pools)
    grid._log = lines.append
    got = grid.send_and_receive(ask(made, "evaluate")[1])
    failed = [m.metadata.src_node_id for m in got if m.has_error()]
    assert failed == sorted(failing)
    assert all("only one class" in m.error.reason for m in got if m.has_error())
    assert len(calls) == 1 + 20 + len(failing)  # nobody else was measured again
    measured = measures_of(m for m in got if not m.has_error())
    good = [client for client in range(20) if client not in failing]
    if good:
        assert measured["one"].clients == measured["loss"].clients == good
        assert measured["loss"].rows == [sizes[client] for client in good]
    assert lines == []


@pytest.mark.parametrize("metrics", ["prints", "names by client"])
def test_who_prints_or_measures_something_else_answers_alone(metrics):
    class Own(lab.Experiment):
        def metrics(self, outputs, targets):
            if metrics == "prints":
                print(len(targets))
                return {"one": 1.0}
            return {f"of {len(targets)}": 1.0}

    made = validated(Own)
    got = grid_of(made, True).send_and_receive(ask(made, "evaluate")[1])
    assert [members_of(message.content) for message in got] == [[]] * 20
    if metrics == "prints":
        assert all("printed" in message.content for message in got)


def test_a_worker_sends_one_answer_a_cohort():
    made = sampled()
    host = ClientHost(made, CPU, pools=True)
    content, _ = ask(made)
    app = make_client_app(host, [])
    worker = Worker(app, 20, lambda: False, prepare=host.cohorts.prepare, times=host.times)
    blocks = host.engine.blocks(made, range(20))
    reply = worker.answer(Message(make_work(pack(content), "train", blocks), 1, "query.work"))
    answers = read_answers(reply)
    assert list(answers) == list(range(20))
    assert [client for client, answer in answers.items() if len(answer)] == [0, 10]
    assert members_of(answers[10]) == list(range(10, 20))


def test_the_mean_is_weighted_by_rows_and_what_nobody_changed_stays():
    start = {"w": torch.tensor([1.0, 2.0]), "same": torch.tensor(0.1)}
    sent = ArrayRecord({name: weights.kept(value) for name, value in start.items()})
    stacks = {"w": torch.tensor([[1.0, 2.0], [4.0, 8.0]]), "same": torch.full((2,), 0.1)}
    mean = mean_weights(stacks, [1, 3], sent, start)
    assert mean["w"].numpy().tolist() == [3.25, 6.5]
    assert mean["same"] is sent["same"]
    assert weights.unchanged(sent, [mean]) == {"same"}


def answer_of(client, rows, **arrays):
    made = {name: weights.kept(torch.tensor(value)) for name, value in arrays.items()}
    content = {"arrays": ArrayRecord(made), "metrics": MetricRecord({"num-examples": rows})}
    return Message(RecordDict(content), reply_to=Message(RecordDict(), client, "train"))


def test_a_running_mean_holds_the_sum_and_not_the_answers():
    flower.prepare()
    start = {"w": torch.tensor([1.0, 2.0]), "same": torch.tensor([0.1]), "late": torch.zeros(1)}
    mean = RunningMean(ArrayRecord({name: weights.kept(value) for name, value in start.items()}))
    answers = [
        answer_of(0, 1, w=[1.0, 2.0], same=[0.1], late=[0.0]),
        answer_of(1, 3, w=[5.0, 10.0], same=[0.1], late=[0.0]),
        answer_of(2, 4, w=[1.0, 2.0], same=[0.1], late=[4.0]),
    ]
    for answer in answers:
        mean.take(answer)
        mean.take(answer)  # it has none any more
        assert list(answer.content) == ["metrics"]
    assert mean.put_into(answers[0]) == {"same"}
    made = answers[0].content["arrays"]
    assert [made[name].numpy().tolist() for name in ("w", "late")] == [[2.5, 5.0], [2.0]]
    assert made["w"].dtype == "float32"
    assert answers[0].content["metrics"]["num-examples"] == 8


def test_one_answer_is_the_mean_as_it_is():
    flower.prepare()
    mean = RunningMean(ArrayRecord({"w": weights.kept(torch.tensor([0.1]))}))
    answer = answer_of(0, 3, w=[0.3])
    sent = answer.content["arrays"]
    mean.take(answer)
    assert mean.put_into(answer) == set()
    assert answer.content["arrays"]["w"] is sent["w"]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"w": [1.0]}, "client 1 answered with another 'w' than it was sent"),
        ({"v": [1.0, 2.0]}, "client 1 answered with another 'w' than it was sent"),
        ({"w": [1.0, 2.0], "v": [1.0]}, "client 1 answered with a weight 'v' of its own"),
    ],
)
def test_an_answer_of_another_model_is_said(arrays, sentence):
    flower.prepare()
    mean = RunningMean(ArrayRecord({"w": weights.kept(torch.tensor([1.0, 2.0]))}))
    answers = [answer_of(0, 1, w=[1.0, 2.0]), answer_of(1, 1, **arrays)]
    for answer in answers:
        mean.take(answer)
    with pytest.raises(TrainingError, match=sentence):
        mean.put_into(answers[0])


def test_only_flowers_own_strategies_are_known_to_take_means():
    class Own(flower_strategies.FedAvg):
        pass

    named = {name: takes_means(sampled(strategy=name)) for name in ("FedAvg", "FedMedian", "Krum")}
    assert named == {"FedAvg": True, "FedMedian": False, "Krum": False}
    assert takes_means(sampled(strategy=flower_strategies.FedAdam()))
    others = (
        Own(),
        flower_strategies.FedMedian(),
        flower_strategies.FedAvg(weighted_by_key="train_loss"),
        flower_strategies.FedAvg(train_metrics_aggr_fn=lambda records, key: records[0]),
        flower_strategies.FedAvg,  # a function that makes one: what, is not known
    )
    assert not any(takes_means(sampled(strategy=other)) for other in others[:-1])
    measures = flower_strategies.FedAvg(evaluate_metrics_aggr_fn=lambda records, key: records[0])
    assert takes_means(sampled(strategy=measures))
    assert not takes_mean_measures(sampled(strategy=measures))
    assert takes_mean_measures(sampled(strategy=flower_strategies.FedAdam()))
    assert takes_mean_measures(sampled())
    assert not takes_means(sampled(strategy=lambda: others[-1]()))
