"""What is left of runs that were killed whole is found and removed; what is alive is left alone."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from flautim_lab.records.store import Records
from flautim_lab.runners.doctor import examine
from flautim_lab.runners.leftovers import reap_leftovers
from flautim_lab.runners.process_files import ProcessFolder


@pytest.fixture
def left():
    """A run's folder with a key, and a process that outlived its run."""
    records = Records.default()
    records.create_run(
        "r1-left",
        name="left",
        runner="processes",
        rounds=3,
        clients=1,
        settings={},
        plan={},
        detached=True,
    )
    folder = ProcessFolder(records.folder("r1-left"))
    folder.tls.mkdir(parents=True)
    (folder.tls / "server.key").write_text("secret")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    folder.write_pid("client-0", process.pid)
    yield records, folder, process
    process.kill()
    process.wait()


def test_a_run_that_ended_is_cleaned_by_doctor(left):
    records, folder, process = left
    records.set_status("r1-left", "stopped")
    checks = {check.name: check for check in examine()}
    assert checks["leftovers"].found == "of r1-left"
    assert process.wait(10) is not None
    assert not folder.tls.exists()
    assert not folder.has_leftovers()
    assert "leftovers" not in {check.name for check in examine()}


def test_a_run_that_lives_or_may_be_resumed_is_left_alone(left, monkeypatch):
    records, folder, process = left
    records.set_status("r1-left", "running")
    records.heartbeat("r1-left")
    runs = folder.run_folder.parent
    assert reap_leftovers(records, runs) == []
    monkeypatch.setattr("flautim_lab.records.process.DETACHED_SILENCE_SECONDS", -1.0)
    assert str(records.run("r1-left").status) == "interrupted"
    assert reap_leftovers(records, runs) == []  # one of them lives: it may come back
    assert process.poll() is None
    process.kill()
    process.wait()
    assert reap_leftovers(records, runs) == ["r1-left"]  # its keys; a resume makes new ones


def test_processes_of_a_run_that_nobody_knows_are_ended(left):
    records, folder, process = left
    known = folder.run_folder
    unknown = known.rename(known.parent / "r2-gone")
    assert reap_leftovers(records, known.parent) == ["r2-gone"]
    assert process.wait(10) is not None
    assert not psutil.pid_exists(process.pid) or process.returncode is not None
    assert not (unknown / "processes" / "tls").exists()


def test_one_that_is_watched_is_left_to_its_watch(left):
    records, folder, process = left
    records.set_status("r1-left", "stopped")
    with folder.watching() as mine:
        assert mine
        assert reap_leftovers(records, folder.run_folder.parent) == []
    assert process.poll() is None
