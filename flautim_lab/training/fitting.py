"""What a device's memory has room for at once: clients of a cohort or rows, halved if too many."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from flautim_lab.errors import TrainingError
from flautim_lab.training import flower
from flautim_lab.training.cohort import Trained

__all__ = ["Room", "joined"]

T = TypeVar("T")


class Room:
    """How many of something a device's memory has room for, for all threads of a process.

    Parameters
    ----------
    what : str
        Such as "clients".
    done : str
        What happens to them together, such as "trained".
    """

    def __init__(self, what: str, done: str) -> None:
        self._what, self._done = what, done
        self._lock = threading.Lock()
        self._most: int | None = None  # that have gone together; None until some have not

    def in_parts(self, number: int, work: Callable[[slice], T], most: int | None = None) -> list[T]:
        """Do work, on fewer at once where memory runs out, and return what came of each part.

        What comes of one is the same but for rounding: they know nothing of each other.

        Parameters
        ----------
        number : int
            Of how many.
        work : callable
            Does those at some places, from the beginning.
        most : int, optional
            How many at once, however much room there is; all of them by default.

        Raises
        ------
        torch.OutOfMemoryError
            If there is no room for one by itself.
        """
        found: list[T] = []
        first = 0
        while first < number:
            at_once = min(each for each in (number, most, self._most) if each is not None)
            part = slice(first, min(first + at_once, number))
            tried = part.stop - first
            try:
                found.append(work(part))
            except torch.OutOfMemoryError:
                if tried == 1:
                    raise
            else:
                first = part.stop
                continue
            # Here, where the error no longer holds what was computed.
            self._halve(tried)
        return found

    def _halve(self, number: int) -> None:
        """Take in that so many were too many."""
        with self._lock:
            half = -(-number // 2)
            if self._most is None or half < self._most:
                self._most = half
                flower.say(
                    f"the device's memory has no room for {number} {self._what} at once; from here "
                    f"on at most {half} are {self._done} together"
                )


def joined(parts: Sequence[Trained]) -> Trained:
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
