"""Verbs over several runs: their curves on one plot, in what they differ, their export."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flautim_lab.errors import ExperimentError, RunNotFoundError
from flautim_lab.home import HOME_VARIABLE, home
from flautim_lab.names import count
from flautim_lab.runners import export as exporting
from flautim_lab.runners.differences import Differences
from flautim_lab.runners.launch import attach
from flautim_lab.runners.rerun.batch import INDEX, Batch
from flautim_lab.runners.run import Run
from flautim_lab.runners.stamp import read_stamp
from flautim_lab.runners.stamped import FINISHED

One = Run | Batch | str | os.PathLike[str]
Runs = One | Iterable[One]


def compare(runs: Runs, metric: str = "loss") -> Any:
    """Return a picture of one metric of several runs.

    Parameters
    ----------
    runs : Run, Batch, str or path, or several of them
        Runs, or their ids as in :func:`attach`; a batch, the path of its folder, or that of an
        executed notebook stand for all runs in it.
    metric : str
        ``loss``, ``accuracy``, or any other name in the first run's ``metrics``.

    Raises
    ------
    ExperimentError
        If there is no run, or something else among them.
    """
    first, *others = given(runs, "compare")
    return first.plot(metric, compare=others)


def differences(runs: Runs) -> Differences:
    """Return in what runs differ: settings, data, code, versions, and what came of them.

    Parameters
    ----------
    runs : Run, Batch, str or path, or several of them
        As in :func:`compare`; at least two runs.

    Raises
    ------
    ExperimentError
        If there are fewer, or something else among them.
    """
    return Differences(given(runs, "differences", least=2))


def export(runs: Runs, to: str | os.PathLike[str], what: str = "metrics") -> str:
    """Write runs in a form that other tools read, and return where they are.

    What is there already is replaced (a file) or completed (MLflow), so it may be done again.

    Parameters
    ----------
    runs : Run, Batch, str or path, or several of them
        Such as ``lab.runs()`` or a batch; as in :func:`compare`.
    to : path or str
        A file that ends in ``.csv`` or ``.parquet``, or the URI of an MLflow tracking store, such
        as ``sqlite:///mlflow.db``.
    what : {"metrics", "runs"}
        What a table holds: everything that was measured, or one line per run with its settings
        and its final and best metrics. MLflow gets both, and the model.

    Raises
    ------
    ExperimentError
        If there is no run, or something else among them.
    UsageError
        If the name of the file ends otherwise, or ``what`` is something else.
    RecordsError
        If it cannot be written, or pyarrow or MLflow is not installed.
    """
    return exporting.export(given(runs, "export"), to, what).place


def given(runs: Runs, verb: str, *, least: int = 1) -> list[Run]:
    """Return the runs that are meant, each once, in their order.

    Parameters
    ----------
    runs : Run, Batch, str or path, or several of them
        A text is a run as in :func:`attach`, or a path.
    verb : str
        What is to be done with them, for the errors.
    least : {1, 2}
        How many are needed.

    Raises
    ------
    ExperimentError
        If there are fewer, or something else among them.
    RunNotFoundError
        If one of them is not in the records, or is in those of another home.
    """
    if isinstance(runs, str) or not isinstance(runs, Iterable):
        runs = [runs]
    found: dict[str, Run] = {}
    unfinished = []
    for one in runs:
        meant = _meant(one, verb)
        if isinstance(meant, Batch):
            unfinished += _unfinished(meant)
            meant = list(_of_batch(meant))
        found |= {run.id: run for run in meant}
    if len(found) < least:
        needed = f"give at least {'one' if least == 1 else 'two'}"
        if not found:
            word = "compare" if verb == "differences" else verb
            raise ExperimentError(f"there is no run to {word}; {needed}")
        why = f" ({'; '.join(unfinished)})" if unfinished else ""
        raise ExperimentError(f"one run differs from nothing{why}; {needed}")
    return list(found.values())


def _meant(one: Any, verb: str) -> list[Run] | Batch:
    if isinstance(one, Run):
        return [one]
    if isinstance(one, Batch):
        return one
    if not isinstance(one, str | os.PathLike):
        raise ExperimentError(
            f"lab.{verb} takes runs or their ids, not {type(one).__name__}; "
            f"give what lab.run returned, as in lab.{verb}([first, second])"
        )
    path = Path(os.path.expanduser(one))
    # No name of a run holds a slash; without one, a run goes before a folder of the same name.
    if not isinstance(one, str) or os.sep in one or os.path.isfile(path / INDEX):
        return _at(path)
    try:
        return [attach(one)]
    except RunNotFoundError:
        if one and os.path.exists(path):
            return _at(path)
        raise


def _at(path: Path) -> list[Run] | Batch:
    """Return the batch in a folder, or the runs of an executed notebook."""
    if os.path.isfile(path / INDEX):
        return Batch.read(path)
    above = path.absolute().parent
    if not os.path.exists(path):
        what = (
            "is neither a file nor a folder; give a run, or the folder that flautim-lab rerun made"
        )
    elif os.path.isfile(above / INDEX):
        what = f"is only a part of a batch; give its parent, {above}"
    elif os.path.isdir(path):
        what = "is a folder, but not one of a batch; give the folder that flautim-lab rerun made"
    elif path.suffix != ".ipynb":
        what = "is a file, but no executed notebook; give a run, or the folder of a batch"
    elif not (stamp := read_stamp(path)):
        what = "has no stamp of an execution; give a notebook that flautim-lab run or rerun wrote"
    elif not stamp.get("runs"):
        what = "made no run; give a notebook that made one"
    else:
        return [_recorded(run_id, stamp, str(path)) for run_id in stamp["runs"]]
    raise ExperimentError(f"{str(path)!r} {what}")


def _of_batch(batch: Batch) -> Iterator[Run]:
    if not batch.runs:
        states = Counter(entry.status for entry in batch.entries)
        told = ", ".join(f"{number} {state}" for state, number in states.items())
        raise ExperimentError(
            f"no point of the batch in {batch.path} made a run ({told}); the same flautim-lab "
            "rerun again does what is missing"
        )
    for entry in batch.entries:
        if run_id := entry.stamp.get("run"):
            yield _recorded(run_id, entry.stamp, f"the batch in {batch.path}")


def _unfinished(batch: Batch) -> list[str]:
    missing = sum(entry.status != FINISHED for entry in batch.entries)
    points = count(len(batch.entries), "point")
    return [f"{missing} of {points} in {batch.path} did not finish"] if missing else []


def _recorded(run_id: str, stamp: Mapping[str, Any], where: str) -> Run:
    """Return a run that a stamp tells of, or say in which records it is."""
    try:
        return attach(run_id)
    except RunNotFoundError:
        then = (stamp.get("environment") or {}).get("home")
        if then and then != str(home()):
            raise RunNotFoundError(
                f"the runs of {where} are in other records, {then}; set {HOME_VARIABLE} to that "
                "folder"
            ) from None
        raise RunNotFoundError(f"run {run_id} of {where} is not in the records any more") from None
