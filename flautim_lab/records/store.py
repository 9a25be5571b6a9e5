"""The records: every run, every event in it, and where its artifacts lie.

Several processes may write at once (two kernels and a command line); what is written twice is
stored once, and a run whose process died is never shown as running.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from flautim_lab.database import insert_new, store_new
from flautim_lab.errors import ExperimentError, RecordsError, RunNotFoundError
from flautim_lab.home import home, private_folder
from flautim_lab.names import check_name, choose, unknown
from flautim_lab.records import frames
from flautim_lab.records.event import (
    ALL_CLIENTS,
    EVENT_COLUMNS,
    EVENT_KINDS,
    Event,
    MetricEvents,
    RunRecord,
    RunStatus,
    event_row,
    metric_rows,
    storable,
    to_event,
    to_record,
)
from flautim_lab.records.faults import faults_of
from flautim_lab.records.process import DETACHED, ProcessMark
from flautim_lab.records.schema import RecordsDatabase, events, runs

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Records", "RunRecord"]

URL_VARIABLE = "FLAUTIM_LAB_RECORDS_URL"
BUSY_TIMEOUT_SECONDS = 20.0
_SHOWN_CHOICES = 5


Listener = Callable[[str, Sequence[Event]], None]


class Records:
    """Runs and their events in a database, and the folders of their artifacts.

    Safe to use from several threads, and after a fork.

    Attributes
    ----------
    listeners : list of callable
        Each is called with the id of a run of which this process stored something by these records,
        and its events that are new (none where it was something else), in the thread that did; it
        must not raise. What other processes store is found by looking.

    Parameters
    ----------
    url : str, optional
        SQLAlchemy URL of a SQLite file or a PostgreSQL database. Default: the URL in
        ``FLAUTIM_LAB_RECORDS_URL``, else the file ``records.db`` in :func:`home`.
    busy_timeout_seconds : float
        How long to wait while another program writes to the SQLite file.

    Raises
    ------
    RecordsError
        Here and in every method: in one sentence, if the records cannot be read or written.
    """

    def __init__(
        self, url: str | None = None, *, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> None:
        self._home = home()
        self._address: str | sa.URL = url or _address(self._home)
        self._timeout_seconds = busy_timeout_seconds
        self.listeners: list[Listener] = []
        # By process: what was opened before a fork must not be used after it, nor closed.
        self._databases: dict[int, RecordsDatabase] = {}
        self._database()

    @classmethod
    def default(cls) -> Records:
        """Return the records of the current :func:`home`, opened once per process."""
        key = (str(home()), os.environ.get(URL_VARIABLE, ""))
        known = _defaults.get(os.getpid())
        if known is None or known[0] != key:
            if known is not None:
                known[1].close()
            known = _defaults[os.getpid()] = (key, cls())
        return known[1]

    @property
    def where(self) -> str:
        """The file, or the address without its password."""
        return self._database().where

    def check(self) -> None:
        """Ask the database, and make sure that its tables are still those of this code.

        Raises
        ------
        RecordsError
            If it does not answer, or they are not.
        """
        self._database().check()

    def close(self) -> None:
        """Close the connections; they open again when the records are used again."""
        if (database := self._databases.get(os.getpid())) is not None:
            database.close()

    # --- writing --------------------------------------------------------------------------

    def create_run(
        self,
        run_id: str,
        *,
        name: str,
        runner: str,
        rounds: int,
        clients: int,
        settings: Mapping[str, Any],
        plan: Mapping[str, Any],
        detached: bool = False,
    ) -> None:
        """Record a new run, waiting to start, with this process as the one that runs it.

        Parameters
        ----------
        run_id : str
            See :func:`flautim_lab.names.make_run_id`; any text that can name a folder.
        name, runner : str
            The name of the experiment, and the runner that executes it.
        rounds, clients : int
            How many there will be.
        settings, plan : mapping
            The experiment's settings and the numerics plan, as JSON can hold them.
        detached : bool
            Several processes hold the run and each of them may die; it is gone when none of them
            gave a sign of life for a while (see :meth:`heartbeat`).

        Raises
        ------
        RecordsError
            If there is such a run already, the id cannot name a folder, or the settings cannot be
            kept as JSON.
        """
        now = time.time()
        row = {
            "id": _checked_id(run_id),
            "name": storable(name),
            "runner": runner,
            "status": RunStatus.WAITING.value,
            "rounds": int(rounds),
            "clients": int(clients),
            "created": now,
            "settings": _json(settings, "settings", run_id),
            "plan": _json(plan, "numerics plan", run_id),
            **_own_mark(now),
        }
        if detached:
            row["boot"] = DETACHED
        database = self._database()
        insert = insert_new(runs, database.dialect).returning(runs.c.id)
        with database.writing() as connection:
            if connection.execute(insert, row).first() is None:
                raise RecordsError(
                    f"there is a run {run_id!r} already; give the new one its own id"
                )

    def append(self, run_id: str, events_of_run: Sequence[Event | MetricEvents]) -> int:
        """Store events, all or none of them, and return how many were new.

        An event is stored once: by its number in the run and, for a metric, by its round, client,
        split and name. ``round`` events also move the run's round forward, and any call is a sign
        of life of the run.

        Raises
        ------
        RunNotFoundError
            If there is no such run.
        """
        if not events_of_run:
            return 0
        listened = bool(self.listeners)
        rows, reached = [], 0
        for one in events_of_run:
            if isinstance(one, Event):
                rows.append(event_row(run_id, one))
                reached = max(reached, int(one.round) if one.kind == "round" else 0)
            else:
                rows += metric_rows(run_id, one)
        database = self._database()
        forward = sa.case((runs.c.round < reached, reached), else_=runs.c.round)
        with database.writing() as connection:
            self._update(connection, run_id, heartbeat=time.time(), round=forward)
            if listened:
                insert = insert_new(events, database.dialect).returning(events.c.seq)
                named = [dict(zip(EVENT_COLUMNS, row, strict=True)) for row in rows]
                new = set(connection.execute(insert, named).scalars())
                stored = len(new)
            else:  # nobody asks which were new, and that takes half as long
                stored, new = store_new(connection, events, EVENT_COLUMNS, rows), set()
        told = [e for e in _each(events_of_run) if int(e.seq) in new] if new else []
        self._tell(run_id, told)
        return stored

    def set_status(self, run_id: str, status: RunStatus | str, *, message: str = "") -> None:
        """Set where the run stands, with a sentence for its reader.

        The process that sets ``running`` is from then on the one that runs it.
        """
        status = RunStatus(choose(str(status), list(RunStatus), "status", RecordsError))
        now = time.time()
        values: dict[str, Any] = {"status": status.value, "message": storable(message)}
        if status is RunStatus.RUNNING:
            mark = _own_mark(now)
            mark["boot"] = sa.case((runs.c.boot == DETACHED, DETACHED), else_=mark["boot"])
            values |= {"started": sa.func.coalesce(runs.c.started, now), **mark}
        with self._database().writing() as connection:
            finished = now if status.ended else None
            self._update(connection, run_id, finished=finished, **values)
        self._tell(run_id)

    def set_round(self, run_id: str, round_number: int) -> None:
        """Set the last finished round."""
        with self._database().writing() as connection:
            self._update(connection, run_id, round=int(round_number))

    def heartbeat(self, run_id: str) -> None:
        """Give a sign of life, for those who cannot look at the process (on another host)."""
        with self._database().writing() as connection:
            self._update(connection, run_id, heartbeat=time.time())

    def request_stop(self, run_id: str) -> None:
        """Ask whoever runs it to stop; from any process."""
        with self._database().writing() as connection:
            self._update(connection, run_id, stop_requested=True)

    @contextlib.contextmanager
    def listened(self, listener: Listener) -> Iterator[None]:
        """While inside, have one more of the ``listeners``."""
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    # --- reading --------------------------------------------------------------------------

    def stop_requested(self, run_id: str) -> bool:
        """Return whether somebody asked the run to stop."""
        with self._database().reading() as connection:
            query = sa.select(runs.c.stop_requested).where(runs.c.id == run_id)
            asked = connection.execute(query).scalar_one_or_none()
        if asked is None:
            raise self._not_found(run_id)
        return bool(asked)

    def run(self, run_id: str) -> RunRecord:
        """Return the record of one run, by its full id.

        Raises
        ------
        RunNotFoundError
            If there is no such run.
        """
        with self._database().reading() as connection:
            row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).one_or_none()
        if row is None:
            raise self._not_found(run_id)
        return to_record(row)

    def runs(
        self, *, limit: int | None = None, status: RunStatus | str | None = None
    ) -> list[RunRecord]:
        """Return the runs, newest first.

        Parameters
        ----------
        limit : int, optional
            How many at most.
        status : RunStatus, optional
            Only those that stand there, interrupted ones as such.
        """
        query = sa.select(runs).order_by(runs.c.created.desc(), runs.c.id.desc())
        if status is None:
            query = query.limit(limit)
        else:
            status = RunStatus(choose(str(status), list(RunStatus), "status", RecordsError))
            stored = {status}
            if status is RunStatus.INTERRUPTED:
                stored |= {RunStatus.WAITING, RunStatus.RUNNING}  # if their process is gone
            query = query.where(runs.c.status.in_(sorted(each.value for each in stored)))
        with self._database().reading() as connection:
            found = [to_record(row) for row in connection.execute(query)]
        return [run for run in found if status in {None, run.status}][:limit]

    def find(self, text: str) -> str:
        """Return the id of the one run that ``text`` means.

        Parameters
        ----------
        text : str
            A full id, ``"last"`` for the newest run, the beginning of one id, or a part of one id
            or name (upper and lower case alike).

        Raises
        ------
        RunNotFoundError
            If it means none, with the nearest one; or several, with up to five of them.
        """
        names = self._ids_and_names()
        for exact in (text, text := unicodedata.normalize("NFC", text).strip()):
            if exact in names:
                return exact
        if text == "last" and names:
            return next(iter(names))
        part = text.casefold()
        fits = [run_id for run_id in names if part and run_id.casefold().startswith(part)]
        if not fits and part:
            fits = [
                run_id
                for run_id, name in names.items()
                if part in run_id.casefold() or part in name.casefold()
            ]
        if not fits:
            raise self._not_found(text)
        if len(fits) > 1:
            shown = ", ".join(fits[:_SHOWN_CHOICES]) + (", ..." if fits[_SHOWN_CHOICES:] else "")
            raise RunNotFoundError(
                f"{text!r} means {len(fits)} runs; write more of one id: {shown}"
            )
        return fits[0]

    def events(
        self,
        run_id: str,
        *,
        after: int = 0,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
        each_validation: bool = True,
    ) -> list[Event]:
        """Return the events of a run with a number above ``after``, in order.

        Parameters
        ----------
        run_id : str
            The full id.
        after : int
            The number of the last event that is known already.
        kinds : sequence of str, optional
            Only events of these kinds, see :data:`flautim_lab.records.event.EVENT_KINDS`.
        limit : int, optional
            How many at most, the first ones.
        each_validation : bool
            Also what each client measured on its validation rows, which most events may be.
        """
        query = sa.select(events).where(events.c.run_id == run_id, events.c.seq > after)
        if kinds is not None:
            wanted = [choose(kind, EVENT_KINDS, "kind of event", RecordsError) for kind in kinds]
            query = query.where(events.c.kind.in_(wanted))
        if not each_validation:
            measured = sa.and_(events.c.kind == "metric", events.c.split == "validation")
            query = query.where(sa.or_(events.c.client == ALL_CLIENTS, sa.not_(measured)))
        with self._database().reading() as connection:
            rows = connection.execute(query.order_by(events.c.seq).limit(limit)).all()
        if not rows:
            self._check_exists(run_id)
        return [to_event(row) for row in rows]

    def last_seq(self, run_id: str) -> int:
        """Return the number of the last event of a run, 0 when it has none."""
        query = sa.select(sa.func.max(events.c.seq)).where(events.c.run_id == run_id)
        with self._database().reading() as connection:
            last = connection.execute(query).scalar_one()
        if last is None:
            self._check_exists(run_id)
        return last or 0

    def metrics(self, run_id: str) -> pd.DataFrame:
        """Return the metrics of a run as a tidy table.

        Returns
        -------
        pandas.DataFrame
            One line per round, client, split and metric, in the order of round, split, metric and
            client: ``round`` (int64), ``client`` (Int64, missing for all clients together, which
            comes first), ``split`` and ``metric`` (str), ``value`` (float64).
        """
        keys = [events.c.round, events.c.split, events.c.name, events.c.client]
        return frames.metrics_frame(self._rows(run_id, "metric", keys, keys))

    def resources(self, run_id: str) -> pd.DataFrame:
        """Return what the processes of a run used, round by round, as a tidy table.

        Returns
        -------
        pandas.DataFrame
            One line per round, process, client and resource, in that order: ``round`` (int64),
            ``process`` (str: ``kernel``, ``server``, ``client-0``, ...), ``client`` (Int64,
            missing for all of the process), ``resource`` (str, the unit at its end:
            ``cpu_seconds``, ``memory_bytes``, ...), ``value`` (float64). A round that was done
            again after a kill counts as it was first stored.
        """
        keys = [events.c.round, events.c.split, events.c.client, events.c.name]
        return frames.resources_frame(self._rows(run_id, "resource", keys, [events.c.seq]))

    def faults(self, run_id: str) -> pd.DataFrame:
        """Return what was done to a run on purpose, and how long it took to recover.

        Returns
        -------
        pandas.DataFrame
            One line per fault, by time: ``time`` (float64, seconds since the run started),
            ``round`` (int64), ``target`` and ``what`` (str), ``recovery_seconds`` (float64, NaN
            while the target is not at work again).
        """
        run = self.run(run_id)
        known = faults_of(self.events(run_id, kinds=("fault", "recovery")))
        return frames.faults_frame(known, run.started or run.created)

    def folder(self, run_id: str) -> Path:
        """Return the folder of the run's artifacts, made when asked (mode 0700)."""
        return private_folder(self._home / "runs" / _checked_id(run_id))

    @contextlib.contextmanager
    def connected(self, *, writing: bool = False) -> Iterator[sa.Connection]:
        """Give a connection to the database, for the other files of this package."""
        database = self._database()
        with database.writing() if writing else database.reading() as connection:
            yield connection

    # --- inside ---------------------------------------------------------------------------

    def _rows(self, run_id: str, kind: str, keys: Sequence[Any], order: Sequence[Any]) -> list[Any]:
        query = (
            sa.select(*keys, events.c.value)
            .where(events.c.run_id == run_id, events.c.kind == kind)
            .order_by(*order)
        )
        with self._database().reading() as connection:
            rows = list(connection.execute(query).all())
        if not rows:
            self._check_exists(run_id)
        return rows

    def _database(self) -> RecordsDatabase:
        pid = os.getpid()
        if (database := self._databases.get(pid)) is None:
            database = RecordsDatabase(self._address, self._timeout_seconds)
            self._address = database.url  # a relative path means the folder of the first time
            # Two threads may come here at once: both go on with the same one.
            database = self._databases.setdefault(pid, database)
        return database

    def _update(self, connection: sa.Connection, run_id: str, **values: Any) -> None:
        changed = connection.execute(sa.update(runs).where(runs.c.id == run_id).values(values))
        if changed.rowcount == 0:
            raise self._not_found(run_id)

    def _tell(self, run_id: str, new: Sequence[Event] = ()) -> None:
        for listener in tuple(self.listeners):
            listener(run_id, new)

    def _check_exists(self, run_id: str) -> None:
        self.stop_requested(run_id)

    def _ids_and_names(self) -> dict[str, str]:
        query = sa.select(runs.c.id, runs.c.name).order_by(runs.c.created.desc(), runs.c.id.desc())
        with self._database().reading() as connection:
            return {row.id: row.name for row in connection.execute(query)}

    def _not_found(self, text: str) -> RunNotFoundError:
        names = self._ids_and_names()
        if not names:
            return RunNotFoundError(
                f"no run named {text!r}: there is none yet in {self.where}; "
                "start one with lab.run(experiment)"
            )
        close = difflib.get_close_matches(text.lower(), [i.lower() for i in names], n=1, cutoff=0.6)
        newest = list(names)
        nearest = [run_id for run_id in newest if close and run_id.lower() == close[0]]
        shown = list(dict.fromkeys(nearest[:1] + newest))[:_SHOWN_CHOICES]
        return RunNotFoundError(unknown(text, shown, "run"))


