"""Whether an executed notebook gives the same numbers again, and if not, what has changed.

What was executed is in the executed notebook: its cells, its outputs, its stamp
(:mod:`flautim_lab.runners.stamp`). The notebook that it was made from is executed once more, with
the same parameters, and compared: first what the numbers come from, then the numbers themselves.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import ExecutionError, NotebookError, UsageError
from flautim_lab.names import count
from flautim_lab.runners.changes import changes
from flautim_lab.runners.parameters import find_notebook, read_notebook
from flautim_lab.runners.rerun.batch import INDEX
from flautim_lab.runners.stamp import read_stamp
from flautim_lab.runners.stamped import FINISHED, execute_stamped
from flautim_lab.scratch import scratch_folder

if TYPE_CHECKING:
    from flautim_lab.runners.notebook import CellProgress

MOST_TOLD = 3  # changes in an error; all of them are told where the notebook ran to its end


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
        Ids of the runs that were made now; they stay in the records.
    kept : Path or None
        Where the notebook executed now is, if it was to be kept.
    """

    notebook: Path
    source: Path
    same: bool
    changed: tuple[str, ...]
    differences: tuple[str, ...]
    compared: str
    runs: tuple[str, ...]
    kept: Path | None = None

    def __repr__(self) -> str:
        if self.same:
            lines = [f"same: {self.compared}"]
            lines += [f"  although {change}" for change in self.changed]
        else:
            first = self.changed or ("nothing that the numbers are known to come from has changed",)
            lines = [f"different: {first[0]}", *(f"  and {change}" for change in first[1:])]
            lines += [f"  {difference}" for difference in self.differences]
        lines.append(f"made now: {', '.join(self.runs) or 'no run'}")
        if self.kept is not None:
            lines.append(f"kept: {self.kept}")
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

    The runs that it makes stay in the records, as those of any execution do.

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
        Where the notebook executed now is kept: a name that ends in ``.ipynb``, or a folder that
        exists.  [default: nowhere]
    progress : callable, optional
        As in ``execute_notebook``.

    Returns
    -------
    Verification

    Raises
    ------
    UsageError
        If an argument is something else.
    NotebookError
        If the notebook was not executed to its end, made no run, its source is not found, or the
        output would overwrite one of them.
    ExecutionError
        If one of its cells fails now; the message tells what has changed, too.
    """
    _check_arguments(notebook, source, tolerance, output)
    executed = _find_executed(notebook)
    before = read_stamp(executed)
    _check_stamp(before, executed.name)
    origin = find_notebook(source) if source is not None else _find_source(executed, before)
    kept = None if output is None else _kept_at(output, origin, executed)
    was, now = read_notebook(executed), read_notebook(origin)
    with scratch_folder() as folder:
        target = kept or folder / "executed.ipynb"
        try:
            done = execute_stamped(origin, target, before["parameters"], progress=progress)
        except ExecutionError as error:
            after = _stamp_of_failed(target)
            told = _failed(error.reason, changes(was, now, before, after, origin.parent), kept)
            raise ExecutionError(told, error.reason, died=error.died, runs=error.runs) from error
        after = read_stamp(target)
    old, new = list(before["results"]), list(after["results"])
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
        changed=tuple(changes(was, now, before, after, origin.parent)),
        differences=tuple(differences),
        compared=compared,
        runs=done.runs,
        kept=kept,
    )


def _check_arguments(notebook: object, source: object, tolerance: Any, output: object) -> None:
    if not isinstance(notebook, str | os.PathLike):
        raise UsageError(
            "lab.verify takes the path of an executed notebook, as flautim-lab run and rerun leave "
            f"it, not {_kind(notebook)}"
        )
    for name, path in (("source", source), ("output", output)):
        if path is not None and not isinstance(path, str | os.PathLike):
            raise UsageError(f"{name} must be a path, not {_kind(path)}; leave it out, or give one")
    is_number = isinstance(tolerance, Real) and not isinstance(tolerance, bool)
    if not is_number or not 0 <= tolerance < 1:
        raise UsageError(
            f"tolerance must be a number of at least 0 and below 1, not {tolerance!r}; 1e-5 lets "
            "the fifth digit differ"
        )


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _find_executed(notebook: str | os.PathLike[str]) -> Path:
    folder = Path(notebook).expanduser()
    if (folder / INDEX).is_file():
        raise NotebookError(
            f"{str(folder)!r} is the folder of a batch; give one of the executed notebooks in "
            f"{str(folder / 'points')!r}"
        )
    return find_notebook(notebook)


def _kept_at(output: str | os.PathLike[str], origin: Path, executed: Path) -> Path:
    """Return where the notebook executed now goes; it never takes the place of the other two."""
    from flautim_lab.runners.notebook import output_path

    path = Path(output).expanduser()
    if path.suffix != ".ipynb" and not path.is_dir():
        raise UsageError(
            f"the notebook executed now cannot be kept as {str(path)!r}; give a name that ends in "
            ".ipynb, or a folder that exists"
        )
    target = output_path(origin, path)
    if target == executed:
        raise NotebookError(
            f"the output would overwrite {executed.name}, which is to be verified; name another "
            "file"
        )
    return target


def _stamp_of_failed(target: Path) -> dict[str, Any]:
    with contextlib.suppress(NotebookError):  # its kernel died before anything was written
        return read_stamp(target)
    return {}


def _failed(reason: str, changed: Sequence[str], kept: Path | None) -> str:
    told = "nothing that is known has changed since it was executed"
    if changed:
        more = len(changed) - MOST_TOLD
        rest = [count(more, "more change")] if more > 0 else []
        told = f"since it was executed, {', and '.join([*changed[:MOST_TOLD], *rest])}"
    keep = "-o FILE (in Python, output=) keeps its outputs"
    return f"{reason}; {told}; {f'its outputs are in {kept}' if kept else keep}"


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
