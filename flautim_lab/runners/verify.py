"""Whether an executed notebook gives the same numbers again, and if not, what has changed.

What was executed is in the executed notebook: its cells, its outputs, its stamp
(:mod:`flautim_lab.runners.stamp`). The notebook that it was made from is executed once more, with
the same parameters, and compared: first what the numbers come from, then the numbers themselves.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import NotebookError, RecordsError, UsageError
from flautim_lab.names import count
from flautim_lab.records.store import Records
from flautim_lab.runners.parameters import find_notebook, read_notebook, read_parameters
from flautim_lab.runners.rows import first_changed_line
from flautim_lab.runners.stamp import read_stamp
from flautim_lab.runners.stamped import FINISHED, execute_stamped

if TYPE_CHECKING:
    from flautim_lab.runners.notebook import CellProgress

INJECTED = "injected-parameters"
"""papermill's tag of the cell that sets the parameters."""
TOLD = ("seed", "torch", "numpy", "flwr")
"""Entries of a numerics plan that are parameters or versions, too."""


@dataclass(frozen=True)
class Verification:
    """What came of executing a notebook again; shown in words.

    Attributes
    ----------
    notebook, source : Path
        The executed notebook, and the notebook that was executed again.
    same : bool
        Whether every number is the same (within the tolerance that was asked for).
    changed : tuple of str
        What the numbers come from and is no longer as it was, in words; the first is the most
        likely reason.
    differences : tuple of str
        Numbers that differ, the first of each run, in words.
    compared : str
        What was compared.
    runs : tuple of str
        Ids of the runs that were made now.
    """

    notebook: Path
    source: Path
    same: bool
    changed: tuple[str, ...]
    differences: tuple[str, ...]
    compared: str
    runs: tuple[str, ...]

    def __repr__(self) -> str:
        if self.same:
            lines = [f"same: {self.compared}"]
            lines += [f"  although {change}" for change in self.changed]
        else:
            first = self.changed or ("nothing that the numbers are known to come from has changed",)
            lines = [f"different: {first[0]}", *(f"  and {change}" for change in first[1:])]
            lines += [f"  {difference}" for difference in self.differences]
        return "\n".join(lines)


def verify(
    notebook: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    tolerance: float = 0.0,
    output: str | os.PathLike[str] | None = None,
    progress: Callable[[CellProgress], None] | None = None,
) -> Verification:
    """Execute a notebook again as it was executed, and tell whether the numbers are the same.

    Parameters
    ----------
    notebook : path
        An executed notebook, as ``flautim-lab run`` and ``rerun`` leave it.
    source : path, optional
        The notebook to execute.  [default: the one of that name, in the folder of the executed
        one, in the folders above it, or in the working folder]
    tolerance : float
        By which part of a number it may differ; with one, the weights are not compared. 0 asks
        for the same bits, which another kind of processor or another version need not give.
    output : path, optional
        Where the notebook executed now is kept.  [default: nowhere]
    progress : callable, optional
        As in ``execute_notebook``.

    Returns
    -------
    Verification

    Raises
    ------
    NotebookError
        If the notebook was not executed to its end, made no run, or its source is not found.
    ExecutionError
        If one of its cells fails now.
    """
    if isinstance(tolerance, bool) or not 0 <= tolerance < 1:
        raise UsageError(f"tolerance must be at least 0 and below 1, not {tolerance!r}")
    executed = find_notebook(notebook)
    before = read_stamp(executed)
    _check_stamp(before, executed.name)
    origin = find_notebook(source) if source is not None else _find_source(executed, before)
    changed = list(_changed_cells(read_notebook(executed), read_notebook(origin), before))
    with tempfile.TemporaryDirectory(prefix="flautim-lab-verify-") as folder:
        target = Path(folder) / "executed.ipynb" if output is None else output
        done = execute_stamped(origin, target, before["parameters"], progress=progress)
        now = read_stamp(done.path)
    changed += _changed_content(before, now, origin.parent)
    old, new = list(before["results"]), list(now["results"])
    differences = list(_differences(old, new, tolerance))
    numbers = sum(len(curve) for result in old for curve in result["curves"].values())
    compared = f"{count(numbers, 'number')} of {count(len(old), 'run')}"
    if tolerance:
        compared += f", to {tolerance:g} of each"
    elif any(one["model"] for one in old):
        compared += " and the trained weights, bit for bit"
    return Verification(
        notebook=executed,
        source=origin,
        same=not differences,
        changed=tuple(changed),
        differences=tuple(differences),
        compared=compared,
        runs=done.runs,
    )


def _check_stamp(stamp: Mapping[str, Any], name: str) -> None:
    if not stamp:
        raise NotebookError(
            f"{name} has no stamp of an execution, so there is nothing to compare with; give a "
            "notebook that flautim-lab run or rerun wrote"
        )
    if stamp.get("status") != FINISHED:
        raise NotebookError(
            f"{name} ended as {stamp.get('status')}, so its numbers are not whole; give one that "
            "finished"
        )
    if "results" not in stamp:
        raise NotebookError(
            f"{name} was executed by an earlier release, which did not keep its curves; execute "
            "the notebook again"
        )
    if not stamp["results"]:
        raise NotebookError(f"{name} made no run, so it has no numbers to compare")


