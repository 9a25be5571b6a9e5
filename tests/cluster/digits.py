"""A model for the pods: its file imports nothing that they do not have."""

from __future__ import annotations

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
