"""The summary of a batch as files: a table, and a notebook with tables and curves."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import nbformat

from flautim_lab.names import count
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.table_file import write_table
from flautim_lab.runners.measures import lower_is_better
from flautim_lab.runners.rerun.batch import USUAL, Batch, column
from flautim_lab.runners.rerun.folder import BatchFolder


def write_summary(folder: BatchFolder, batch: Batch) -> None:
    """Write ``summary.csv``, whole or not at all."""
    import pandas as pd

    # As objects: a whole number stays one beside a point that has none.
    write_table(folder.summary, pd.DataFrame(batch.in_order(), dtype=object))


def write_notebook(folder: BatchFolder, batch: Batch) -> Path:
    """Write ``summary.ipynb`` as it is before it is executed, and return where.

    Beside the batch that it reads, under a name that nobody opens.
    """
    made = nbformat.v4.new_notebook(cells=_cells(batch))  # type: ignore[no-untyped-call]
    made.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
    source = folder.path / ".summary.ipynb"
    text = nbformat.writes(made)  # type: ignore[no-untyped-call]
    write_atomic(source, text.encode("utf-8", "backslashreplace"))
    return source


def _cells(batch: Batch) -> list[Any]:
    markdown: Any = nbformat.v4.new_markdown_cell
    code: Any = nbformat.v4.new_code_cell
    cells = [
        markdown(f"# {escape(batch.notebook)}, {count(len(batch.entries), 'point')}"),
        code('import flautim_lab as lab\n\nbatch = lab.Batch.read(".")\nbatch'),
    ]
    metrics, names = batch.metrics, [column(name) for name in batch.names]
    if USUAL in metrics:
        metrics = [USUAL, *(name for name in metrics if name != USUAL)]
    shown = [name for name in metrics if name.startswith("validation_")] or metrics
    for name in shown:
        split, _, metric = name.partition("_")
        first = "lowest" if lower_is_better(name) else "highest"
        cells.append(
            markdown(
                f"## {escape(metric)}, {split}\n\nA line is the mean over the seeds, its band goes "
                f"from the lowest to the highest. Below, the {first} at the end first."
            )
        )
        cells.append(code(f"batch.plot({metric!r}, split={split!r})"))
        columns = [*names, name, f"{name}_best", "seconds", "status"]
        cells.append(code(f"batch.table({name!r})[{columns!r}]"))
    if batch.failed:
        cells.append(markdown("## What did not finish"))
        columns = [*names, "status", "error", "notebook"]
        rows = 'batch.summary[batch.summary["status"] != "finished"]'
        cells.append(code(f"{rows}[{columns!r}]"))
    return cells
