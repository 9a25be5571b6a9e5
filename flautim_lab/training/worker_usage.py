"""What a process that hosts clients uses, for the records."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from flautim_lab.training.engine import Connection

__all__ = ["Usage"]

_COUNTED_BY_THE_CONNECTION = ("bytes_received", "bytes_sent", "transfer_seconds")


class Usage:
    """What this process has used since it was last asked.

    Attributes
    ----------
    seconds : dict of str to float
        Seconds so far, by what they were spent on: ``data_seconds``, ``training_seconds``,
        ``evaluating_seconds``, ``waiting_seconds``.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._process = psutil.Process()
        self._last: dict[str, float] = {}
        self._connection: Connection | None = None

    def add(self, what: str, seconds: float) -> None:
        """Count seconds."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    def take(self, connection: Connection | None = None) -> dict[str, float]:
        """Return what was used since the last time; memory is what is held now.

        Each connection counts from zero.
        """
        now = {**self.seconds, "cpu_seconds": time.process_time()}
        if connection is not self._connection:
            self._connection = connection
            for name in _COUNTED_BY_THE_CONNECTION:
                self._last.pop(name, None)
        if connection is not None:
            now |= {name: float(getattr(connection, name)) for name in _COUNTED_BY_THE_CONNECTION}
        used = {name: value - self._last.get(name, 0.0) for name, value in now.items()}
        self._last = now
        used["memory_bytes"] = float(self._process.memory_info().rss)
        return used
