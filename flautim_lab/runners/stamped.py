"""What is stamped into an executed notebook, and a notebook that is executed and stamped.

The words are those of :mod:`flautim_lab.runners.stamp`.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import ExecutionError, NotebookError, RecordsError
from flautim_lab.home import home
from flautim_lab.records.store import Records
from flautim_lab.runners.content import Content, content_of
from flautim_lab.runners.measures import (
    bundle_of,
    end_detached,
    measure,
    result_of,
    run_that_counts,
)
from flautim_lab.runners.parameters import (
    check_parameters,
    find_notebook,
    read_notebook,
    read_parameters,
)
from flautim_lab.runners.rows import keep_marks
from flautim_lab.runners.stamp import stamp
from flautim_lab.training.cores import usable_cores

if TYPE_CHECKING:
    from flautim_lab.runners.notebook import CellProgress, ExecutedNotebook

SEED = "seed"
FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
TIMEOUT, DIED = "timeout", "died"


@dataclass
class Outcome:
    """What came of one execution."""

    status: str
    error: str = ""
    runs: list[str] = field(default_factory=list)
    seconds: float = 0.0
    started: float = 0.0
    attempts: int = 1
    environment: dict[str, Any] = field(default_factory=dict)
    """Where it was executed, if that was elsewhere."""


def facts_of(
    source: Path,
    defaults: Mapping[str, object],
    parameters: Mapping[str, object],
    content: Content,
    outcome: Outcome,
) -> dict[str, Any]:
    """Return the stamp of an execution; runs that it left behind are asked to stop.

    Parameters
    ----------
    source : Path
        The notebook that was executed.
    defaults, parameters : mapping
        Its own parameters, and those that were set.
    content : Content
        What it depended on when it began.
    outcome : Outcome
    """
    records = Records.default()
    run = None
    metrics: dict[str, dict[str, float]] = {}
    results: list[dict[str, Any]] = []
    try:
        if outcome.status != FINISHED:
            end_detached(records, outcome.runs)
        run = run_that_counts(records, outcome.runs)
        metrics = measure(records, run.id) if run is not None else {}
        results = [result_of(records, run_id) for run_id in outcome.runs]
        if run is not None:
            keep_marks(records.folder(run.id), content.files, source.parent)
    except RecordsError as error:
        outcome.error = outcome.error or f"its numbers cannot be read: {error}"
    return {
        "notebook": source.name,
        "parameters": dict(parameters),
        "seed": parameters.get(SEED, defaults.get(SEED)),
        "status": outcome.status,
        "error": outcome.error,
        "seconds": outcome.seconds,
        "started": outcome.started,
        "attempts": outcome.attempts,
        "runs": outcome.runs,
        "run": run.id if run is not None else "",
        "metrics": {name: _as_json(values) for name, values in metrics.items()},
        "results": results,
        "code": content.code,
        "modules": dict(content.modules),
        "files": dict(content.files),
        "data": content.data,
        "bundle": bundle_of(records, run.id) if run is not None else "",
        "versions": dict(content.versions),
        "environment": outcome.environment or environment(),
    }


def environment() -> dict[str, Any]:
    """Return what a stamp tells of the machine."""
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "host": socket.gethostname(),
        "cores": usable_cores(),
        "home": str(home()),
    }


def execute_stamped(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    parameters: Mapping[str, object] | None = None,
    *,
    progress: Callable[[CellProgress], None] | None = None,
) -> ExecutedNotebook:
    """Execute a notebook as ``execute_notebook`` does, and stamp it, finished or not.

    Raises
    ------
    NotebookError
        As ``execute_notebook``.
    RecordsError
        If the stamp cannot be written.
    """
    from flautim_lab.runners.notebook import execute_notebook, output_path

    source = find_notebook(path)
    notebook = read_notebook(source)
    values = check_parameters(notebook, parameters or {}, source.name)
    content = content_of(notebook, source.parent, values)
    target = output_path(source, output)
    outcome = Outcome(INTERRUPTED, "it was interrupted", started=time.time())
    before = target.stat().st_mtime_ns if target.is_file() else 0
    try:
        done = execute_notebook(source, target, values, progress=progress)
        outcome.status, outcome.error, outcome.runs = FINISHED, "", list(done.runs)
    except ExecutionError as error:
        outcome.status = DIED if error.died else FAILED
        outcome.error, outcome.runs = error.reason, list(error.runs)
        raise
    except NotebookError as error:
        outcome.status, outcome.error = FAILED, str(error)
        raise
    finally:
        outcome.seconds = time.time() - outcome.started
        if target.is_file() and target.stat().st_mtime_ns != before:
            defaults = read_parameters(notebook, source.name)
            with contextlib.suppress(NotebookError):  # cut off in the middle of writing it
                stamp(target, facts_of(source, defaults, values, content, outcome))
    return done


def _as_json(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
