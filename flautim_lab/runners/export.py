"""Runs in the forms of the tools that people already use: CSV, Parquet, MLflow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import UsageError
from flautim_lab.names import choose
from flautim_lab.records.table_file import write_table
from flautim_lab.runners.measures import measure
from flautim_lab.runners.settings_of import settings_of

if TYPE_CHECKING:
    import pandas as pd

    from flautim_lab.runners.run import Run

PARTS = ("metrics", "runs")


def export(runs: Sequence[Run], to: str | os.PathLike[str], what: str = "metrics") -> str:
    """See :func:`flautim_lab.export`; returns where they are now."""
    if not runs:
        raise UsageError("there is no run to export; give at least one")
    choose(what, PARTS, "part", UsageError)
    target = os.fspath(to)
    if "://" in target:
        from flautim_lab.runners.mlflow_export import to_mlflow

        return to_mlflow(runs, target)
    table = metrics_of(runs) if what == "metrics" else summary_of(runs)
    return str(write_table(Path(target).expanduser().absolute(), table))


def metrics_of(runs: Sequence[Run]) -> pd.DataFrame:
    """Return everything that the runs measured, one line per run, round, client, split and metric.

    Columns ``run``, ``name``, and those of ``run.metrics``.
    """
    import pandas as pd

    frames = []
    for run in runs:
        frame = run.metrics
        frame.insert(0, "name", run.name)
        frame.insert(0, "run", run.id)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def summary_of(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one line per run: how it ended, its settings, the last and the best of each metric.

    Columns ``run``, ``name``, ``status``, ``created`` (seconds since 1970), ``seconds``, ``round``,
    ``clients``, a column per setting (``strategy_args.proximal_mu`` for one inside another), and
    for each metric a name such as ``validation_loss``, with ``_best`` and ``_best_round``.
    """
    import pandas as pd

    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Run) -> dict[str, Any]:
    record = run.record
    row: dict[str, Any] = {
        "run": record.id,
        "name": record.name,
        "status": str(record.status),
        "created": record.created,
        "seconds": record.seconds,
        "round": record.round,
        "clients": record.clients,
    }
    row = {**row, **{k: v for k, v in settings_of(run).items() if k not in row}}
    for name, known in measure(run._records, run.id).items():
        row |= {
            name: known["final"],
            f"{name}_best": known["best"],
            f"{name}_best_round": known["best_round"],
        }
    return row
