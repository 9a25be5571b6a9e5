"""Verbs over several runs: their curves on one plot, in what they differ, their export."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from flautim_lab.errors import ExperimentError
from flautim_lab.runners import export as exporting
from flautim_lab.runners.differences import Differences
from flautim_lab.runners.launch import attach
from flautim_lab.runners.run import Run

Runs = Run | str | Iterable[Run | str]


def compare(runs: Runs, metric: str = "loss") -> Any:
    """Return a picture of one metric of several runs.

    Parameters
    ----------
    runs : Run or iterable of Run or str
        The runs, or their ids as in :func:`attach`.
    metric : str
        ``loss``, ``accuracy``, or any other name in the first run's ``metrics``.

    Raises
    ------
    ExperimentError
        If there is no run, or something else among them.
    """
    first, *others = _given(runs, "compare")
    return first.plot(metric, compare=others)


def differences(runs: Runs) -> Differences:
    """Return in what runs differ: settings, data, code, versions, and what came of them.

    Parameters
    ----------
    runs : iterable of Run or str
        At least two.

    Raises
    ------
    ExperimentError
        If there are fewer, or something else among them.
    """
    listed = _given(runs, "differences")
    if len(listed) < 2:
        raise ExperimentError("one run differs from nothing; give at least two")
    return Differences(listed)


def export(runs: Runs, to: str | os.PathLike[str], what: str = "metrics") -> str:
    """Write runs in a form that other tools read, and return where they are.

    What is there already is replaced (a file) or completed (MLflow), so it may be done again.

    Parameters
    ----------
    runs : Run or iterable of Run or str
        Such as ``lab.runs()`` or ``batch.runs``.
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
    return exporting.export(_given(runs, "export"), to, what)


def _given(runs: Runs, verb: str) -> list[Run]:
    """Return runs, or the ids of some, as a list of runs."""
    if isinstance(runs, Run | str):
        runs = [runs]
    given = list(runs) if isinstance(runs, Iterable) else [runs]
    for one in given:
        if not isinstance(one, Run | str):
            raise ExperimentError(
                f"lab.{verb} takes runs or their ids, not {type(one).__name__}; "
                f"give what lab.run returned, as in lab.{verb}([first, second])"
            )
    listed = [attach(one) if isinstance(one, str) else one for one in given]
    if not listed:
        raise ExperimentError(f"there is no run to {verb}; give at least one")
    return listed
