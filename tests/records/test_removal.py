"""A run that is removed is gone as a whole, also where that was cut off."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from flautim_lab.errors import RecordsError, RunNotFoundError
from flautim_lab.records import removal
from flautim_lab.records.removal import remove_run, sweep
from flautim_lab.records.store import Records
from tests.runners.test_measures import make_run


def ended(run_id: str) -> Records:
    records = make_run(run_id, [0.5])
    records.set_status(run_id, "finished")
    return records


def test_removed_is_removed_and_others_stay(home: Path) -> None:
    records = make_run("r1", [0.5])
    make_run("r2", [0.25])
    (records.folder("r1") / "model.safetensors").write_bytes(b"weights")
    records.set_status("r1", "running")
    with pytest.raises(RecordsError, match="run r1 is running; only a run that is over can be"):
        remove_run(records, "r1")
    records.set_status("r1", "finished")
    remove_run(records, "r1")
    with pytest.raises(RunNotFoundError):
        records.events("r1")
    assert [run.id for run in records.runs()] == ["r2"]
    assert len(records.events("r2")) > 0
    records.folder("r2")
    assert [path.name for path in (home / "runs").iterdir()] == ["r2"]


def test_cut_off_it_can_be_done_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = ended("r1")
    (records.folder("r1") / "model.safetensors").write_bytes(b"weights")

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as cut:
        cut.setattr(Records, "connected", killed)  # after the artifacts, before the rows
        with pytest.raises(Killed):
            remove_run(records, "r1")
    remove_run(records, "r1")

    ended("r2")
    records.folder("r2")
    with monkeypatch.context() as cut, contextlib.suppress(Killed):
        cut.setattr(removal.shutil, "rmtree", lambda path, **_: path.exists() and killed())
        remove_run(records, "r2")
    assert records.runs() == []
    assert [path.name for path in (home / "runs").iterdir()] == [".removed-r2"]
    sweep()
    assert list((home / "runs").iterdir()) == []


def test_what_cannot_be_written_is_all_there_still(monkeypatch: pytest.MonkeyPatch) -> None:
    records = ended("r1")
    (records.folder("r1") / "model.safetensors").write_bytes(b"weights")

    def full(*_: object, **__: object) -> None:
        raise RecordsError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(Records, "connected", full)
        with pytest.raises(RecordsError, match="the disk is full"):
            remove_run(records, "r1")
    assert (records.folder("r1") / "model.safetensors").read_bytes() == b"weights"
    assert records.events("r1")
