"""Tables as files for other tools: CSV and Parquet, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from flautim_lab.errors import RecordsError
from flautim_lab.records.artifacts import check_file, no_formula, write_atomic

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".parquet")


def check_table(path: Path) -> None:
    """Refuse a file that no table can be written to, as ``check_file`` does."""
    check_file(path, "table", TABLES)


def write_table(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table to a file that ends in ``.csv`` or ``.parquet``, and return its path.

    Numbers keep all their digits; what is missing, or not a number, is empty in CSV and null in
    Parquet. In CSV a text that a spreadsheet would compute is made text (``no_formula``). In
    Parquet, whose columns have one type each, a column of several kinds is written as text.

    Raises
    ------
    UsageError
        If the name ends otherwise.
    RecordsError
        If the file cannot be written, or pyarrow is not installed for Parquet.
    """
    check_table(path)
    content = _csv(frame) if path.suffix.lower() == ".csv" else _parquet(frame)
    return write_atomic(path, content, shared=True)


def _csv(frame: pd.DataFrame) -> bytes:
    import pandas as pd

    safe = frame.rename(columns=lambda name: no_formula(str(name))).astype(object)
    for name in safe.columns:
        # A series of objects, made as one: a whole number stays one beside what is missing.
        values = [_text(value) for value in safe[name]]
        safe[name] = pd.Series(values, index=safe.index, dtype=object)
    return safe.to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace")


def _text(value: object) -> object:
    return no_formula(value) if isinstance(value, str) else value


def _parquet(frame: pd.DataFrame) -> bytes:
    try:
        import pyarrow  # noqa: F401 - pandas' own sentence names no way to install it
    except ImportError as error:
        raise RecordsError(
            "Parquet needs pyarrow, which is not installed; pip install 'flautim-lab[export]', or "
            "write a .csv"
        ) from error
    plain = frame.copy()
    for name in plain.columns:
        if len({type(value) for value in plain[name].dropna()}) > 1:
            plain[name] = plain[name].map(str, na_action="ignore")
    content = io.BytesIO()
    plain.to_parquet(content, index=False)
    return content.getvalue()
