"""What came of a point, in numbers: the last and the best value of each metric.

A notebook may make several runs. The one that counts is its last that is no centralized baseline,
or its last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flautim_lab.errors import RecordsError
from flautim_lab.records.artifacts import MODEL_FILE
from flautim_lab.records.event import ALL_CLIENTS, Event, RunRecord
from flautim_lab.records.store import Records

Measures = dict[str, dict[str, float]]

_LOWER = re.compile(r"loss|error|perplexity|(^|_)(mae|mse|rmse|mape|nll|brier)(_|$)")


def lower_is_better(metric: str) -> bool:
    """Return whether less of a metric is better, as its name says: loss, errors, mae, rmse.

    >>> lower_is_better("validation_loss"), lower_is_better("accuracy")
    (True, False)
    """
    return _LOWER.search(metric.lower()) is not None


def run_that_counts(records: Records, run_ids: Sequence[str]) -> RunRecord | None:
    """Return the run of a notebook by which its point is measured."""
    found: list[RunRecord] = []
    for run_id in run_ids:
        with contextlib.suppress(RecordsError):
            found.append(records.run(run_id))
    federated = [run for run in found if not run.settings.get("centralized")]
    counting = federated or found
    return counting[-1] if counting else None


def measure(records: Records, run_id: str) -> Measures:
    """Return the metrics of a run over all clients, by a name such as ``validation_loss``.

    Returns
    -------
    dict
        Name to ``final``, ``best`` and ``best_round``. What is not a finite number is never best.
    """
    found: Measures = {}
    for event, value in _of_all_clients(records, run_id):
        name = f"{event.split}_{event.name}"
        known = found.setdefault(name, {"final": value, "best": math.nan, "best_round": 0})
        known["final"] = value
        better = value < known["best"] if lower_is_better(event.name) else value > known["best"]
        if math.isfinite(value) and (better or math.isnan(known["best"])):
            known |= {"best": value, "best_round": event.round}
    return {name: found[name] for name in sorted(found, key=_place)}


def result_of(records: Records, run_id: str) -> dict[str, Any]:
    """Return what came of a run, as a stamp keeps it: its plan, its curves, its weights' hash.

    Returns
    -------
    dict
        ``name``; ``plan``; ``curves``, a name such as ``validation_loss`` to a list of pairs of
        round and value over all clients (None for what is not a finite number); ``model``, the
        SHA-256 of the weights, empty where there are none.
    """
    run = records.run(run_id)
    curves: dict[str, list[tuple[int, float | None]]] = {}
    for event, value in _of_all_clients(records, run_id):
        point = (event.round, value if math.isfinite(value) else None)
        curves.setdefault(f"{event.split}_{event.name}", []).append(point)
    model = ""
    with contextlib.suppress(OSError), open(records.folder(run_id) / MODEL_FILE, "rb") as file:
        model = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": run.name, "plan": run.plan, "curves": curves, "model": model}


def _of_all_clients(records: Records, run_id: str) -> Iterator[tuple[Event, float]]:
    """Yield what was measured over all clients, each event with its value."""
    for event in records.events(run_id, kinds=("metric",)):
        if event.client == ALL_CLIENTS and event.value is not None:
            yield event, event.value


def bundle_of(records: Records, run_id: str) -> str:
    """Return the hash of a run's bundle; empty where it has none."""
    path = Path(records.folder(run_id)) / "experiment" / "bundle" / "bundle.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text(encoding="utf-8"))["hash"])
    return ""


def end_detached(records: Records, run_ids: Iterable[str]) -> None:
    """Ask runs to stop that would go on by themselves after their notebook was given up."""
    for run_id in run_ids:
        with contextlib.suppress(RecordsError):
            run = records.run(run_id)
            if run.runner != "local" and not run.status.ended:
                records.request_stop(run_id)


def number(value: Any) -> float:
    """Return what a stamp holds as a number; what JSON has no number for is NaN there."""
    return float(value) if isinstance(value, int | float) else math.nan


def _place(name: str) -> tuple[bool, bool, str]:
    """Return what sorts names: validation first, and the loss before the others."""
    return (not name.startswith("validation"), not name.endswith("_loss"), name)
