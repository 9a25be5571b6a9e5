"""The command line: what it prints, what it refuses, and with which exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner, Result

from flautim_lab.cli import main
from flautim_lab.cli.after import DOWNLOADS
from flautim_lab.records.event import RunStatus
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
from flautim_lab.runners.rerun.batch import Batch, Entry
from flautim_lab.runners.run import DOWNLOADS as DOWNLOADS_OF_RUN
from flautim_lab.runners.stamp import read_stamp, stamp
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
    lab.CSVDataset(points, target="kind"), Net, name="two halves", clients=2, rounds=rounds, lr=0.1
)
run = lab.run(experiment)
print(run.status)
"""


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def make_run(
    run_id: str,
    *,
    name: str = "kept run",
    losses: Sequence[float] = (0.9, 0.4),
    status: RunStatus | None = RunStatus.FINISHED,
) -> Records:
    """Record a run as a runner does, without training anything."""
    records = Records.default()
    records.create_run(
        run_id,
        name=name,
        runner="local",
        rounds=len(losses),
        clients=2,
        settings={"strategy": "FedAvg", "lr": 0.1, "client_names": ["a", "b"]},
        plan={"engine": "loop"},
    )
    recorder = Recorder(records, run_id)
    recorder.status(RunStatus.RUNNING)
    for number, loss in enumerate(losses, start=1):
        for client in (0, 1):
            recorder.metric(number, client, "train", "loss", loss + client)
        recorder.metric(number, -1, "train", "loss", loss)
        recorder.metric(number, -1, "validation", "loss", 2 * loss)
        recorder.metric(number, -1, "validation", "accuracy", 0.25 * number)
        recorder.log(f"round {number} is done", round=number)
        recorder.round_done(number)
    recorder.failure(1, 1, "ValueError: no rows\ntraceback of client 1")
    if status is not None:
        recorder.status(status, "as it was asked" if status is RunStatus.STOPPED else "")
    recorder.close()
    return records


# --- words --------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for command in ("run", "rerun", "runs", "show", "logs", "stop", "download", "plot", "doctor"):
        assert f"\n  {command} " in result.stdout


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "flautim-lab")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from flautim_lab.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = 'torch flwr pandas numpy matplotlib sqlalchemy papermill IPython ipywidgets'\n"
        "print([name for name in heavy.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_wrong_command_gets_a_suggestion() -> None:
    result = call("rnus")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: no command named 'rnus'; did you mean 'runs'? choose one of: "
        "backup, compare, doctor, download, export, logs, migrate, plot, rerun, restore, run, "
        "runs, scale, show, stop, verify"
    )


def test_a_wrong_option_gets_a_suggestion() -> None:
    result = call("runs", "--jsn")
    assert result.exit_code == 2
    assert "--jsn" in result.stderr
    assert "--json" in result.stderr


def test_downloads_are_those_of_a_run() -> None:
    assert DOWNLOADS == DOWNLOADS_OF_RUN


# --- runs that are recorded ---------------------------------------------------------------


def test_no_runs_yet(home: Path) -> None:
    result = call("runs")
    assert (result.exit_code, result.stdout) == (0, f"no runs yet in {home / 'records.db'}\n")
    assert json.loads(call("runs", "--json").stdout) == []


def test_an_unknown_run_is_one_sentence() -> None:
    make_run("r1-first")
    for command in (
        ["show"],
        ["logs"],
        ["stop"],
        ["download", "--what", "log"],
        ["show", "--json"],
    ):
        result = call(*command, "r1-frist")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "Error: no run named 'r1-frist'; did you mean 'r1-first'? choose one of: r1-first\n"
        )


def test_runs_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    make_run("r1-first")
    make_run("r2-second", status=RunStatus.STOPPED)
    lines = call("runs").stdout.splitlines()
    final = "validation accuracy 0.5, loss 0.8"
    assert lines[0].split() == [
        "RUN",
        "STATUS",
        "ROUNDS",
        "DURATION",
        "STRATEGY",
        "AT",
        "THE",
        "END",
    ]
    assert lines[1].split(maxsplit=5) == [
        "r2-second", "stopped", "2/2", "00:00:00", "FedAvg", f"{final}; as it was asked",
    ]  # fmt: skip
    assert lines[2].split(maxsplit=5) == [
        "r1-first", "finished", "2/2", "00:00:00", "FedAvg", final,
    ]  # fmt: skip
    listed = json.loads(call("runs", "--limit", "1", "--json").stdout)
    assert [(run["id"], run["status"], run["message"]) for run in listed] == [
        ("r2-second", "stopped", "as it was asked")
    ]
    assert listed[0]["final"]["validation"] == {"accuracy": 0.5, "loss": 0.8}


