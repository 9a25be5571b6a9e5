"""Models for the pods: their file imports nothing that those do not have."""

from __future__ import annotations

import os

from torch import nn


class Digits(nn.Module):
    """Says in each round how many rows it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x):
        if self.training:
            print(len(x), "rows")
        return self.layers(x)


class Images(nn.Module):
    """The same digits, seen as images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        return self.head(self.features(x.view(-1, 1, 8, 8)).flatten(1))


class HungryNet(nn.Module):
    """Takes more memory than there is, but only in the worker of slot 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(4, 3)
        self.held: list[bytearray] = []

    def forward(self, x):
        while os.environ.get("JOB_COMPLETION_INDEX") == "0":
            self.held.append(bytearray(b"x") * 2**24)
        return self.layers(x)
