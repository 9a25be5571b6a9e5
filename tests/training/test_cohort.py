"""Cohorts against the loop: the same weights, losses and measures, within rounding.

The tolerances are the promise: 1e-9 of the largest number in a weight's change for float64, 1e-3
for float32 with optimizers that divide by small numbers, 2e-5 with others.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp.mod import fixedclipping_mod
from torch import nn
from torch.utils.data import TensorDataset

import flautim_lab as lab
from flautim_lab.experiment import loops
from flautim_lab.experiment.settings import OPTIMIZERS
from flautim_lab.training import flower, weights
from flautim_lab.training.client_app import ClientHost, make_client_app, take_printed
from flautim_lab.training.grid import Deadline, LocalGrid
from flautim_lab.training.stackable import choose_engine
from tests.federations import DropoutNet, Net, iris, tensors

CPU = torch.device("cpu")
CLIENTS = 10


def answers(made: lab.Experiment, kind="train", workers=1, mods=(), log=None, device=CPU, **config):
    """What all clients answer in round 1, over a grid, with the initial weights."""
    flower.prepare()
    host = ClientHost(made, device)
    model = made.build_model()
    buffers = weights.buffers_to_bytes(weights.buffers_of(model))
    config = ConfigRecord({"server-round": 1, "buffers": buffers, **config})
    content = RecordDict({"arrays": weights.to_record(model), "config": config})
    clients = len(made.splits)
    grid = LocalGrid(
        make_client_app(host, list(mods)),
        clients,
        Deadline(lambda: False),
        workers=workers,
        blocks=functools.partial(host.engine.blocks, made),
        prepare=host.cohorts.prepare,
        log=log or (lambda _line: None),
    )
    got = grid.send_and_receive([Message(content, client, kind) for client in range(clients)])
    grid.close()
    return got


def learned(message):
    return {name: array.numpy() for name, array in message.content["arrays"].items()}


def measures(message):
    return dict(message.content["metrics"])


def compare(made: lab.Experiment, tolerance: float, device=CPU, engine="cohort", **config) -> None:
    """Train with both engines; every client's weights and loss must be those of a CPU's loop."""
    chosen = choose_engine(made, device)
    assert chosen.name == engine, chosen.why
    ours = answers(made, device=device, **config)
    theirs = answers(made.replace(engine="loop"), **config)
    before = {n: p.detach().numpy() for n, p in made.build_model().named_parameters()}
    changed = False
    for mine, other in zip(ours, theirs, strict=True):
        mine_learned, other_learned = learned(mine), learned(other)
        assert list(mine_learned) == list(other_learned)
        for name, value in other_learned.items():
            change = np.abs(value - before[name].reshape(value.shape)).max()
            changed |= change > 0
            distance = np.abs(mine_learned[name] - value).max()
            assert mine_learned[name].dtype == value.dtype
            assert distance <= tolerance * change, (name, distance, change)
        a, b = measures(mine), measures(other)
        assert list(a) == list(b)
        assert a["num-examples"] == b["num-examples"]
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=max(tolerance, 1e-12))
        assert ("buffers" in mine.content) == ("buffers" in other.content)
    assert changed


class Sized(nn.Module):
    """Layers of one sort, then a classifier."""

    def __init__(self, kind: str = "linear", double: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.body, features = bodies()[kind]
        self.head = nn.Linear(features, 3)
        if double:
            self.double()

    def forward(self, x):
        x = self.body(x)
        return self.head(x.mean(1) if self.kind == "embedding" else x.flatten(1))


def bodies():
    image = nn.Conv2d(1, 3, 3, padding=1)
    dropout = getattr(nn, "Dropout")  # noqa: B009 - named, it would be one in all of these models
    return {
        "linear": (nn.Linear(16, 8), 8),
        "no bias": (nn.Sequential(nn.Linear(16, 8, bias=False), nn.Tanh()), 8),
        "activations": (
            nn.Sequential(
                *(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16), nn.LeakyReLU(0.2)),
                *(nn.Linear(16, 16), nn.ELU(), nn.Linear(16, 16), nn.SiLU(), nn.Softplus()),
                *(nn.Linear(16, 16), nn.Sigmoid(), nn.Hardtanh(), nn.ReLU6(), nn.Identity()),
                nn.LogSoftmax(1),
            ),
            16,
        ),
        "convolution": (nn.Sequential(image, nn.ReLU(), nn.MaxPool2d(2)), 12),
        "pooling": (
            nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(2)),
            16,
        ),
        "sequence": (nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.AvgPool1d(2)), 28),
        "norm": (nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.ReLU()), 8),
        "dropout": (nn.Sequential(nn.Linear(16, 8), dropout(0.4), nn.ReLU()), 8),
        "embedding": (nn.Embedding(7, 5), 5),
        "embedding flat": (nn.Sequential(nn.Embedding(7, 5), nn.LayerNorm(5)), 20),
    }


SHAPES = {
    "convolution": (1, 4, 4),
    "pooling": (1, 4, 4),
    "sequence": (1, 16),
    "embedding": (4,),
    "embedding flat": (4,),
}


def uneven(kind: str, dtype=torch.float32, **settings) -> lab.Experiment:
    """Ten clients with 1 to 28 rows each."""
    rows = sum(range(1, 29, 3))
    generator = torch.Generator().manual_seed(1)
    shape = SHAPES.get(kind, (16,))
    if kind.startswith("embedding"):
        x = torch.randint(7, (rows, *shape), generator=generator)
    else:
        x = torch.randn(rows, *shape, generator=generator).to(dtype)
    data = TensorDataset(x, torch.randint(3, (rows,), generator=generator))
    data.owner = np.repeat(np.arange(CLIENTS), range(1, 29, 3))
    args = {"kind": kind, "double": dtype is torch.float64}
    defaults = {"partition": lab.by_column("owner"), "validation": 0.0, "batch_size": 8}
    defaults |= {"local_epochs": 2, "lr": 0.05, "seed": 3, "device": "cpu", "model_args": args}
    return lab.Experiment(data, Sized, **(defaults | settings))


@pytest.mark.parametrize("kind", bodies())
def test_every_layer(kind):
    compare(uneven(kind, torch.float64), 1e-9)
    # Steps so large that a change is thousands of the spacings between a weight's float32 numbers.
    compare(uneven(kind, lr=0.5), 2e-4)
    products = {"linear", "no bias", "activations", "dropout", "convolution", "sequence"}
    assert choose_engine(uneven(kind), CPU).products == (kind in products)


ARGUMENTS = {
    "SGD": [
        {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
        {"momentum": 0.8, "dampening": 0.3, "maximize": True},
    ],
    "Adam": [{"weight_decay": 0.01}, {"amsgrad": True}],
    "RMSprop": [{"momentum": 0.5, "centered": True}],
}


@pytest.mark.parametrize(
    ("optimizer", "args"),
    [(name, args) for name in OPTIMIZERS for args in ({}, *ARGUMENTS.get(name, []))],
)
def test_every_optimizer(optimizer, args):
    made = uneven("norm", torch.float64, optimizer=optimizer, optimizer_args=args, lr=0.01)
    compare(made, 1e-9)
    if optimizer not in ("Rprop", "Adagrad"):  # which look at the sign of what may be rounding
        compare(made.replace(dataset=uneven("norm").dataset, model_args={"kind": "norm"}), 5e-3)


def test_the_proximal_term():
    strategy = {"strategy": "FedProx", "strategy_args": {"proximal_mu": 0.8}}
    compare(uneven("linear", torch.float64, **strategy), 1e-9, **{"proximal-mu": 0.8})
    far = learned(answers(uneven("linear"))[9])
    near = learned(answers(uneven("linear", **strategy), **{"proximal-mu": 0.8})[9])
    assert not np.array_equal(far["head.weight"], near["head.weight"])


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x):
        return self.layers(x.view(x.size(0), -1))


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_regression_and_one_score_per_row(column, binary):
    x, y = tensors(130).tensors
    target = (y == 1) if binary else x.sum(1) ** 2
    target = target.unsqueeze(1) if column else target
    made = lab.Experiment(
        TensorDataset(x, target), Regression, clients=CLIENTS, batch_size=5, lr=0.05, seed=1
    )
    assert made.task == ("classification" if binary else "regression")
    compare(made, 2e-5)
    assert choose_engine(made, CPU).products


class Scaled(lab.Experiment):
    def loss(self, model, batch):
        x, y = batch
        penalty = sum((p**2).sum() for p in model.parameters())
        return 2 * nn.functional.cross_entropy(model(x), y, label_smoothing=0.1) + 0.01 * penalty


class Summed(lab.Experiment):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum") / 8


@pytest.mark.parametrize("cls", [Scaled, Summed])
def test_a_loss_of_ones_own(cls):
    plain = uneven("linear", torch.float64)
    made = cls(plain.dataset, Sized, partition=plain.partition, batch_size=8, local_epochs=2,
               model_args=plain.model_args, validation=0.0)  # fmt: skip
    compare(made, 1e-9)
    assert not choose_engine(made, CPU).filled  # who knows how it takes its mean


class Centred(Net):
    """Each row depends on the others of its batch."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("shift", torch.tensor([0.5]))

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x) * self.scale + self.frozen + self.shift


