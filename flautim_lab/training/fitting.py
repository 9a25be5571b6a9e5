"""Cohorts that a device's memory has room for: one too many is trained in halves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from flwr.supercore.logger import FLOWER_LOGGER

from flautim_lab.errors import TrainingError
from flautim_lab.training.cohort import Trained

__all__ = ["Room"]


class Room:
    """How many clients a device's memory has room for, for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._most: int | None = None  # that have gone together; None until some have not

    def train(self, clients: int, train: Callable[[slice], Trained]) -> Trained:
        """Train a cohort, fewer of its clients at once where memory runs out.

        What a client learns is the same but for rounding: clients know nothing of each other.

        Parameters
        ----------
        clients : int
            How many they are.
        train : callable
            Trains those at some places of the cohort from the beginning.

        Raises
        ------
        torch.OutOfMemoryError
            If there is no room for one by itself.
        """
        found: list[Trained] = []
        first = 0
        while first < clients:
            most = clients if self._most is None else self._most
            part = slice(first, min(first + most, clients))
            number = part.stop - first
            try:
                found.append(train(part))
            except torch.OutOfMemoryError:
                if number == 1:
                    raise
            else:
                first = part.stop
                continue
            # Here, where the error no longer holds what was computed.
            self._halve(number)
        return found[0] if len(found) == 1 else _joined(found)

    def _halve(self, clients: int) -> None:
        """Take in that so many were too many."""
        with self._lock:
            half = -(-clients // 2)
            if self._most is None or half < self._most:
                self._most = half
                FLOWER_LOGGER.warning(  # in the kernel that is the run's log, else the worker's
                    f"the device's memory has no room for {clients} clients at once; from here on "
                    f"at most {half} are trained together"
                )


def _joined(parts: Sequence[Trained]) -> Trained:
    """Return what became of several parts as that of one cohort."""
    failures: dict[int, TrainingError] = {}
    first = 0
    for part in parts:
        failures |= {first + place: error for place, error in part.failures.items()}
        first += len(part.losses)
    return Trained(
        {name: torch.cat([part.weights[name] for part in parts]) for name in parts[0].weights},
        [loss for part in parts for loss in part.losses],
        failures,
        sum(part.data_seconds for part in parts),
    )
