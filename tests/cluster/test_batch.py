"""A batch as pods of one Indexed Job: cut off and gone on with, refused, out of memory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import flautim_lab as lab
from flautim_lab.runners.stamp import read_stamp
from tests.cluster.conftest import left_in

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SCRIPT = """\
import sys
import flautim_lab as lab
lab.rerun("01_first_experiment.ipynb", parameters={"rounds": 20}, seeds=4, jobs=2, output="batch",
          on=lab.Cluster(namespace=sys.argv[1]), progress=False)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in ("01_first_experiment.ipynb", "iris.csv"):
        shutil.copy(NOTEBOOKS / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def until(true, process):
    deadline = time.monotonic() + 300
    while not true():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_killed_in_the_middle_it_goes_on_with_the_same_pods(api, spaces, place):
    points = place / "batch" / "points"
    command = [sys.executable, "-c", SCRIPT, spaces[0]]
    cut_off = subprocess.Popen(command, cwd=place)
    until(lambda: points.is_dir() and any(points.iterdir()), cut_off)
    cut_off.kill()
    cut_off.wait()
    before = {path.name: read_stamp(path) for path in points.iterdir()}
    assert 0 < len(before) < 4
    jobs = [name for name in left_in(api, spaces) if name.startswith("V1Job ")]

    again = subprocess.Popen(command, cwd=place)
    until(lambda: len(list(points.iterdir())) > len(before), again)
    assert [name for name in left_in(api, spaces) if name.startswith("V1Job ")] == jobs
    assert again.wait(300) == 0
    batch = lab.Batch.read("batch")
    assert batch.finished
    assert len(set(batch.runs)) == 4
    for name, stamp in before.items():
        assert read_stamp(points / name) == stamp  # not done twice
    assert left_in(api, spaces) == []
    assert str(lab.verify(points / batch.entries[0].name)).startswith("same: ")


def test_ctrl_c_leaves_nothing(api, spaces, place):
    stopped = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace('"rounds": 20', '"rounds": 500'), spaces[0]],
        cwd=place, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: left_in(api, spaces), stopped)
    time.sleep(5)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(120) != 0
    assert left_in(api, spaces) == []
    states = [entry.status for entry in lab.Batch.read("batch").entries]
    assert set(states) == {"interrupted", "waiting"}  # those that ran, and those that had not begun
    assert not os.path.exists(place / "batch" / "cluster.json")


def test_out_of_memory_and_out_of_time_are_named(api, spaces, place):
    here = {"namespace": spaces[0]}
    batch = lab.rerun(
        "01_first_experiment.ipynb", on=lab.Cluster(memory="220Mi", **here), output="small"
    )
    (entry,) = batch.failed
    assert entry.status == "died"
    assert (
        'was killed for memory (its limit is 220Mi); give more, as in lab.Cluster(memory="...")'
        in (entry.stamp["error"])
    )
    batch = lab.rerun(
        "01_first_experiment.ipynb", parameters={"rounds": 5000}, on=lab.Cluster(**here),
        timeout=8, retries=1, output="late",
    )  # fmt: skip
    (entry,) = batch.failed
    assert (entry.status, entry.stamp["attempts"]) == ("timeout", 2)
    assert entry.stamp["error"] == "it took longer than 8 seconds"
    assert left_in(api, spaces) == []
