"""When worker processes are tried, and when they are kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from flwr.app import RecordDict
from torch import nn

import flautim_lab as lab
from flautim_lab.training import process_trial
from flautim_lab.training.process_trial import ProcessTrial, why_not
from flautim_lab.training.worker_pool import PoolLostError
from tests.federations import Net, experiment, tensors

SEEN = []
NAMES = ("setosa", "virginica")


class Pool:
    """Stands for processes that take the time that a test says."""

    processes = (1, 2)

    def __init__(self) -> None:
        self.closed = False
        self.lost = False
        self.answers = None  # all of them

    def ready(self) -> bool:
        return True

    def answer(self, messages, order, answered, **how):
        for message in messages[: self.answers]:
            answered(message)
        if self.lost:
            raise PoolLostError("they are gone")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pool(monkeypatch):
    made = Pool()
    monkeypatch.setattr(process_trial, "WorkerPool", lambda *_: made)
    monkeypatch.setattr(process_trial, "usable_cores", lambda: 2)
    return made


def trial(made=None, rounds=50):
    lines: list[str] = []
    made = experiment(Net, tensors()) if made is None else made
    return ProcessTrial(SimpleNamespace(experiment=made), rounds, lines.append), lines


@pytest.mark.parametrize(
    ("alone", "best", "rounds", "tried"),
    [
        (2.0, 2.0, 50, True),  # nothing was gained by threads: a second a round may be
        (2.0, 1.6, 50, True),
        (2.0, 1.05, 50, False),  # threads have nearly all of it
        (2.0, 2.0, 9, False),  # five rounds of a second each are over before they have begun
        (0.05, 0.05, 50, False),  # a small model
    ],
)
def test_processes_are_tried_where_they_promise_to_pay(pool, alone, best, rounds, tried):
    asked, lines = trial(rounds=rounds)
    asked.consider(alone, best, 3, RecordDict())
    assert asked.at_hand() is tried
    assert lines == []


@pytest.mark.parametrize(
    ("seconds", "kept", "line"),
    [
        (1.1, True, "clients train in 2 worker processes from here on: 1.1 s a round, 2 s without"),
        (1.9, False, "worker processes do not pay here: 1.9 s a round, 2 s without"),
    ],
)
def test_processes_are_kept_if_rounds_with_them_are_faster(pool, seconds, kept, line):
    asked, lines = trial()
    asked.consider(2.0, 2.0, 3, RecordDict())
    asked.judge(0.1)  # nobody has asked whether they are there: it does not count
    turns = []
    # The first one loads data; the machine is slow for a while.
    for here, there in ((0, 9), (0, seconds - 0.5), (1.5, 0), (0, seconds + 0.5), (2.5, 0), (9, 9)):
        assert lines == [] or len(turns) == 5
        turns.append(asked.at_hand())
        asked.judge(there if turns[-1] else here)
    assert turns == [True, True, False, True, False, kept]
    assert lines == [line]
    assert pool.closed is not kept


def test_a_pool_that_is_lost_is_said_and_the_kernel_goes_on(pool):
    asked, lines = trial()
    asked.consider(2.0, 2.0, 3, RecordDict())
    found = []
    assert asked.answer(["message"], 1, found.append)
    assert found == ["message"]
    pool.lost = True
    assert not asked.answer(["message"], 2, found.append)
    (line,) = lines
    assert line == "clients train in the kernel's process, without worker processes: they are gone"
    assert pool.closed
    assert not asked.at_hand()


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        self.calls = 1
        return self.layer(x)


class Notes(lab.Experiment):
    def loss(self, model, batch):
        value = super().loss(model, batch)
        SEEN.append(value.item())
        return value


class Reads(lab.Experiment):
    def metrics(self, outputs, targets):
        return {name: torch.tensor(1.0) for name in NAMES}


def closure():
    notes: dict[str, float] = {}

    class Closes(lab.Experiment):
        def loss(self, model, batch):
            notes["last"] = 1.0
            return super().loss(model, batch)

    return Closes


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: experiment(Net, tensors()), ""),
        (lambda: experiment(Net, tensors(), Reads), ""),
        (lambda: experiment(Keeps, tensors()), "Keeps.forward keeps something beside the weights"),
        (lambda: experiment(Net, tensors(), Notes), "Notes.loss refers to 'SEEN', a list outside"),
        (lambda: experiment(Net, tensors(), closure()), "Closes.loss refers to 'notes', a dict"),
    ],
)
def test_what_code_writes_outside_of_the_model_stays_in_the_kernel(pool, made, reason):
    found = why_not(made())
    assert found.startswith(reason)
    assert bool(found) is bool(reason)
    asked, lines = trial(made())
    asked.consider(2.0, 2.0, 3, RecordDict())
    assert asked.at_hand() is not bool(reason)
    assert [line.startswith("clients stay in the kernel's process: ") for line in lines] == [
        True
    ] * bool(reason)
