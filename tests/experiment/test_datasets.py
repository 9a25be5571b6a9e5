"""describe, column and tensors: any dataset, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from flautim_lab.errors import DatasetError
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.datasets import column, describe, tensors


class Items(Dataset[Any]):
    """Gives the items it was given, and counts how often it was asked."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self._items = items
        self._asked: list[int] = []
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        self._asked.append(index)
        item = self._items[index]
        if isinstance(item, Exception):
            raise item
        return item


def pairs(targets: list[Any]) -> list[Any]:
    return [(torch.zeros(2), target) for target in targets]


def refusal(dataset: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        describe(dataset)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- describe -------------------------------------------------------------------------------------


def test_a_csv_dataset() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": ["b", "a", "b"]})
    info = describe(CSVDataset(frame, target="y", name="letters"))
    assert (info.rows, info.task, info.classes, info.n_classes, info.name) == (
        3, "classification", ("a", "b"), 2, "letters",
    )  # fmt: skip
    assert info.targets is not None
    assert info.targets.tolist() == [1, 0, 1]
    info = describe(CSVDataset(frame, target="x"))
    assert (info.task, info.classes, info.n_classes) == ("regression", None, None)


def test_a_tensor_dataset() -> None:
    x = torch.zeros(4, 3)
    info = describe(TensorDataset(x, torch.tensor([0, 2, 1, 0])))
    assert (info.rows, info.task, info.n_classes, info.classes) == (4, "classification", 3, None)
    assert info.name == "TensorDataset"
    info = describe(TensorDataset(x, torch.tensor([0.5, 2, 1, 0])))
    assert (info.task, info.n_classes) == ("regression", None)
    info = describe(TensorDataset(x, torch.tensor([[0.5], [2], [1], [0]])))
    assert info.task == "regression"
    assert info.targets is not None
    assert info.targets.shape == (4,)
    assert describe(TensorDataset(x, torch.tensor([True, False, True, True]))).n_classes == 2


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(torch.zeros(4, 3)),
        TensorDataset(torch.zeros(4, 3), torch.zeros(4, 2)),
        TensorDataset(torch.zeros(4, 3), torch.zeros(4), torch.zeros(4)),
        Items([torch.zeros(2)] * 3),
        Items([{"x": 1, "y": 0}] * 3),
        Items([(torch.zeros(2), torch.zeros(5))] * 3),
        Items([(torch.zeros(2), "rose")] * 3),
        Items([(torch.zeros(2), [1, [2]])] * 3),
        Items([(1, 2, 3)] * 3),
        Items([(torch.zeros(2), 1), (torch.zeros(2), "rose")]),
        [1, 2, 3],
    ],
)
def test_datasets_without_a_number_to_predict(dataset: Any) -> None:
    info = describe(dataset)
    assert info.rows == len(dataset)
    assert (info.task, info.targets, info.n_classes) == (None, None, None)


@pytest.mark.parametrize("attribute", ["targets", "labels", "y"])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_targets_that_are_kept_spare_reading_the_items(attribute: str, kind: Any) -> None:
    dataset = Items(pairs([0, 1, 2, 1]), **{attribute: kind([0, 1, 2, 1])})
    info = describe(dataset)
    assert info.targets is not None
    assert info.targets.tolist() == [0, 1, 2, 1]
    assert (info.task, info.n_classes) == ("classification", 3)
    assert dataset._asked == [0]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"targets": [5, 5, 5]},  # another length
        {"targets": [3, 4, 5, 3]},  # not what items give
        {"targets": [0, 9, 9, 9], "target_transform": lambda target: target % 2},
        {"targets": "0121"},
        {"labels": ["a", "b", "c", "b"]},
    ],
)
def test_items_are_read_once_where_targets_cannot_be_trusted(attributes: dict[str, Any]) -> None:
    dataset = Items(pairs([0, 1, 2, 1]), **attributes)
    info = describe(dataset)
    assert info.targets is not None
    assert info.targets.tolist() == [0, 1, 2, 1]
    assert dataset._asked == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("targets", "task", "dtype"),
    [
        ([0, 1], "classification", np.int64),
        ([True, False], "classification", np.int64),
        ([np.uint8(3), np.uint8(0)], "classification", np.int64),
        ([torch.tensor(3), torch.tensor([0])], "classification", np.int64),
        ([np.array(1), np.array([0])], "classification", np.int64),
        ([0.5, 1.5], "regression", np.float64),
        ([np.float32(0.5), np.float32(1)], "regression", np.float32),
        ([torch.tensor(0.5), torch.tensor([1.0], requires_grad=True)], "regression", np.float32),
    ],
)
def test_what_items_give(targets: list[Any], task: str, dtype: Any) -> None:
    info = describe(Items(pairs(targets)))
    assert info.task == task
    assert info.targets is not None
    assert info.targets.dtype == dtype
    expected = [target.item() if hasattr(target, "item") else target for target in targets]
    assert info.targets.tolist() == expected


