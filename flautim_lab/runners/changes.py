"""What the numbers of an executed notebook come from, and is no longer as it was, in words.

Code is compared without its comments first, so that a comment never hides a change that counts.
Code cells are numbered as in the notebook itself, which has no cell of injected parameters.
"""

from __future__ import annotations

import contextlib
import io
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from flautim_lab.errors import RecordsError
from flautim_lab.names import count
from flautim_lab.records.store import Records
from flautim_lab.runners.parameters import read_parameters
from flautim_lab.runners.rows import how_it_changed
from flautim_lab.runners.settings_of import PLAN_VERSIONS

INJECTED = "injected-parameters"
"""papermill's tag of the cell that sets the parameters."""
TOLD = ("seed", *PLAN_VERSIONS)
"""Entries of a numerics plan that are parameters or versions, too."""
ALIKE = 0.6  # of a line or cell that took the place of another


class Line(NamedTuple):
    """A line of code that is not blank."""

    cell: int
    number: int
    text: str

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"line {self.number} of code cell {self.cell}"


class Cell(NamedTuple):
    """A code cell that has such lines."""

    number: int
    lines: tuple[Line, ...]

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"code cell {self.number}"

    @property
    def text(self) -> str:
        """Its lines as one text."""
        return "\n".join(line.text for line in self.lines)


Part = TypeVar("Part", Line, Cell)


def changes(
    executed: Any, origin: Any, before: Mapping[str, Any], now: Mapping[str, Any], place: Path
) -> list[str]:
    """Return everything that has changed, the most likely reason for other numbers first.

    Parameters
    ----------
    executed, origin : notebook node
        The executed notebook, and the one that is executed now.
    before, now : mapping
        Their stamps; ``now`` may be empty, where only the cells can be compared.
    place : Path
        The folder in which the notebook runs.
    """
    code = _changed_code(executed, origin, comments=False)
    return [
        *_changed_parameters(executed, origin, before),
        *code,
        *(_changed_content(before, now, place) if now else ()),
        *([] if code else _changed_code(executed, origin, comments=True)),
    ]


# --- cells ------------------------------------------------------------------------------------


def _changed_parameters(executed: Any, origin: Any, stamp: Mapping[str, Any]) -> Iterator[str]:
    was, now = _parameters(executed), _parameters(origin)
    fixed = stamp.get("parameters") or {}
    for name in {**was, **now}:
        if name not in fixed and was.get(name) != now.get(name):
            yield f"{name} is {_value(now, name)}, and was {_value(was, name)}"


def _parameters(notebook: Any) -> dict[str, object]:
    return read_parameters(notebook, "the notebook")


def _value(parameters: Mapping[str, object], name: str) -> str:
    return repr(parameters[name]) if name in parameters else "not there"


def _changed_code(executed: Any, origin: Any, *, comments: bool) -> list[str]:
    """Return the first change of the code, and how many more there are; empty without any."""
    # Values of parameters are told already, and those that were set do not count.
    told = _parameters(executed) != _parameters(origin)
    old, new = (_cells(one, comments=comments, parameters=not told) for one in (executed, origin))
    found = [change for was, now in _different(old, new) for change in _in_cell(was, now)]
    if not found:
        return []
    more = sum(lines for _, lines in found[1:])
    notes = ["only comments"] if comments else []
    notes += [f"and {count(more, 'more line')} of code"] if more else []
    return [f"{found[0][0]} ({', '.join(notes)})" if notes else found[0][0]]


def _cells(notebook: Any, *, comments: bool, parameters: bool) -> list[Cell]:
    """Return the code cells, with their comments or without, and maybe without the parameters'."""
    code = [
        (cell.source, cell.metadata.get("tags", []))
        for cell in notebook.cells
        if cell.cell_type == "code" and INJECTED not in cell.metadata.get("tags", [])
    ]
    cells = []
    for number, (source, tags) in enumerate(code, 1):
        texts = source.split("\n") if comments else _without_comments(source)
        lines = tuple(
            Line(number, i, text.rstrip()) for i, text in enumerate(texts, 1) if text.strip()
        )
        if lines and (parameters or "parameters" not in tags):
            cells.append(Cell(number, lines))
    return cells


