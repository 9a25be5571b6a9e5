"""Worker processes: the numbers of the kernel, what is said, stops, and workers that are killed.

Two processes serve all tests here: what they are asked is in the messages.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import nn

import flautim_lab as lab
from flautim_lab.training import flower, weights
from flautim_lab.training.client_app import ClientHost, make_client_app, take_printed
from flautim_lab.training.grid import Deadline, LocalGrid
from flautim_lab.training.numerics import make_plan
from flautim_lab.training.pool_worker import Job
from flautim_lab.training.process_trial import ProcessTrial
from flautim_lab.training.worker_pool import PoolLostError, WorkerPool
from tests.federations import experiment, tensors

flower.prepare()
CPU = torch.device("cpu")
CLIENTS = 4


class Drops(nn.Module):
    """Draws, and keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        )

    def forward(self, x):
        return self.layers(x)


class Told(lab.Experiment):
    """Does what a file says: hangs while it is there, fails or kills its process."""

    folder = ""

    def loss(self, model, batch):
        for what in os.listdir(self.folder):
            if what in ("hang", f"hang {os.getpid()}"):
                while os.path.exists(os.path.join(self.folder, what)):
                    time.sleep(0.01)
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what.startswith("once"):
                try:
                    os.unlink(os.path.join(self.folder, what))
                except FileNotFoundError:
                    continue  # another worker's
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "fail":
                raise KeyError("rows")
            if what == "print":
                print("seen")
        return super().loss(model, batch)


