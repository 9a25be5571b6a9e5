"""Small federations that many tests run: iris, a plain model, and models with special needs."""

from __future__ import annotations

import signal

import pandas as pd
import torch
from sklearn.datasets import load_iris
from torch import nn
from torch.utils.data import TensorDataset

import flautim_lab as lab


def hear_interrupts() -> None:
    """For ``preexec_fn``: where the tests run in the background, their children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def iris_frame() -> pd.DataFrame:
    data = load_iris(as_frame=True)
    frame = data.data.rename(columns=lambda name: name.replace(" (cm)", "").replace(" ", "_"))
    return frame.assign(species=[data.target_names[i] for i in data.target])


def iris(**settings) -> lab.CSVDataset:
    return lab.CSVDataset(iris_frame(), target="species", name="iris", **settings)


class Net(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, x):
        return self.layers(x)


class DropoutNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x):
        return self.layers(x)


class NormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.layers(x)


def experiment(model=Net, dataset=None, cls=lab.Experiment, **settings) -> lab.Experiment:
    defaults = {"clients": 4, "rounds": 3, "batch_size": 16, "seed": 7}
    defaults |= {"optimizer": "Adam", "lr": 0.01}
    return cls(iris() if dataset is None else dataset, model, **(defaults | settings))


def tensors(rows: int = 40, classes: int = 3, seed: int = 0) -> TensorDataset:
    generator = torch.Generator()
    generator.manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator)
    return TensorDataset(x, torch.arange(rows) % classes)


def final(run: lab.Run, metric: str = "loss", split: str = "validation") -> float:
    """The last value of a metric over all clients."""
    frame = run.metrics
    rows = frame[frame.client.isna() & (frame.metric == metric) & (frame.split == split)]
    return float(rows.value.iloc[-1])


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two models have equal weights, bit for bit."""
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)
