"""What is known of a dataset, whatever class it has: rows, task, classes, targets, columns."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from flautim_lab.errors import DatasetError, ExperimentError
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.names import count, unknown

__all__ = ["DatasetInfo", "column", "describe", "make_dataset", "tensors"]

# Where datasets keep their targets: torchvision's words, then scikit-learn's.
TARGET_ATTRIBUTES = ("targets", "labels", "y")


@dataclass(frozen=True)
class DatasetInfo:
    """What :func:`describe` found.

    Attributes
    ----------
    rows : int
        How many items the dataset has.
    task : {"classification", "regression"} or None
        None if items are no ``(x, y)`` pairs with a single number ``y``.
    classes : tuple of str or None
        Name of each class, if the dataset tells.
    n_classes : int or None
        How many numbers a classifier's output needs: one more than the largest target, or more if
        ``classes`` has more.
    targets : numpy.ndarray or None
        Shape (rows,).
    name : str
        The dataset's name, else that of its class.
    """

    rows: int
    task: str | None
    classes: tuple[str, ...] | None
    n_classes: int | None
    targets: NDArray[Any] | None
    name: str


def make_dataset(kind: type, arguments: Mapping[str, Any]) -> Any:
    """Make a dataset from its class.

    Raises
    ------
    ExperimentError
        If it cannot be made with these arguments.
    """
    try:
        return kind(**arguments)
    except ExperimentError:
        raise
    except Exception as error:
        raise ExperimentError(
            f"the dataset {kind.__name__} cannot be made with "
            f"dataset_args={dict(arguments)!r}: {type(error).__name__}: {error}"
        ) from error


def describe(dataset: Any) -> DatasetInfo:
    """Find out what a dataset holds, reading as few items as possible.

    Targets are the second tensor of a TensorDataset, or an attribute ``targets``, ``labels`` or
    ``y`` with one value per row; for Subset and ConcatDataset those of the datasets inside. Where
    there are none, where a ``target_transform`` changes them, or where they are not what the first
    item gives, each item is read, once. Whole numbers and true/false mean classification, other
    numbers regression. Targets of shape (rows, 1) count as (rows,).

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        With ``__len__`` and ``__getitem__``.

    Raises
    ------
    DatasetError
        If it has no rows to share out (an IterableDataset, no length, length 0), if an item cannot
        be read, if tensors or targets hold NaN or infinite values, or if class numbers are
        negative.
    """
    rows = _rows(dataset)
    name = _name(dataset)
    if isinstance(dataset, CSVDataset):
        n_classes = None if dataset.classes is None else len(dataset.classes)
        targets = dataset.targets.numpy()
        return DatasetInfo(rows, dataset.task, dataset.classes, n_classes, targets, name)
    if isinstance(dataset, TensorDataset):
        words = ("inputs", "target") if len(dataset.tensors) == 2 else itertools.repeat("tensors")
        for word, tensor in zip(words, dataset.tensors, strict=False):
            _check_finite(tensor, f"the {word} of {name}")
    found = _targets(dataset, rows)
    if found is None:
        return DatasetInfo(rows, None, None, None, None, name)
    _check_finite(torch.tensor(found), f"the target of {name}")
    if found.dtype.kind == "f":
        return DatasetInfo(rows, "regression", None, None, found, name)
    if found.min() < 0:
        raise DatasetError(
            f"{name} has the class number {found.min()} in row {int(found.argmin())}; number the "
            "classes from 0, or give the targets as floats if they are numbers to predict"
        )
    n_classes = int(found.max()) + 1
    classes = _classes(dataset)
    if classes is not None and len(classes) < n_classes:
        classes = None  # they name something else
    n_classes = max(n_classes, len(classes or ()))
    return DatasetInfo(rows, "classification", classes, n_classes, found, name)


def column(dataset: Any, name: str) -> NDArray[Any]:
    """Return one value per row: a column of a CSVDataset, or an attribute of another dataset.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        A Subset's column is that of the dataset inside, at its rows.
    name : str
        Of the column or attribute.

    Returns
    -------
    numpy.ndarray of shape (rows,)

    Raises
    ------
    DatasetError
        If there is none of that name with one value per row; it lists those there are.
    """
    if isinstance(dataset, CSVDataset):
        return dataset.column(name)
    if isinstance(dataset, Subset):
        return column(dataset.dataset, name)[np.asarray(dataset.indices, dtype=np.int64)]
    rows = _rows(dataset)
    values = _per_row(getattr(dataset, name, None), rows)
    if values is not None:
        return values
    others = [
        key
        for key, value in getattr(dataset, "__dict__", {}).items()
        if not key.startswith("_") and _per_row(value, rows) is not None
    ]
    if others:
        raise DatasetError(unknown(name, others, "column"))
    raise DatasetError(
        f"{_name(dataset)} has no column named {name!r}; give it an attribute {name!r} with one "
        f"value for each of its {count(rows, 'row')}, or use lab.CSVDataset"
    )


def tensors(dataset: Any) -> tuple[Tensor, Tensor] | None:
    """Return all inputs and all targets, if the dataset holds them as two tensors, else None."""
    if isinstance(dataset, CSVDataset):
        return dataset.features, dataset.targets
    # A subclass may do something else with its tensors in __getitem__.
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        return dataset.tensors[0], dataset.tensors[1]
    return None


def _rows(dataset: Any) -> int:
    if isinstance(dataset, pd.DataFrame | str | os.PathLike):
        shown = "a frame" if isinstance(dataset, pd.DataFrame) else repr(os.fspath(dataset))
        raise DatasetError(f"{shown} is no dataset; use lab.CSVDataset(..., target=...)")
    kind = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise DatasetError(
            f"{kind} is an IterableDataset, whose rows cannot be shared out to clients; give a "
            "dataset with __len__ and __getitem__"
        )
    is_map = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not is_map or isinstance(dataset, type | Mapping | Tensor | np.ndarray | tuple):
        raise DatasetError(
            f"{dataset if isinstance(dataset, type) else kind} cannot be used as a dataset; give a "
            "torch Dataset with __len__ and __getitem__, such as "
            "torch.utils.data.TensorDataset(inputs, targets)"
        )
    try:
        rows = len(dataset)
    except Exception as error:
        raise DatasetError(
            f"{kind} does not tell its length ({type(error).__name__}: {error}); correct its "
            "__len__"
        ) from error
    if rows == 0:
        raise DatasetError(f"{kind} is empty; give a dataset with rows")
    return rows


def _name(dataset: Any) -> str:
    name = getattr(dataset, "name", None)
    return name if isinstance(name, str) and name else type(dataset).__name__


def _targets(dataset: Any, rows: int) -> NDArray[Any] | None:
    """Return the target of each row, shape (rows,), or None if items have no such target."""
    if type(dataset) is TensorDataset:
        return _stored_targets(dataset, rows)
    first = _target(dataset, 0)
    if first is None:
        return None
    stored = _stored_targets(dataset, rows)
    if stored is not None:
        stored = stored.astype(first.dtype, copy=False)
        if stored[0] == first or np.isnan(first):
            return stored
    given = [first]
    for row in range(1, rows):
        target = _target(dataset, row)
        if target is None:
            return None
        given.append(target)
    return np.stack(given)


def _stored_targets(dataset: Any, rows: int) -> NDArray[Any] | None:
    """Return the targets that the dataset keeps in one place, or None."""
    if getattr(dataset, "target_transform", None) is not None:
        return None
    if type(dataset) is TensorDataset:
        return _numbers(dataset.tensors[1], rows) if len(dataset.tensors) == 2 else None
    if type(dataset) is Subset:
        inside = _stored_targets(dataset.dataset, _rows(dataset.dataset))
        return None if inside is None else inside[np.asarray(dataset.indices, dtype=np.int64)]
    if type(dataset) is ConcatDataset:
        parts = [_stored_targets(part, _rows(part)) for part in dataset.datasets]
        there = [part for part in parts if part is not None]
        return np.concatenate(there) if len(there) == len(parts) else None
    found = (_numbers(getattr(dataset, attribute, None), rows) for attribute in TARGET_ATTRIBUTES)
    return next((values for values in found if values is not None), None)


def _target(dataset: Any, row: int) -> Any:
    """Return the ``y`` of one item as a NumPy scalar, or None if it is not a single number."""
    try:
        item = dataset[row]
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(
            f"row {row} of {_name(dataset)} cannot be read ({type(error).__name__}: {error}); "
            "correct its __getitem__"
        ) from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        return None
    y = item[1]
    if isinstance(y, Tensor | np.ndarray):
        y = y.reshape(-1) if y.ndim < 2 else None
    elif isinstance(y, bool | int | float | np.number | np.bool_):
        y = [y]
    values = _numbers(y, 1)
    return None if values is None else values[0]


def _numbers(values: Any, rows: int) -> NDArray[Any] | None:
    """Return ``values`` as numbers of shape (rows,): int64 for classes, else floats; or None."""
    found = _per_row(values, rows)
    if found is None or found.dtype.kind not in "biuf":
        return None
    return found if found.dtype.kind == "f" else found.astype(np.int64)


def _per_row(values: Any, rows: int) -> NDArray[Any] | None:
    """Return ``values`` as an array of shape (rows,), or None if they are not one per row."""
    if values is None or isinstance(values, str) or not hasattr(values, "__len__"):
        return None
    try:
        found = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError):  # ragged, or not a number NumPy has (bfloat16)
        return None
    if found.shape == (rows, 1):
        found = found[:, 0]
    return found if found.shape == (rows,) else None


def _classes(dataset: Any) -> tuple[str, ...] | None:
    """Return the names of the classes, where the dataset has them as torchvision's do."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    classes = getattr(dataset, "classes", None)
    return tuple(str(c) for c in classes) if isinstance(classes, list | tuple) else None


def _check_finite(values: Tensor, what: str) -> None:
    if not values.is_floating_point():
        return
    bad = ~torch.isfinite(values)
    if bad.ndim > 1:
        bad = bad.flatten(1).any(dim=1)
    if bad.any():
        row = int(bad.int().argmax())
        kind = "NaN" if values[row].isnan().any() else "an infinite value"
        raise DatasetError(
            f"there is {kind} in {what} ({count(int(bad.sum()), 'row')}, first in row {row} "
            "counted from 0); fill such values in, or leave those rows out"
        )
