"""How many runs there are and how they stand, in one question to the database."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from flautim_lab.records.event import RunStatus
from flautim_lab.records.process import DETACHED, DETACHED_SILENCE_SECONDS
from flautim_lab.records.schema import runs
from flautim_lab.records.store import Records


@dataclass(frozen=True)
class Totals:
    """Sums over all runs.

    Attributes
    ----------
    by_status : mapping of str to int
        How many stand there, for each status; a run whose processes are silent is interrupted.
    started : int
        How many have ever started.
    rounds : int
        How many rounds they have finished together.
    """

    by_status: Mapping[str, int]
    started: int
    rounds: int


def totals(records: Records) -> Totals:
    """Return the sums over all runs.

    Of a run that several processes hold (on ``processes`` and ``cluster``) silence is noticed
    here; of one inside a kernel only by who looks at that kernel's machine.
    """
    silent = sa.and_(
        runs.c.status.in_([RunStatus.WAITING.value, RunStatus.RUNNING.value]),
        runs.c.boot == DETACHED,
        runs.c.heartbeat < time.time() - DETACHED_SILENCE_SECONDS,
    )
    status = sa.case((silent, RunStatus.INTERRUPTED.value), else_=runs.c.status).label("stands")
    each = sa.select(status, runs.c.started, runs.c.round).subquery()
    query = sa.select(
        each.c.stands,
        sa.func.count(),
        sa.func.count(each.c.started),
        sa.func.coalesce(sa.func.sum(each.c.round), 0),
    ).group_by(each.c.stands)
    with records.connected() as connection:
        rows = connection.execute(query).all()
    found = {str(row[0]): int(row[1]) for row in rows}
    return Totals(
        {status.value: found.get(status.value, 0) for status in RunStatus},
        sum(int(row[2]) for row in rows),
        sum(int(row[3]) for row in rows),
    )
