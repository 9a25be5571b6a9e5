"""The work that every side does: the same data, models and settings.

Imports neither Flautim Lab nor Flower, so that a peer is not slowed down by what it does not use.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

IRIS_CSV = Path(__file__).resolve().parents[2] / "notebooks" / "iris.csv"
SEED = 7


@dataclass(frozen=True)
class Work:
    """Settings of one piece of work.

    Attributes
    ----------
    model : str
        Its class, by its name in this module.
    optimizer : str
        By its name in ``torch.optim``.
    validation : float
        Share of each client's rows that is held back.
    engine : str
        Ours.
    """

    name: str
    model: str
    clients: int
    rounds: int
    batch_size: int
    lr: float
    optimizer: str = "SGD"
    local_epochs: int = 1
    validation: float = 0.0
    clients_per_round: int | None = None
    engine: str = "auto"

    def make_model(self) -> nn.Module:
        """Return the model with the initial weights that every side begins with."""
        torch.manual_seed(SEED)
        made: nn.Module = globals()[self.model]()
        return made


class IrisNet(nn.Module):
    """A small perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, 3) from (rows, 4)."""
        return self.layers(x)


class WideNet(nn.Module):
    """A perceptron whose weights are much more than a client's rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, 3) from (rows, 4)."""
        return self.layers(x)


class Logistic(nn.Module):
    """Logistic regression on images of 28x28, as in FLUTE's comparison (arXiv:2203.13789)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, 10) from (rows, 784)."""
        return self.linear(x)


class Perceptron(nn.Module):
    """The perceptron of Micro-FL's evaluation, on images of 28x28."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, 10) from (rows, 784)."""
        return self.layers(x)


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al., 1998) with ReLU and max pooling, for images of 28x28."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, 10) from (rows, 1, 28, 28)."""
        return self.classifier(self.features(x))


IRIS = Work(
    "iris", "IrisNet", clients=8, rounds=1, batch_size=16, lr=0.01, optimizer="Adam", validation=0.2
)
LENET = Work("lenet", "LeNet", clients=50, rounds=4, batch_size=32, lr=0.2)
# One client after another, and long enough that worker processes are tried.
LENET_LONG = dataclasses.replace(LENET, name="lenet_long", rounds=40, engine="loop")
# For the peers of the last ten rounds, which try nothing.
LENET_LAST = dataclasses.replace(LENET, name="lenet_last", rounds=11)
FLUTE = Work(
    "flute", "Logistic", clients=1000, rounds=100, batch_size=10, lr=0.03, clients_per_round=10
)
# For Flower's simulation, which takes seconds for each round.
FLUTE_SHORT = dataclasses.replace(FLUTE, name="flute_short", rounds=12)
# All clients are evaluated in each round, as Flower does where nothing else is said.
FLUTE_EVALUATED = dataclasses.replace(FLUTE, name="flute_evaluated", validation=0.2)
FLUTE_EVALUATED_SHORT = dataclasses.replace(FLUTE_EVALUATED, name="flute_evaluated_short", rounds=4)
CROWD = Work("crowd", "IrisNet", clients=1000, rounds=5, batch_size=10, lr=0.05)
MICRO_FL = Work(
    "micro_fl",
    "Perceptron",
    clients=100,
    rounds=3,
    batch_size=10,
    lr=0.001,
    optimizer="Adam",
    local_epochs=5,
)
MANY = Work(
    "many", "IrisNet", clients=10_000, rounds=20, batch_size=10, lr=0.05, clients_per_round=100
)
WHOLE = Work("whole", "WideNet", clients=10_000, rounds=3, batch_size=10, lr=0.05)
WORKS = {
    work.name: work
    for work in (
        *(IRIS, LENET, LENET_LONG, LENET_LAST),
        *(FLUTE, FLUTE_SHORT, FLUTE_EVALUATED, FLUTE_EVALUATED_SHORT),
        *(CROWD, MICRO_FL, MANY, WHOLE),
    )
}
ROWS_EACH = {
    "micro_fl": 60,
    "many": 20,
    "whole": 10,
}  # of these there are more rows where there are more clients


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def images(rows: int = 50 * 300) -> tuple[Tensor, Tensor]:
    """Return (rows, 1, 28, 28) images and their (rows,) classes: ten patterns under noise."""
    generator = torch.Generator().manual_seed(SEED)
    patterns = torch.randn(10, 1, 28, 28, generator=generator)
    y = torch.randint(10, (rows,), generator=generator)
    noise = torch.randn(rows, 1, 28, 28, generator=generator)
    return patterns[y] + noise, y


def rows_of(work: Work) -> tuple[Tensor, Tensor]:
    """Return all rows of a work: of MNIST's shape, or of four features."""
    features, classes = (784, 10) if work.model in ("Logistic", "Perceptron") else (4, 3)
    rows = 60000 if work.model == "Logistic" else 100000
    if work.name in ROWS_EACH:
        rows = ROWS_EACH[work.name] * work.clients
    generator = torch.Generator().manual_seed(SEED)
    patterns = torch.randn(classes, features, generator=generator)
    y = torch.randint(classes, (rows,), generator=generator)
    return patterns[y] + 2 * torch.randn(rows, features, generator=generator), y


@dataclass(frozen=True)
class ClientRows:
    """The rows of one client as tensors, already sliced and scaled."""

    x: Tensor
    y: Tensor
    validation_x: Tensor
    validation_y: Tensor


def save_clients(path: str, x: Tensor, y: Tensor, splits: list[tuple]) -> None:
    """Write data and each client's row numbers for the peers.

    Parameters
    ----------
    path : str
        An ``.npz`` file.
    x, y : Tensor
        All rows.
    splits : list of (train, validation)
        Row numbers per client.
    """
    numbers = {}
    for client, (train, validation) in enumerate(splits):
        numbers[f"train_{client}"], numbers[f"validation_{client}"] = train, validation
    np.savez(path, x=x.numpy(), y=y.numpy(), clients=len(splits), **numbers)


def load_clients(path: str) -> list[ClientRows]:
    """Return what :func:`save_clients` wrote, one slice per client."""
    with np.load(path) as file:
        x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
        rows = []
        for client in range(int(file["clients"])):
            train = torch.from_numpy(file[f"train_{client}"])
            held = torch.from_numpy(file[f"validation_{client}"])
            rows.append(ClientRows(x[train], y[train], x[held], y[held]))
    return rows
