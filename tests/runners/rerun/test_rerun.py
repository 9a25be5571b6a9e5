"""Batches with real kernels: what they leave, what they survive, and what they do not do twice."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from click.testing import CliRunner

import flautim_lab as lab
from flautim_lab.cli import main
from flautim_lab.errors import NotebookError, UsageError
from flautim_lab.records.store import Records
from flautim_lab.runners.rerun.schedule import Going, Schedule
from flautim_lab.runners.stamp import read_stamp
from tests.federations import hear_interrupts

EXPERIMENT = """\
import pandas as pd
from torch import nn

import flautim_lab as lab

points = pd.DataFrame({"x": range(24), "kind": ["low"] * 12 + ["high"] * 12})


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(1, 2))


experiment = lab.Experiment(
    lab.CSVDataset(points, target="kind"), Net, clients=2, rounds=rounds, lr=lr, seed=seed
)
run = lab.run(experiment)
run
"""

TROUBLE = """\
import os, pathlib, signal, time, psutil
log = pathlib.Path(f"{kind}.log")
log.write_text(log.read_text() + "x" if log.exists() else "x")
print("kept")
"""
KINDS = """\
if kind == "fails":
    raise ValueError("=no\\nrows")
if kind == "twice" and len(log.read_text()) == 1:
    raise ValueError("the first time")
if kind == "sleeps":
    time.sleep(120)
if kind == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "orphan":
    psutil.Process().parent().kill()
if kind == "handless":
    psutil.Process().parent().parent().kill()
