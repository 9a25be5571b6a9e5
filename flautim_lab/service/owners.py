"""Data owners end runs that read their data: first they are asked to end, then their pods go.

The request goes to the run's server, where code of its researcher runs: it may not obey. Who asked,
and when, is in the catalog, so that a service that is started anew counts on from there.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from flautim_lab.errors import FlautimError, RunNotFoundError
from flautim_lab.records.store import Records
from flautim_lab.service.catalogs import Catalogs

LOOK_SECONDS = 2.0  # between looks whether a data owner asked for a run's end
LOST_SECONDS = 600.0  # after which a run that was admitted and never made is no use of data

_log = logging.getLogger(__name__)


class Runs(Protocol):
    """The runs that a service follows."""

    def following(self) -> list[str]:
        """Return the ids of the runs that are followed now, or soon."""

    def say(self, run_id: str, message: str) -> None:
        """Tell the owner of a run something, unless the run has ended."""

    def end(self, run_id: str, message: str) -> None:
        """Remove the pods of a run that is followed, whatever its server does."""

    def is_left(self, run_id: str) -> bool:
        """Whether pods of a run may be there."""


class Owners:
    """Obeys data owners.

    Parameters
    ----------
    records : Records
    catalogs : Catalogs
    stop_seconds : float
        How long a run is given to end by itself, keeping its last whole round.
    runs : Runs
    """

    def __init__(
        self, records: Records, catalogs: Catalogs, stop_seconds: float, runs: Runs
    ) -> None:
        self._records, self._catalogs = records, catalogs
        self._seconds = stop_seconds
        self._runs = runs
        self._told: set[str] = set()
        #: Who started each run that is followed.
        self._started_by: dict[str, str] = {}

    def obey(self, closed: threading.Event) -> None:
        """Look again and again, until the service is closed."""
        while not closed.wait(LOOK_SECONDS):
            try:
                self.look(time.time())
            except FlautimError as error:  # a database that is away comes back
                _log.warning("the catalog cannot be asked which runs are to end: %s", error)
            except Exception:  # noqa: BLE001 - whatever it is: owners are obeyed as long as it runs
                _log.exception("looking for what data owners ask broke")

    def look(self, now: float) -> None:
        """Look once.

        Parameters
        ----------
        now : float
            Seconds since 1970.

        Raises
        ------
        FlautimError
            If a database is away.
        """
        going = self._runs.following()
        self._told &= set(going)  # a later run of the same id is told anew
        self._started_by = {
            run_id: self._started_by.get(run_id) or self._owner(run_id) for run_id in going
        }
        if going:
            asked = self._catalogs.own().stops_asked(self._started_by)
            for run_id, (owner, when) in asked.items():
                self._end(run_id, owner, now - when)
        self._forget_lost(set(going), now)

    def _end(self, run_id: str, owner: str, seconds: float) -> None:
        """Let a run end: it was asked so many seconds ago."""
        asked = f"{owner}, an owner of its data, asked for its end"
        if run_id not in self._told:
            try:
                self._runs.say(run_id, asked)
                self._records.request_stop(run_id)
            except RunNotFoundError:
                return  # it was removed meanwhile, and its pods with it
            self._told.add(run_id)
        if seconds >= self._seconds:
            self._runs.end(
                run_id,
                f"{asked}, and it had not ended {self._seconds:g} s later: its pods were removed",
            )

    def _owner(self, run_id: str) -> str:
        try:
            return str(self._records.run(run_id).settings.get("owner"))
        except RunNotFoundError:
            return ""

    def _forget_lost(self, going: set[str], now: float) -> None:
        """Note the end of what has ended, or was never made, while the service or a database died.

        An end that is not noted would show to the data's owners for ever as a run that goes on.
        """
        for run_id, started_by in self._catalogs.own().going_by_service(now - LOST_SECONDS).items():
            if run_id in going or self._runs.is_left(run_id):
                continue
            try:
                over = self._records.run(run_id).status.over
            except RunNotFoundError:
                over = True
            if over:
                self._catalogs.end_run(run_id, started_by)
