from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flautim_lab.errors import RecordsError, RunNotFoundError
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.event import ALL_CLIENTS, Event, RunStatus
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def records(home: Path) -> Iterator[Records]:
    records = make(Records())
    yield records
    records.close()


def make(records: Records) -> Records:
    records.create_run("r1", name="iris", runner="local", rounds=5, clients=2, settings={}, plan={})
    return records


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(records: Records, clock: Clock) -> Recorder:
    return Recorder(records, "r1", clock=clock)


def stored(records: Records) -> list[tuple[int, str]]:
    return [(event.seq, event.kind) for event in records.events("r1")]


def test_numbers_what_happens(records: Records, recorder: Recorder) -> None:
    recorder.metric(1, ALL_CLIENTS, "train", "loss", 0.5)
    recorder.resource(1, "client-1", "cpu_seconds", 1.5)
    recorder.log("begins")
    recorder.log("slow", round=1, client=1, level="warning")
    recorder.failure(1, 1, "Traceback")
    assert stored(records) == []
    recorder.flush()
    events = records.events("r1")
    assert all(event.time > 0 for event in events)
    assert [
        (e.seq, e.kind, e.round, e.client, e.split, e.name, e.value, e.text) for e in events
    ] == [
        (1, "metric", 1, ALL_CLIENTS, "train", "loss", 0.5, ""),
        (2, "resource", 1, ALL_CLIENTS, "client-1", "cpu_seconds", 1.5, ""),
        (3, "log", 0, ALL_CLIENTS, "", "info", None, "begins"),
        (4, "log", 1, 1, "", "warning", None, "slow"),
        (5, "failure", 1, 1, "", "", None, "Traceback"),
    ]


def test_faults_recoveries_and_waits_have_their_own_time(
    records: Records, recorder: Recorder
) -> None:
    before = time.time()
    recorder.fault("server", "killed", round=3, time=1.5)
    recorder.fault("client-1", "paused for 5 s")
    recorder.recovery("server", 2.5, round=3)
    recorder.waiting(4, "waiting for client 3", since=2.5)
    recorder.waiting(4, "")
    recorder.flush()
    events = records.events("r1")
    assert [(e.kind, e.round, e.name, e.value, e.text) for e in events] == [
        ("fault", 3, "server", None, "killed"),
        ("fault", 0, "client-1", None, "paused for 5 s"),
        ("recovery", 3, "server", 2.5, ""),
        ("wait", 4, "", None, "waiting for client 3"),
        ("wait", 4, "", None, ""),
    ]
    assert (events[0].time, events[3].time) == (1.5, 2.5)
    assert all(before <= events[number].time <= time.time() for number in (1, 2, 4))


def test_goes_on_after_the_last_number(records: Records) -> None:
    records.append("r1", [Event(41, 0.0, "log")])
    recorder = Recorder(records, "r1")
    recorder.log("again")
    recorder.close()
    assert stored(records) == [(41, "log"), (42, "log")]


def test_a_run_that_is_not_there_is_one_sentence(records: Records) -> None:
    with pytest.raises(RunNotFoundError) as refused:
        Recorder(records, "r2")
    assert str(refused.value) == "no run named 'r2'; choose one of: r1"


def test_values_are_as_many_as_the_clients_and_numbers(
    records: Records, recorder: Recorder
) -> None:
    for values in ([0.1], [0.1, 0.2, 0.3], [0.1, "much"]):
        with pytest.raises(ValueError, match=r"values of 'loss' for 2 clients|much"):
            recorder.metrics(1, [0, 1], "train", "loss", values)  # type: ignore[arg-type]
    recorder.metrics(1, [0, 1], "train", "loss", [0.1, 0.2])
    recorder.close()
    assert [seq for seq, _ in stored(records)] == [1, 2]


