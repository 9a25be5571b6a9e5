"""Which points: from values, a grid, lists side by side, a file and a number of seeds."""

from __future__ import annotations

import ast
import csv
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flautim_lab.errors import NotebookError
from flautim_lab.names import choose, unknown
from flautim_lab.runners.parameters import check_parameters, read_parameters
from flautim_lab.runners.stamped import SEED

FILES = (".csv", ".yaml", ".yml", ".json")
MOST_POINTS = 100_000

Point = dict[str, object]


@dataclass(frozen=True)
class Points:
    """The points of a batch, each once.

    Attributes
    ----------
    points : tuple of dict
        Name to value, in the types of the notebook's own defaults.
    names : tuple of str
        The parameters that are set, in the order in which they were named.
    notes : tuple of str
        What whoever asked should know, a sentence each.
    """

    points: tuple[Point, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def varied(self) -> tuple[str, ...]:
        """The parameters that differ between points."""
        return tuple(
            name
            for name in self.names
            if len({json.dumps(point.get(name), default=str) for point in self.points}) > 1
        )


def make_points(
    notebook: Any,
    name: str,
    *,
    parameters: Mapping[str, object] | None = None,
    grid: Mapping[str, Iterable[object]] | None = None,
    zipped: Mapping[str, Iterable[object]] | None = None,
    points: Iterable[Mapping[str, object]] = (),
    seeds: int | None = None,
) -> Points:
    """Return every combination of what is given, checked against the notebook's parameters.

    Parameters
    ----------
    notebook : notebook node
    name : str
        Its name, for what is said of it.
    parameters : mapping, optional
        Values of all points.
    grid : mapping of str to iterable, optional
        Each value with each of the others.
    zipped : mapping of str to iterable, optional
        The first values together, the second ones together, and so on.
    points : iterable of mapping, optional
        Values of one point each.
    seeds : int, optional
        So many seeds: that of the notebook, or of ``parameters``, and those after it.

    Raises
    ------
    NotebookError
        For a name or a type that the notebook does not have, a name that is given twice, or lists
        that do not fit.
    """
    fixed = dict(parameters or {})
    crossed = {key: _listed(key, values) for key, values in (grid or {}).items()}
    beside = {key: _listed(key, values) for key, values in (zipped or {}).items()}
    rows = [dict(point) for point in points] or [{}]
    if seeds is not None:
        first = fixed.pop(SEED, None)
        crossed[SEED] = _seeds(notebook, name, seeds, first, crossed)
    _check_once(fixed, crossed, beside, rows)
    steps = _side_by_side(beside)
    combined = itertools.product(rows, steps, itertools.product(*crossed.values()))
    _check_number(len(rows) * len(steps), crossed)
    found: dict[str, Point] = {}
    names: dict[str, None] = {}
    given = 0
    for row, step, values in combined:
        given += 1
        asked = {**fixed, **row, **step, **dict(zip(crossed, values, strict=True))}
        point = check_parameters(notebook, asked, name)
        names |= dict.fromkeys(point)
        found.setdefault(json.dumps(point, sort_keys=True, default=str), point)
    notes = []
    if given > len(found):
        notes.append(f"{given - len(found)} of {given} points are given twice and done once")
    if hidden := _on_one_line(notebook, names):
        notes.append(
            f"{' and '.join(hidden)} are set on one line in {name}, where papermill's own "
            "command would not find them; give each a line of its own"
        )
    return Points(tuple(found.values()), tuple(names), tuple(notes))


def read_points(path: Path) -> list[dict[str, object]]:
    """Return the points in a file: a row each (CSV), or a list of mappings (YAML, JSON).

    In a CSV an empty field leaves the notebook's own value.

    Raises
    ------
    NotebookError
        If there is no such file, or it holds something else.
    """
    suffix = choose(path.suffix.lower(), FILES, "kind of file with points", NotebookError)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise NotebookError(f"the points in {path} cannot be read: {reason}") from error
    found = _from_csv(text, path) if suffix == ".csv" else _from_yaml(text, path)
    if not found:
        raise NotebookError(f"there are no points in {path}; give a line or an entry for each")
    return found


def split_values(text: str) -> tuple[str, list[object]]:
    """Return name and values of ``name=a,b,c``; a comma inside brackets or quotes parts nothing.

    >>> split_values("layers=[1,2],[3]")
    ('layers', ['[1,2]', '[3]'])

    Raises
    ------
    NotebookError
        If it is not of that form.
    """
    name, equals, rest = text.partition("=")
    parts, depth, quote = [""], 0, ""
    for character in rest:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    values: list[object] = [_unquoted(part.strip()) for part in parts]
    if not equals or not name.strip() or any(value == "" for value in values):
        raise NotebookError(f"{text!r} gives no values; write NAME=VALUE,VALUE,..., as in lr=0.1,1")
    return name.strip(), values


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _listed(name: str, values: Iterable[object]) -> list[object]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise NotebookError(f"the values of {name!r} are {values!r}; give a list of them")
    listed = list(values)
    if not listed:
        raise NotebookError(f"there are no values for {name!r}; give at least one")
    return listed


def _seeds(
    notebook: Any, name: str, number: int, first: object, crossed: Mapping[str, object]
) -> list[object]:
    defaults = read_parameters(notebook, name)
    if SEED not in defaults:
        raise NotebookError(f"in {name}: {unknown(SEED, defaults, 'parameter')}")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise NotebookError(f"seeds must be a whole number from 1, not {number!r}")
    if SEED in crossed:
        raise NotebookError("the parameter 'seed' is given twice; give seeds or a list of them")
    if first is None:
        first = defaults[SEED]
    else:
        first = check_parameters(notebook, {SEED: first}, name)[SEED]
    start = first if isinstance(first, int) and not isinstance(first, bool) else 0
    return list(range(start, start + number))


def _check_once(
    fixed: Mapping[str, object],
    crossed: Mapping[str, object],
    beside: Mapping[str, object],
    rows: Sequence[Mapping[str, object]],
) -> None:
    in_rows = {name for row in rows for name in row}
    given = [*fixed, *crossed, *beside, *in_rows]
    for name in given:
        if given.count(name) > 1:
            raise NotebookError(
                f"the parameter {name!r} is given twice; give it as a value, in the grid, "
                "side by side or in the points, but not in two of them"
            )


def _side_by_side(beside: Mapping[str, list[object]]) -> list[Point]:
    lengths = {name: len(values) for name, values in beside.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise NotebookError(f"lists side by side must be of one length: {told}")
    if not beside:
        return [{}]
    return [dict(zip(beside, row, strict=True)) for row in zip(*beside.values(), strict=True)]


def _check_number(number: int, crossed: Mapping[str, list[object]]) -> None:
    for values in crossed.values():
        number *= len(values)
    if number > MOST_POINTS:
        raise NotebookError(f"that makes {number} points; at most {MOST_POINTS} are done at once")


def _from_csv(text: str, path: Path) -> list[dict[str, object]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    found: list[dict[str, object]] = []
    for row in reader:
        if None in row or None in row.values():
            raise NotebookError(
                f"line {reader.line_num} of {path} has not as many fields as its first line"
            )
        found.append({name.strip(): value for name, value in row.items() if value.strip()})
    return found


def _from_yaml(text: str, path: Path) -> list[dict[str, object]]:
    import yaml

    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise NotebookError(f"{path} is not valid YAML{where}") from error
    if not isinstance(loaded, list) or not all(isinstance(entry, dict) for entry in loaded):
        raise NotebookError(
            f"{path} must hold a list of points, each a mapping such as {{lr: 0.1, seed: 1}}"
        )
    return [{str(name): value for name, value in entry.items()} for entry in loaded]


def _on_one_line(notebook: Any, names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that are assigned as parts of a tuple."""
    hidden: list[str] = []
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            lines = cell.source.splitlines()
            code = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Store):
                    hidden += [part.id for part in node.elts if isinstance(part, ast.Name)]
            break
    wanted = set(names)
    return hidden if wanted & set(hidden) else []
