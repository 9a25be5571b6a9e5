"""Tables: a CSV file or a pandas frame as features and targets for PyTorch.

A table is brought to one canonical form first (``table.py``), so that a frame and the CSV
file written from it give the same tensors and the same hash.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pandas.api import types
from torch import Tensor
from torch.utils.data import Dataset

from flautim_lab.errors import DatasetError
from flautim_lab.experiment.table import (
    COMMA_NUMBER,
    Source,
    canonical,
    categories,
    clean,
    column_names,
    is_number,
    listed,
    matches,
    read_table,
)
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
_ROW_NUMBER = re.compile(r"unnamed: \d+|id|index|row", re.IGNORECASE)


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
        The column to predict; it must be given.
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
        target: str | None = None,
        *,
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
        frame, source = read_table(data)
        self.name = source.name if name is None else check_name(name, "dataset")
        self._path = source.path
        self.target, self.ignore = _check_columns(frame, source, target, ignore)

        used = [column for column in frame if column not in self.ignore]
        kept = _rows_to_keep(frame[used], source, self.target, missing)
        self.dropped = int((~kept).sum())
        if self.dropped:
            whole_numbers = _gaps_in_whole_numbers(frame[self.target])
            # What is left may read differently: text may be numbers once a row is gone.
            frame = canonical(frame[kept].reset_index(drop=True), source)
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
        name = choose(clean(name), column_names(self.frame), "column", DatasetError)
        return self.frame[name].to_numpy()

    def encode(self, frame: pd.DataFrame) -> Tensor:
        """Return other rows as features, encoded as this table's own are.

        Parameters
        ----------
        frame : DataFrame
            Rows with the columns of this table that are features; others are ignored.

        Returns
        -------
        Tensor
            float32, (rows, features), in their own units.

        Raises
        ------
        DatasetError
            If a column is missing, is no number where this table has numbers, or holds a category
            that this table does not have.
        """
        rows, source = read_table(frame)
        blocks = []
        for name in self.frame:
            if name == self.target or name in self.ignore:
                continue
            if name not in rows:
                raise DatasetError(unknown(name, column_names(rows), "column"))
            own, column = self.frame[name], rows[name]
            if column.isna().any() and self.missing != "mean":
                raise DatasetError(f"column {name!r} has missing values; fill them first")
            if is_number(own):
                if not is_number(column) and not column.isna().all():
                    raise DatasetError(f"column {name!r} holds text, and numbers are wanted")
                blocks.append(_encode_numbers(column.astype("float64"), source).unsqueeze(1))
                continue
            known = {category: place for place, category in enumerate(categories(own)[0])}
            texts = [None if pd.isna(value) else str(value) for value in column]
            for text in texts:
                if text is not None:
                    choose(text, known, f"category of {name!r}", DatasetError)
            codes = [-1 if text is None else known[text] for text in texts]
            blocks.append(torch.eye(len(known) + 1)[:, :-1][torch.tensor(codes)])
        return torch.cat(blocks, dim=1)

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of ``frame``: column names and values in order, whatever file or frame it was.

        Numbers count as float64 (1 and 1.0 are alike), all else as its sorted categories and the
        place of each row among them; missing values are alike. Separator, decimal sign, encoding
        and rows that were dropped do not count.
        """
        digest = hashlib.sha256(json.dumps([len(self.frame), *self.frame]).encode())
        for column in (self.frame[name] for name in self.frame):
            if is_number(column):
                values = column.to_numpy()
                widened = values.astype("<f8")
                exact = values.dtype.kind == "f" or np.array_equal(widened.astype("i8"), values)
                widened[np.isnan(widened)] = np.nan  # one bit pattern for all
                digest.update((widened if exact else values.astype("<i8")).tobytes())
            else:
                distinct, codes = categories(column)
                digest.update(json.dumps(distinct).encode() + codes.astype("<i8").tobytes())
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
    frame: pd.DataFrame, source: Source, target: Any, ignore: Any
) -> tuple[str, tuple[str, ...]]:
    if target is None:
        names = column_names(frame)
        raise DatasetError(
            f"say which column to predict, for example target={names[-1]!r}; "
            f"the columns are: {', '.join(names)}"
        )
    target = clean(target)
    if target not in frame:
        sentence = unknown(target, column_names(frame), "column")
        numbers = [name for name in column_names(frame) if re.fullmatch(r"-?\d+\.\d+(\.\d)?", name)]
        if source.path and len(numbers) > 1:
            sentence += f" (is the header line of {source.shown} missing?)"
        raise DatasetError(sentence)
    if isinstance(ignore, str) or not isinstance(ignore, Sequence):
        raise DatasetError(
            f"ignore must be a list of columns, for example ignore=['id'], not {ignore!r}"
        )
    ignored = tuple(
        choose(clean(name), column_names(frame), "column", DatasetError) for name in ignore
    )
    if target in ignored:
        raise DatasetError(f"the target {target!r} cannot be ignored; take it out of ignore")
    return target, ignored


