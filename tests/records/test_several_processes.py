"""The records while several processes use them, and when one of them dies."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flautim_lab.records.event import Event, RunStatus
from flautim_lab.records.store import Records


@pytest.fixture
def records(home: Path) -> Iterator[Records]:
    records = Records()
    yield records
    records.close()


def create(records: Records, run_id: str = "r1", *, name: str = "iris") -> str:
    records.create_run(run_id, name=name, runner="local", rounds=5, clients=3, settings={}, plan={})
    return run_id


def loss(seq: int, *, round: int = 1, client: int = 0, value: float = 0.5) -> Event:  # noqa: A002
    return Event(seq, 1.5, "metric", round, client, "train", "loss", value)


# --- the process that runs it ---------------------------------------------------------------

RUNS_FOR_EVER = """
import sys
from flautim_lab.records.event import Event
from flautim_lab.records.store import Records
records = Records()
records.create_run("r1", name="iris", runner="local", rounds=5, clients=1, settings={}, plan={})
records.set_status("r1", sys.argv[1])
records.append("r1", [Event(1, 1.0, "round", 1)])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("status", ["running", "waiting"])
def test_a_run_whose_process_was_killed_is_interrupted(records: Records, status: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RUNS_FOR_EVER, status],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert (records.run("r1").status, records.run("r1").message) == (status, "")
        process.kill()
        process.wait()
    run = records.run("r1")
    assert run.status is RunStatus.INTERRUPTED
    assert run.message == (
        f"the process that ran it (pid {process.pid} on {socket.gethostname()}) is gone"
    )
    assert run.finished is not None  # its last sign of life: the duration does not grow for ever
    assert run.seconds < 60
    assert records.runs() == [run]
    assert records.runs(status="interrupted") == [run]
    assert records.runs(status=status) == []


def test_another_process_with_its_number_does_not_run_it(records: Records) -> None:
    create(records)
    records.set_status("r1", RunStatus.RUNNING)
    with closing(sqlite3.connect(records.where)) as other, other:
        other.execute("UPDATE runs SET process_started = process_started - 100")
    run = records.run("r1")
    assert (run.status, run.pid) == (RunStatus.INTERRUPTED, os.getpid())


def test_on_another_host_the_heartbeat_counts(records: Records) -> None:
    create(records)
    records.set_status("r1", RunStatus.RUNNING)
    with closing(sqlite3.connect(records.where)) as other, other:
        other.execute("UPDATE runs SET host = 'elsewhere', heartbeat = heartbeat - 3600")
    assert records.run("r1").status is RunStatus.INTERRUPTED
    records.heartbeat("r1")
    assert records.run("r1").status is RunStatus.RUNNING
    with closing(sqlite3.connect(records.where)) as other, other:
        other.execute("UPDATE runs SET heartbeat = heartbeat - 3600")
    records.append("r1", [loss(1)])  # an event is a sign of life
    assert records.run("r1").status is RunStatus.RUNNING


def test_an_ended_run_stays_as_it_ended(records: Records) -> None:
    create(records)
    records.set_status("r1", RunStatus.FINISHED)
    with closing(sqlite3.connect(records.where)) as other, other:
        other.execute("UPDATE runs SET process_started = 0")
    assert records.run("r1").status is RunStatus.FINISHED


def test_whoever_sets_it_running_runs_it(records: Records) -> None:
    create(records)
    with closing(sqlite3.connect(records.where)) as other, other:
        other.execute("UPDATE runs SET process_started = process_started - 100")
    assert records.run("r1").status is RunStatus.INTERRUPTED
    records.set_status("r1", RunStatus.RUNNING)
    assert (records.run("r1").status, records.run("r1").pid) == (RunStatus.RUNNING, os.getpid())


# --- several at once ------------------------------------------------------------------------

WRITES_MANY = """
import sys
from flautim_lab.records.event import Event
from flautim_lab.records.store import Records
own, writer = sys.argv[1], int(sys.argv[2])
records = Records()
records.create_run(own, name=own, runner="local", rounds=5, clients=1, settings={}, plan={})
print("ready", flush=True)
sys.stdin.readline()
for start in range(0, 400, 8):
    batch = range(start, start + 8)
    # Into its own run, and into one that all of them write to.
    records.append(own, [Event(1 + i, 0.0, "metric", i, 0, "train", "loss", i) for i in batch])
    shared = [
        Event(1 + 1000 * writer + i, 0.0, "metric", i, writer, "train", "loss", i) for i in batch
    ]
    shared.append(Event(100_000 + start, 0.0, "metric", start, 99, "train", "loss", start))
    records.append("shared", shared)
    records.set_round("shared", start)
print("done", flush=True)
"""


def test_two_kernels_and_a_command_line_write_at_once(records: Records) -> None:
    create(records, "shared")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITES_MANY, f"own-{writer}", str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for writer in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate() == ("done\n", "")
    for number in range(3):
        assert [event.seq for event in records.events(f"own-{number}")] == list(range(1, 401))
    shared = records.metrics("shared")
    assert shared.groupby("client")["value"].sum().to_dict() == {
        0: 79_800.0,
        1: 79_800.0,
        2: 79_800.0,
        99: float(sum(range(0, 400, 8))),  # all three sent these; each is there once
    }
    assert len(shared) == 1250
    with closing(sqlite3.connect(records.where)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


WRITES_UNTIL_KILLED = """
import itertools
from flautim_lab.records.event import Event
from flautim_lab.records.store import Records
records = Records()
for start in itertools.count(1, 100):
    records.append("r1", [Event(start + i, 0.0, "log", text="x" * 200) for i in range(100)])
    print(start, flush=True)
"""


def test_a_killed_writer_leaves_nothing_half_written(records: Records) -> None:
    create(records)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES_UNTIL_KILLED], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5)]
        process.kill()
    events = records.events("r1")
    assert len(events) >= int(said[-1]) + 99  # what it was told is stored, is stored
    assert len(events) % 100 == 0
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert records.append("r1", [Event(len(events) + 1, 0.0, "log")]) == 1


def test_several_threads_write_at_once(records: Records) -> None:
    create(records)

    def write(client: int) -> None:
        for round_number in range(1, 21):
            seq = client * 100 + round_number
            records.append("r1", [loss(seq, round=round_number, client=client)])
            records.events("r1", after=seq - 1)

    threads = [threading.Thread(target=write, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records.metrics("r1")) == 80


IN_A_FORKED_PROCESS = """
import os
from flautim_lab.records.event import Event
from flautim_lab.records.store import Records
records = Records.default()
records.create_run("r1", name="iris", runner="local", rounds=5, clients=1, settings={}, plan={})
records.append("r1", [Event(1, 0.0, "log")])
opened = records._database()
child = os.fork()
if child == 0:
    fine = False
    try:
        fine = records._database() is not opened and Records.default() is not records
        for seq in range(2, 200):
            records.append("r1", [Event(seq, 0.0, "log")])
    finally:
        os._exit(0 if fine else 1)
for seq in range(1000, 1200):
    records.append("r1", [Event(seq, 0.0, "log")])
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), len(records.events("r1")), records._database() is opened)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which this system lacks")
def test_a_forked_process_opens_its_own(records: Records) -> None:
    said = subprocess.run(
        [sys.executable, "-c", IN_A_FORKED_PROCESS], capture_output=True, text=True, check=True
    )
    assert said.stdout == "0 399 True\n"
    with closing(sqlite3.connect(records.where)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
