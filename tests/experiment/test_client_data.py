"""What a client holds: the types of its targets, its batches, and that nobody writes into them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import flautim_lab as lab
from flautim_lab.experiment import loops
from flautim_lab.experiment.client_data import ClientData
from tests.federations import experiment, tensors

WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


class Items(Dataset):
    """The rows of a TensorDataset, one by one: what a dataset of the researcher's own gives."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Linear(nn.Module):
    def __init__(self, outputs=3):
        super().__init__()
        self.layer = nn.Linear(4, outputs)

    def forward(self, x):
        return self.layer(x)


def with_targets(change) -> TensorDataset:
    x, y = tensors(24, classes=2).tensors
    return TensorDataset(x, change(y))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("kind", [lambda rows: rows, Items])
def test_whole_targets_are_class_numbers_whatever_their_type(kind, dtype, own):
    class Own(lab.Experiment):
        def loss(self, model, batch):
            x, y = batch
            return F.cross_entropy(model(x), y)

    dataset = kind(with_targets(lambda y: y.to(dtype)))
    made = experiment(Linear, dataset, Own if own else lab.Experiment)
    plain = experiment(Linear, with_targets(lambda y: y))
    model = made.build_model()
    for split in ("train", "validation"):
        batches = ClientData(made, 0).batches(split)
        assert all(y.dtype is torch.int64 for _, y in batches)
        assert (
            loops.validate(made, model, batches)["loss"]
            == (loops.validate(plain, model, ClientData(plain, 0).batches(split))["loss"])
        )


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "change", [lambda y: y.bool(), lambda y: y[:, None], lambda y: y[:, None].bool()]
)
@pytest.mark.parametrize("kind", [lambda rows: rows, Items])
def test_true_and_false_and_a_column_are_targets_too(kind, change, outputs):
    """The default loss and accuracy are those of plain class numbers; nothing is broadcast."""
    made = experiment(lambda: Linear(outputs), kind(with_targets(change)))
    plain = experiment(lambda: Linear(outputs), with_targets(lambda y: y))
    model = made.build_model()
    measures = loops.validate(made, model, ClientData(made, 0).batches("train"))
    wanted = loops.validate(plain, model, ClientData(plain, 0).batches("train"))
    assert measures == wanted
    assert set(measures) == {"loss", "accuracy"}


def test_true_and_false_stay_a_mask_for_a_loss_of_ones_own():
    class Contrast(lab.Experiment):
        def loss(self, model, batch):
            x, y = batch
            assert y.dtype is torch.bool
            outputs = model(x)
            return outputs[~y].sum() - outputs[y].sum()

    assert experiment(Linear, with_targets(lambda y: y.bool()), Contrast).own_loss


def test_a_regression_keeps_the_type_of_its_targets():
    made = experiment(lambda: Linear(1), with_targets(lambda y: y.int()), task="regression")
    assert next(iter(ClientData(made, 0).batches("train")))[1].dtype is torch.int32


def test_a_named_tuple_stays_one():
    class Pair(NamedTuple):
        inputs: torch.Tensor
        label: int

    class Named(Items):
        def __getitem__(self, index):
            x, y = self.rows[index]
            return Pair(x, y.int())

    batch = next(iter(ClientData(experiment(Linear, Named(tensors())), 0).batches("train")))
    assert type(batch) is Pair
    assert batch.label.dtype is torch.int64


def test_the_rows_of_a_batch():
    x = torch.zeros(5, 2)
    for batch in [
        x,
        (x, torch.zeros(5)),
        [x],
        {"x": x},
        ({"ids": x}, torch.zeros(5)),
        (["a rose"] * 5, torch.zeros(5)),
        (("a rose",) * 5, torch.zeros(5)),
        ["a rose"] * 5,
        {"text": ["a rose"] * 5},
        ((["a rose"] * 5, ["a thorn"] * 5), torch.zeros(5)),
    ]:
        assert loops.rows_of(batch) == 5


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("generator", [None, torch.Generator])
def test_code_that_writes_into_its_inputs_does_not_write_into_the_data(split, generator):
    """One client and no shuffle: the rows are a view of the dataset's own memory."""
    dataset = tensors(30)
    made = experiment(dataset=dataset, clients=1)
    kept = [tensor.clone() for tensor in dataset.tensors]
    data = ClientData(made, 0)

    def read():
        result = []
        for x, y in data.batches(
            split, generator=generator().manual_seed(1) if generator else None
        ):
            result.append((x.clone(), y.clone()))
            x.relu_()
            y.zero_()
        return result

    first, again = read(), read()
    for before, after in zip(first, again, strict=True):
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1], after[1])
    assert all(torch.equal(*pair) for pair in zip(kept, dataset.tensors, strict=True))


def test_rows_that_lie_together_are_not_copied():
    dataset = tensors(30)
    made = experiment(dataset=dataset, clients=1, validation=0)
    data = ClientData(made, 0)
    batches = data.batches("train")
    x = batches._data[0]
    assert x.data_ptr() == dataset.tensors[0].data_ptr()
    assert torch.equal(torch.cat([part for part, _ in batches]), dataset.tensors[0])
    spread = ClientData(experiment(dataset=dataset, clients=3), 1)
    rows = torch.from_numpy(spread._rows.train)
    assert torch.equal(torch.cat([part for part, _ in spread.batches("train")]), dataset[rows][0])
