"""What the time of a run's rounds went into, from its events of kind ``resource``."""

from __future__ import annotations

from collections.abc import Iterable

from flautim_lab.records.event import ALL_CLIENTS, Event

__all__ = ["PARTS", "ROUND", "Parts", "ProfileFollower", "engine_in_words", "parts_of", "total_of"]

ROUND = "round_seconds"
"""The resource that a round's whole time is recorded as, by the kernel or the server."""

PARTS = ("data", "training", "aggregation", "evaluation", "overhead")
"""What a round's time goes into; together they are all of it."""

Parts = dict[str, float]
"""Seconds by each of :data:`PARTS`."""

_OF_CLIENTS = (
    ("data", "data_seconds"),
    ("training", "training_seconds"),
    ("evaluation", "evaluating_seconds"),
)
_AGGREGATING = "aggregating_seconds"
_READ = {ROUND, _AGGREGATING, *(name for _, name in _OF_CLIENTS)}
_LEADING = ("kernel", "server")


class ProfileFollower:
    """Adds up the parts of each round as events come."""

    def __init__(self) -> None:
        # Round to process to resource to value.
        self._used: dict[int, dict[str, dict[str, float]]] = {}
        self._parts: dict[int, Parts] = {}
        self._changed: set[int] = set()
        self._total = dict.fromkeys(PARTS, 0.0)  # kept up, since a live view asks often

    def read(self, event: Event) -> None:
        """Take in one event; those that tell nothing of a round's time are passed over."""
        if event.kind != "resource" or event.name not in _READ:
            return
        if event.client != ALL_CLIENTS or event.value is None:
            return
        used = self._used.setdefault(event.round, {}).setdefault(event.split, {})
        used.setdefault(event.name, event.value)  # a round that was done again counts once
        self._changed.add(event.round)

    def rounds(self) -> dict[int, Parts]:
        """Return the parts of each round whose whole time is known, in order."""
        self._look()
        return dict(sorted(self._parts.items()))

    def total(self) -> Parts:
        """Return the parts of all rounds together; empty before the first."""
        self._look()
        return dict(self._total) if self._parts else {}

    def _look(self) -> None:
        for number in self._changed:
            before = self._parts.pop(number, {})
            now = _parts(self._used[number])
            if now is not None:
                self._parts[number] = now
            for part in PARTS:
                self._total[part] += (now or {}).get(part, 0.0) - before.get(part, 0.0)
        self._changed.clear()


def parts_of(events: Iterable[Event]) -> dict[int, Parts]:
    """Return the parts of each round, from the events of a run.

    Empty for a run that was recorded before rounds were measured whole.
    """
    follower = ProfileFollower()
    for event in events:
        follower.read(event)
    return follower.rounds()


def total_of(rounds: Iterable[Parts]) -> Parts:
    """Return the parts of several rounds together; empty where there are none."""
    known = list(rounds)
    return {part: sum(one[part] for one in known) for part in PARTS} if known else {}


def _parts(used: dict[str, dict[str, float]]) -> Parts | None:
    """Return the parts of a round from what each process used; None without its whole time.

    Where workers train, the clients' parts are those of the busiest worker, and what the server
    waited beyond them is overhead: messages on their way, and workers that are not there yet.
    """
    leading = next((used[name] for name in _LEADING if ROUND in used.get(name, {})), None)
    if leading is None:
        return None
    workers = [one for name, one in used.items() if name not in _LEADING]
    clients = max(workers, key=_busy, default=leading)
    parts = {part: clients.get(name, 0.0) for part, name in _OF_CLIENTS}
    parts["aggregation"] = leading.get(_AGGREGATING, 0.0)
    # A worker's clock is not the server's, and a client that was given up may still be at work.
    parts["overhead"] = max(leading[ROUND] - sum(parts.values()), 0.0)
    return {part: parts[part] for part in PARTS}


def _busy(used: dict[str, float]) -> float:
    return sum(used.get(name, 0.0) for _, name in _OF_CLIENTS)


def engine_in_words(engine: str, rule: str) -> str:
    """Return how clients are trained, from a numerics plan; why they are not together.

    >>> engine_in_words("loop", "none, since engine='loop' was asked for")
    "clients are trained one after another, since engine='loop' was asked for"
    """
    if engine == "cohort":
        return f"clients are trained together: {rule}"
    why = rule.removeprefix("none, since ")
    return "clients are trained one after another" + (f", since {why}" if why else "")