def test_float_targets_that_are_kept_as_python_numbers_are_trusted() -> None:
    dataset = Items(pairs([torch.tensor(0.1), torch.tensor(0.2)]), targets=[0.1, 0.2])
    assert describe(dataset).task == "regression"
    assert dataset._asked == [0]


def test_parts_and_unions_use_the_targets_inside() -> None:
    inside = Items(pairs([0, 1, 2, 1]), targets=[0, 1, 2, 1], classes=["a", "b", "c"])
    info = describe(Subset(inside, [3, 1]))
    assert info.targets is not None
    assert info.targets.tolist() == [1, 1]
    assert info.classes == ("a", "b", "c")
    assert info.n_classes == 3
    assert inside._asked == [3]
    info = describe(ConcatDataset([inside, Subset(inside, [2])]))
    assert info.targets is not None
    assert info.targets.tolist() == [0, 1, 2, 1, 2]
    plain = Items(pairs([0, 1, 2, 1]))
    info = describe(Subset(plain, [3, 1]))
    assert info.targets is not None
    assert info.targets.tolist() == [1, 1]
    assert plain._asked == [3, 1]


def test_names_of_classes() -> None:
    assert describe(Items(pairs([0, 1]), classes=["a", "b", "c"])).n_classes == 3
    info = describe(Items(pairs([0, 5]), classes=["a", "b"]))  # too few names: of something else
    assert (info.classes, info.n_classes) == (None, 6)


def test_the_name_of_a_dataset() -> None:
    assert describe(Items(pairs([0, 1]), name="telemetry")).name == "telemetry"
    assert describe(Items(pairs([0, 1]), name=3)).name == "Items"


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield 1


class NoLength(Dataset[Any]):
    def __getitem__(self, index: int) -> int:
        return index


class BadLength(NoLength):
    def __len__(self) -> int:
        raise ValueError("not opened")


NO_DATASET = (
    " cannot be used as a dataset; give a torch Dataset with __len__ and __getitem__, such as "
    "torch.utils.data.TensorDataset(inputs, targets)"
)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            Stream(),
            "Stream is an IterableDataset, whose rows cannot be shared out to clients; give a "
            "dataset with __len__ and __getitem__",
        ),
        (NoLength(), "NoLength" + NO_DATASET),
        (
            BadLength(),
            "BadLength does not tell its length (ValueError: not opened); correct its __len__",
        ),
        (None, "NoneType" + NO_DATASET),
        ({"x": 1}, "dict" + NO_DATASET),
        (torch.zeros(3), "Tensor" + NO_DATASET),
        (np.zeros(3), "ndarray" + NO_DATASET),
        (Items([]), "Items is empty; give a dataset with rows"),
        (pd.DataFrame({"x": [1]}), "a frame is no dataset; use lab.CSVDataset(..., target=...)"),
        ("iris.csv", "'iris.csv' is no dataset; use lab.CSVDataset(..., target=...)"),
        (Path("iris.csv"), "'iris.csv' is no dataset; use lab.CSVDataset(..., target=...)"),
        (
            Items([*pairs([0, 1]), KeyError("image 3"), *pairs([1])]),
            "row 2 of Items cannot be read (KeyError: 'image 3'); correct its __getitem__",
        ),
        (
            Items([ValueError("no such file")], targets=[0]),
            "row 0 of Items cannot be read (ValueError: no such file); correct its __getitem__",
        ),
        (
            Items(pairs([1, -1, 1])),
            "Items has the class number -1 in row 1; number the classes from 0, or give the "
            "targets as floats if they are numbers to predict",
        ),
        (
            Items(pairs([0.5, float("nan"), float("nan")])),
            "there is NaN in the target of Items (2 rows, first in row 1 counted "
            "from 0); fill such values in, or leave those rows out",
        ),
        (
            TensorDataset(torch.zeros(3, 2), torch.tensor([0.5, 1, float("inf")])),
            "there is an infinite value in the target of TensorDataset (1 row, first in row 2 "
            "counted from 0); fill such values in, or leave those rows out",
        ),
        (
            TensorDataset(torch.tensor([[[0.0, 1]], [[float("nan"), 1]]]), torch.tensor([0, 1])),
            "there is NaN in the inputs of TensorDataset (1 row, first in row 1 counted "
            "from 0); fill such values in, or leave those rows out",
        ),
        (
            TensorDataset(torch.tensor([float("nan"), 1.0])),
            "there is NaN in the tensors of TensorDataset (1 row, first in row 0 counted "
            "from 0); fill such values in, or leave those rows out",
        ),
    ],
)
def test_datasets_that_are_refused(dataset: Any, message: str) -> None:
    assert refusal(dataset) == message


