"""Reading a table: a CSV file or a pandas frame, in one canonical form.

Separator, encoding and decimal sign are found out; a frame and the CSV file written from it give
the same canonical table, and so the same tensors and the same hash.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from flautim_lab.errors import DatasetError
from flautim_lab.names import count

# 1.234.567,89 as in Brazil; the dots are optional, but a group of three never starts with 0.
COMMA_NUMBER = re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+)(,\d+)?(e[+-]?\d+)?", re.IGNORECASE)
# Older releases read decimals a last bit off unless told; newer ones are exact and warn.
_OLD = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if _OLD else {}


@dataclass(frozen=True)
class Source:
    """Where a table came from, to word errors: "iris.csv", "first in line 7"."""

    shown: str
    name: str
    path: Path | None = None
    encoding: str = ""
    separator: str = ","
    comma: bool = False  # whether that is the decimal sign
    rows: NDArray[np.intp] | None = None  # row numbers in the file, where some were dropped

    def where(self, bad: NDArray[np.bool_]) -> str:
        """Say how many rows are bad, and where the first one is."""
        first = int(bad.argmax()) if self.rows is None else int(self.rows[bad.argmax()])
        how_many = count(int(bad.sum()), "row")
        if self.path is None:
            return f"{how_many}, first in row {first} counted from 0"
        return f"{how_many}, first in line {self._line(self.path, first)}"

    def _line(self, path: Path, row: int) -> int:
        """Return the line in which a row starts: quoted text may go over several lines."""
        start = 1
        with open(path, encoding=self.encoding, errors="replace", newline="") as file:
            lines = csv.reader(file, delimiter=self.separator, skipinitialspace=True)
            number = -1  # of the header
            for fields in lines:
                if not _is_blank(fields):
                    if number == row:
                        break
                    number += 1
                start = lines.line_num + 1
        return start


def read_table(data: Any) -> tuple[pd.DataFrame, Source]:
    """Return the table in its canonical form, all rows and columns."""
    if isinstance(data, pd.DataFrame):
        source = Source("the frame", "table")
        frame, header = data.reset_index(drop=True), list(data.columns)
    elif isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        _check_file(path)
        try:
            frame, header, source = _read_file(path)
        except OSError as error:
            raise DatasetError(
                f"{path} cannot be read ({error.strerror or error}); give a file that is yours"
            ) from error
    else:
        raise DatasetError(
            f"data must be the path of a CSV file or a pandas frame, not {type(data).__name__}"
        )
    names = [clean(name) or f"Unnamed: {place}" for place, name in enumerate(header)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(
            f"{source.shown} has more than one column named {listed(twice)}; "
            "give each column a name of its own"
        )
    if frame.empty:
        raise DatasetError(f"{source.shown} has no rows; add them below the names of the columns")
    return canonical(frame.set_axis(names, axis=1), source), source


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the hash of a file's bytes, read in parts, in hexadecimal.

    Raises
    ------
    DatasetError
        If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror or error})") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DatasetError(f"{path} is a folder; give the path of a CSV file in it")
    if path.exists():
        return
    folder = Path(os.path.abspath(path)).parent
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}; correct the path {str(path)!r}")
    files = sorted(file.name for file in folder.iterdir() if file.is_file())
    close = difflib.get_close_matches(path.name, files, n=3)
    tables = [file for file in files if file.lower().endswith((".csv", ".tsv", ".txt"))]
    if close:
        hint = f"did you mean {listed(close, ' or ')}?"
    elif tables:
        hint = f"that folder has {listed(tables)}"
    else:
        hint = "that folder has no CSV file"
    raise DatasetError(f"there is no file {path.name!r} in {folder}; {hint}")


def _read_file(path: Path) -> tuple[pd.DataFrame, list[str], Source]:
    encoding = _encoding(path)
    with open(path, encoding=encoding, errors="replace", newline="") as file:
        head = file.read(1 << 20)
    if "\0" in head:
        raise DatasetError(
            f"{path.name} is not a text file; read it with pandas (read_excel, read_parquet, ...) "
            "and give the frame"
        )
    if not head.strip():
        raise DatasetError(f"{path.name} is empty; it needs a header line, and rows below it")
    separator, header, longest = _separator(head)
    if longest > len(header):
        # pandas would take the first fields of each row for an index.
        raise DatasetError(
            f"{path.name} has {longest} fields in a row, and {count(len(header), 'name')} in its "
            "header line; name every column"
        )
    options: dict[str, Any] = _EXACT | {
        "sep": separator,
        "encoding": encoding,
        "encoding_errors": "replace",
        "skipinitialspace": True,
        "low_memory": False,  # one type per column, however long the file is
    }
    source = Source(path.name, path.stem, path, encoding, separator)
    try:
        frame = pd.read_csv(path, **options)
        if separator != "," and any(has_decimal_commas(column) for _, column in frame.items()):
            frame = pd.read_csv(path, **options, decimal=",")
            source = replace(source, comma=True)
    except (ValueError, csv.Error) as error:  # pandas' ParserError is a ValueError
        reason = str(error).strip()
        if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason):
            reason = f"line {found[2]} has {found[3]} fields, not {found[1]} like those before it"
        raise DatasetError(
            f"{path.name} cannot be read as a table: {reason}; correct it, or read it with pandas "
            "and give the frame"
        ) from error
    return frame, header, source


def _encoding(path: Path) -> str:
    with open(path, "rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16"
    try:
        with open(path, encoding="utf-8-sig") as text:
            while text.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def _separator(head: str) -> tuple[str, list[str], int]:
    """Return the separator that cuts the first lines into equally many fields, as many as it can.

    With it come the names in the header line, and how many fields the row below has.
    """
    best: tuple[tuple[bool, int], str, list[str], int] = ((False, 0), ",", [], 0)
    for separator in (",", ";", "\t", "|"):
        text = io.StringIO(head, newline="")
        lines = csv.reader(text, delimiter=separator, skipinitialspace=True)
        records = list(itertools.islice((line for line in lines if not _is_blank(line)), 20))
        lengths = {len(record) for record in records}
        score = (len(lengths) == 1 and lengths != {1}, len(records[0]))
        if score > best[0]:
            best = (score, separator, records[0], len(records[1]) if len(records) > 1 else 0)
    return best[1:]


def _is_blank(fields: list[str]) -> bool:
    return len(fields) < 2 and not any(field.strip() for field in fields)


# --- the canonical form ------------------------------------------------------------------------


def canonical(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Return the frame as it would be read from a CSV file written from it.

    Numbers are int64 or float64, true/false is bool, all else is text without spaces around it.
    Text that reads as a number, as true/false or as missing (pandas' list: "NA", "None", ...) is.
    """
    columns = {name: _canonical_column(column, source) for name, column in frame.items()}
    return pd.DataFrame(columns)


