"""The server's moments, what it says of waiting and failing clients, and what it counts."""

from __future__ import annotations

import threading
import time

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from flautim_lab.records.store import Records
from flautim_lab.training import flower
from flautim_lab.training.grid import LocalGrid
from flautim_lab.training.server_app import serve
from flautim_lab.training.strategies import make_strategy
from flautim_lab.training.usage import ClientTimes, RoundUsage
from tests.federations import experiment
from tests.training.test_checkpoint import grid_of, server_of

flower.prepare()


def started(run_id="r1", **settings):
    made = experiment(**settings)
    strategy = make_strategy(made)
    return server_of(made, strategy, run_id), grid_of(made, strategy)


def events(run_id, *kinds):
    return Records.default().events(run_id, kinds=kinds)


def test_the_moments_of_each_round():
    server, grid = started(rounds=2)
    moments = []
    server.after_round = lambda: moments.append(("storing", server.state.round))
    before = server.state.parameters
    kept = []

    def look(what, number):
        moments.append((what, number))
        if (what, number) == ("aggregating", 1):
            kept.append(server.state.parameters is before)

    server.moment = look
    serve(server, grid)
    assert moments == [
        ("starting", 1),
        ("training", 1),
        ("aggregating", 1),
        ("storing", 1),
        ("starting", 2),
        ("training", 2),
        ("aggregating", 2),
        ("storing", 2),
        ("ended", 2),
    ]
    assert kept == [True]  # nothing of the round is kept yet


def test_each_round_says_what_it_used():
    server, grid = started(rounds=2)
    serve(server, grid)
    server.recorder.flush()
    frame = Records.default().resources("r1")
    assert set(frame["process"]) == {"kernel"}
    used = {
        number: dict(zip(rows["resource"], rows["value"], strict=True))
        for number, rows in frame.groupby("round")
    }
    once = {
        "cpu_seconds",
        "memory_bytes",
        "training_seconds",
        "evaluating_seconds",
        "aggregating_seconds",
        "round_seconds",
    }
    assert set(used[1]) == once
    assert set(used[2]) == once | {"storing_seconds"}  # of the round before it
    assert all(value > 0 for numbers in used.values() for value in numbers.values())
    assert used[1]["memory_bytes"] > 1e7
    assert used[1]["training_seconds"] < 60


def test_usage_adds_up_and_memory_is_the_most_that_was_held():
    class Recorder(list):
        def resource(self, *row):
            self.append(row)

    usage, recorder = RoundUsage("server"), Recorder()
    usage.add("client-0", {"cpu_seconds": 1.0, "memory_bytes": 300.0})
    usage.add("client-0", {"cpu_seconds": 0.5, "memory_bytes": 200.0})
    usage.record(recorder, 1)
    assert recorder[:2] == [
        (1, "client-0", "cpu_seconds", 1.5),
        (1, "client-0", "memory_bytes", 300.0),
    ]
    assert [row[1:3] for row in recorder[2:]] == [
        ("server", "cpu_seconds"),
        ("server", "memory_bytes"),
        ("server", "round_seconds"),
    ]
    del recorder[:]
    usage.record(recorder, 2)
    assert {row[1] for row in recorder} == {"server"}  # each round begins with nothing


def test_what_clients_take_is_counted_once_and_by_the_busiest_thread():
    times = ClientTimes()

    def client(seconds):
        with times.spent_on("training"):
            with times.spent_on("data"):
                time.sleep(seconds)
            times.of_that_on("data", 0.001)

    threads = [threading.Thread(target=client, args=(s,)) for s in (0.005, 0.02)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = times.take()
    assert 0.021 <= taken["data_seconds"] < 1  # not those of both threads, and not 0.006
    assert taken["training_seconds"] < taken["data_seconds"] - 0.015  # without what is data
    assert times.take() == {}
    times.of_that_on("data", 1.0)  # inside nothing
    assert times.take() == {"data_seconds": 1.0}


@pytest.mark.parametrize(
    ("settings", "said"),
    [({}, True), ({"engine": "loop"}, False), ({"clients": 10}, False)],
    ids=["auto, the loop", "the loop was asked for", "cohorts"],
)
def test_the_log_says_why_clients_are_not_trained_together(settings, said):
    server, grid = started(rounds=1, **settings)
    serve(server, grid)
    server.recorder.flush()
    log = [event.text for event in Records.default().events("r1", kinds=("log",))]
    wanted = "clients are trained one after another, since a round asks 4 clients"
    assert any(line.startswith(wanted) for line in log) == said


class Sick(LocalGrid):
    """Client 2 fails to train in the rounds that are named."""

    def send_and_receive(self, messages, *, timeout=None):
        asked = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        replies = super().send_and_receive(asked, timeout=timeout)
        config = asked[0].content["config"]
        if asked[0].metadata.message_type != "train" or config["server-round"] not in self.failed:
            return replies
        error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "ValueError: no sensor\nTraceback")
        return [*replies[:2], Message(error, reply_to=asked[2]), *replies[3:]]


@pytest.mark.parametrize(
    ("failed", "named_in"),
    [({1, 2}, []), ({1, 2, 4, 5}, []), ({2, 3, 4, 5}, [4]), ({1, 2, 3, 5, 6, 7}, [3, 7])],
)
def test_a_client_that_fails_three_rounds_running_is_named_once(failed, named_in):
    server, grid = started(rounds=8)
    grid.__class__, grid.failed = Sick, failed
    serve(server, grid)
    server.recorder.flush()
    warnings = [event for event in events("r1", "log") if event.name == "warning"]
    assert [(event.round, event.client, event.text) for event in warnings] == [
        (number, 2, "client 2 has failed in 3 rounds running: ValueError: no sensor")
        for number in named_in
    ]


def test_what_it_waits_for_is_recorded_since_it_asked(monkeypatch):
    monkeypatch.setattr("flautim_lab.training.client_grid.WAIT_SECONDS", 0.05)
    server, grid = started(rounds=1, validation=0)

    def slowly(what, number):
        if what == "training":  # as if the clients took long
            time.sleep(0.2)
            grid.tell()

    server.moment = slowly
    began = time.time()
    serve(server, grid)
    server.recorder.flush()
    first, second = events("r1", "wait")
    assert first.round == 1
    assert first.text == "waiting for client 0 and 3 others; 0 of 4 have answered"
    assert second.text == ""
    assert began <= first.time <= second.time - 0.2
