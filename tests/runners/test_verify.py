"""The same notebook again: the same numbers, or the first thing that has changed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner

import flautim_lab as lab
from flautim_lab.cli import main
from flautim_lab.errors import ExecutionError, NotebookError, UsageError
from flautim_lab.runners.changes import changes
from flautim_lab.runners.rerun.batch import INDEX
from flautim_lab.runners.stamp import read_stamp, stamp
from flautim_lab.runners.verify import Verification, _differences, _failed

PARAMETERS = 'data = "points.csv"\nrounds = 3\nlr = 0.1\nseed = 7\n'
EXPERIMENT = """\
from net import Net

import flautim_lab as lab

table = lab.CSVDataset(data, target="kind")
experiment = lab.Experiment(
    table, Net, name="two halves", clients=2, rounds=rounds, lr=lr, seed=seed, batch_size=8
)
lab.run(experiment)
"""
NET = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(1, 2))
"""
ROWS = ["x,kind"] + [f"{n},{'low' if n < 12 else 'high'}" for n in range(24)]


def notebook_of(*cells: str) -> Any:
    first, *others = cells
    made = [nbformat.v4.new_code_cell(first, metadata={"tags": ["parameters"]})]
    return nbformat.v4.new_notebook(cells=made + [nbformat.v4.new_code_cell(c) for c in others])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "points.csv").write_text("\n".join(ROWS) + "\n")
    (tmp_path / "net.py").write_text(NET)
    nbformat.write(notebook_of(PARAMETERS, EXPERIMENT), tmp_path / "halves.ipynb")
    return tmp_path