def _rows_to_keep(
    frame: pd.DataFrame, source: Source, target: str, missing: str
) -> NDArray[np.bool_]:
    """Return which rows are kept, or raise for values that are missing."""
    gaps = frame.isna().to_numpy()
    gaps_of = dict(zip(column_names(frame), gaps.T, strict=True))
    empty = [name for name, gap in gaps_of.items() if gap.all()]
    if target in empty:
        raise DatasetError(
            f"the target {target!r} of {source.shown} has no value at all; fill it in, or choose "
            "another column to predict"
        )
    if empty:
        raise DatasetError(
            f"{source.shown} has no value at all in {listed(empty)}; leave that out with "
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


def _check_values(column: pd.Series[Any], source: Source, role: str) -> None:
    """Refuse dates, ids and numbers spoilt by some text, which would quietly become categories."""
    name, rows = str(column.name), len(column)
    what, is_target = f"the {role} {name!r} of {source.shown}", role == "target"
    leave = "choose another target" if is_target else f"leave it out with ignore=[{name!r}]"
    if is_number(column):
        if not is_target and _ROW_NUMBER.fullmatch(name) and column.is_unique:
            raise DatasetError(
                f"{what} numbers the rows, which a model would learn by heart; {leave}, or rename "
                "it if it is a measure"
            )
        return
    texts, codes = categories(column)
    if all(matches(_DATE, text) for text in texts):
        raise DatasetError(
            f"{what} holds dates ({texts[0]!r}), and a model needs numbers; make numbers of them, "
            f"such as days since the first one, or {leave}"
        )
    odd = [i for i, text in enumerate(texts) if not matches(COMMA_NUMBER, text.replace(".", ","))]
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
    if not is_number(column) or len(values) == len(column):
        return False
    return bool(((values % 1 == 0) & (values.abs() < 2**53)).all())


def _infer_task(values: pd.Series[Any]) -> str:
    if is_number(values):
        distinct = values.nunique()
        few = distinct <= MAX_CLASSES and 2 * distinct <= len(values)
        return "classification" if types.is_integer_dtype(values.dtype) and few else "regression"
    return "classification"


def _encode_classes(values: pd.Series[Any], source: Source) -> tuple[tuple[str, ...], Tensor]:
    """Return the name of each class, and the class number of each row."""
    if is_number(values):
        _encode_numbers(values, source)  # refuses infinite ones
        numbers, codes = np.unique(values.to_numpy(), return_inverse=True)
        classes = [str(int(n)) if n == int(n) else str(n) for n in numbers.tolist()]
    else:
        classes, codes = categories(values)
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


def _encode_numbers(values: pd.Series[Any], source: Source) -> Tensor:
    """Return numbers as float32; refuse text and what float32 cannot hold."""
    if not is_number(values) and not types.is_bool_dtype(values.dtype):
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


def _encode_features(frame: pd.DataFrame, source: Source) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Return names (n_features,), values (rows, n_features) and which of them are numbers."""
    names: list[str] = []
    numeric: list[bool] = []
    blocks: list[Tensor] = []
    for name, column in frame.items():
        _check_values(column, source, "column")
        if is_number(column):
            names.append(str(name))
            numeric.append(True)
            blocks.append(_encode_numbers(column, source).unsqueeze(1))
        else:
            distinct, codes = categories(column)
            names += [f"{name}={category}" for category in distinct]
            numeric += [False] * len(distinct)
            # The row that is asked for by -1, a missing category, is the last one: zeros.
            one_hot = torch.eye(len(distinct) + 1)[:, :-1]
            blocks.append(one_hot[torch.from_numpy(codes)])
    return tuple(names), torch.cat(blocks, dim=1), torch.tensor(numeric)