def _each(events_of_run: Iterable[Event | MetricEvents]) -> Iterator[Event]:
    for one in events_of_run:
        yield from [one] if isinstance(one, Event) else one


def database(*, apart: bool | None = None) -> RecordsDatabase:
    """Return the database of the records, opened anew."""
    return RecordsDatabase(_address(home()), BUSY_TIMEOUT_SECONDS, apart=apart)


def _address(folder: Path) -> str | sa.URL:
    file = sa.URL.create("sqlite", database=str(folder / "records.db"))
    return os.environ.get(URL_VARIABLE) or file


_defaults: dict[int, tuple[tuple[str, str], Records]] = {}


def _own_mark(now: float) -> dict[str, Any]:
    mark = ProcessMark.own()
    return {
        "host": mark.host,
        "boot": mark.boot,
        "pid": mark.pid,
        "process_started": mark.started,
        "heartbeat": now,
    }


def _checked_id(run_id: str) -> str:
    try:
        check_name(run_id, "run")
    except ExperimentError as error:
        raise RecordsError(str(error)) from None
    return run_id


def _json(values: Mapping[str, Any], what: str, run_id: str) -> str:
    try:
        return json.dumps(dict(values), ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise RecordsError(
            f"the {what} of run {run_id!r} cannot be kept as JSON: {error}"
        ) from None