def test_a_long_failure_is_one_line_in_the_list_and_whole_in_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reason = f"round 2 had no client left:\nValueError: {'wide ' * 60}end"
    make_run("r1-first", status=None).set_status("r1-first", RunStatus.FAILED, message=reason)
    monkeypatch.setenv("COLUMNS", "100")
    _, line = call("runs").stdout.splitlines()
    assert len(line) == 100
    assert "  round 2 had no client left: ValueError: wide wide" in line
    assert line.endswith("...")
    assert reason in call("show", "r1").stdout


def test_the_list_reads_the_end_of_a_long_run() -> None:
    make_run("r1-many-rounds", losses=[1 / n for n in range(1, 101)])
    make_run("r2-many-measures", losses=(0.5,), status=None)
    recorder = Recorder(Records.default(), "r2-many-measures")
    for number in range(300):  # more than the list reads at first
        recorder.metric(1, -1, "validation", f"m{number:03d}", float(number))
    recorder.close()
    measures, rounds = json.loads(call("runs", "--json").stdout)
    assert rounds["final"] == json.loads(call("show", "r1", "--json").stdout)["final"]
    assert rounds["final"]["validation"] == {"accuracy": 25.0, "loss": 0.02}
    assert len(measures["final"]["validation"]) == 302


def test_show() -> None:
    make_run("r1-first")
    result = call("show", "last")
    assert result.exit_code == 0
    words = [line.split() for line in result.stdout.splitlines()]
    assert ["name", "kept", "run"] in words
    assert ["status", "finished"] in words
    assert ["accuracy", "0.5"] in words
    assert ["engine", "loop"] in words
    assert words.index(["accuracy", "0.5"]) < words.index(["loss", "0.4"])  # validation first
    assert "\nvalidation, last value, mean over clients, weighted by rows\n" in result.stdout
    assert (
        "\nclients that failed in their last round\n  client 1, b  ValueError: no rows\n"
        "  more: flautim-lab logs r1-first --client 1\n"
    ) in result.stdout


def test_show_as_json_has_no_number_that_json_lacks() -> None:
    make_run("r1-first", losses=(0.5, float("nan")))
    shown = json.loads(call("show", "r1", "--json").stdout, parse_constant=pytest.fail)
    assert shown["final"]["train"] == {"loss": None}
    assert shown["final"]["validation"] == {"accuracy": 0.5, "loss": None}
    assert shown["plan"] == {"engine": "loop"}
    assert Path(shown["folder"]).name == "r1-first"


def test_logs() -> None:
    make_run("r1-first")
    text = call("logs", "r1").stdout
    assert "round 1 is done" in text
    assert "round 2 is done" in text
    assert "    traceback of client 1" in text
    mine = call("logs", "r1", "--client", "1").stdout
    assert "ValueError: no rows" in mine
    assert "is done" not in mine
    assert call("logs", "r1", "--client", "1", "--last", "0").stdout == ""
    result = call("logs", "r1", "--client", "7")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: run r1-first has no client 7; its clients are 0 to 1\n",
    )