def _without_comments(source: str) -> list[str]:
    """Return the lines of a cell without comments, as far as it can be read as Python."""
    lines = source.split("\n")
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    return lines


def _different(
    old: Sequence[Part], new: Sequence[Part]
) -> Iterator[tuple[Part | None, Part | None]]:
    """Pair the lines, or cells, that are not the same; None where one was added or removed."""
    before, after = ([part.text for part in parts] for parts in (old, new))
    matcher = SequenceMatcher(a=before, b=after, autojunk=False)
    for what, a, b, c, d in matcher.get_opcodes():
        if what != "equal":
            yield from _paired(old[a:b], new[c:d])


def _paired(old: Sequence[Part], new: Sequence[Part]) -> Iterator[tuple[Part | None, Part | None]]:
    """Pair what took the place of something like it; the rest was removed, or added."""
    if len(old) == len(new):
        yield from zip(old, new, strict=True)
        return
    left = list(old)
    for part in new:
        like = next((i for i, other in enumerate(left) if _alike(other, part)), None)
        if like is None:
            yield None, part
            continue
        yield from ((gone, None) for gone in left[:like])
        yield left[like], part
        del left[: like + 1]
    yield from ((gone, None) for gone in left)


def _alike(one: Part, other: Part) -> bool:
    return SequenceMatcher(None, one.text, other.text).ratio() > ALIKE


def _in_cell(was: Cell | None, now: Cell | None) -> Iterator[tuple[str, int]]:
    """Say what has changed in a cell, and how many lines each change has."""
    if was is None or now is None:
        yield _added_or_removed(was, now)
        return
    for before, after in _different(was.lines, now.lines):
        if before is None or after is None:
            yield _added_or_removed(before, after)
        else:
            yield f"{after.place} is `{after.text.strip()}`, and was `{before.text.strip()}`", 1


def _added_or_removed(was: Part | None, now: Part | None) -> tuple[str, int]:
    (part,) = (one for one in (was, now) if one is not None)
    first, *others = part.text.split("\n")
    how = "removed" if now is None else "added"
    return f"{part.place}, `{first.strip()}`, was {how}", 1 + len(others)


# --- modules, data files, versions ------------------------------------------------------------


def _changed_content(
    before: Mapping[str, Any], now: Mapping[str, Any], place: Path
) -> Iterator[str]:
    """Say which modules, data files and versions are not as they were."""
    old, new = before.get("modules") or {}, now.get("modules") or {}
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield f"{name} has changed"
    for name, known in (before.get("files") or {}).items():
        present = (now.get("files") or {}).get(name)
        if present is None:
            yield f"{name} is not there any more, or no longer named"
        elif present != known:
            yield _changed_file(str(before.get("run")), name, place)
    yield from _changed_facts(before.get("versions") or {}, now.get("versions") or {}, "")
    if plan := _plan(now):  # not where it failed before its first run
        yield from _changed_facts(_plan(before), plan, "how numbers are made: ")


def _changed_file(run_id: str, name: str, place: Path) -> str:
    """Say that a data file has changed, and where if the run of then is in the records here."""
    records = Records.default()
    try:
        records.run(run_id)  # asking for its folder would make one
    except RecordsError:
        return f"{name} has changed"
    return how_it_changed(records.folder(run_id), name, place)


def _changed_facts(was: Mapping[str, Any], now: Mapping[str, Any], what: str) -> Iterator[str]:
    for name in {**was, **now}:
        if was.get(name) != now.get(name):
            old, new = was.get(name, "not there"), now.get(name, "not there")
            yield f"{what}{name} is {new}, and was {old}"


def _plan(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numerics plan of the first run, without what is told as a version or a setting."""
    plan: dict[str, Any] = next((result["plan"] for result in stamp.get("results") or ()), {})
    return {name: value for name, value in plan.items() if name not in TOLD}
