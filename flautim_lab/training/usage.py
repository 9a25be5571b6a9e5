"""Where a round's time goes: what each process used in it, for the records."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

import psutil

from flautim_lab.records.profile import ROUND
from flautim_lab.records.recorder import Recorder

MEMORY = "memory_bytes"


class ClientTimes:
    """Adds up what the time of the clients at work in this process goes into, thread by thread.

    Seconds that are counted inside others, in the same thread, are counted once, as what they are.
    """

    def __init__(self) -> None:
        self._of_thread: dict[int, dict[str, float]] = {}
        self._inside = threading.local()

    @contextlib.contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Count the seconds inside as ``<what>_seconds``: data, training, evaluating."""
        around = getattr(self._inside, "what", None)
        self._inside.what = what
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            self._inside.what = around
            self._add(what, seconds)
            if around is not None:
                self._add(around, -seconds)

    def of_that_on(self, what: str, seconds: float) -> None:
        """Count some of the seconds that are being counted here as something else."""
        self._add(what, seconds)
        around = getattr(self._inside, "what", None)
        if around is not None:
            self._add(around, -seconds)

    def take(self) -> dict[str, float]:
        """Return the sums of the thread that was the busiest, and begin anew.

        Whoever waits for the clients waits for that thread.
        """
        threads, self._of_thread = self._of_thread, {}
        return max(threads.values(), key=lambda used: sum(used.values()), default={})

    def _add(self, what: str, seconds: float) -> None:
        # Each thread writes to sums of its own.
        used = self._of_thread.setdefault(threading.get_ident(), {})
        used[f"{what}_seconds"] = used.get(f"{what}_seconds", 0.0) + seconds


class RoundUsage:
    """Adds up what the server, or the kernel, and the workers use in a round.

    Parameters
    ----------
    process : str
        The name of this process: ``kernel`` or ``server``.
    clients : ClientTimes, optional
        Of the clients that are at work in this very process. Without, the seconds until they have
        answered are counted.
    """

    def __init__(self, process: str, clients: ClientTimes | None = None) -> None:
        self.process = process
        self._clients = clients
        self._begin = time.perf_counter()
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

    @contextlib.contextmanager
    def waits_for(self, what: str) -> Iterator[None]:
        """Count the seconds inside as those that clients took, where nobody here knows better.

        Clients at work in this process have counted themselves: those of the busiest thread.
        """
        if self._clients is None:
            with self.spent_on(what):
                yield
            return
        try:
            yield
        finally:
            self.add(self.process, self._clients.take())

    def record(self, recorder: Recorder, round_number: int) -> None:
        """Record the round, and begin with the next one."""
        cpu, now = time.process_time(), time.perf_counter()
        own = {"cpu_seconds": cpu - self._cpu, MEMORY: float(self._self.memory_info().rss)}
        own[ROUND] = now - self._begin
        self._cpu, self._begin = cpu, now
        self.add(self.process, own)
        with self._lock:
            taken, self._used = self._used, {}
        for process, used in taken.items():
            for name, value in used.items():
                recorder.resource(round_number, process, name, value)
