"""Parts of a run as files: the trained weights, the metrics, the log, the plot, the settings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flautim_lab.errors import RecordsError
from flautim_lab.names import choose
from flautim_lab.records.artifacts import metrics_csv

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

DOWNLOADS = ("model", "metrics", "log", "plot", "experiment")


def write_part(run: Run, what: str, to: str | Path | None) -> Path:
    """Write a part of a run to a file and return its path; see :meth:`Run.download`."""
    choose(what, DOWNLOADS, "download")
    suffix = {
        "model": "model.safetensors",
        "metrics": "metrics.csv",
        "log": "run.log",
        "plot": "loss.png",
        "experiment": "experiment.json",
    }[what]
    target = Path.cwd() if to is None else Path(to)
    if target.is_dir() or str(to).endswith(("/", os.sep)):
        target = target / f"{run.id}-{suffix}"
    if target.exists():
        raise RecordsError(f"{target} exists; choose another name, or remove it first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if what == "metrics":
            shutil.copyfile(metrics_csv(run.folder, run.metrics), target)
        elif what == "log":
            target.write_text(run.logs() + "\n", encoding="utf-8")
        elif what == "plot":
            from flautim_lab.plots.files import save_picture

            save_picture(run.plot(), target)
        else:
            source = run.folder / ("experiment/" if what == "experiment" else "") / suffix
            if not source.exists():
                raise RecordsError(f"run {run.id} ({run.status}) has no {what}")
            shutil.copyfile(source, target)
    except OSError as error:
        raise RecordsError(f"cannot write {target}: {error.strerror or error}") from error
    return target