@pytest.mark.parametrize("model", [Centred, Tied])
def test_models_with_special_needs(model):
    decay = {"optimizer": "AdamW", "optimizer_args": {"weight_decay": 0.1}}
    made = lab.Experiment(tensors(143), model, clients=CLIENTS, batch_size=4, lr=0.01, **decay)
    compare(made, 1e-3)
    assert not choose_engine(made, CPU).filled


def test_tables_are_scaled_as_ever():
    made = lab.Experiment(iris(standardize="client"), Net, clients=CLIENTS, lr=0.1, batch_size=4)
    compare(made, 2e-5)
    scale = {"scale-mean": [5.0, 3.0, 4.0, 1.0], "scale-std": [1.0, 0.5, 2.0, 0.7]}
    made = lab.Experiment(iris(), Net, clients=CLIENTS, lr=0.1, batch_size=4)
    compare(made, 2e-5, **scale)


class Talkative(lab.Experiment):
    def metrics(self, outputs, targets):
        print(len(outputs), "rows")
        right = outputs.argmax(1) == targets
        return {"right": right.double().mean(), "rows": len(targets)}


@pytest.mark.parametrize("cls", [lab.Experiment, Talkative])
@pytest.mark.parametrize("model", [Net, DropoutNet])
def test_evaluation(cls, model, monkeypatch):
    made = cls(tensors(143), model, clients=CLIENTS, seed=2)
    theirs = answers(made.replace(engine="loop"), "evaluate")
    private = cls is Talkative and model is DropoutNet  # its metrics may draw
    if not private:
        monkeypatch.setattr(loops, "validate", None)  # nobody is measured in the loop
    ours = answers(made, "evaluate")
    for mine, other in zip(ours, theirs, strict=True):
        a, b = measures(mine), measures(other)
        assert list(a) == list(b)
        for name in b:
            assert a[name] == pytest.approx(b[name], rel=1e-5)
        assert take_printed(mine) == take_printed(other)


