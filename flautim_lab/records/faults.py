"""Faults: what somebody did to a run on purpose, and how long it took to recover."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from flautim_lab.records.event import Event


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes
    ----------
    time : float
        When the run was struck, in seconds since 1970 (UTC).
    round : int
        The round that was under way.
    target : str
        Who was struck: ``server``, ``watch``, ``client-1``, ``kernel``, ``machine``.
    what : str
        What was done, in words: ``killed``, ``paused for 5 s``.
    recovery_seconds : float or None
        Seconds until the target was at work again; None while it is not.
    """

    time: float
    round: int
    target: str
    what: str
    recovery_seconds: float | None = None

    def words(self) -> str:
        """Return the fault as one line.

        >>> Fault(0.0, 3, "server", "killed", 1.24).words()
        'server killed, back after 1.2 s'
        """
        line = f"{self.target} {self.what}".rstrip()
        if self.recovery_seconds is None:
            return line
        return f"{line}, back after {self.recovery_seconds:.1f} s"


def faults_of(events: Iterable[Event]) -> list[Fault]:
    """Return the faults in the events of a run, by time.

    A recovery belongs to the fault of its target that was struck the seconds before it that it
    says it took: the nearest one, if a target was struck again before it was back. The order in
    which they were stored does not matter.
    """
    known = list(events)
    faults = sorted(
        (Fault(e.time, e.round, e.name, e.text) for e in known if e.kind == "fault"),
        key=lambda fault: fault.time,
    )
    for event in known:
        if event.kind != "recovery" or event.value is None:
            continue
        struck = event.time - event.value
        still_down = [
            (abs(fault.time - struck), number)
            for number, fault in enumerate(faults)
            if fault.target == event.name and fault.recovery_seconds is None
        ]
        if still_down:
            _, number = min(still_down)
            faults[number] = replace(faults[number], recovery_seconds=event.value)
    return faults