def _find_source(executed: Path, stamp: Mapping[str, Any]) -> Path:
    """Return the notebook of that name that has no stamp itself, near the executed one."""
    name = str(stamp.get("notebook"))
    for folder in (*executed.parents[:4], Path.cwd()):
        for path in (folder / name, folder / "notebooks" / name):
            if path.is_file() and path != executed and not read_stamp(path):
                return path.resolve()
    raise NotebookError(
        f"{name}, of which {executed.name} is an execution, is not near it; say where it is with "
        "--source"
    )


# --- what the numbers come from ---------------------------------------------------------------


def _changed_cells(executed: Any, origin: Any, stamp: Mapping[str, Any]) -> Iterator[str]:
    """Say which parameters, and which line of which cell first, are not as they were."""
    was, now = (read_parameters(notebook, "the notebook") for notebook in (executed, origin))
    fixed = stamp.get("parameters") or {}
    for name in {**was, **now}:
        if name not in fixed and was.get(name) != now.get(name):
            yield f"{name} is {_value(now, name)}, and was {_value(was, name)}"
    old, new = _code(executed), _code(origin)
    for number, (before, after) in enumerate(zip(old, new, strict=False), 1):
        values = was != now and _are_parameters(before, after)  # told already
        if before.source != after.source and not values:
            yield _first_line(before.source, after.source, number)
            return
    if len(old) != len(new):
        yield f"the notebook has {count(len(new), 'cell')} of code, and had {len(old)}"


def _code(notebook: Any) -> list[Any]:
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and INJECTED not in cell.metadata.get("tags", [])
    ]


def _are_parameters(*cells: Any) -> bool:
    return all("parameters" in cell.metadata.get("tags", []) for cell in cells)


def _value(parameters: Mapping[str, object], name: str) -> str:
    return repr(parameters[name]) if name in parameters else "not there"


def _first_line(before: str, after: str, number: int) -> str:
    old, new = before.splitlines(), after.splitlines()
    place = next(
        (i for i, (one, other) in enumerate(zip(old, new, strict=False)) if one != other),
        min(len(old), len(new)),
    )
    was, now = (
        f"`{lines[place].strip()}`" if place < len(lines) else "not there" for lines in (old, new)
    )
    return f"line {place + 1} of code cell {number} is {now}, and was {was}"


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
            where = _where(str(before.get("run")), name, place)
            yield f"{name} has changed{f', first in {where}' if where else ''}"
    yield from _changed_facts(before.get("versions") or {}, now.get("versions") or {}, "")
    yield from _changed_facts(_plan(before), _plan(now), "how numbers are made: ")


def _changed_facts(was: Mapping[str, Any], now: Mapping[str, Any], what: str) -> Iterator[str]:
    for name in {**was, **now}:
        if was.get(name) != now.get(name):
            old, new = was.get(name, "not there"), now.get(name, "not there")
            yield f"{what}{name} is {new}, and was {old}"


def _plan(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numerics plan of the first run, without what is told as a version or a setting."""
    plan: dict[str, Any] = next((result["plan"] for result in stamp["results"]), {})
    return {name: value for name, value in plan.items() if name not in TOLD}


def _where(run_id: str, name: str, place: Path) -> str:
    """Return the line of a data file that changed, if the run of then is in the records here."""
    records = Records.default()
    try:
        records.run(run_id)
    except RecordsError:
        return ""
    return first_changed_line(records.folder(run_id), name, place)


# --- the numbers ------------------------------------------------------------------------------


def _differences(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], tolerance: float
) -> Iterator[str]:
    if len(old) != len(new):
        yield f"{count(len(new), 'run')} now, and {len(old)} before"
    for number, (before, now) in enumerate(zip(old, new, strict=False), 1):
        run = f"run {number} ({now['name']})"
        if (first := _first_number(before["curves"], now["curves"], tolerance)) is not None:
            yield f"{run}: {first}"
        elif not tolerance and before["model"] != now["model"]:
            yield f"{run}: the trained weights are not the same, though its numbers are"


def _first_number(
    before: Mapping[str, Any], now: Mapping[str, Any], tolerance: float
) -> str | None:
    """Return the first number, round by round, that is not the same; None if all are."""
    old, new = (
        {(point[0], name): point[1] for name, curve in curves.items() for point in curve}
        for curves in (before, now)
    )
    for place in sorted({*old, *new}):
        was, value = (numbers.get(place, "not there") for numbers in (old, new))
        if not _equal(was, value, tolerance):
            number, name = place
            split, _, metric = name.partition("_")
            return f"{split} {metric} of round {number} is {_shown(value)}, and was {_shown(was)}"
    return None


def _equal(was: Any, value: Any, tolerance: float) -> bool:
    if isinstance(was, float) and isinstance(value, float):
        return was == value or (tolerance > 0 and math.isclose(was, value, rel_tol=tolerance))
    return bool(was == value)


def _shown(value: Any) -> str:
    return "not a finite number" if value is None else str(value)
