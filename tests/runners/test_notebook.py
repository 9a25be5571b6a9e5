"""A notebook executed in batch: its parameters, its errors, and no kernel left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from flautim_lab.errors import NotebookError
from flautim_lab.runners.notebook import CellProgress, execute_notebook
from flautim_lab.runners.parameters import check_parameters, find_notebook, read_parameters
from flautim_lab.scratch import PREFIX
from tests.federations import hear_interrupts

PARAMETERS = """\
# what may be set
rounds = 20
lr = 0.5
name = "first"
fast = False
seeds: list = [1, 2]
start = None
"""


def notebook_of(*cells: str, parameters: str | None = None) -> Any:
    """Return a notebook of code cells, with ``parameters`` first and tagged."""
    made = [nbformat.v4.new_code_cell(cell) for cell in cells]
    if parameters is not None:
        made.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    return nbformat.v4.new_notebook(cells=made)


def write(path: Path, *cells: str, parameters: str | None = None) -> Path:
    nbformat.write(notebook_of(*cells, parameters=parameters), path)
    return path


def kernels() -> list[psutil.Process]:
    """Return the kernels among the children of this process."""
    return [child for child in psutil.Process().children() if is_kernel(child)]


def is_kernel(process: psutil.Process) -> bool:
    try:
        return "ipykernel_launcher" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def text_of(path: Path) -> str:
    """Return all that the cells of an executed notebook printed."""
    notebook = nbformat.read(path, as_version=4)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return "".join(o.get("text", "") for o in outputs)


# --- parameters, before anything starts ---------------------------------------------------


def test_values_take_the_type_of_the_default() -> None:
    typed = check_parameters(
        notebook_of(parameters=PARAMETERS),
        {"rounds": "10", "lr": "1", "name": "7", "fast": "true", "seeds": "[3]", "start": "now"},
        "a.ipynb",
    )
    assert typed == {
        "rounds": 10,
        "lr": 1.0,
        "name": "7",
        "fast": True,
        "seeds": [3],
        "start": "now",
    }
    assert type(typed["lr"]) is float


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "rounds",
            "abc",
            "the parameter 'rounds' is a whole number in the notebook (default 20), "
            "and 'abc' is not",
        ),
        (
            "rounds",
            True,
            "the parameter 'rounds' is a whole number in the notebook (default 20), "
            "and True is not",
        ),
        (
            "lr",
            "fast",
            "the parameter 'lr' is a number in the notebook (default 0.5), and 'fast' is not",
        ),
        (
            "fast",
            "perhaps",
            "the parameter 'fast' is True or False in the notebook (default False), "
            "and 'perhaps' is not",
        ),
        (
            "seeds",
            "3",
            "the parameter 'seeds' is a list in the notebook (default [1, 2]), and '3' is not",
        ),
        (
            "rouns",
            "3",
            "in a.ipynb: no parameter named 'rouns'; did you mean 'rounds'? choose one of: "
            "rounds, lr, name, fast, seeds, start",
        ),
    ],
)
def test_wrong_parameter(name: str, value: object, message: str) -> None:
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        check_parameters(notebook_of(parameters=PARAMETERS), {name: value}, "a.ipynb")


def test_parameters_on_one_line_are_found() -> None:
    notebook = notebook_of(parameters="%matplotlib inline\nseed, rounds = 7, 2\nfolder = str('x')")
    assert read_parameters(notebook, "a.ipynb") == {"seed": 7, "rounds": 2, "folder": None}


def test_a_notebook_without_parameters_refuses_them() -> None:
    message = (
        "a.ipynb has no parameters, so 'rounds' cannot be set; put one assignment per line in a "
        "cell and tag that cell 'parameters'"
    )
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        check_parameters(notebook_of("rounds = 3"), {"rounds": "3"}, "a.ipynb")


def test_a_parameters_cell_that_is_not_python() -> None:
    message = (
        "the cell tagged 'parameters' of a.ipynb is not valid Python: invalid syntax in line 2"
    )
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        read_parameters(notebook_of(parameters="rounds = 1\nlr = = 2"), "a.ipynb")


# --- files --------------------------------------------------------------------------------


def test_a_missing_notebook_names_the_close_ones(tmp_path: Path) -> None:
    write(tmp_path / "first_experiment.ipynb")
    write(tmp_path / "zoo.ipynb")
    asked = tmp_path / "first_experimnt.ipynb"
    message = f"there is no notebook '{asked}'; did you mean '{tmp_path}/first_experiment.ipynb'?"
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        find_notebook(asked)
    asked = tmp_path / "unlike.txt"
    message = (
        f"there is no notebook '{asked}'; the notebooks in '{tmp_path}' are: "
        "first_experiment.ipynb, zoo.ipynb"
    )
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        find_notebook(asked)
    message = (
        f"'{tmp_path}' is a folder, not a notebook; choose one of its notebooks: "
        "first_experiment.ipynb, zoo.ipynb"
    )
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        find_notebook(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"cells": 3}', "\udcff"])
def test_a_file_that_is_no_notebook(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    message = f"'{path}' cannot be read as a notebook: it does not hold the JSON of one"
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        execute_notebook(path, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_a_notebook_of_another_language(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb")
    content = json.loads(path.read_text())
    content["metadata"]["kernelspec"] = {"name": "ir", "language": "R", "display_name": "R"}
    path.write_text(json.dumps(content))
    with pytest.raises(
        NotebookError, match=r"^a\.ipynb is written in R; only Python notebooks run$"
    ):
        execute_notebook(path, tmp_path / "out.ipynb")


def test_the_notebook_itself_is_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "1")
    before = path.read_bytes()
    message = "the output would overwrite the notebook a.ipynb itself; name another file"
    for output in (path, tmp_path):
        with pytest.raises(NotebookError, match=f"^{message}$"):
            execute_notebook(path, output)
    assert path.read_bytes() == before


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "1")
    (tmp_path / "file").write_text("no folder")
    message = f"the folder of the output cannot be made: File exists ({tmp_path}/file)"
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        execute_notebook(path, tmp_path / "file" / "out.ipynb")
    (tmp_path / "out.ipynb").mkdir()
    (tmp_path / "out.ipynb" / "a.ipynb").mkdir()
    message = f"{tmp_path}/out.ipynb/a.ipynb cannot be written: Is a directory"
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        execute_notebook(path, tmp_path / "out.ipynb")
    assert kernels() == []


# --- execution, each with a real kernel ---------------------------------------------------


def test_executes_with_this_python_in_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A kernel of that name that would fail, where Jupyter looks first.
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAUTIM_LAB_HOME", "relative-home")
    folder = tmp_path / "with {braces} and spaces"
    folder.mkdir()
    (folder / "data.txt").write_text("beside it")
    path = write(
        folder / "a.ipynb",
        "import json, os, sys",
        "# first a comment\nprint(json.dumps([rounds, name, sys.executable, os.getpid(),"
        " open('data.txt').read(),"
        " os.environ['FLAUTIM_LAB_BATCH'], os.environ['FLAUTIM_LAB_HOME'],"
        " get_ipython().kernel.parent.connection_file]))",
        parameters=PARAMETERS,
    )
    before = path.read_bytes()
    cells: list[CellProgress] = []
    done = execute_notebook(path, folder / "new", {"rounds": "3"}, progress=cells.append)
    assert done.path == folder / "new" / "a.ipynb"
    assert done.runs == ()
    rounds, name, executable, pid, data, batch, home, connection = json.loads(text_of(done.path))
    assert (rounds, name, data, batch) == (3, "first", "beside it", "1")
    assert executable == sys.executable
    assert home == str(tmp_path / "relative-home")
    assert [(cell.number, cell.total) for cell in cells] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert cells[-1].line.startswith("print(json.dumps(")
    assert path.read_bytes() == before
    assert not psutil.pid_exists(pid)
    # With the kernel's key: where the next batch looks for what a killed one left.
    assert f"/{PREFIX}" in connection
    assert not Path(connection).parents[1].exists()


def test_a_failing_cell_is_named_and_what_ran_is_kept(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.ipynb", "print('kept')", "raise ValueError('two\\nlines')", "print('never')"
    )
    out = tmp_path / "out.ipynb"
    message = (
        "cell [2] of a.ipynb failed: ValueError: two lines; its traceback and the cells before it "
        f"are in {out}"
    )
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        execute_notebook(path, out)
    assert text_of(out) == "kept\n"
    assert kernels() == []


def test_a_magic_that_there_is_not_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "%%chaos run\nkill server")
    with pytest.raises(NotebookError, match=r"cell \[1\] of a.ipynb failed: .*%%chaos.* not found"):
        execute_notebook(path, tmp_path / "out.ipynb")


def test_a_cell_that_takes_too_long(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "print('kept', flush=True)", "import time; time.sleep(60)")
    out = tmp_path / "out.ipynb"
    message = f"cell 2 of a.ipynb took longer than 5 seconds; the cells before it are in {out}"
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        execute_notebook(path, out, timeout_seconds=5)
    assert text_of(out) == "kept\n"
    assert kernels() == []


def test_a_kernel_that_dies(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "1", "import os; os._exit(9)")
    out = tmp_path / "out.ipynb"
    message = (
        "the kernel died in cell 2 of a.ipynb (is the memory enough?); "
        f"the cells before it are in {out}"
    )
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        execute_notebook(path, out)
    assert kernels() == []


def test_a_kernel_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.ipynb", "1")
    # Only the kernel reads it: this Python has started already.
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    with pytest.raises(NotebookError, match=r"^no kernel could be started: .") as caught:
        execute_notebook(path, tmp_path / "out.ipynb")
    assert "\n" not in str(caught.value)
    assert kernels() == []


@pytest.mark.parametrize("moment", ["in a cell", "while the kernel starts"])
def test_ctrl_c_leaves_no_kernel(tmp_path: Path, moment: str) -> None:
    mark = tmp_path / "started"
    path = write(
        tmp_path / "a.ipynb",
        f"open({str(mark)!r}, 'w').close(); import time; time.sleep(120)",
    )
    code = (
        "from flautim_lab.runners.notebook import execute_notebook;"
        f"execute_notebook({str(path)!r}, {str(tmp_path / 'out.ipynb')!r})"
    )
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            ready = mark.exists() if moment == "in a cell" else any(map(is_kernel, family))
            if ready:
                break
            time.sleep(0.02)
        assert any(map(is_kernel, family))
        # The kernel is in a session of its own: like a terminal's Ctrl-C, this reaches us only.
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert b"KeyboardInterrupt" in stderr
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
        assert list(temporary.iterdir()) == []
    finally:
        process.kill()
        for child in family:
            if child.is_running():
                child.kill()