def test_numbers_are_given_once_whatever_thread_asks(records: Records, recorder: Recorder) -> None:
    def train(client: int) -> None:
        for round_number in range(1, 51):
            recorder.metric(round_number, client, "train", "loss", 0.1)
            if round_number % 10 == 0:
                recorder.flush()

    threads = [threading.Thread(target=train, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    assert [seq for seq, _ in stored(records)] == list(range(1, 201))
    assert len(records.metrics("r1")) == 200


# --- when it is stored ----------------------------------------------------------------------


def test_a_round_is_stored_unless_one_was_a_moment_ago(
    records: Records, recorder: Recorder, clock: Clock
) -> None:
    recorder.round_done(1)
    assert (records.run("r1").round, len(stored(records))) == (1, 1)  # the first one at once
    clock.now += 0.125
    recorder.round_done(2)
    assert (records.run("r1").round, len(stored(records))) == (1, 1)
    clock.now += 0.125
    recorder.round_done(3)
    assert (records.run("r1").round, len(stored(records))) == (3, 3)


def test_nothing_waits_longer_than_a_second(
    records: Records, recorder: Recorder, clock: Clock
) -> None:
    recorder.tick()
    recorder.log("first")
    clock.now += 0.75
    recorder.log("second")
    recorder.tick()
    assert stored(records) == []
    clock.now += 0.25
    recorder.tick()
    assert stored(records) == [(1, "log"), (2, "log")]
    recorder.log("third")
    clock.now += 0.5
    recorder.tick()
    assert len(stored(records)) == 2
    clock.now += 0.5
    recorder.tick()
    assert len(stored(records)) == 3


def test_a_status_comes_after_everything_before_it(records: Records, recorder: Recorder) -> None:
    recorder.status(RunStatus.RUNNING)
    assert records.run("r1").status is RunStatus.RUNNING
    recorder.metric(1, 0, "train", "loss", 0.5)
    recorder.status(RunStatus.STOPPED, "stopped after round 1")
    run = records.run("r1")
    assert (run.status, run.message) == (RunStatus.STOPPED, "stopped after round 1")
    assert [(e.kind, e.name, e.text) for e in records.events("r1")] == [
        ("status", "running", ""),
        ("metric", "loss", ""),
        ("status", "stopped", "stopped after round 1"),
    ]


def test_one_flush_is_one_transaction(
    records: Records, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    append = records.append
    monkeypatch.setattr(
        records,
        "append",
        lambda run_id, events: batches.append(len(events)) or append(run_id, events),
    )
    for round_number in range(1, 4):
        recorder.metric(round_number, 0, "train", "loss", 0.5)
    recorder.round_done(3)
    recorder.flush()
    assert batches == [4]


def test_close_stores_the_rest_and_ends_it(records: Records, recorder: Recorder) -> None:
    recorder.log("last words")
    recorder.close()
    assert stored(records) == [(1, "log")]
    recorder.close()
    with pytest.raises(RecordsError) as refused:
        recorder.metric(1, 0, "train", "loss", 0.5)
    assert str(refused.value) == "the run 'r1' is over: nothing more can be recorded in it"


# --- run.log --------------------------------------------------------------------------------


def test_the_log_is_for_people(records: Records, recorder: Recorder) -> None:
    recorder.log("Olá 实验", level="info")
    recorder.metric(1, 0, "train", "loss", 0.5)
    recorder.failure(3, 2, "Traceback:\n  line\nValueError: \udcff")
    recorder.flush()
    recorder.log("on it goes", round=3)
    recorder.close()
    path = records.folder("r1") / "run.log"
    lines = path.read_text(encoding="utf-8").splitlines()
    date = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
    assert [date.sub("", line) for line in lines] == [
        "INFO Olá 实验",
        "round 3 client 2 ERROR Traceback:",
        "      line",
        "    ValueError: \\udcff",
        "round 3 INFO on it goes",
    ]
    assert sum(bool(date.match(line)) for line in lines) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_log_without_a_line(records: Records, recorder: Recorder) -> None:
    recorder.metric(1, 0, "train", "loss", 0.5)
    recorder.close()
    assert not (records.folder("r1") / "run.log").exists()


def test_a_log_that_cannot_be_written_is_one_sentence_and_loses_nothing(
    records: Records, recorder: Recorder
) -> None:
    path = records.folder("r1") / "run.log"
    path.mkdir()
    recorder.log("first")
    with pytest.raises(RecordsError) as refused:
        recorder.flush()
    assert str(refused.value) == (
        f"the log {path} cannot be written: Is a directory; "
        "check the disk, or set FLAUTIM_LAB_HOME to a folder"
    )
    assert len(stored(records)) == 1  # the records have it all the same
    recorder.status(RunStatus.FINISHED)
    assert records.run("r1").status is RunStatus.FINISHED
    path.rmdir()
    recorder.log("second")
    recorder.close()
    assert [line.split(" INFO ")[1] for line in path.read_text().splitlines()] == [
        "first",
        "second",
    ]
    assert len(stored(records)) == 3


# --- when it cannot be stored ---------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 512 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or not hasattr(os, "getuid") or os.getuid() != 0:
        pytest.skip("a disk that is really full needs root and the command 'mount' (Linux)")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a disk that is really full needs tmpfs to be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return filler


def full(path: Path) -> str:
    return (
        f"the disk that holds {path} is full; free some space there, "
        "or set FLAUTIM_LAB_HOME to a folder on another disk"
    )


def test_a_full_disk_is_said_once_and_nothing_is_lost(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    home = small_disk / "home"
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(home))
    records = make(Records())
    recorder = Recorder(records, "r1", clock=clock)
    recorder.log("before")
    recorder.flush()
    filler = fill(small_disk)
    for number in range(200):
        recorder.log(f"{number} " + "x" * 500)
    clock.now += 5
    recorder.tick()  # a tick tells nobody
    with pytest.raises(RecordsError) as refused:
        recorder.round_done(1)
    assert str(refused.value) == full(home / "records.db")
    recorder.flush()  # said once
    assert [event.text for event in records.events("r1")] == ["before"]
    assert records.run("r1").round == 0

    with pytest.raises(RecordsError) as refused:
        write_atomic(home / "runs" / "r1" / "model.safetensors", bytes(100_000))
    assert str(refused.value) == full(home / "runs" / "r1" / "model.safetensors")
    assert [path.name for path in (home / "runs" / "r1").iterdir()] == ["run.log"]

    filler.unlink()
    recorder.close()
    assert len(records.events("r1")) == 202
    assert records.run("r1").round == 1
    log = (home / "runs" / "r1" / "run.log").read_text().splitlines()
    assert [line.split()[3] for line in log] == ["before", *map(str, range(200))]
    records.close()


def test_a_disk_that_is_full_from_the_start_is_one_sentence(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(small_disk)
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(small_disk))
    with pytest.raises(RecordsError) as refused:
        Records()
    assert str(refused.value) == full(small_disk / "records.db")


# Files may not grow further: as a quota does it, and without being root.
REFUSED_BY_THE_SYSTEM = """
import resource
from flautim_lab.errors import RecordsError
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
records = Records()
records.create_run("r1", name="iris", runner="local", rounds=5, clients=2, settings={}, plan={})
recorder = Recorder(records, "r1")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for number in range(1000):
    recorder.log("x" * 500)
try:
    recorder.close()
except RecordsError as error:
    print(error)
print(len(records.events("r1")))
"""


def test_a_file_that_may_not_grow_is_one_sentence(home: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", REFUSED_BY_THE_SYSTEM], capture_output=True, text=True, check=True
    )
    path = home / "records.db"
    assert said.stdout == (
        f"the disk that holds {path} cannot be read or written (disk I/O error); check that it is "
        "there and that your quota is not used up, "
        "or set FLAUTIM_LAB_HOME to a folder on another disk\n0\n"
    )


REFUSED_WITHIN_A_LINE = """
import resource
from flautim_lab.errors import RecordsError
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
records = Records()
records.create_run("r1", name="iris", runner="local", rounds=5, clients=2, settings={}, plan={})
(records.folder("r1") / "run.log").write_text("earlier\\n" * 110_000)
recorder = Recorder(records, "r1")
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
for number in range(300):
    recorder.log("x" * 500)
try:
    recorder.close()
except RecordsError as error:
    print(error)
print(len(records.events("r1")))
"""


def test_the_log_never_ends_within_a_line(home: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", REFUSED_WITHIN_A_LINE], capture_output=True, text=True, check=True
    )
    path = home / "runs" / "r1" / "run.log"
    assert said.stdout == (
        f"the log {path} cannot be written: File too large; "
        "check the disk, or set FLAUTIM_LAB_HOME to a folder\n300\n"
    )
    assert path.read_text() == "earlier\n" * 110_000


class Refusing:
    """Records on a disk that refuses them while ``full`` is set."""

    def __init__(self, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        append = records.append

        def refuse(run_id: str, events: tuple[Event, ...]) -> int:
            if self.full:
                raise RecordsError("the disk is full")
            return append(run_id, events)

        monkeypatch.setattr(records, "append", refuse)


@pytest.fixture
def disk(records: Records, monkeypatch: pytest.MonkeyPatch) -> Refusing:
    return Refusing(records, monkeypatch)


def test_each_outage_is_said_once(records: Records, recorder: Recorder, disk: Refusing) -> None:
    for _ in range(2):
        disk.full = True
        recorder.log("kept")
        with pytest.raises(RecordsError, match=r"^the disk is full$"):
            recorder.flush()
        recorder.flush()
        disk.full = False
        recorder.flush()
    assert len(stored(records)) == 2


def test_close_says_what_is_lost_even_if_it_was_said(recorder: Recorder, disk: Refusing) -> None:
    recorder.log("lost")
    with pytest.raises(RecordsError):
        recorder.flush()
    with pytest.raises(RecordsError, match=r"^the disk is full$"):
        recorder.close()


def test_close_never_hides_an_earlier_error(recorder: Recorder, disk: Refusing) -> None:
    recorder.log("lost")

    def fail() -> None:
        try:
            raise ValueError("the loss is not a number")
        finally:
            recorder.close()

    with pytest.raises(ValueError) as raised:
        fail()
    assert str(raised.value) == "the loss is not a number"
    assert raised.value.__notes__ == [
        "and the last events of the run could not be stored: the disk is full"
    ]
    assert disk.full


def test_a_status_is_set_even_if_the_events_before_it_cannot_be_stored(
    records: Records, recorder: Recorder, disk: Refusing
) -> None:
    with pytest.raises(RecordsError, match=r"^the disk is full$"):
        recorder.status(RunStatus.FAILED, "no space")
    assert records.run("r1").status is RunStatus.FAILED
    disk.full = False
    recorder.close()
    assert stored(records) == [(1, "status")]
