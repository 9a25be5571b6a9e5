"""What happened in a run, where the run stands, and how both are rows of a table."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from flautim_lab.errors import RecordsError
from flautim_lab.names import choose
from flautim_lab.records.process import ProcessMark

ALL_CLIENTS = -1
"""The number that stands for all clients together, where one client's number is from 0 on."""

PRINTED = "print"
"""The level, in the log, of what a client's own code printed."""

WORKER_LOST = "a worker was lost"
"""How the log begins to tell that the work of a worker is done by others."""

SERVER_BACK = "the server goes on after round"
"""How the log begins to tell that a server went on from a checkpoint."""

EVENT_KINDS = (
    "status",
    "metric",
    "log",
    "failure",
    "round",
    "resource",
    "fault",
    "recovery",
    "wait",
)


class RunStatus(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen in the run."""
        return self not in {RunStatus.WAITING, RunStatus.RUNNING}

    @property
    def over(self) -> bool:
        """Whether it has ended for good: a silence (``interrupted``) may be broken again."""
        return self.ended and self is not RunStatus.INTERRUPTED


class Event(NamedTuple):
    """One thing that happened in a run; a tuple, since a round may have thousands.

    Parameters
    ----------
    seq : int
        Number of the event in its run, from 1 on; with the run's id it names the event, so that
        one that is written twice is stored once.
    time : float
        When, in seconds since 1970 (UTC).
    kind : str
        One of :data:`EVENT_KINDS`.
    round : int
        The round it belongs to, from 1 on; 0 for what belongs to none.
    client : int
        The client it belongs to, from 0 on, or :data:`ALL_CLIENTS`.
    split : str
        ``"train"`` or ``"validation"`` for a metric or what a client printed, the process for a
        resource, else empty.
    name : str
        Which metric, resource, log level or status; who was struck by a fault and who recovered.
    value : float or None
        The measured value, NaN and infinities included; the seconds that a recovery took.
    text : str
        The message of a log line, a failure or a status; what was done on purpose (a fault), and
        why the run waits, "" when it waits no more.
    """

    seq: int
    time: float
    kind: str
    round: int = 0
    client: int = ALL_CLIENTS
    split: str = ""
    name: str = ""
    value: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What the records hold of a run, at the moment of asking.

    Times are seconds since 1970 (UTC). ``status`` is ``INTERRUPTED``, and ``finished`` the last
    sign of life, when the process that ran it is gone. ``round`` is the last finished round.
    """

    id: str
    name: str
    runner: str
    status: RunStatus
    message: str
    rounds: int
    round: int
    clients: int
    created: float
    started: float | None
    finished: float | None
    settings: dict[str, Any]
    plan: dict[str, Any]
    host: str
    pid: int

    @property
    def seconds(self) -> float:
        """How long the run has run so far, in seconds; 0 while it waits."""
        if self.started is None:
            return 0.0
        return max(0.0, (time.time() if self.finished is None else self.finished) - self.started)


def log_line(event: Event) -> str:
    """Return a log or failure event as a person reads it, in local time, without a last newline.

    >>> log_line(Event(1, 0.0, "failure", round=3, client=2, text="diverged"))[20:]
    'round 3 client 2 ERROR diverged'

    The further lines of a text (a traceback) are indented, so that every event starts with a date.
    """
    words = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))]
    if event.round:
        words.append(f"round {event.round}")
    if event.client != ALL_CLIENTS:
        words.append(f"client {event.client}")
    words.append("ERROR" if event.kind == "failure" else (event.name or "info").upper())
    first, *rest = event.text.splitlines() or [""]
    return "\n    ".join([" ".join([*words, first]).rstrip(), *rest])


def printed_once(events: Iterable[Event]) -> Iterator[Event]:
    """Yield events without what a client printed again in a round that was done again."""
    seen: set[tuple[int, int, str]] = set()
    for event in events:
        if event.kind == "log" and event.name == PRINTED:
            key = (event.round, event.client, event.split)
            if key in seen:
                continue
            seen.add(key)
        yield event


@dataclass(frozen=True, slots=True)
class MetricEvents:
    """The events of one metric of many clients, as columns, since there may be thousands.

    Parameters
    ----------
    seq : int
        Number of the first event; the others follow.
    time : float
        When, in seconds since 1970 (UTC).
    round : int
    clients : sequence of int
    split, name : str
    values : sequence of float
        Of each client.
    """

    seq: int
    time: float
    round: int
    clients: Sequence[int]
    split: str
    name: str
    values: Sequence[float]

    def __iter__(self) -> Iterator[Event]:
        same = itertools.repeat
        return map(
            Event,
            *(itertools.count(self.seq), same(self.time), same("metric"), same(self.round)),
            *(self.clients, same(self.split), same(self.name), self.values),
        )


EVENT_COLUMNS = (
    *("run_id", "seq", "time", "kind", "round", "client"),
    *("split", "name", "value", "is_nan", "text"),
)
"""The columns of the table of events, in their order."""


def event_row(run_id: str, event: Event) -> tuple[Any, ...]:
    """Return ``event`` as a row of the table of events, by :data:`EVENT_COLUMNS`."""
    seq, when, kind, round_number, client, split, name, value, text = event
    if kind not in EVENT_KINDS:
        choose(kind, EVENT_KINDS, "kind of event", RecordsError)
    # int() and float(): a number of numpy or torch is no number to a database.
    return (
        *(run_id, int(seq), float(when), kind, int(round_number), int(client)),
        *(storable(split), storable(name), *_stored(value), storable(text)),
    )


def metric_rows(run_id: str, many: MetricEvents) -> list[tuple[Any, ...]]:
    """Return what :func:`event_row` does for each of them; what they share is looked at once."""
    when, number = float(many.time), int(many.round)
    split, name = storable(many.split), storable(many.name)
    return [
        (run_id, seq, when, "metric", number, int(client), split, name, *_stored(value), "")
        for seq, (client, value) in enumerate(
            zip(many.clients, many.values, strict=True), int(many.seq)
        )
    ]


def _stored(value: Any) -> tuple[float | None, bool]:
    """Return a value as it is stored, and whether it is not a number."""
    if value is None:
        return None, False
    value = float(value)
    return (None, True) if math.isnan(value) else (value, False)


def to_event(row: Sequence[Any]) -> Event:
    """Return a row of the table of events, all columns in their order, as an event."""
    # Unpacked, which takes a quarter of the time of as many looks at a row by name.
    _, seq, when, kind, round_number, client, split, name, value, is_nan, text = row
    value = math.nan if is_nan else value
    return Event(seq, when, kind, round_number, client, split, name, value, text)


def to_record(row: Any) -> RunRecord:
    """Return a row of the table of runs, interrupted if its process is gone."""
    status, message, finished = RunStatus(row.status), row.message, row.finished
    if not status.ended:
        mark = ProcessMark(row.host, row.boot, row.pid, row.process_started)
        if reason := mark.gone(row.heartbeat):
            status, message, finished = RunStatus.INTERRUPTED, reason, row.heartbeat
    return RunRecord(
        id=row.id,
        name=row.name,
        runner=row.runner,
        status=status,
        message=message,
        rounds=row.rounds,
        round=row.round,
        clients=row.clients,
        created=row.created,
        started=row.started,
        finished=finished,
        settings=json.loads(row.settings),
        plan=json.loads(row.plan),
        host=row.host,
        pid=row.pid,
    )


def storable(text: str) -> str:
    """Return ``text`` without what no database stores: half characters, and the null character.

    Both come with the tracebacks and file names of other programs.
    """
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