def test_following_prints_what_comes_and_ends_with_the_run() -> None:
    records = make_run("r1-first", status=None)
    process = subprocess.Popen(
        [sys.executable, "-m", "flautim_lab.cli", "logs", "r1", "--follow", "--last", "1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "ValueError: no rows" in process.stdout.readline()
        recorder = Recorder(records, "r1-first")
        recorder.log("something new")
        recorder.status(RunStatus.FINISHED)
        recorder.close()
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert rest.count("something new") == 1
        assert "is done" not in rest
    finally:
        process.kill()


def test_stop() -> None:
    records = make_run("r1-first", status=None)
    result = call("stop", "r1")
    assert (result.exit_code, result.stdout) == (
        0,
        "asked run r1-first to stop; it ends with its next batch and keeps its last whole round "
        "(flautim-lab show r1-first tells when it has)\n",
    )
    assert records.stop_requested("r1-first")
    make_run("r2-second")
    assert call("stop", "r2").stdout == "run r2-second has ended already: finished\n"
    assert not records.stop_requested("r2-second")


def test_stop_does_not_wait_for_torch() -> None:
    records = make_run("r1-first", status=None)
    code = (
        "import sys; from flautim_lab.cli import main\n"
        "main(['stop', 'last'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'flwr', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert records.stop_requested("r1-first")


def test_download_and_plot(tmp_path: Path) -> None:
    make_run("r1-first")
    make_run("r2-second", name="other run")
    target = tmp_path / "numbers.csv"
    assert call("download", "r1", "--what", "metrics", "--to", str(target)).stdout == f"{target}\n"
    assert target.read_text().splitlines()[0] == "round,client,split,metric,value"
    result = call("download", "r1", "--what", "model", "--to", str(tmp_path))
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: run r1-first (finished) has no model\n",
    )
    assert call("download", "r1", "--what", "modle").exit_code == 2
    result = call("download", "r1", "--what", "log", "--to", f"{tmp_path}/new/")
    assert result.stdout == f"{tmp_path}/new/r1-first-run.log\n"
    result = call("download", "r1", "--what", "metrics", "--to", str(target))
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: {target} exists; choose another name, or remove it first\n",
    )
    picture = tmp_path / "both.png"
    arguments = ["plot", "r1", "r2", "--metric", "accuracy", "-o", str(picture)]
    assert call(*arguments).stdout == f"{picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    for name, beginning in (("both.svg", b"<?xml"), ("both.pdf", b"%PDF")):
        assert call("plot", "r1", "-o", str(tmp_path / name)).exit_code == 0
        assert (tmp_path / name).read_bytes().startswith(beginning)
    for name in ("both.jpg", "both"):
        result = call("plot", "r1", "-o", str(tmp_path / name))
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (
            2,
            f"Error: a plot is not written as '{name}'; end its name in .png or .svg or .pdf",
        )
        assert not (tmp_path / name).exists()
    result = call("plot", "r1", "--metric", "acuracy", "-o", str(picture))
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: no metric named 'acuracy'; did you mean 'accuracy'? "
        "choose one of: loss, accuracy\n",
    )
    result = call("plot", "r1", "-o", str(target / "a.png"))  # in a file, not a folder
    assert result.exit_code == 1
    assert f"{target}/a.png cannot be written" in result.stderr


def test_compare_and_export(tmp_path: Path) -> None:
    make_run("r1-first")
    make_run("r2-second", name="=other run", losses=(0.9, 0.2))
    picture = tmp_path / "both.svg"
    result = call("compare", "r1", "r2", "-o", str(picture), "--code")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("r1-first  kept run\nr2-second  =other run\n")
    assert result.stdout.endswith(f"\n{picture}\n")
    assert picture.read_bytes().startswith(b"<?xml")
    assert (picture.stat().st_mode & 0o777) == 0o666 & ~umask()
    found = json.loads(call("compare", "r1", "r2", "--json").stdout)
    assert found["runs"] == ["r1-first", "r2-second"]
    assert found["results"]["r2-second"]["validation_loss"] == 0.4
    assert (found["differences"], found["code"]) == ([], "")
    assert "the same code" not in call("compare", "r1", "r2").stdout
    assert call("compare", "r1", "r2", "--code").stdout.endswith(
        "source of these runs was not kept\n"
    )
    result = call("compare", "r1", "r1-first")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: one run differs from nothing; give at least two\n",
    )
    assert call("compare", "r1", "r2", "-o", "a.jpg").exit_code == 2
    result = call("compare", "r1", "r2", "--metric", "acuracy")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "did you mean 'accuracy'" in result.stderr
    result = call("compare", "r1", "r2", "-o", str(tmp_path / "new" / "a.png"))
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: {tmp_path}/new/a.png cannot be written: the folder {tmp_path}/new does not exist; "
        "make it, or choose another\n",
    )

    target = tmp_path / "runs.csv"
    (tmp_path / "grid" / "points").mkdir(parents=True)
    Batch(tmp_path / "grid", "a.ipynb", [], [Entry(1, {}, "a", "a.ipynb")]).write()
    point = tmp_path / "grid" / "points" / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), point)
    stamp(point, {"run": "r2-second"})
    result = call("export", "r1", str(tmp_path / "grid"), "--to", str(target), "--what", "runs")
    assert result.stdout == f"{target}: 2 runs, 2 lines\n"
    assert [line.split(",")[:2] for line in target.read_text().splitlines()[1:]] == [
        ["r1-first", "kept run"],
        ["r2-second", "'=other run"],
    ]
    result = call("export", "r1", "--to", "runs.xlsx")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: a table is not written as 'runs.xlsx'; end its name in .csv or .parquet\n",
    )
    assert "goes to a file that ends in" in call("export", "r1", "--to", "").stderr


