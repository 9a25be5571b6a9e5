"""Tables: a CSV file or a pandas frame as features and targets for PyTorch.

A table is brought to one canonical form first (:func:`_canonical`), so that a frame and the CSV
file written from it give the same tensors and the same hash.
"""

from __future__ import annotations

import csv
import difflib
import functools
import hashlib
import io
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pandas.api import types
from torch import Tensor
from torch.utils.data import Dataset

from flautim_lab.errors import DatasetError
from flautim_lab.names import check_name, choose, count, unknown

__all__ = ["CSVDataset"]

TASKS = ("classification", "regression")
MISSING = ("refuse", "drop", "mean")
MAX_CLASSES = 20  # an integer target with more distinct values is a number to predict
MAX_CATEGORIES = 1000  # a text column with more would make the table too wide
ID_CATEGORIES = 50  # a text column with more, in most rows another, names rows

_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2}(\d{2})?)([T ].*)?|\d+ days.*"
)
# 1.234.567,89 as in Brazil; the dots are optional, but a group of three never starts with 0.
_COMMA_NUMBER = re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+)(,\d+)?(e[+-]?\d+)?", re.IGNORECASE)
_ROW_NUMBER = re.compile(r"unnamed: \d+|id|index|row", re.IGNORECASE)
# Older releases read decimals a last bit off unless told; newer ones are exact and warn.
_OLD = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if _OLD else {}