def test_clipping_is_each_clients_own():
    mods = [fixedclipping_mod]
    config = {"clipping_norm": 0.01}
    made = uneven("linear")
    ours = answers(made, mods=mods, **config)
    theirs = answers(made.replace(engine="loop"), mods=mods, **config)
    before = {n: p.detach().numpy() for n, p in made.build_model().named_parameters()}
    for mine, other in zip(ours, theirs, strict=True):
        a, b = learned(mine), learned(other)
        norm = np.sqrt(sum(((a[name] - before[name]) ** 2).sum() for name in a))
        assert norm <= 0.01001
        assert all(np.allclose(a[name], b[name], atol=1e-6) for name in a)


def test_a_client_that_diverges_fails_alone_and_says_why():
    plain = uneven("linear")
    x, y = (part.clone() for part in plain.dataset.tensors)
    first, last = plain.splits[9].train[[0, -1]]
    x[first : last + 1] *= 1e18
    data = TensorDataset(x, y)
    data.owner = plain.dataset.owner
    made = plain.replace(dataset=data, lr=1e12)
    ours, theirs = answers(made), answers(made.replace(engine="loop"))
    failed = [mine.has_error() for mine in ours]
    assert failed == [other.has_error() for other in theirs]
    assert failed[9]
    assert not all(failed)
    for mine, other in zip(ours, theirs, strict=True):
        if mine.has_error():
            sentence = mine.error.reason.splitlines()[0]
            assert sentence == other.error.reason.splitlines()[0]
            assert "lower lr (now 1e+12)" in sentence


def test_a_cohort_that_fails_is_trained_one_after_another(monkeypatch):
    from flautim_lab.training.cohort import Stack

    def broken(*_args, **_settings):
        raise MemoryError("too many")

    monkeypatch.setattr(Stack, "train", broken)
    lines = []
    got = answers(uneven("linear"), log=lines.append)
    assert not any(message.has_error() for message in got)
    assert lines == [
        "10 clients from client 0 on could not be handled together, and are handled one after "
        "another: MemoryError: too many"
    ]


def test_threads_do_not_change_the_bits():
    made = lab.Experiment(tensors(900), DropoutNet, clients=60, batch_size=4, lr=0.1)
    assert len(choose_engine(made, CPU).blocks(made, range(60))) == 4
    for one, other in zip(answers(made), answers(made, workers=3), strict=True):
        a, b = learned(one), learned(other)
        assert all(np.array_equal(a[name], b[name]) for name in b)
        assert measures(one) == measures(other)
