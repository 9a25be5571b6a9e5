"""Where a round's time goes: what each process used in it, for the records."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

import psutil

from flautim_lab.records.recorder import Recorder

MEMORY = "memory_bytes"


class RoundUsage:
    """Adds up what the server, or the kernel, and the workers use in a round.

    Parameters
    ----------
    process : str
        The name of this process: ``kernel`` or ``server``.
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self._self = psutil.Process()
        self._cpu = time.process_time()
        self._used: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()

    def add(self, process: str, used: Mapping[str, float]) -> None:
        """Count what a process says that it has used; memory is the most that it held."""
        with self._lock:
            sums = self._used.setdefault(process, {})
            for name, value in used.items():
                before = sums.get(name, 0.0)
                sums[name] = max(before, value) if name == MEMORY else before + value

    @contextlib.contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Count the seconds inside as this process's ``<what>_seconds``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(self.process, {f"{what}_seconds": time.perf_counter() - begin})

    def record(self, recorder: Recorder, round_number: int) -> None:
        """Record the round, and begin with the next one."""
        cpu = time.process_time()
        own = {"cpu_seconds": cpu - self._cpu, MEMORY: float(self._self.memory_info().rss)}
        self._cpu = cpu
        self.add(self.process, own)
        with self._lock:
            taken, self._used = self._used, {}
        for process, used in taken.items():
            for name, value in used.items():
                recorder.resource(round_number, process, name, value)
