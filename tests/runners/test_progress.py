"""How far a run is, from its events: waits, alarms, faults and what processes use."""

from __future__ import annotations

import pytest

import flautim_lab as lab
from flautim_lab.records.event import ALL_CLIENTS, Event, RunStatus
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
from flautim_lab.runners.progress import ClientProgress, Follower, alarms
from flautim_lab.runners.usage import ProcessUsage, usage_of


def followed(*events):
    follower = Follower()
    follower.read(events)
    return follower


def wait(seq, text, time=100.0):
    return Event(seq, time, "wait", 3, text=text)


SENTENCE = "waiting for client 3; 7 of 8 have answered"


def test_why_it_waits_and_for_how_long():
    assert followed().waiting(0.0) == ""
    assert followed(wait(1, SENTENCE)).waiting(112.4) == f"{SENTENCE} (for 12 s)"
    assert followed(wait(1, SENTENCE)).waiting(99.0) == f"{SENTENCE} (for 0 s)"  # another clock
    assert followed(wait(1, SENTENCE)).waiting(290.0) == f"{SENTENCE} (for 00:03:10)"


@pytest.mark.parametrize(
    "end",
    [
        wait(2, ""),
        Event(2, 0.0, "round", 3),
        Event(2, 0.0, "status", name="running"),  # a server that was killed began anew
    ],
)
def test_it_waits_no_more(end):
    assert followed(wait(1, SENTENCE), end).waiting(112.0) == ""


def failure(seq, round_number, client=3):
    return Event(seq, 0.0, "failure", round_number, client, text="ValueError: no sensor\nTraceback")


def test_a_client_that_fails_three_rounds_running_is_an_alarm():
    names = [f"client {number}" for number in range(4)]
    follower = followed(failure(1, 1), failure(2, 2), failure(3, 2))  # round 2 was done again
    assert alarms(follower.clients(names, [])) == ()
    follower.read([failure(4, 3)])
    sentence = "client 3 has failed in 3 rounds running: ValueError: no sensor"
    assert alarms(follower.clients(names, [])) == (sentence,)
    follower.read([Event(5, 0.0, "metric", 4, 3, "train", "loss", 0.5)])
    assert alarms(follower.clients(names, [])) == ()
    named = ClientProgress(3, "BH-42", error="no sensor", failures=5)
    assert alarms([named]) == ("client 3 (BH-42) has failed in 5 rounds running: no sensor",)


def test_only_clients_with_news_are_told_anew():
    names, rows = [f"client {number}" for number in range(4)], [5, 6, 7]
    follower = followed(Event(1, 0.0, "metric", 1, 2, "train", "loss", 0.5))
    before = follower.clients(names, rows)
    assert before[2] == ClientProgress(2, "client 2", rows=7, loss=0.5, round=1)
    assert before[3] == ClientProgress(3, "client 3")
    assert follower.clients(names, rows) is before
    follower.read([failure(2, 2, client=1), failure(3, 2, client=9)])  # 9 has no name
    after = follower.clients(names, rows)
    assert [one is other for one, other in zip(after, before, strict=True)] == [1, 0, 1, 1]
    assert after[1] == ClientProgress(1, "client 1", 6, error="ValueError: no sensor", failures=1)
    assert follower.clients(["a", "b"], []) == (
        ClientProgress(0, "a"),
        ClientProgress(1, "b", error="ValueError: no sensor", failures=1),
    )


def test_faults_are_followed_as_they_come():
    follower = followed(Event(1, 10.0, "fault", 2, name="server", text="killed"))
    assert [fault.words() for fault in follower.faults()] == ["server killed"]
    follower.read([Event(2, 11.5, "recovery", 2, name="server", value=1.5)])
    assert [fault.words() for fault in follower.faults()] == ["server killed, back after 1.5 s"]


def used(seq, round_number, process, name, value, client=ALL_CLIENTS):
    return Event(seq, 0.0, "resource", round_number, client, process, name, value)


def test_what_each_process_used_is_the_mean_of_the_last_ten_rounds():
    events = []
    for number in range(1, 13):
        events += [
            used(0, number, "client-10", "training_seconds", 2.0),
            used(0, number, "client-9", "training_seconds", 1.0),
            used(0, number, "client-9", "memory_bytes", 100.0 * number),
            used(0, number, "client-9", "training_seconds", 9.0),  # the round was done again
            used(0, number, "server", "training_seconds", float(number)),
            used(0, number, "server", "cpu_seconds", 0.5),
            used(0, number, "server", "cpu_seconds", 0.5, client=3),  # a part of it
        ]
    events += [used(0, 12, "server", "storing_seconds", 5.0)]
    assert usage_of(events) == (
        ProcessUsage("server", 0.5, 0.0, 0.0, 0.0, (("training", 7.5), ("storing", 0.5))),
        ProcessUsage("client-9", 0.0, 1200.0, 0.0, 0.0, (("training", 1.0),)),
        ProcessUsage("client-10", 0.0, 0.0, 0.0, 0.0, (("training", 2.0),)),
    )
    # A late event of a round that is past does not bring it back.
    assert usage_of([*events, used(0, 1, "server", "cpu_seconds", 50.0)])[0].cpu_seconds == 0.5


def test_a_run_tells_all_of_it():
    records = Records.default()
    records.create_run(
        "r1", name="iris", runner="processes", rounds=5, clients=4, settings={}, plan={}
    )
    recorder = Recorder(records, "r1")
    recorder.status(RunStatus.RUNNING)
    started = records.run("r1").started
    recorder.resource(1, "server", "cpu_seconds", 0.5)
    recorder.fault("server", "killed", round=1, time=started + 2.0)
    recorder.waiting(1, SENTENCE)
    for number in (1, 2, 3):
        recorder.failure(number, 2, "ValueError: no")
    recorder.flush()
    run = lab.Run(records, "r1")
    progress = run.progress()
    assert progress.waiting == f"{SENTENCE} (for 0 s)"
    assert progress.alarms == ("client 2 has failed in 3 rounds running: ValueError: no",)
    assert [fault.target for fault in progress.faults] == ["server"]
    assert [one.process for one in progress.processes] == ["server"]
    assert run.resources["value"].tolist() == [0.5]
    assert run.faults["time"].tolist() == [pytest.approx(2.0)]
    recorder.status(RunStatus.STOPPED)
    assert run.progress().waiting == ""
    with pytest.raises(lab.ExperimentError, match="run r1 has stopped"):
        run.chaos.kill("server")


def test_nothing_of_a_run_in_the_kernel_can_be_struck():
    run = lab.Run(Records.default(), "r2")
    run._records.create_run(
        "r2", name="iris", runner="local", rounds=5, clients=4, settings={}, plan={}
    )
    with pytest.raises(lab.ExperimentError, match="run r2 is inside its kernel"):
        _ = run.chaos
