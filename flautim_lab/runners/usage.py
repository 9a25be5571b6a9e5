"""Where a round's time goes: what each process used lately, read from its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flautim_lab.records.event import ALL_CLIENTS, Event

LAST_ROUNDS = 10
"""Rounds over which the means are taken."""
ACTIVITIES = ("data", "training", "evaluating", "transfer", "aggregating", "storing", "waiting")
"""What the seconds of a round are spent on, in the order in which they are shown."""


@dataclass(frozen=True)
class ProcessUsage:
    """What a process uses in a round, as the mean of the last ten.

    Attributes
    ----------
    process : str
        ``kernel``, ``server``, or ``client-0`` and so on, one per worker.
    cpu_seconds : float
    memory_bytes : float
        What it held in the last of these rounds; 0 where that is not known.
    bytes_received, bytes_sent : float
        Of messages; 0 for a process that sends none, or does not count them.
    seconds : tuple of (str, float)
        Seconds per round by what they were spent on, as in :data:`ACTIVITIES`. For the server,
        training is the time until the clients have answered.
    """

    process: str
    cpu_seconds: float
    memory_bytes: float
    bytes_received: float
    bytes_sent: float
    seconds: tuple[tuple[str, float], ...]


class UsageFollower:
    """Adds up the resources of the last rounds as their events come."""

    def __init__(self) -> None:
        # Round to process to resource to value.
        self._rounds: dict[int, dict[str, dict[str, float]]] = {}

    def read(self, event: Event) -> None:
        """Take in one event of kind ``resource``."""
        if event.client != ALL_CLIENTS or event.value is None:
            return
        if event.round not in self._rounds:
            if len(self._rounds) >= LAST_ROUNDS and event.round < min(self._rounds):
                return
            self._rounds[event.round] = {}
            while len(self._rounds) > LAST_ROUNDS:
                del self._rounds[min(self._rounds)]
        used = self._rounds[event.round].setdefault(event.split, {})
        used.setdefault(event.name, event.value)  # a round that was done again counts once

    def processes(self) -> tuple[ProcessUsage, ...]:
        """Return the means of each process of the last rounds: the server first, then workers."""
        names = {name for used in self._rounds.values() for name in used}
        return tuple(self._process(name) for name in sorted(names, key=_order))

    def _process(self, name: str) -> ProcessUsage:
        rounds = [self._rounds[number].get(name, {}) for number in sorted(self._rounds)]

        def mean(resource: str) -> float:
            return sum(used.get(resource, 0.0) for used in rounds) / len(rounds)

        memory = [used["memory_bytes"] for used in rounds if "memory_bytes" in used]
        seconds = {activity: mean(f"{activity}_seconds") for activity in ACTIVITIES}
        return ProcessUsage(
            process=name,
            cpu_seconds=mean("cpu_seconds"),
            memory_bytes=memory[-1] if memory else 0.0,
            bytes_received=mean("bytes_received"),
            bytes_sent=mean("bytes_sent"),
            seconds=tuple((what, spent) for what, spent in seconds.items() if spent > 0),
        )


def usage_of(events: Iterable[Event]) -> tuple[ProcessUsage, ...]:
    """Return what each process used in the last rounds, from the events of a run."""
    follower = UsageFollower()
    for event in events:
        if event.kind == "resource":
            follower.read(event)
    return follower.processes()


def _order(name: str) -> tuple[bool, str, int]:
    """Sort ``client-10`` after ``client-9``, and both after all others."""
    stem, _, number = name.rpartition("-")
    worker = stem == "client" and number.isdecimal()
    return (worker, "" if worker else name, int(number) if worker else 0)
