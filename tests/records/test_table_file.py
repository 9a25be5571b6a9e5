"""Tables as files for other tools."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flautim_lab.errors import RecordsError, UsageError
from flautim_lab.records.table_file import write_table

FRAME = pd.DataFrame(
    {
        "run": ["r1", "=cmd()"],
        "@client": pd.array([None, 3], dtype="Int64"),
        "value": [0.1 + 0.2, np.nan],
        "mixed": [1, "-two\n"],
        "flag": [True, False],
    }
)


def test_csv_keeps_digits_and_no_formula(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", FRAME)
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["run", "'@client", "value", "mixed", "flag"]
    assert rows == [
        ["r1", "", "0.30000000000000004", "1", "True"],
        ["'=cmd()", "3", "", "'-two\n", "False"],
    ]
    assert FRAME["run"][1] == "=cmd()"  # what was given is left alone
    assert list(tmp_path.iterdir()) == [path]


def test_parquet_keeps_types_and_texts(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    back = pd.read_parquet(write_table(tmp_path / "a.parquet", FRAME))
    assert list(back["run"]) == ["r1", "=cmd()"]
    assert back["value"][0] == 0.1 + 0.2
    assert back["@client"].isna()[0]
    assert back["@client"][1] == 3
    assert list(back["mixed"]) == ["1", "-two\n"]
    assert back["flag"].dtype == bool


def test_what_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'a\.xlsx'; end its name in \.csv or \.parquet"):
        write_table(tmp_path / "a.xlsx", FRAME)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RecordsError, match=r"pip install 'flautim-lab\[export\]'"):
        write_table(tmp_path / "a.parquet", FRAME)


def test_folders_that_take_no_table(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, why in (
        ("file", rf"{tmp_path}/file is a file, not a folder; choose another"),
        ("file/in", rf"{tmp_path}/file is a file, not a folder; choose another"),
        ("none/in", rf"the folder {tmp_path}/none/in does not exist; make it, or choose another"),
    ):
        path = tmp_path / folder / "a.csv"
        with pytest.raises(RecordsError, match=rf"^{path} cannot be written: {why}$"):
            write_table(path, FRAME)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(RecordsError, match=r"^/proc/a\.csv cannot be written: .*choose another$"):
        write_table(Path("/proc/a.csv"), FRAME)
