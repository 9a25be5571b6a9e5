"""A notebook before it runs: where it is, what its parameters are, and whether values fit them.

A wrong name or type is refused here, before anything starts, with what was probably meant.
"""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from flautim_lab.errors import NotebookError
from flautim_lab.names import unknown


def find_notebook(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a notebook that exists, or raise with the close names."""
    source = Path(path).expanduser()
    if source.is_dir():
        inside = sorted(file.name for file in source.glob("*.ipynb"))
        hint = f"choose one of its notebooks: {', '.join(inside)}" if inside else "it holds none"
        raise NotebookError(f"{str(source)!r} is a folder, not a notebook; {hint}")
    if not source.exists():
        folder = source.parent
        near = sorted(file.name for file in folder.glob("*.ipynb")) if folder.is_dir() else []
        close = difflib.get_close_matches(source.name, near, n=1, cutoff=0.5)
        hint = f"; did you mean {str(folder / close[0])!r}?" if close else ""
        if not close and near:
            hint = f"; the notebooks in {str(folder)!r} are: {', '.join(near)}"
        raise NotebookError(f"there is no notebook {str(source)!r}{hint}")
    return source.resolve()


def read_parameters(notebook: Any, name: str) -> dict[str, object]:
    """Return the parameters of a notebook and their defaults, from its cell tagged ``parameters``.

    ``seed, rounds = 7, 2`` gives both names; papermill's own reading of that cell sees neither. A
    default that is not a plain value (a call, another variable) is given as None.

    Raises
    ------
    NotebookError
        If that cell is not valid Python.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if not cells:
        return {}
    lines = cells[0].source.splitlines()
    code = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise NotebookError(
            f"the cell tagged 'parameters' of {name} is not valid Python: "
            f"{error.msg} in line {error.lineno}"
        ) from error
    found: dict[str, object] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                found.update(_assigned(target, statement.value))
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            found.update(_assigned(statement.target, statement.value))
    return found


def check_parameters(
    notebook: Any, parameters: Mapping[str, object], name: str
) -> dict[str, object]:
    """Return ``parameters`` with the types of the notebook's defaults, or raise for a wrong one."""
    if not parameters:
        return {}
    defaults = read_parameters(notebook, name)
    if not defaults:
        raise NotebookError(
            f"{name} has no parameters, so {next(iter(parameters))!r} cannot be set; put one "
            "assignment per line in a cell and tag that cell 'parameters'"
        )
    for parameter in parameters:
        if parameter not in defaults:
            raise NotebookError(f"in {name}: {unknown(parameter, defaults, 'parameter')}")
    return {
        parameter: _typed(parameter, value, defaults[parameter])
        for parameter, value in parameters.items()
    }


def read_notebook(source: Path) -> Any:
    """Return the notebook in a file, or raise for what is none, or is of another language."""
    wrong = f"{str(source)!r} cannot be read as a notebook"
    try:
        notebook = nbformat.read(source, as_version=4)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise NotebookError(f"{wrong}: {error.strerror}") from error
    except Exception as error:  # nbformat trips over other JSON in many ways
        raise NotebookError(f"{wrong}: it does not hold the JSON of one") from error
    if not isinstance(notebook.get("cells"), list):
        raise NotebookError(f"{wrong}: it does not hold the JSON of one")
    kernel = notebook.metadata.get("kernelspec", {})
    language = notebook.metadata.get("language_info", {}).get("name") or kernel.get("language")
    if language not in (None, "python"):
        raise NotebookError(f"{source.name} is written in {language}; only Python notebooks run")
    return notebook


def _assigned(target: ast.expr, value: ast.expr) -> dict[str, object]:
    """Return the names that one assignment binds, with their values where they are plain."""
    if isinstance(target, ast.Name):
        try:
            return {target.id: ast.literal_eval(value)}
        except ValueError:
            return {target.id: None}
    if isinstance(target, ast.Tuple | ast.List):
        found: dict[str, object] = {}
        values = value.elts if isinstance(value, ast.Tuple | ast.List) else []
        for index, part in enumerate(target.elts):
            same = len(values) == len(target.elts)
            found.update(_assigned(part, values[index] if same else ast.Name("unknown")))
        return found
    return {}


_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def _typed(parameter: str, value: object, default: object) -> object:
    """Return ``value`` in the type of ``default``; a default of None accepts anything."""
    kind = type(default)
    typed = value
    if isinstance(value, str) and kind is not str:
        typed = _from_text(value, kind)
    if kind is float and type(typed) is int:
        typed = float(typed)
    if default is None or type(typed) is kind:
        return typed
    wanted = _KINDS.get(kind, f"a {kind.__name__}")
    raise NotebookError(
        f"the parameter {parameter!r} is {wanted} in the notebook (default {default!r}), "
        f"and {value!r} is not"
    )


def _from_text(text: str, kind: type) -> object:
    """Return ``text`` read as ``kind``, or ``text`` itself where it cannot be read so."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        if kind in (int, float):
            return kind(text)
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