class CSVDataset(Dataset[tuple[Tensor, Tensor]]):
    """A table as a dataset: one row, one example.

    Types are inferred. Numbers become one feature each; text and true/false become one feature per
    category ("one-hot", categories in alphabetical order, named ``column=value``). Files may be
    separated by commas, semicolons, tabs or ``|``, have decimal commas (where the separator is not
    a comma), and be UTF-8 (with or without a byte-order mark), UTF-16 or Windows-1252.

    Parameters
    ----------
    data : str, path or pandas.DataFrame
        A CSV file with a header line, or a frame (its index is ignored).
    target : str
        The column to predict.
    task : {"classification", "regression"}, optional
        By default: classification if the target is text or true/false, or whole numbers of at most
        20 distinct values that each occur twice on average; else regression.
    standardize : {"federated", "client", None}
        How training scales the numbers: with means and deviations that all clients add up in round
        0 (sums alone leave a client), with each client's own, or not at all. ``features`` are raw.
    missing : {"refuse", "drop", "mean"}
        What a missing value does: it is an error, its row is left out, or it becomes the mean that
        standardization finds (a missing category: all its features are 0). A missing target is an
        error unless ``"drop"``.
    ignore : sequence of str
        Columns that are no features. They stay in ``frame``, for ``lab.by_column``.
    name : str, optional
        By default the file's name without its ending, or "table".

    Attributes
    ----------
    features : Tensor of float32, shape (rows, n_features)
        Not standardized; NaN where a number is missing (``missing="mean"`` only).
    targets : Tensor of int64 or float32, shape (rows,)
        Class numbers, or the values in their own unit (regression targets are not scaled).
    feature_names : tuple of str
        Name of each feature.
    numeric : Tensor of bool, shape (n_features,)
        Which features are numbers, to be standardized; the others are categories.
    classes : tuple of str or None
        Name of each class number: numbers by size, text by alphabet. None for regression.
    frame : pandas.DataFrame
        The rows kept, all columns. Not to be changed.
    dropped : int
        How many rows ``missing="drop"`` left out.

    Raises
    ------
    DatasetError
        If the table cannot be used as it is: one sentence that names the column, the line and the
        next step.

    Examples
    --------
    >>> iris = CSVDataset("iris.csv", target="species")  # doctest: +SKIP
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | pd.DataFrame,
        *,
        target: str,
        task: str | None = None,
        standardize: str | None = "federated",
        missing: str = "refuse",
        ignore: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        self.missing = choose(missing, MISSING, "way to treat missing values", DatasetError)
        self.standardize = _check_standardize(standardize, missing)
        if task is not None:
            choose(task, TASKS, "task", DatasetError)
        frame, source = _read(data)
        self.name = source.name if name is None else check_name(name, "dataset")
        self._path = source.path
        self.target, self.ignore = _check_columns(frame, source, target, ignore)

        used = [column for column in frame if column not in self.ignore]
        kept = _rows_to_keep(frame[used], source, self.target, missing)
        self.dropped = int((~kept).sum())
        if self.dropped:
            whole_numbers = _gaps_in_whole_numbers(frame[self.target])
            # What is left may read differently: text may be numbers once a row is gone.
            frame = _canonical(frame[kept].reset_index(drop=True), source)
            source = replace(source, rows=np.flatnonzero(kept))
            if whole_numbers:
                frame[self.target] = frame[self.target].astype("int64")
        self.frame = frame

        values = frame[self.target]
        _check_values(values, source, "target")
        self.task: str = task or _infer_task(values)
        self.classes: tuple[str, ...] | None = None
        if self.task == "classification":
            self.classes, self.targets = _encode_classes(values, source)
        else:
            self.targets = _encode_numbers(values, source)
        features = [column for column in used if column != self.target]
        if not features:
            raise DatasetError(
                f"{source.shown} has no feature left beside the target {self.target!r}; "
                "ignore fewer columns, or add one"
            )
        self.feature_names, self.features, self.numeric = _encode_features(frame[features], source)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.targets[index]

    def __repr__(self) -> str:
        kind = self.task if self.classes is None else f"{self.task}, {len(self.classes)} classes"
        return (
            f"CSVDataset {self.name!r}: {count(len(self), 'row')}, "
            f"{count(len(self.feature_names), 'feature')}, target {self.target!r} ({kind})"
        )

    def column(self, name: str) -> NDArray[Any]:
        """Return the raw values of a column, shape (rows,); DatasetError if there is none."""
        name = choose(_clean(name), _names(self.frame), "column", DatasetError)
        return self.frame[name].to_numpy()

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of ``frame``: column names and values in order, whatever file or frame it was.

        Numbers count as float64 (1 and 1.0 are alike), all else as its sorted categories and the
        place of each row among them; missing values are alike. Separator, decimal sign, encoding
        and rows that were dropped do not count.
        """
        digest = hashlib.sha256(json.dumps([len(self.frame), *self.frame]).encode())
        for column in (self.frame[name] for name in self.frame):
            if _is_number(column):
                values = column.to_numpy()
                widened = values.astype("<f8")
                exact = values.dtype.kind == "f" or np.array_equal(widened.astype("i8"), values)
                widened[np.isnan(widened)] = np.nan  # one bit pattern for all
                digest.update((widened if exact else values.astype("<i8")).tobytes())
            else:
                categories, codes = _categories(column)
                digest.update(json.dumps(categories).encode() + codes.astype("<i8").tobytes())
        return digest.hexdigest()

    def settings(self) -> dict[str, Any]:
        """Return what makes this dataset again, ready for JSON: the arguments and the hash.

        ``path`` is absolute, or None if it was made from a frame; ``sha256`` is that of
        :attr:`sha256`, ``rows`` the number of rows kept; the rest are arguments of this class.
        """
        return {
            "path": None if self._path is None else os.path.abspath(self._path),
            "sha256": self.sha256,
            "rows": len(self),
            "target": self.target,
            "task": self.task,
            "standardize": self.standardize,
            "missing": self.missing,
            "ignore": list(self.ignore),
            "name": self.name,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the rows kept as CSV (UTF-8, commas); with the same arguments they read alike."""
        try:
            self.frame.to_csv(path, index=False, encoding="utf-8")
        except OSError as error:
            raise DatasetError(
                f"{os.fspath(path)} cannot be written ({error.strerror or error}); "
                "choose a folder that exists and is yours"
            ) from error


# --- reading ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
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


def _read(data: Any) -> tuple[pd.DataFrame, _Source]:
    """Return the table in its canonical form, all rows and columns."""
    if isinstance(data, pd.DataFrame):
        source = _Source("the frame", "table")
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
    names = [_clean(name) or f"Unnamed: {place}" for place, name in enumerate(header)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(
            f"{source.shown} has more than one column named {_listed(twice)}; "
            "give each column a name of its own"
        )
    if frame.empty:
        raise DatasetError(f"{source.shown} has no rows; add them below the names of the columns")
    return _canonical(frame.set_axis(names, axis=1), source), source


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
        hint = f"did you mean {_listed(close, ' or ')}?"
    elif tables:
        hint = f"that folder has {_listed(tables)}"
    else:
        hint = "that folder has no CSV file"
    raise DatasetError(f"there is no file {path.name!r} in {folder}; {hint}")


def _read_file(path: Path) -> tuple[pd.DataFrame, list[str], _Source]:
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
    source = _Source(path.name, path.stem, path, encoding, separator)
    try:
        frame = pd.read_csv(path, **options)
        if separator != "," and any(_has_decimal_commas(column) for _, column in frame.items()):
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


def _canonical(frame: pd.DataFrame, source: _Source) -> pd.DataFrame:
    """Return the frame as it would be read from a CSV file written from it.

    Numbers are int64 or float64, true/false is bool, all else is text without spaces around it.
    Text that reads as a number, as true/false or as missing (pandas' list: "NA", "None", ...) is.
    """
    columns = {name: _canonical_column(column, source) for name, column in frame.items()}
    return pd.DataFrame(columns)


def _canonical_column(column: pd.Series[Any], source: _Source) -> pd.Series[Any]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    kind, gaps = column.dtype, bool(column.isna().any())
    if types.is_bool_dtype(kind) and not gaps:
        return column.astype(bool)
    if types.is_integer_dtype(kind) and not gaps:
        return column.astype("int64" if column.max() < 2**63 else "float64")
    if _is_number(column):
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
        values = values.map(lambda value: _clean(value) if isinstance(value, str) else value)
    if comma and values.map(lambda value: _matches(_COMMA_NUMBER, value)).all():
        values = values.str.replace(".", "").str.replace(",", ".")
    file = io.StringIO(values.to_csv(index=False, header=["value"]))
    read: pd.DataFrame = pd.read_csv(file, skip_blank_lines=False, low_memory=False, **_EXACT)
    return read["value"]


def _has_decimal_commas(column: pd.Series[Any]) -> bool:
    if types.is_numeric_dtype(column.dtype):
        return False
    texts = [str(value) for value in column.dropna().unique()]
    return any("," in text for text in texts) and all(_matches(_COMMA_NUMBER, t) for t in texts)


def _is_number(column: pd.Series[Any]) -> bool:
    kind = column.dtype
    real = types.is_numeric_dtype(kind) and not types.is_complex_dtype(kind)
    return real and not types.is_bool_dtype(kind)


def _categories(column: pd.Series[Any]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct values as sorted text, and the place of each row's value (-1: none)."""
    codes, distinct = pd.factorize(column)
    names, place = np.unique(
        np.array([str(v) for v in distinct], dtype=object), return_inverse=True
    )
    return names.tolist(), np.append(place, -1)[codes].astype(np.int64)


# --- checks ------------------------------------------------------------------------------------


def _check_standardize(standardize: Any, missing: str) -> str | None:
    choices = "'federated' (the default), 'client' or None"
    if standardize is True or standardize in ("global", "all"):
        raise DatasetError(
            f"standardize={standardize!r} is refused, since a fit over several institutions' rows "
            f"would need the rows in one place; choose {choices}"
        )
    if standardize is not None and standardize not in ("federated", "client"):
        raise DatasetError(f"standardize={standardize!r} is not known; choose {choices}")
    if standardize is None and missing == "mean":
        raise DatasetError(
            "missing='mean' takes the mean that standardization finds, and standardize=None finds "
            "none; choose standardize='federated' or 'client', or missing='drop'"
        )
    return None if standardize is None else str(standardize)


def _check_columns(
    frame: pd.DataFrame, source: _Source, target: Any, ignore: Any
) -> tuple[str, tuple[str, ...]]:
    target = _clean(target)
    if target not in frame:
        sentence = unknown(target, _names(frame), "column")
        numbers = [name for name in _names(frame) if re.fullmatch(r"-?\d+\.\d+(\.\d)?", name)]
        if source.path and len(numbers) > 1:
            sentence += f" (is the header line of {source.shown} missing?)"
        raise DatasetError(sentence)
    if isinstance(ignore, str) or not isinstance(ignore, Sequence):
        raise DatasetError(
            f"ignore must be a list of columns, for example ignore=['id'], not {ignore!r}"
        )
    ignored = tuple(choose(_clean(name), _names(frame), "column", DatasetError) for name in ignore)
    if target in ignored:
        raise DatasetError(f"the target {target!r} cannot be ignored; take it out of ignore")
    return target, ignored


def _rows_to_keep(
    frame: pd.DataFrame, source: _Source, target: str, missing: str
) -> NDArray[np.bool_]:
    """Return which rows are kept, or raise for values that are missing."""
    gaps = frame.isna().to_numpy()
    gaps_of = dict(zip(_names(frame), gaps.T, strict=True))
    empty = [name for name, gap in gaps_of.items() if gap.all()]
    if empty:
        raise DatasetError(
            f"{source.shown} has no value at all in {_listed(empty)}; leave that out with "
            f"ignore={empty!r}"
        )
    found = {name: source.where(gap) for name, gap in gaps_of.items() if gap.any()}
    if target in found and missing != "drop":
        raise DatasetError(
            f"the target {target!r} of {source.shown} is missing in {found[target]}; fill it in, "
            "or leave such rows out with missing='drop'"
        )
    if found and missing == "refuse":
        shown = [f"{name!r} ({where})" for name, where in itertools.islice(found.items(), 5)]
        more = f" and {count(len(found) - 5, 'more column')}" if len(found) > 5 else ""
        raise DatasetError(
            f"{source.shown} has missing values in {', '.join(shown)}{more}; fill them in, or say "
            "missing='drop' or missing='mean'"
        )
    kept: NDArray[np.bool_] = np.ones(len(frame), dtype=bool)
    if missing == "drop":
        kept = np.logical_not(gaps.any(axis=1))
    if not kept.any():
        raise DatasetError(
            f"every row of {source.shown} has a missing value, so missing='drop' leaves none; "
            "leave columns out with ignore, or say missing='mean'"
        )
    return kept


def _check_values(column: pd.Series[Any], source: _Source, role: str) -> None:
    """Refuse dates, ids and numbers spoilt by some text, which would quietly become categories."""
    name, rows = str(column.name), len(column)
    what, is_target = f"the {role} {name!r} of {source.shown}", role == "target"
    leave = "choose another target" if is_target else f"leave it out with ignore=[{name!r}]"
    if _is_number(column):
        if not is_target and _ROW_NUMBER.fullmatch(name) and column.is_unique:
            raise DatasetError(
                f"{what} numbers the rows, which a model would learn by heart; {leave}, or rename "
                "it if it is a measure"
            )
        return
    texts, codes = _categories(column)
    if all(_matches(_DATE, text) for text in texts):
        raise DatasetError(
            f"{what} holds dates ({texts[0]!r}), and a model needs numbers; make numbers of them, "
            f"such as days since the first one, or {leave}"
        )
    odd = [i for i, text in enumerate(texts) if not _matches(_COMMA_NUMBER, text.replace(".", ","))]
    if len(texts) - len(odd) > MAX_CLASSES:
        found = f"numbers with a decimal comma, such as {texts[-1]!r}"
        if odd:
            found = f"numbers, but also {texts[odd[0]]!r} ({source.where(np.isin(codes, odd))})"
        raise DatasetError(
            f"{what} holds {found}; correct that, or read it with pandas.read_csv (na_values, "
            f"decimal) and give the frame, or {leave}"
        )
    if len(texts) > ID_CATEGORIES and 2 * len(texts) > rows:
        raise DatasetError(
            f"{what} has {len(texts)} different texts in {rows} rows, as names and ids have; "
            f"{leave}"
        )
    if len(texts) > MAX_CATEGORIES and not is_target:
        raise DatasetError(
            f"{what} has {len(texts)} categories, each of which would be a feature; group them "
            f"into at most {MAX_CATEGORIES}, or {leave}"
        )


# --- encoding ----------------------------------------------------------------------------------


def _gaps_in_whole_numbers(column: pd.Series[Any]) -> bool:
    """Whether whole numbers were read as floats only because some are missing."""
    values = column.dropna()
    if not _is_number(column) or len(values) == len(column):
        return False
    return bool(((values % 1 == 0) & (values.abs() < 2**53)).all())


def _infer_task(values: pd.Series[Any]) -> str:
    if _is_number(values):
        distinct = values.nunique()
        few = distinct <= MAX_CLASSES and 2 * distinct <= len(values)
        return "classification" if types.is_integer_dtype(values.dtype) and few else "regression"
    return "classification"


def _encode_classes(values: pd.Series[Any], source: _Source) -> tuple[tuple[str, ...], Tensor]:
    """Return the name of each class, and the class number of each row."""
    if _is_number(values):
        _encode_numbers(values, source)  # refuses infinite ones
        numbers, codes = np.unique(values.to_numpy(), return_inverse=True)
        classes = [str(int(n)) if n == int(n) else str(n) for n in numbers.tolist()]
    else:
        classes, codes = _categories(values)
    if len(classes) == 1:
        raise DatasetError(
            f"the target {values.name!r} of {source.shown} holds one class only ({classes[0]!r}); "
            "a classifier needs at least two"
        )
    if len(classes) > ID_CATEGORIES and 2 * len(classes) > len(values):
        raise DatasetError(
            f"the target {values.name!r} of {source.shown} has {len(classes)} different values in "
            f"{len(values)} rows, which are no classes; say task='regression'"
        )
    return tuple(classes), torch.from_numpy(codes.astype(np.int64))


def _encode_numbers(values: pd.Series[Any], source: _Source) -> Tensor:
    """Return numbers as float32; refuse text and what float32 cannot hold."""
    if not _is_number(values) and not types.is_bool_dtype(values.dtype):
        raise DatasetError(
            f"the target {values.name!r} of {source.shown} holds text ({values.iloc[0]!r}), which "
            "is no number to predict; say task='classification', or choose another target"
        )
    with np.errstate(over="ignore"):
        numbers = values.to_numpy(np.float32)
    if (infinite := np.isinf(numbers)).any():
        raise DatasetError(
            f"{values.name!r} of {source.shown} is infinite or beyond 3.4e38 in "
            f"{source.where(infinite)}; correct the value"
        )
    return torch.from_numpy(numbers)


def _encode_features(
    frame: pd.DataFrame, source: _Source
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Return names (n_features,), values (rows, n_features) and which of them are numbers."""
    names: list[str] = []
    numeric: list[bool] = []
    blocks: list[Tensor] = []
    for name, column in frame.items():
        _check_values(column, source, "column")
        if _is_number(column):
            names.append(str(name))
            numeric.append(True)
            blocks.append(_encode_numbers(column, source).unsqueeze(1))
        else:
            categories, codes = _categories(column)
            names += [f"{name}={category}" for category in categories]
            numeric += [False] * len(categories)
            # The row that is asked for by -1, a missing category, is the last one: zeros.
            one_hot = torch.eye(len(categories) + 1)[:, :-1]
            blocks.append(one_hot[torch.from_numpy(codes)])
    return tuple(names), torch.cat(blocks, dim=1), torch.tensor(numeric)


# --- text --------------------------------------------------------------------------------------


def _clean(name: Any) -> str:
    """Return text as it is compared: composed letters (a file may have them in parts), stripped."""
    return unicodedata.normalize("NFC", str(name)).strip()


def _names(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name in frame.columns]


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return pattern.fullmatch(str(value)) is not None


def _listed(names: Sequence[str], link: str = ", ") -> str:
    more = ["..."] if len(names) > 10 else []
    return link.join([repr(name) for name in names[:10]] + more)