def test_the_same_and_not_the_same(place: Path) -> None:
    executed = place / "done" / "halves.ipynb"
    run = ["run", str(place / "halves.ipynb"), "-p", "rounds", "2", "-o", str(executed)]
    assert CliRunner().invoke(main, run).exit_code == 0
    facts = read_stamp(executed)
    assert facts["parameters"] == {"rounds": 2}
    assert set(facts["modules"]) == {"net.py"}
    (result,) = facts["results"]
    assert [number for number, _ in result["curves"]["validation_loss"]] == [1, 2]

    again = CliRunner().invoke(main, ["verify", str(executed)])
    assert (again.exit_code, again.output) == (
        0,
        "same: 6 numbers of 1 run and the trained weights, bit for bit\n"
        f"made now: {lab.runs()[0].id}\n",
    )

    (place / "points.csv").write_text("\n".join([*ROWS[:5], "90,low", *ROWS[6:]]) + "\n")
    nbformat.write(
        notebook_of(
            PARAMETERS.replace("rounds = 3", "rounds = 9").replace("seed = 7", "seed = 8"),
            EXPERIMENT.replace("batch_size=8", "batch_size=4"),
        ),
        place / "halves.ipynb",
    )
    (place / "net.py").write_text(NET.replace("(1, 2)", "(1, 2, bias=True)"))
    kept = place / "now.ipynb"
    other = CliRunner().invoke(main, ["verify", str(executed), "--json", "-o", str(kept)])
    assert other.exit_code == 1
    found = json.loads(other.stdout)
    assert found["changed"] == [
        "seed is 8, and was 7",
        'line 7 of code cell 2 is `table, Net, name="two halves", clients=2, rounds=rounds, '
        'lr=lr, seed=seed, batch_size=4`, and was `table, Net, name="two halves", clients=2, '
        "rounds=rounds, lr=lr, seed=seed, batch_size=8`",
        "net.py has changed",
        "points.csv has changed, first in line 6",
    ]
    assert not found["same"]
    (difference,) = found["differences"]
    assert re.fullmatch(
        r"run 1 \(two halves\): \w+ \w+ of round 1 is \d\S*, and was \d\S*", difference
    )
    assert found["runs"] == read_stamp(kept)["runs"]
    assert found["kept"] == str(kept)
    assert len(lab.runs()) == 3

    nbformat.write(notebook_of(PARAMETERS, f"{EXPERIMENT}1 / 0"), place / "halves.ipynb")
    with pytest.raises(ExecutionError) as failed:
        lab.verify(executed)
    assert str(failed.value) == (
        "cell [3] of halves.ipynb failed: ZeroDivisionError: division by zero; since it was "
        "executed, line 10 of code cell 2, `1 / 0`, was added, and net.py has changed, and "
        "points.csv has changed, first in line 6; -o FILE (in Python, output=) keeps its outputs"
    )
    assert failed.value.runs == (lab.runs()[0].id,)


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (("seed = 7", "x = 1\ny = 2"), []),
        (("seed = 8", "x = 1\ny = 2"), ["seed is 8, and was 7"]),
        (
            ("lr = 1", "x = 1\ny = 2"),
            ["seed is not there, and was 7", "lr is 1, and was not there"],
        ),
        (
            ("seed = 7  # why", "x = 1\n\ny = 2"),
            ["line 1 of code cell 1 is `seed = 7  # why`, and was `seed = 7` (only comments)"],
        ),
        (("seed = 7  # why", "x = 1"), ["line 2 of code cell 2, `y = 2`, was removed"]),
        (("seed = 7", "x = 1\n  y = 3"), ["line 2 of code cell 2 is `y = 3`, and was `y = 2`"]),
        (
            ("seed = 7", "# hello\nx = 1\ny = 2"),
            ["line 1 of code cell 2, `# hello`, was added (only comments)"],
        ),
        (
            ("seed = 7", "# hello\nimport os\nx = 1\ny = 5\nz = 4"),
            ["line 2 of code cell 2, `import os`, was added (and 2 more lines of code)"],
        ),
        (("seed = 7", "z = '#'", "x = 1\ny = 2"), ["code cell 2, `z = '#'`, was added"]),
        (
            ("seed = 7", "z = 1\nzz = 2\nzzz = 3", "x = 1\ny = 3"),
            ["code cell 2, `z = 1`, was added (and 1 more line of code)"],
        ),
        (
            ("seed = 7", "# why", "x = 1\ny = 2"),
            ["code cell 2, `# why`, was added (only comments)"],
        ),
        (("seed = 7",), ["code cell 2, `x = 1`, was removed"]),
    ],
)
def test_what_has_changed_in_the_notebook(cells: tuple[str, ...], told: list[str]) -> None:
    before = notebook_of("seed = 7", "x = 1\ny = 2")
    injected = nbformat.v4.new_code_cell("rounds = 2", metadata={"tags": ["injected-parameters"]})
    before.cells.insert(1, injected)
    now = notebook_of(*cells)
    now.cells.insert(1, nbformat.v4.new_markdown_cell("other words"))
    assert changes(before, now, {"parameters": {"rounds": 2}}, {}, Path()) == told


def test_a_default_that_is_set_is_no_reason() -> None:
    stamped = {"parameters": {"seed": 7}}
    assert changes(notebook_of("seed = 7"), notebook_of("seed = 8"), stamped, {}, Path()) == []


def test_versions_processors_and_files_that_are_gone(tmp_path: Path) -> None:
    plan = {"cpu_capability": "AVX512", "torch": "2.13.0", "seed": 7}
    before = {
        "files": {"a.csv": "1", "b.csv": "2"},
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "results": [{"plan": plan}],
        "run": "none",
    }
    now = {
        "files": {"a.csv": "3"},
        "versions": {"python": "3.11.2", "torch": "2.14.0"},
        "results": [{"plan": {**plan, "cpu_capability": "AVX2", "torch": "2.14.0"}}],
    }
    was, commented = notebook_of("seed = 7"), notebook_of("seed = 7  # why")
    found = changes(was, commented, before, now, tmp_path)
    assert found.pop() == (  # the last, since it is no reason
        "line 1 of code cell 1 is `seed = 7  # why`, and was `seed = 7` (only comments)"
    )
    assert found == [
        "a.csv has changed",
        "b.csv is not there any more, or no longer named",
        "torch is 2.14.0, and was 2.13.0",
        "how numbers are made: cpu_capability is AVX2, and was AVX512",
    ]


def result(model: str = "m", **curves: list[list[Any]]) -> dict[str, Any]:
    return {"name": "x", "curves": curves, "model": model, "plan": {}}