def test_the_error_of_the_dataset_stays_attached() -> None:
    with pytest.raises(DatasetError) as caught:
        describe(Items([ValueError("no such file")]))
    assert isinstance(caught.value.__cause__, ValueError)


# --- column ---------------------------------------------------------------------------------------


def test_columns() -> None:
    frame = pd.DataFrame({"x": [1, 2, 3], "car": ["a", "b", "a"], "y": [0.5, 1, 2]})
    table = CSVDataset(frame, target="y", ignore=["car"])
    assert column(table, "car").tolist() == ["a", "b", "a"]
    assert column(Subset(table, [2, 1]), "car").tolist() == ["a", "b"]
    dataset = Items(pairs([0, 1, 0]), car=["a", "b", "a"], speed=torch.tensor([1, 2, 3]))
    assert column(dataset, "car").tolist() == ["a", "b", "a"]
    assert column(dataset, "speed").tolist() == [1, 2, 3]


def test_columns_that_are_not_there() -> None:
    dataset = Items(pairs([0, 1, 0]), car=["a", "b", "a"], note="abc", sizes=[1, 2])
    with pytest.raises(DatasetError) as caught:
        column(dataset, "cars")
    assert str(caught.value) == "no column named 'cars'; did you mean 'car'? choose one of: car"
    with pytest.raises(DatasetError) as caught:
        column(dataset, "sizes")
    assert str(caught.value) == "no column named 'sizes'; choose one of: car"
    with pytest.raises(DatasetError) as caught:
        column(Items(pairs([0, 1, 0])), "car")
    assert str(caught.value) == (
        "Items has no column named 'car'; give it an attribute 'car' with one value for each of "
        "its 3 rows, or use lab.CSVDataset"
    )


# --- tensors --------------------------------------------------------------------------------------


def test_tensors() -> None:
    x, y = torch.zeros(3, 2), torch.tensor([0, 1, 0])
    whole = tensors(TensorDataset(x, y))
    assert whole is not None
    assert whole[0] is x
    assert whole[1] is y
    table = CSVDataset(pd.DataFrame({"x": [1, 2, 3], "y": list("aba")}), target="y")
    whole = tensors(table)
    assert whole is not None
    assert whole[0] is table.features
    assert whole[1] is table.targets


def test_no_tensors_where_items_may_differ_from_them() -> None:
    class Noisy(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return x + 1, y

    x, y = torch.zeros(3, 2), torch.tensor([0, 1, 0])
    assert tensors(Noisy(x, y)) is None
    assert tensors(TensorDataset(x)) is None
    assert tensors(TensorDataset(x, y, y)) is None
    assert tensors(Subset(TensorDataset(x, y), [0])) is None
    assert tensors(Items(pairs([0, 1]))) is None
    info = describe(Noisy(x, y))
    assert (info.task, info.n_classes) == ("classification", 2)
