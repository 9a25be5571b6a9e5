"""A batch as it is looked at: in which order, and with which names."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from flautim_lab.errors import UsageError
from flautim_lab.runners.rerun.batch import Batch, Entry, column
from flautim_lab.runners.rerun.folder import BatchFolder
from flautim_lab.runners.rerun.summary import write_notebook, write_summary


def entry(number: int, loss: float | None, status: str = "finished", /, **point: Any) -> Entry:
    metrics = {"validation_loss": {"final": loss, "best": loss, "best_round": 1}}
    stamp = {"status": status, "metrics": metrics, "error": "", "seconds": 1.0}
    return Entry(number, {"lr": number, **point}, f"lr={number}", f"{number}.ipynb", stamp)


def batch_of(folder: Path, *entries: Entry, names: tuple[str, ...] = ("lr",)) -> Batch:
    return Batch(folder, "<b>a.ipynb", names, list(entries))


def test_the_best_first_and_last_what_did_not_finish(tmp_path: Path) -> None:
    batch = batch_of(
        tmp_path,
        entry(1, 0.5),
        entry(2, None),
        entry(3, 0.2),
        entry(4, 0.1, "timeout"),
        Entry(5, {"lr": 5}, "lr=5", "5.ipynb"),
    )
    assert [row["point"] for row in batch.rows()][:4] == [3, 1, 2, 4]
    assert [row["point"] for row in batch.in_order()] == [1, 2, 3, 4, 5]
    assert list(batch.table("loss")["point"])[:2] == [3, 1]
    assert "3 finished, 1 timeout, 1 waiting" in repr(batch)
    assert "best validation_loss: 0.2 with lr=3" in repr(batch)
    assert not batch.finished
    with pytest.raises(UsageError, match="no metric named 'los'"):
        batch.table("los")


def test_nothing_measured_yet(tmp_path: Path) -> None:
    batch = batch_of(tmp_path, Entry(1, {"lr": 1}, "lr=1", "1.ipynb"))
    assert batch.sorted_by() is None
    assert batch.rows() == batch.in_order()
    for wrong in (lambda: batch.plot("loss"), lambda: batch.table("loss")):
        with pytest.raises(UsageError, match=r"^nothing is measured yet"):
            wrong()


def test_a_table_without_formulas_and_two_columns_of_one_name(tmp_path: Path) -> None:
    made = entry(1, 0.5, "failed", status="=1+1", seed=-3)
    made.stamp["error"] = "@x\nsecond line"
    batch = batch_of(tmp_path, made, entry(2, math.inf), names=("lr", "status", "seed"))
    assert column("status") == "parameter_status"
    assert column("validation_loss") == "parameter_validation_loss"
    folder = BatchFolder(tmp_path)
    write_summary(folder, batch)
    with open(folder.summary, newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["parameter_status"], first["seed"], first["error"]) == (
        "'=1+1", "-3", "'@x\nsecond line",
    )  # fmt: skip
    assert (first["status"], second["parameter_status"], second["seed"]) == ("failed", "", "")
    assert float(second["validation_loss"]) == math.inf


def test_names_in_the_summary_are_no_html(tmp_path: Path) -> None:
    text = write_notebook(BatchFolder(tmp_path), batch_of(tmp_path, entry(1, 0.5))).read_text()
    assert "# &lt;b&gt;a.ipynb, 1 point" in text
    assert "<b>" not in text


def test_many_failures_are_cut_short(tmp_path: Path) -> None:
    failed = [entry(number, None, "failed") for number in range(1, 9)]
    assert repr(batch_of(tmp_path, *failed)).splitlines()[-2] == "  and 3 more, in the summary"
