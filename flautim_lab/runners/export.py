"""Runs in the forms of the tools that people already use: CSV, Parquet, MLflow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import UsageError
from flautim_lab.names import choose, count
from flautim_lab.records.event import ALL_CLIENTS
from flautim_lab.records.table_file import TABLES, check_table, write_table
from flautim_lab.runners.measures import measure
from flautim_lab.runners.settings_of import client_names, settings_of

if TYPE_CHECKING:
    import pandas as pd

    from flautim_lab.runners.run import Run

PARTS = ("metrics", "runs")
TARGETS = "a file that ends in .csv or .parquet, or an MLflow store such as sqlite:///mlflow.db"


@dataclass(frozen=True)
class Exported:
    """What was exported; shown in words.

    Attributes
    ----------
    place : str
        The file, or the store without a password.
    runs : int
        How many runs.
    written : str
        What was written of them, such as ``"324 lines"``.
    """

    place: str
    runs: int
    written: str

    def __repr__(self) -> str:
        return f"{self.place}: {count(self.runs, 'run')}, {self.written}"


def export(runs: Sequence[Run], to: str | os.PathLike[str], what: str = "metrics") -> Exported:
    """See :func:`flautim_lab.export`; returns what was written, and where."""
    choose(what, PARTS, "part", UsageError)
    if not isinstance(to, str | os.PathLike) or not os.fspath(to):
        shown = repr(to) if to is None or to == "" else type(to).__name__
        raise UsageError(f"what is exported goes to {TARGETS}, not to {shown}")
    target = os.fspath(to)
    if "://" in target or target.startswith("file:"):
        from flautim_lab.runners.mlflow_export import to_mlflow

        place, points = to_mlflow(runs, target)
        return Exported(place, len(runs), count(points, "new point"))
    path = Path(os.path.expanduser(target)).absolute()
    if path.suffix.lower() not in TABLES and (":" in target or "//" in target):
        raise UsageError(f"{target!r} is neither a table nor an MLflow store; give {TARGETS}")
    check_table(path)
    table = metrics_of(runs) if what == "metrics" else summary_of(runs)
    return Exported(str(write_table(path, table)), len(runs), count(len(table), "line"))


def metrics_of(runs: Sequence[Run]) -> pd.DataFrame:
    """Return everything that the runs measured, one line per run, round, client, split and metric.

    Columns ``run``, ``name``, and those of ``run.metrics``; after ``client``, ``client_name``,
    which is empty for all clients together.
    """
    import pandas as pd

    frames = []
    for run in runs:
        frame = run.metrics
        names = client_names(run)
        named = [names.get(client, "") for client in frame["client"].fillna(ALL_CLIENTS)]
        frame.insert(list(frame).index("client") + 1, "client_name", named)
        frame.insert(0, "name", run.name)
        frame.insert(0, "run", run.id)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def summary_of(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one line per run: how it ended, its settings, the last and the best of each metric.

    Columns ``run``, ``name``, ``status``, ``created`` (ISO 8601, UTC), ``seconds``, ``round``,
    ``clients``, a column per setting (``strategy_args.proximal_mu`` for one inside another), and
    for each metric a name such as ``validation_loss``, with ``_best`` and ``_best_round``. What is
    set in no run has no column.
    """
    import pandas as pd

    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Run) -> dict[str, Any]:
    record = run.record
    row: dict[str, Any] = {
        "run": record.id,
        "name": record.name,
        "status": str(record.status),
        "created": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds"),
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
    return {name: value for name, value in row.items() if value is not None}