def umask() -> int:
    now = os.umask(0o022)
    os.umask(now)
    return now


def test_records_that_are_no_database(home: Path) -> None:
    home.mkdir()
    (home / "records.db").write_text("not a database, but long enough to look at" * 10)
    result = call("runs")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


# --- doctor -------------------------------------------------------------------------------


def test_doctor_here() -> None:
    make_run("r1-first")
    result = call("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert checks["torch"]["state"] == "ok"
    assert checks["flwr"]["found"].endswith("is supported)")
    assert checks["records"]["found"].endswith("records.db, 1 run")
    assert call("doctor").exit_code == 0


# --- run ----------------------------------------------------------------------------------


def write(path: Path, parameters: str, *cells: str) -> Path:
    made: list[Any] = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


def test_run_shows_the_runs_that_the_notebook_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run("r0-somebody-else")
    path = write(tmp_path / "halves.ipynb", "rounds = 9", EXPERIMENT)
    result = call("run", str(path), "-p", "rounds", "3", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["notebook"] == str(tmp_path / "halves-executed.ipynb")
    [run] = answer["runs"]
    assert (run["name"], run["status"], run["round"], run["rounds"]) == (
        "two halves", "finished", 3, 3,
    )  # fmt: skip
    assert set(run["final"]["validation"]) == {"accuracy", "loss"}
    executed = nbformat.read(answer["notebook"], as_version=4)
    stamp = read_stamp(answer["notebook"])
    assert (stamp["status"], stamp["parameters"]) == ("finished", {"rounds": 3})
    assert (stamp["runs"], stamp["run"]) == ([run["id"]], run["id"])
    # In batch lab.run waits by itself: nothing in the notebook does.
    assert "finished" in executed.cells[-1].outputs[-1].text
    assert json.loads(call("runs", "--json").stdout)[0]["id"] == run["id"]


def test_run_prints_a_line_per_run(tmp_path: Path) -> None:
    path = write(tmp_path / "halves.ipynb", "rounds = 1", EXPERIMENT)
    result = call("run", str(path), "-o", str(tmp_path / "out.ipynb"))
    assert result.exit_code == 0, result.stderr
    done, head, line = result.stdout.splitlines()
    assert done.startswith(f"{tmp_path}/out.ipynb: done in 00:00:")
    assert done.endswith(", 1 run.")
    assert head.split() == ["RUN", "STATUS", "ROUNDS", "AT", "THE", "END"]
    assert "two-halves" in line
    assert "finished  1/1" in line
    assert "validation accuracy" in line


def test_run_refuses_before_anything_starts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "rounds = 9", "raise SystemError")
    out = tmp_path / "out.ipynb"
    result = call("run", str(path), "-p", "rouns", "3", "-o", str(out))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: in a.ipynb: no parameter named 'rouns'; did you mean 'rounds'? "
        "choose one of: rounds\n"
    )
    result = call("run", str(path), "-p", "rounds", "3", "-p", "rounds", "4")
    assert result.exit_code == 2
    assert "Error: the parameter 'rounds' is given twice; give it once" in result.stderr
    assert not out.exists()


def test_a_wrong_setting_in_a_cell_is_its_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "rounds = 9", EXPERIMENT)
    out = tmp_path / "out.ipynb"
    result = call("run", str(path), "-p", "rounds", "0", "-o", str(out), "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: cell [3] of a.ipynb failed: ExperimentError: rounds must be at least 1, not 0; "
        f"its traceback and the cells before it are in {out}\n"
    )
    stamp = read_stamp(out)
    assert (stamp["status"], stamp["runs"], stamp["parameters"]) == ("failed", [], {"rounds": 0})
    assert stamp["error"].endswith("rounds must be at least 1, not 0")


def test_ctrl_c_while_a_notebook_runs(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    sleep = f"open({str(mark)!r}, 'w').close(); import time; time.sleep(120)"
    path = write(tmp_path / "a.ipynb", "rounds = 9", "print('kept')", sleep)
    out = tmp_path / "out.ipynb"
    process = subprocess.Popen(
        [sys.executable, "-m", "flautim_lab.cli", "run", str(path), "-o", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    try:
        deadline = time.monotonic() + 60
        while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr == f"\nstopped; the outputs up to here are in {out}\n"
    assert "kept" in out.read_text()
    assert read_stamp(out)["status"] == "interrupted"


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flautim_lab.cli", "runs", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "FLAUTIM_LAB_HOME": str(tmp_path / "fresh")},
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