def _canonical_column(column: pd.Series[Any], source: Source) -> pd.Series[Any]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    kind, gaps = column.dtype, bool(column.isna().any())
    if types.is_bool_dtype(kind) and not gaps:
        return column.astype(bool)
    if types.is_integer_dtype(kind) and not gaps:
        return column.astype("int64" if column.max() < 2**63 else "float64")
    if is_number(column):
        if str(kind).lower() in ("float16", "float32"):
            # As they are written: 0.1, not 0.10000000149.
            short = column.to_numpy(np.float32, na_value=np.nan).astype("U32")
            return pd.Series(short.astype(np.float64))
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan))
    try:
        codes, distinct = pd.factorize(column)
    except TypeError as error:
        raise DatasetError(
            f"the column {column.name!r} of {source.shown} holds {type(column.iloc[0]).__name__} "
            "values, and a table has one number or one text in each place; make columns of them"
        ) from error
    if len(distinct) == 0:
        return pd.Series(np.full(len(column), np.nan))
    # Only the distinct values go through text, so that long tables stay quick.
    return _reread(pd.Series(distinct), source.comma).reindex(codes).reset_index(drop=True)


def _reread(values: pd.Series[Any], comma: bool) -> pd.Series[Any]:
    """Return values as they come back from a CSV file."""
    if not types.is_datetime64_any_dtype(values.dtype):
        values = values.map(lambda value: clean(value) if isinstance(value, str) else value)
    if comma and values.map(lambda value: matches(COMMA_NUMBER, value)).all():
        values = values.str.replace(".", "").str.replace(",", ".")
    file = io.StringIO(values.to_csv(index=False, header=["value"]))
    read: pd.DataFrame = pd.read_csv(file, skip_blank_lines=False, low_memory=False, **_EXACT)
    return read["value"]


def has_decimal_commas(column: pd.Series[Any]) -> bool:
    """Return whether a column of text holds numbers with decimal commas, as in "1.234,5"."""
    if types.is_numeric_dtype(column.dtype):
        return False
    texts = [str(value) for value in column.dropna().unique()]
    return any("," in text for text in texts) and all(matches(COMMA_NUMBER, t) for t in texts)


def is_number(column: pd.Series[Any]) -> bool:
    """Return whether a column holds real numbers (true and false are none)."""
    kind = column.dtype
    real = types.is_numeric_dtype(kind) and not types.is_complex_dtype(kind)
    return real and not types.is_bool_dtype(kind)


def kind_of(column: pd.Series[Any]) -> str:
    """Return what a column holds: ``"integer"``, ``"number"``, ``"boolean"`` or ``"text"``."""
    if types.is_bool_dtype(column.dtype):
        return "boolean"
    if is_number(column):
        return "integer" if types.is_integer_dtype(column.dtype) else "number"
    return "text"


def categories(column: pd.Series[Any]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct values as sorted text, and the place of each row's value (-1: none)."""
    codes, distinct = pd.factorize(column)
    names, place = np.unique(
        np.array([str(v) for v in distinct], dtype=object), return_inverse=True
    )
    return names.tolist(), np.append(place, -1)[codes].astype(np.int64)


# --- words -------------------------------------------------------------------------------------


def clean(name: Any) -> str:
    """Return text as it is compared: composed letters (a file may have them in parts), stripped."""
    return unicodedata.normalize("NFC", str(name)).strip()


def column_names(frame: pd.DataFrame) -> list[str]:
    """Return the names of the columns as text."""
    return [str(name) for name in frame.columns]


def matches(pattern: re.Pattern[str], value: Any) -> bool:
    """Return whether the whole value, as text, is of the pattern."""
    return pattern.fullmatch(str(value)) is not None


def listed(names: Sequence[str], link: str = ", ") -> str:
    """Return names in quotes, ten at the most."""
    more = ["..."] if len(names) > 10 else []
    return link.join([repr(name) for name in names[:10]] + more)
