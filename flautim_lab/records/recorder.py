"""The recorder of one run: the only thing a runner tells the rest of the world.

It numbers the events of a run, keeps them for a moment, and stores them together, so that training
never waits for the disk.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flautim_lab.errors import RecordsError
from flautim_lab.home import FILE_MODE, disk_refused
from flautim_lab.records.event import ALL_CLIENTS, PRINTED, Event, MetricEvents, RunStatus, log_line
from flautim_lab.records.store import Records

LOG_FILE = "run.log"
MAX_AGE_SECONDS = 1.0
"""After so long an event is stored by the next :meth:`Recorder.tick`."""
MIN_PAUSE_SECONDS = 0.2
"""Rounds that follow each other faster than this are stored together."""


class Recorder:
    """Numbers, keeps and stores the events of one run. Safe to use from several threads.

    What happened is stored by :meth:`flush`: all of it in one transaction, or nothing. When that
    fails (the disk is full) the events are kept for the next time, and the error is raised once,
    not again and again while the disk stays full.

    Parameters
    ----------
    records : Records
        Where the run was created.
    run_id : str
        The full id. Numbers go on after the last event that is stored.
    clock : callable
        Seconds that never go back, for the pauses between two flushes.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    """

    def __init__(
        self, records: Records, run_id: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._records = records
        self._run_id = run_id
        self._clock = clock
        self._last_seq = records.last_seq(run_id)
        self._events: list[Event | MetricEvents] = []
        self._lines: list[str] = []
        self._oldest: float | None = None  # when the first of them came
        self._adding = threading.Lock()
        self._storing = threading.Lock()
        self._flushed = -float("inf")
        self._failing = False
        self._closed = False

    def metric(self, round: int, client: int, split: str, name: str, value: float) -> None:  # noqa: A002
        """Record one measured value, of one client or of :data:`ALL_CLIENTS`."""
        self._add("metric", round=round, client=client, split=split, name=name, value=float(value))

    def metrics(
        self,
        round: int,  # noqa: A002
        clients: Sequence[int],
        split: str,
        name: str,
        values: Sequence[float],
    ) -> None:
        """Record the measured value of each of some clients, as :meth:`metric` does."""
        when, clients, values = _now(), tuple(clients), tuple(map(float, values))
        if len(clients) != len(values):
            raise ValueError(f"{len(values)} values of {name!r} for {len(clients)} clients")
        with self._adding:
            self._check_open()
            first = self._last_seq + 1
            self._events.append(MetricEvents(first, when, round, clients, split, name, values))
            self._last_seq += len(clients)
            self._begin_waiting()

    def resource(
        self,
        round: int,  # noqa: A002
        process: str,
        name: str,
        value: float,
        client: int = ALL_CLIENTS,
    ) -> None:
        """Record what a process used in a round, the unit in the name.

        Parameters
        ----------
        round : int
            From 1 on. A round that is done again is recorded again; readers keep the first.
        process : str
            ``kernel``, ``server``, or ``client-0`` and so on, one per worker.
        name : str
            What, with its unit: ``cpu_seconds``, ``memory_bytes``, ``training_seconds``, ...
        value : float
        client : int
            The client it was used for, where it was for one.
        """
        self._add(
            "resource", round=round, client=client, split=process, name=name, value=float(value)
        )

    def fault(
        self,
        target: str,
        text: str,
        *,
        round: int = 0,  # noqa: A002
        time: float | None = None,
    ) -> None:
        """Record that somebody struck the run on purpose.

        Parameters
        ----------
        target : str
            Who was struck: ``server``, ``watch``, ``client-1``, ``kernel``, ``machine``.
        text : str
            What was done, in words: ``killed``, ``paused for 5 s``.
        round : int
            The round that was under way.
        time : float, optional
            When, in seconds since 1970 (UTC); now by default.
        """
        self._add("fault", round=round, name=target, text=text, time=time)

    def recovery(self, target: str, seconds: float, *, round: int = 0) -> None:  # noqa: A002
        """Record that who was struck is at work again, so many seconds after the fault."""
        self._add("recovery", round=round, name=target, value=float(seconds))

    def waiting(self, round: int, text: str, *, since: float | None = None) -> None:  # noqa: A002
        """Record why the run waits.

        Parameters
        ----------
        round : int
        text : str
            One sentence without the time that has passed; "" when the run waits no more.
        since : float, optional
            Since when, in seconds since 1970 (UTC); now by default.
        """
        self._add("wait", round=round, text=text, time=since)

    def log(
        self,
        text: str,
        *,
        round: int = 0,  # noqa: A002
        client: int = ALL_CLIENTS,
        level: str = "info",
    ) -> None:
        """Record a line for a person to read, in the records and in ``run.log``."""
        self._add("log", round=round, client=client, name=level, text=text)

    def printed(self, round: int, client: int, split: str, text: str) -> None:  # noqa: A002
        """Record what a client printed while it trained or was measured, also in ``run.log``.

        A round that is done again is recorded again; readers keep the first.
        """
        self._add("log", round=round, client=client, split=split, name=PRINTED, text=text)

    def failure(self, round: int, client: int, text: str) -> None:  # noqa: A002
        """Record that a client failed, with its traceback, also in ``run.log``."""
        self._add("failure", round=round, client=client, text=text)

    def round_done(self, round: int) -> None:  # noqa: A002
        """Record that a round has ended; stores it, unless one was stored a moment ago."""
        self._add("round", round=round)
        if self._clock() - self._flushed >= MIN_PAUSE_SECONDS:
            self.flush()

    def status(self, status: RunStatus | str, message: str = "") -> None:
        """Record where the run stands, and store everything that came before it first."""
        self._add("status", name=str(status), text=message)
        try:
            self.flush()
        finally:
            self._records.set_status(self._run_id, status, message=message)

    def tick(self) -> None:
        """Store what has waited for a second.

        For a thread of the runner that calls it a few times a second. It never raises: if the
        records cannot be written, whoever trains is told by the next :meth:`round_done`.
        """
        with self._adding:
            due = self._oldest is not None and self._clock() - self._oldest >= MAX_AGE_SECONDS
        if due:
            with contextlib.suppress(RecordsError), self._storing:
                self._store()

    def flush(self) -> None:
        """Store what is kept.

        Raises
        ------
        RecordsError
            If that fails, and did not fail the last time. What is kept stays kept.
        """
        with self._storing:
            try:
                self._store()
            except RecordsError:
                if not self._failing:
                    self._failing = True
                    raise

    def close(self) -> None:
        """Store the rest; nothing can be recorded afterwards.

        While another exception is on its way, an error of the records is added to it as a note,
        and does not take its place.

        Raises
        ------
        RecordsError
            If the rest cannot be stored.
        """
        with self._adding:
            self._closed = True
        earlier = sys.exception()
        try:
            with self._storing:
                self._store()
        except RecordsError as error:
            if earlier is None:
                raise
            earlier.add_note(f"and the last events of the run could not be stored: {error}")

    def _add(
        self,
        kind: str,
        *,
        round: int = 0,  # noqa: A002
        client: int = ALL_CLIENTS,
        split: str = "",
        name: str = "",
        value: float | None = None,
        text: str = "",
        time: float | None = None,
    ) -> None:
        with self._adding:
            self._check_open()
            self._last_seq += 1
            when = _now() if time is None else float(time)
            event = Event(self._last_seq, when, kind, round, client, split, name, value, text)
            self._events.append(event)
            if kind in {"log", "failure"}:
                self._lines.append(log_line(event))
            self._begin_waiting()

    def _check_open(self) -> None:
        if self._closed:
            raise RecordsError(
                f"the run {self._run_id!r} is over: nothing more can be recorded in it"
            )

    def _begin_waiting(self) -> None:
        if self._oldest is None:
            self._oldest = self._clock()

    def _store(self) -> None:
        """Store what is kept, without holding up those who add to it meanwhile."""
        with self._adding:
            events, lines = tuple(self._events), tuple(self._lines)
            # What comes from now on has its own second; after a failure, so has the rest.
            self._oldest = self._clock() if events or lines else None
        if events:
            self._records.append(self._run_id, events)
            with self._adding:
                del self._events[: len(events)]
        if lines:
            _append_lines(self._records.folder(self._run_id) / LOG_FILE, lines)
            with self._adding:
                del self._lines[: len(lines)]
        self._flushed = self._clock()
        self._failing = False
        with self._adding:
            if not self._events and not self._lines:
                self._oldest = None


def _now() -> float:
    return time.time()


def _append_lines(path: Path, lines: tuple[str, ...]) -> None:
    """Append all ``lines`` or, if the disk refuses some, none."""
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
        try:
            size = os.fstat(handle).st_size
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(handle, rest) :]
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
    except OSError as error:
        raise disk_refused(f"the log {path} cannot be written", path, error) from None