time.sleep(120 if kind in ("orphan", "handless") else 0)
"""


def write(path: Path, parameters: str, *cells: str) -> Path:
    made: list[Any] = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


def table_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def outputs_of(path: Path) -> list[Any]:
    return [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", [])]


def family() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def wait_until(true: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_grid_over_seeds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "rounds = 3\nlr = 0.1\nseed = 7", EXPERIMENT)
    out = tmp_path / "out"
    asked: dict[str, Any] = {"parameters": {"rounds": 2}, "seeds": 2, "output": out, "jobs": 2}
    batch = lab.rerun(path, **asked, progress=False)
    assert batch.points == [{"rounds": 2, "seed": 7}, {"rounds": 2, "seed": 8}]
    assert batch.finished
    assert batch.failed == []
    frame = batch.summary
    assert list(frame["seed"]) == [7, 8]
    runs = Records.default().runs()
    assert sorted(frame["run"]) == sorted(run.id for run in runs) == sorted(batch.runs)
    for entry in batch.entries:
        run = lab.attach(entry.stamp["run"])
        final = float(run.final(metric="loss", split="validation"))
        assert frame["validation_loss"][entry.number - 1] == pytest.approx(final)
        file = out / "points" / entry.name
        stamp = read_stamp(file)
        assert stamp == json.loads(json.dumps(entry.stamp))
        assert stamp["seed"] == entry.point["seed"]
        assert stamp["bundle"] == run.experiment.bundle().hash
        assert stamp["versions"]["flwr"] == run.plan["flwr"]
        # The live view has become a picture.
        assert any("image/png" in str(output.get("data", {})) for output in outputs_of(file))
    rows = table_of(out)
    assert [row["status"] for row in rows] == ["finished"] * 2
    assert float(rows[0]["validation_loss"]) == frame["validation_loss"][0]
    shown = outputs_of(out / "summary.ipynb")
    assert not [output for output in shown if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert "2 points of a.ipynb: 2 finished" in repr(batch)
    assert "<table" in batch._repr_html_()
    assert list(batch.groups().values()) == [batch.runs]
    (panel,) = batch.plot("loss").axes
    mean, low, high = (line.get_ydata()[-1] for line in panel.lines)
    losses = frame["validation_loss"]
    assert (low, mean, high) == pytest.approx((losses.min(), losses.mean(), losses.max()))
    assert panel.get_ylim()[0] < low < high < panel.get_ylim()[1]
    assert list(batch.table("loss")["validation_loss"]) == sorted(frame["validation_loss"])
    for wrong in (lambda: batch.plot("los"), lambda: batch.table("validation_los")):
        with pytest.raises(UsageError, match=r"did you mean 'validation_loss'"):
            wrong()
    # Again: nothing is left to do, and nothing is touched.
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.ipynb")}
    again = lab.rerun(path, **asked, progress=False)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.ipynb")} == before
    assert again.rows() == batch.rows() == lab.Batch.read(out).rows()
    assert len(Records.default().runs()) == 2
    assert {file.name for file in out.iterdir()} == {
        "batch.json", "lock", "points", "summary.csv", "summary.ipynb",
    }  # fmt: skip


@pytest.mark.measures_children
def test_whatever_goes_wrong_in_a_point_is_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_late = Schedule._is_late

    def sleeps_in_its_last_cell(self: Schedule, going: Going) -> bool:
        """Kernels that begin slowly are no matter of this test."""
        there = going.task.point.get("kind") == "sleeps" and going.cell == going.cells > 0
        return there and is_late(self, going)

    monkeypatch.setattr(Schedule, "_is_late", sleeps_in_its_last_cell)
    path = write(tmp_path / "a.ipynb", "kind = 'fine'\nstatus = 0", TROUBLE, KINDS)
    out = tmp_path / "out"
    kinds = ["sleeps", "fine", "fails", "killed", "orphan", "handless", "twice"]
    batch = lab.rerun(
        path, grid={"kind": kinds, "status": [1]}, output=out, jobs=3, timeout=5, retries=1
    )
    rows = {row["kind"]: row for row in table_of(out)}
    assert {kind: rows[kind]["status"] for kind in kinds} == {
        "fine": "finished",
        "fails": "failed",
        "sleeps": "timeout",
        "killed": "died",
        "orphan": "died",
        "handless": "died",
        "twice": "finished",
    }
    assert {row["parameter_status"] for row in rows.values()} == {"1"}
    errors = {kind: row["error"] for kind, row in rows.items()}
    assert errors["fine"] == errors["twice"] == ""
    assert errors["fails"] == "cell [4] of a.ipynb failed: ValueError: =no rows"
    assert errors["sleeps"] == "it took longer than 5 seconds"
    assert errors["killed"] == (
        "the kernel died in cell 4 of a.ipynb (it was killed by signal 9, as the system does when "
        "memory runs out; let it use less memory, or run fewer jobs at once)"
    )
    assert errors["orphan"] == errors["handless"] == "its process was killed"
    for kind, row in rows.items():
        kept = [output.get("text") for output in outputs_of(out / row["notebook"])]
        assert "kept\n" in kept, kind
        tries = 1 if kind == "fine" else 2
        assert (row["attempts"], len((tmp_path / f"{kind}.log").read_text())) == (str(tries), tries)
    assert {entry.point["kind"] for entry in batch.failed} == {*kinds} - {"fine", "twice"}
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 7
    assert any(line.endswith(f": {errors['fails']}") for line in told)
    assert f"kind=fails: {errors['fails']}" in repr(batch)
    # None of their processes is left.
    assert [child for child in family() if "ipykernel" in " ".join(child.cmdline())] == []


def test_killed_in_the_middle_and_begun_again(tmp_path: Path) -> None:
    cell = (
        "import pathlib, time\n"
        "with open('done.log', 'a') as log: log.write(f'{n}\\n')\n"
        "while n > 1 and not pathlib.Path('go').exists(): time.sleep(0.02)"
    )
    path = write(tmp_path / "a.ipynb", "n = 0", cell)
    out, log = tmp_path / "out", tmp_path / "done.log"
    code = (
        "import flautim_lab as lab\n"
        f"lab.rerun({str(path)!r}, grid={{'n': range(5)}}, jobs=2, output={str(out)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    children: list[psutil.Process] = []
    try:
        wait_until(lambda: log.exists() and log.read_text().count("\n") == 4, process)
        children = psutil.Process(process.pid).children(recursive=True)
        assert sum("ipykernel" in " ".join(child.cmdline()) for child in children) == 2
        process.kill()
        process.wait()
        assert psutil.wait_procs(children, timeout=10)[1] == []
    finally:
        process.kill()
        for child in children:
            if child.is_running():
                child.kill()
    assert [row["status"] for row in table_of(out)] == ["finished"] * 2 + ["waiting"] * 3
    (tmp_path / "go").touch()
    batch = lab.rerun(path, grid={"n": range(5)}, jobs=2, output=out, progress=False)
    assert [row["status"] for row in table_of(out)] == ["finished"] * 5
    assert batch.finished
    # The two that had finished were not done again, and the two that were cut off were.
    assert sorted(log.read_text().split()) == ["0", "1", "2", "2", "3", "3", "4"]
    assert len(list((out / "points").iterdir())) == 5


def read_all(terminal: int, into: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # nobody is at its other end any more
        while read := os.read(terminal, 1 << 16):
            into.append(read)


def test_ctrl_c_at_a_terminal(tmp_path: Path) -> None:
    mark, out = tmp_path / "started", tmp_path / "out"
    sleep = f"print('kept', flush=True); open({str(mark)!r}, 'w').close(); time.sleep(120)"
    path = write(tmp_path / "a.ipynb", "n = 0", "import time", sleep)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [sys.executable, "-m", "flautim_lab.cli", "rerun", str(path), "-g", "n=1,2"]
    process = subprocess.Popen(
        [*command, "-o", str(out)], stderr=theirs, preexec_fn=hear_interrupts
    )
    os.close(theirs)
    shown: list[bytes] = []
    # Read all the time: a terminal holds a few thousand bytes and lets nobody write more.
    reader = threading.Thread(target=read_all, args=(ours, shown))
    reader.start()
    try:
        wait_until(mark.exists, process)
        children = psutil.Process(process.pid).children(recursive=True)
        # Meanwhile nobody else works there.
        with pytest.raises(NotebookError, match=f"^another batch works in {re.escape(str(out))};"):
            lab.rerun(path, output=out)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert psutil.wait_procs(children, timeout=5)[1] == []
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(ours)
    text = b"".join(shown).decode()
    assert "0 of 2 points" in text
    assert "n=1" in text
    assert "cell 4 of 4" in text
    assert "the same command does the rest" in text
    assert "Traceback" not in text
    first, second = table_of(out)
    assert (first["status"], first["error"]) == ("interrupted", "it was interrupted")
    assert second["status"] == "waiting"
    assert "kept" in (out / first["notebook"]).read_text()
    assert not (out / "running").exists()


def test_changed_code_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.ipynb", "seed, rounds = 7, 2", "if seed == 8: raise ValueError")
    call = ["rerun", "a.ipynb", "--seeds", "2"]
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == (
        "note: seed and rounds are set on one line in a.ipynb, where papermill's own command would "
        "not find them; give each a line of its own"
    )
    assert result.stdout.splitlines()[0].startswith("2 points of a.ipynb: 1 finished, 1 failed;")
    assert [line.split() for line in result.stdout.splitlines()[-3:]] == [
        ["SEED", "STATUS"], ["7", "finished"], ["8", "failed"],
    ]  # fmt: skip
    write(path, "seed, rounds = 7, 2", "print(seed)")
    result = CliRunner().invoke(main, [*call, "--json"])
    assert result.exit_code == 0, result.stderr
    assert "1 point done again: changed: the code\n" in result.stderr
    assert "1 point done again: it ended as failed\n" in result.stderr
    answer = json.loads(result.stdout)
    assert answer["folder"] == str(tmp_path / "a-rerun")
    assert [(point["seed"], point["status"]) for point in answer["points"]] == [
        (7, "finished"), (8, "finished"),
    ]  # fmt: skip


# --- refused before anything starts -------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"on": "moon"}, "no place to execute a batch named 'moon'"),
        ({"jobs": 0}, "jobs must be a whole number from 1, not 0"),
        ({"retries": True}, "retries must be a whole number from 0, not True"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, not 0"),
        ({"grid": {"rouns": [1]}}, "no parameter named 'rouns'; did you mean 'rounds'"),
        ({"points": "none.csv"}, "the points in none.csv cannot be read"),
    ],
)
def test_refused(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.ipynb", "rounds = 3")
    with pytest.raises(NotebookError, match=message):
        lab.rerun(path, output=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_refused_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "rounds = 3")
    for options, code, message in (
        (["-g", "rounds"], 1, "'rounds' gives no values; write NAME=VALUE,VALUE,..."),
        (["-g", "rounds=1", "-g", "rounds=2"], 2, "the parameter 'rounds' is given twice"),
        (["--jobs", "0"], 2, "0 is not in the range"),
        (
            ["--on", "clutser"],
            1,
            "no place to execute a batch named 'clutser'; did you mean 'cluster'?",
        ),
    ):
        result = CliRunner().invoke(main, ["rerun", str(path), "-o", f"{tmp_path}/out", *options])
        assert (result.exit_code, result.stdout) == (code, "")
        assert message in result.stderr
    (tmp_path / "file").touch()
    with pytest.raises(NotebookError, match=r"^the folder of the batch cannot be used: "):
        lab.rerun(path, output=tmp_path / "file")


def test_a_folder_without_a_batch(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match=f"^there is no batch in {re.escape(str(tmp_path))};"):
        lab.Batch.read(tmp_path)
