"""How far a run is, read from its events: what every face shows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flautim_lab.names import count, duration
from flautim_lab.records.event import ALL_CLIENTS, Event, RunStatus
from flautim_lab.records.faults import Fault, faults_of
from flautim_lab.records.profile import Parts, ProfileFollower
from flautim_lab.runners.usage import ProcessUsage, UsageFollower

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

FOLLOWED = ("metric", "failure", "round", "status", "wait", "fault", "recovery", "resource")
"""The kinds of events that tell how far a run is."""
ALARMING = 3
"""So many rounds running must a client have failed to be an alarm."""
LONG_SECONDS = 120.0
"""A wait is told in seconds up to here, and then in hours, minutes and seconds."""


@dataclass(frozen=True)
class ClientProgress:
    """What is known of one client.

    Attributes
    ----------
    number : int
    name : str
    rows : int or None
        Rows it trains on.
    loss : float or None
        Its latest training loss.
    round : int or None
        The round of that loss.
    error : str
        The one-line reason of its latest failure, or "".
    failures : int
        How many rounds in a row it has failed.
    """

    number: int
    name: str
    rows: int | None = None
    loss: float | None = None
    round: int | None = None
    error: str = ""
    failures: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    status : RunStatus
    message : str
        Why it waits, failed or stopped.
    round, rounds : int
        Rounds done, and to do in all.
    seconds : float
        How long it has been running, or ran.
    seconds_left : float or None
        An estimate from the rounds so far; None before the first one and when it has ended.
    clients : tuple of ClientProgress
    waiting : str
        Whom or what it is waiting for, and for how long, in a sentence; "" when it is not.
    alarms : tuple of str
        The clients that have failed round after round, each in a sentence with its error.
    faults : tuple of Fault
        What was done to the run on purpose.
    processes : tuple of ProcessUsage
        What each process used in the last rounds.
    parts : dict of str to float
        Seconds of all rounds so far by what they went into; empty before they are known.
    """

    status: RunStatus
    message: str
    round: int
    rounds: int
    seconds: float
    seconds_left: float | None
    clients: tuple[ClientProgress, ...]
    waiting: str = ""
    alarms: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    processes: tuple[ProcessUsage, ...] = ()
    parts: Parts = field(default_factory=dict)


@dataclass
class _Client:
    loss: float | None = None
    round: int | None = None
    error: str = ""
    failures: int = 0
    failed_round: int = 0


_NOTHING = _Client()


@dataclass
class Follower:
    """Adds up events as they come; each is read once.

    Attributes
    ----------
    seen : int
        Sequence number of the last event read.
    """

    seen: int = 0
    _clients: dict[int, _Client] = field(default_factory=dict)
    # What was told of the clients last, and of whom there was news since: with many clients, few.
    _told: tuple[ClientProgress, ...] = ()
    _named: tuple[list[str], list[int]] = field(default_factory=lambda: ([], []))
    _news: set[int] = field(default_factory=set)
    _waiting: Event | None = None
    _struck: list[Event] = field(default_factory=list)
    _usage: UsageFollower = field(default_factory=UsageFollower)
    _profile: ProfileFollower = field(default_factory=ProfileFollower)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, events: Iterable[Event]) -> None:
        """Take in events that come after those seen."""
        with self._lock:
            for event in events:
                if event.seq <= self.seen:
                    continue
                self.seen = event.seq
                if event.kind in {"wait", "round", "status"}:
                    # A round that ended, or a server that began anew, waits no more.
                    self._waiting = event if event.kind == "wait" and event.text else None
                elif event.kind in {"fault", "recovery"}:
                    self._struck.append(event)
                elif event.kind == "resource":
                    self._usage.read(event)
                    self._profile.read(event)
                    continue
                if event.client == ALL_CLIENTS:
                    continue
                self._news.add(event.client)
                client = self._clients.setdefault(event.client, _Client())
                if event.kind == "failure":
                    client.failures += int(event.round != client.failed_round)
                    client.failed_round = event.round
                    client.error = event.text.splitlines()[0] if event.text else "failed"
                elif event.kind == "metric" and event.split == "train" and event.name == "loss":
                    client.loss, client.round = event.value, event.round
                    client.error, client.failures, client.failed_round = "", 0, 0

    def waiting(self, now: float) -> str:
        """Return what is waited for, and for how long at the time ``now``."""
        with self._lock:
            if self._waiting is None:
                return ""
            seconds = max(0.0, now - self._waiting.time)
            shown = f"{seconds:.0f} s" if seconds < LONG_SECONDS else duration(seconds)
            return f"{self._waiting.text} (for {shown})"

    def faults(self) -> tuple[Fault, ...]:
        """Return what was done to the run on purpose."""
        with self._lock:
            return tuple(faults_of(self._struck))

    def processes(self) -> tuple[ProcessUsage, ...]:
        """Return what each process used in the last rounds."""
        with self._lock:
            return self._usage.processes()

    def parts(self) -> Parts:
        """Return what the time of all rounds so far went into."""
        with self._lock:
            return self._profile.total()

    def clients(self, names: list[str], rows: list[int]) -> tuple[ClientProgress, ...]:
        """Return what is known of each client, by number; the same tuple where there is no news."""
        with self._lock:
            if (names, rows) != self._named:
                self._named = (list(names), list(rows))
                self._told = tuple(ClientProgress(n, name) for n, name in enumerate(names))
                self._news.update(range(len(names)))
            if not self._news:
                return self._told
            told = list(self._told)
            for number in (number for number in self._news if number < len(names)):
                known = self._clients.get(number, _NOTHING)
                told[number] = ClientProgress(
                    number=number,
                    name=names[number],
                    rows=rows[number] if number < len(rows) else None,
                    loss=known.loss,
                    round=known.round,
                    error=known.error,
                    failures=known.failures,
                )
            self._news.clear()
            self._told = tuple(told)
            return self._told


def alarms(clients: Iterable[ClientProgress]) -> tuple[str, ...]:
    """Return a sentence for each client that has failed three rounds running or more."""
    found = []
    for client in clients:
        if client.failures >= ALARMING:
            named = f"client {client.number}"
            if client.name != named:
                named += f" ({client.name})"
            rounds = count(client.failures, "round")
            found.append(f"{named} has failed in {rounds} running: {client.error}")
    return tuple(found)


def seconds_left(status: RunStatus, seconds: float, round_number: int, rounds: int) -> float | None:
    """Return an estimate of the seconds until the last round ends."""
    if status.ended or round_number == 0:
        return None
    return seconds / round_number * (rounds - round_number)


Observer = Callable[[Progress], None]

observer_factories: list[Callable[[Run], Observer]] = []
"""Each makes an observer for one ``run.wait()``; a notebook puts one here (``jupyter/``)."""