class Here:
    """The pool, the same app in this process, and what was logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        Told.folder = str(folder)
        self.made = experiment(Drops, tensors(240), Told, clients=CLIENTS, engine="loop")
        self.lines: list[str] = []
        self.used: list[tuple[int, float]] = []
        self.pool = WorkerPool(
            Job(self.made, [], make_plan(self.made, CPU)),
            self.content(),
            2,
            self.lines.append,
            lambda slot, used: self.used.append((slot, used["cpu_seconds"])),
        )
        self._orders = itertools.count(1)

    def content(self, **config):
        model = self.made.build_model()
        config["buffers"] = weights.buffers_to_bytes(weights.buffers_of(model))
        record = ConfigRecord({"server-round": 3, **config})
        return RecordDict({"arrays": weights.to_record(model), "config": record})

    def ask(self, kind="train", contents=None, clients=range(CLIENTS), **how):
        one = self.content()
        messages = [
            Message(contents[n] if contents else one, client, kind)
            for n, client in enumerate(clients)
        ]
        how.setdefault("stopped", lambda: False)
        found = []
        self.pool.answer(messages, next(self._orders), found.append, **how)
        return sorted(found, key=lambda reply: reply.metadata.src_node_id)

    def in_the_kernel(self, kind="train", contents=None, clients=range(CLIENTS)):
        deadline = Deadline(lambda: False)
        app = make_client_app(ClientHost(self.made, CPU, deadline.check), [])
        grid = LocalGrid(app, CLIENTS, deadline, workers=1)
        one = self.content()
        return grid.send_and_receive(
            Message(contents[n] if contents else one, client, kind)
            for n, client in enumerate(clients)
        )


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    here = Here(tmp_path_factory.mktemp("told"))
    assert here.pool.ready(120)
    yield here
    pids = here.pool.processes
    here.pool.close()
    assert not any(map(psutil.pid_exists, pids))


@pytest.fixture
def here(started):
    assert started.pool.ready(120)  # after a test before has killed some of its workers
    started.lines.clear()
    yield started
    for file in started.folder.iterdir():
        file.unlink()


def numbers(replies):
    """All that answers hold, as bytes."""
    return [
        (
            reply.metadata.src_node_id,
            {name: array.data for name, array in reply.content.get("arrays", {}).items()},
            dict(reply.content["metrics"]),
            reply.content.get("buffers"),
        )
        for reply in replies
    ]


def test_answers_have_the_bits_of_the_kernel(here):
    for kind in ("train", "evaluate"):
        there, ours = here.ask(kind), here.in_the_kernel(kind)
        assert numbers(there) == numbers(ours)
    assert {slot for slot, _ in here.used} == {0, 1}
    assert all(cpu > 0 for _, cpu in here.used[-2:])


def test_each_client_may_be_sent_another_content(here):
    contents = [here.content(**{"proximal-mu": float(n)}) for n in range(CLIENTS)]
    contents[1]["config"]["long"] = "x" * 100_000  # more than the round's memory holds
    there, ours = here.ask(contents=contents), here.in_the_kernel(contents=contents)
    assert numbers(there) == numbers(ours)
    assert numbers(there) != numbers(here.ask())


def test_a_client_that_fails_or_prints_answers_so(here):
    (here.folder / "print").touch()
    there, ours = (
        [take_printed(r) for r in replies] for replies in (here.ask(), here.in_the_kernel())
    )
    assert there == ours == ["seen\nseen\nseen"] * CLIENTS
    (here.folder / "fail").touch()
    for reply in here.ask():
        first, *rest = reply.error.reason.splitlines()
        assert first == "KeyError: 'rows'"
        assert "in loss" in "\n".join(rest)


def test_a_stop_ends_the_work_with_its_batch(here):
    (here.folder / "hang").touch()
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    assert here.ask(stopped=stop.is_set) == []
    (here.folder / "hang").unlink()
    assert len(here.ask()) == CLIENTS  # the workers are free again


def test_late_answers_are_left_once_there_are_enough(here):
    (here.folder / f"hang {here.pool.processes[0]}").touch()
    asked = functools.partial(here.ask, timeout=0.1, enough=2)
    first = asked()
    assert 2 <= len(first) < CLIENTS
    for file in here.folder.iterdir():
        file.unlink()
    assert numbers(here.ask()) == numbers(here.in_the_kernel())


def test_an_interrupt_is_not_for_workers(here):
    for pid in here.pool.processes:
        os.kill(pid, signal.SIGINT)
    assert len(here.ask()) == CLIENTS
    assert here.lines == []


def test_a_killed_worker_is_replaced_and_its_client_trained_again(here):
    before = here.pool.processes
    (here.folder / "once 1").touch()
    assert numbers(here.ask()) == numbers(here.in_the_kernel())
    assert len(set(here.pool.processes) & set(before)) == 1
    (line,) = here.lines
    assert line.startswith("the worker process of client ")
    assert line.endswith(
        "has died (killed by SIGKILL); another one takes its place, and the client begins again"
    )


def test_a_client_whose_worker_dies_three_times_is_told_so_and_the_others_answer(here):
    for turn in range(3):
        (here.folder / f"once {turn}").touch()
    (reply,) = here.ask(clients=[2])
    assert reply.error.reason == (
        "its worker process died 3 times in a row (killed by SIGKILL); where memory ran out, make "
        "batches or model smaller, or train in the kernel with lab.run(..., workers=1)"
    )
    assert len(here.lines) == 2
    assert numbers(here.ask()) == numbers(here.in_the_kernel())


def test_a_grid_asks_worker_processes_where_they_pay(here, monkeypatch):
    monkeypatch.setattr("flautim_lab.training.process_trial.WorkerPool", lambda *_: here.pool)
    monkeypatch.setattr("flautim_lab.training.process_trial.usable_cores", lambda: 2)
    monkeypatch.setattr(here.pool, "close", lambda: None)
    job = Job(here.made, [], make_plan(here.made, CPU))
    deadline = Deadline(lambda: False)
    trial = ProcessTrial(job, 100, here.lines.append)
    app = make_client_app(ClientHost(here.made, CPU, deadline.check), [])
    grid = LocalGrid(app, CLIENTS, deadline, workers=1, log=here.lines.append, processes=trial)
    content, sent, before = here.content(), [], len(here.used)
    trial.consider(10.0, 10.0, 3, content)
    grid.sent = lambda: sent.append(1)
    for _ in range(5):
        replies = grid.send_and_receive(Message(content, n, "train") for n in (2, 0, 3, 1))
        assert numbers(replies) == numbers(here.in_the_kernel())
    assert len(here.used) == before + 3 * CLIENTS  # two of the rounds were in the kernel
    assert sent == [1] * 5
    assert len(here.lines) == 1  # whichever was faster
    trial._pool, trial._trial = here.pool, None
    (here.folder / f"hang {here.pool.processes[0]}").touch()
    late = grid.send_and_receive((Message(content, n, "train") for n in (0, 1)), timeout=0.1)
    assert len(late) == 1
    assert here.lines[1].startswith("late after 0.1 s, their work is dropped: clients ")


def test_an_experiment_that_cannot_travel_is_named():
    dataset = tensors()
    dataset.lock = threading.Lock()
    made = experiment(Drops, dataset, engine="loop")
    with pytest.raises(PoolLostError, match=r"cannot be sent to them \(TypeError: cannot pickle"):
        WorkerPool(Job(made, [], make_plan(made, CPU)), RecordDict(), 1, print)
