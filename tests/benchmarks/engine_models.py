"""What our side of the engine sends to other processes, as the source of this file.

A module of its own, since a file that comes as source does not know where it lies: ``work.py``
finds its data by that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

import flautim_lab as lab


class IrisNet(nn.Module):
    """The one of ``work.py``, word for word (``engine.py`` looks)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, 3) from (rows, 4)."""
        return self.layers(x)


class Idle(lab.Experiment):
    """An experiment whose clients compute nothing: what a round takes is then the engine's own."""

    def training_loop(self, model: nn.Module, loader: Iterable[Any]) -> float:
        """Return a loss, and leave the model as it is."""
        return 1.0

    def validation_loop(self, model: nn.Module, loader: Iterable[Any]) -> float:
        """Return a loss."""
        return 1.0