def test_the_first_number_that_differs() -> None:
    before = result(train_loss=[[1, 0.5], [2, 0.25]], validation_loss=[[1, None], [2, 0.3]])
    close = result(
        "n", train_loss=[[1, 0.5], [2, 0.2500001]], validation_loss=[[1, None], [2, 0.4]]
    )
    longer = result(train_loss=[[1, 0.5], [2, 0.25], [3, 0.1]], validation_loss=[[1, 0.1]])
    assert list(_differences([before], [before], 0.0)) == []
    assert list(_differences([before], [close], 0.0)) == [
        "run 1 (x): train loss of round 2 is 0.2500001, and was 0.25"
    ]
    assert list(_differences([before], [close], 1e-3)) == [
        "run 1 (x): validation loss of round 2 is 0.4, and was 0.3"
    ]
    assert list(_differences([before], [longer], 1e-3)) == [
        "run 1 (x): validation loss of round 1 is 0.1, and was not a finite number"
    ]
    weights = {**before, "model": "n"}
    assert list(_differences([before, before], [weights], 0.0)) == [
        "1 run now, and 2 before",
        "run 1 (x): the trained weights are not the same, though its numbers are",
    ]
    assert list(_differences([before], [weights], 1e-6)) == []


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "a.ipynb has no stamp of an execution"),
        ({"status": "failed"}, "a.ipynb ended as failed"),
        ({"status": "finished"}, "by an earlier release"),
        ({"status": "finished", "results": []}, "a.ipynb made no run"),
        (
            {"status": "finished", "results": [1], "notebook": "far.ipynb"},
            r"far\.ipynb, of which a\.ipynb is an execution, is not near it; .* --source",
        ),
    ],
)
def test_what_cannot_be_verified(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook_of("seed = 7"), path)
    if facts:
        stamp(path, facts)
    with pytest.raises(NotebookError, match=message):
        lab.verify(path)
    assert lab.runs() == []


def test_arguments_of_verify(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook_of("seed = 7"), path)
    for tolerance in (2, "x", True, float("nan"), None):
        with pytest.raises(UsageError, match=f"at least 0 and below 1, not {tolerance!r}"):
            lab.verify(path, tolerance=tolerance)
    with pytest.raises(UsageError, match=r"takes the path of an executed notebook, .* not None"):
        lab.verify(None)
    with pytest.raises(UsageError, match="output must be a path, not int"):
        lab.verify(path, output=3)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(NotebookError, match=f"executed notebooks in '{tmp_path}/points'"):
        lab.verify(tmp_path)


def test_where_the_notebook_executed_now_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "done").mkdir()
    executed = tmp_path / "done" / "a.ipynb"
    nbformat.write(notebook_of("seed = 7"), tmp_path / "a.ipynb")
    nbformat.write(notebook_of("seed = 7"), executed)
    stamp(executed, {"status": "finished", "results": [1], "notebook": "a.ipynb", "parameters": {}})
    content = executed.read_bytes()
    monkeypatch.chdir(executed.parent)
    for output in (executed, executed.parent, "a.ipynb", "../done/"):
        with pytest.raises(NotebookError, match=r"would overwrite a\.ipynb, which is to be ver"):
            lab.verify(executed, output=output)
    with pytest.raises(NotebookError, match=r"would overwrite the notebook a\.ipynb itself"):
        lab.verify(executed, output="..")
    with pytest.raises(
        UsageError, match=r"'x\.txt'; give a name that ends in \.ipynb, or a folder"
    ):
        lab.verify(executed, output="x.txt")
    assert executed.read_bytes() == content
    found = Verification(executed, executed, True, (), (), "1 number", ("r1", "r2"), executed)
    assert repr(found) == f"same: 1 number\nmade now: r1, r2\nkept: {executed}"


def test_what_is_told_of_a_cell_that_fails_now() -> None:
    keep = "-o FILE (in Python, output=) keeps its outputs"
    assert _failed("no", [], None) == (
        f"no; nothing that is known has changed since it was executed; {keep}"
    )
    assert _failed("no", list("abcde"), Path("k.ipynb")) == (
        "no; since it was executed, a, and b, and c, and 2 more changes; its outputs are in k.ipynb"
    )
