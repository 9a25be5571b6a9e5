"""The tables of the records, and the database that holds them: SQLite or PostgreSQL.

Whatever SQLAlchemy or the database says leaves this module as one :class:`RecordsError`.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from flautim_lab.errors import RecordsError
from flautim_lab.names import choose
from flautim_lab.records.home import ELSEWHERE, FILE_MODE, disk_full

SCHEMA_VERSION = 1

metadata = sa.MetaData()

# PostgreSQL orders text by the language of the server unless told otherwise; SQLite by code point.
_Name = sa.String().with_variant(sa.String(collation="C"), "postgresql")

version = sa.Table(
    "records_version",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", _Name, primary_key=True),
    sa.Column("name", _Name, nullable=False),
    sa.Column("runner", _Name, nullable=False),
    sa.Column("status", _Name, nullable=False),
    sa.Column("message", sa.Text, nullable=False, default=""),
    sa.Column("rounds", sa.Integer, nullable=False),
    sa.Column("round", sa.Integer, nullable=False, default=0),
    sa.Column("clients", sa.Integer, nullable=False),
    # Times are seconds since 1970 (UTC): they mean the same in every database and time zone.
    sa.Column("created", sa.Double, nullable=False, index=True),
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    # JSON as text, not as sa.JSON: PostgreSQL's refuses NaN and infinities.
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    # The process that runs it: see process.py.
    sa.Column("host", _Name, nullable=False),
    sa.Column("boot", _Name, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("process_started", sa.Double, nullable=False),
    sa.Column("heartbeat", sa.Double, nullable=False),
    sa.Column("stop_requested", sa.Boolean, nullable=False, default=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("run_id", _Name, sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("kind", _Name, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("client", sa.Integer, nullable=False),
    sa.Column("split", _Name, nullable=False),
    sa.Column("name", _Name, nullable=False),
    sa.Column("value", sa.Double),
    # SQLite stores NaN as NULL, so that "not a number" and "no value" need telling apart.
    sa.Column("is_nan", sa.Boolean, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

# A metric has one value per round, client and split, however often and by whomever it is sent.
_is_metric = events.c.kind == "metric"
metric_key = sa.Index(
    "events_metric_once",
    *(events.c[name] for name in ("run_id", "round", "client", "split", "name")),
    unique=True,
    sqlite_where=_is_metric,
    postgresql_where=_is_metric,
)


def insert_new(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that passes over the rows which are there already (by any unique key)."""
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


class Database:
    """The open database of one process; it must not be taken along into a forked one.

    Parameters
    ----------
    address : str or sqlalchemy.URL
        SQLAlchemy URL of a SQLite file or a PostgreSQL database. What is missing is made: the
        file (mode 0600) and the tables, safely while other processes do the same.
    timeout_seconds : float
        How long to wait for another program that is writing to the SQLite file.

    Raises
    ------
    RecordsError
        If it cannot be opened, is no database, or holds something else.
    """

    def __init__(self, address: str | sa.URL, timeout_seconds: float) -> None:
        self.url = url = _parse(address)
        self._timeout_seconds = timeout_seconds
        self.dialect = url.get_backend_name()
        self.where = url.database or "" if self._is_file else url.render_as_string()
        self._engine = self._make_engine(url)
        _engines.add(self._engine)
        fresh = self._is_file and not os.path.exists(self.where)
        with self._plainly():
            if fresh:
                # SQLite makes the file when it connects, and its side files with the file's mode.
                with closing(sqlite3.connect(self.where)), suppress(OSError):
                    os.chmod(self.where, FILE_MODE)
            self._prepare()

    @property
    def _is_file(self) -> bool:
        return self.dialect == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection for reading: all of it sees one moment of the records."""
        with self._plainly(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection for one transaction: all of it is stored, or nothing."""
        engine = self._engine.execution_options(writes=True)
        with self._plainly(), engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close what is open; the database opens again when it is used again."""
        self._engine.dispose()

    def _make_engine(self, url: sa.URL) -> sa.Engine:
        options: dict[str, Any] = {"hide_parameters": True}
        if self._is_file:
            options["connect_args"] = {"timeout": self._timeout_seconds}
        else:
            options["pool_pre_ping"] = True  # a server may have been started anew
        try:
            engine = sa.create_engine(url, **options)
        except ImportError as error:
            raise RecordsError(
                f"the records in {self.where} need the Python package {error.name!r}, "
                f"which is not installed; pip install {error.name}"
            ) from None
        except (SQLAlchemyError, TypeError, ValueError) as error:
            raise RecordsError(
                f"the records in {self.where} cannot be opened: {_first_line(error)}"
            ) from None
        if self._is_file:
            sa.event.listen(engine, "connect", self._connected)
            sa.event.listen(engine, "begin", _begin)
        return engine

    def _connected(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where _begin says, and only there
        connection.execute("PRAGMA foreign_keys = ON")
        # With WAL, a killed process loses nothing that was committed, and readers never wait for
        # a writer. A power cut may lose the last moments, and never damages the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                # Two that switch a new file to WAL at once: SQLite refuses one without waiting.
                if not _is_locked(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _prepare(self) -> None:
        """Make the tables unless they are there, and refuse those of another program."""
        with self._engine.connect() as connection:
            ready = sa.inspect(connection).has_table(version.name)
            found = connection.scalar(sa.select(version.c.version)) if ready else None
        if found is None:
            found = self._make_tables()
        if found > SCHEMA_VERSION:
            raise RecordsError(
                f"the records in {self.where} were written by a newer Flautim Lab "
                f"(version {found} of the tables, this one reads {SCHEMA_VERSION}); "
                f"update flautim-lab, or {ELSEWHERE} of its own"
            )

    def _make_tables(self) -> int:
        with self._engine.execution_options(writes=True).begin() as connection:
            if not self._is_file:
                # SQLite's BEGIN IMMEDIATE lets one process in at a time; this does it here.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            tables = set(sa.inspect(connection).get_table_names())
            if version.name not in tables:
                if tables & set(metadata.tables):
                    raise RecordsError(
                        f"{self.where} holds the tables of another program; "
                        f"move it away, or {ELSEWHERE} of its own"
                    )
                metadata.create_all(connection)
                connection.execute(sa.insert(version).values(version=SCHEMA_VERSION))
            return int(connection.execute(sa.select(version.c.version)).scalar_one())

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise RecordsError(self._sentence(error)) from None

    def _sentence(self, error: Exception) -> str:
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "sqlite_errorcode", None)
        kind = None if code is None else code & 0xFF  # the rest are SQLite's finer shades
        if kind == sqlite3.SQLITE_FULL or (kind == sqlite3.SQLITE_IOERR and self._no_space_left()):
            return disk_full(self.where)
        if kind in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            return (
                f"{self.where} is damaged, or is not a database; move it away "
                f"(a new one is made), or {ELSEWHERE} of its own"
            )
        if kind in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return (
                f"the records in {self.where} have been locked by another program for "
                f"{self._timeout_seconds:g} s; end that program, and try again"
            )
        if kind in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
            return (
                f"the records in {self.where} cannot be opened for writing ({cause}); "
                f"change the permissions of that file and its folder, or {ELSEWHERE} of your own"
            )
        if kind == sqlite3.SQLITE_IOERR:
            return (
                f"the disk that holds {self.where} cannot be read or written ({cause}); check that "
                f"it is there and that your quota is not used up, or {ELSEWHERE} on another disk"
            )
        check = "" if self._is_file else "; check the address and that the server runs"
        return f"the records in {self.where} cannot be used: {_first_line(cause)}{check}"

    def _no_space_left(self) -> bool:
        try:
            return shutil.disk_usage(Path(self.where).parent).free < 2**20
        except OSError:
            return False


_ADVISORY_LOCK = 0x666C617574696D  # "flautim"

# SQLite must never see, nor even close, in a forked process what was opened before the fork: the
# child keeps such engines out of the garbage collector's reach.
_engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()
_inherited: list[sa.Engine] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _inherited.extend(_engines))


def _parse(address: str | sa.URL) -> sa.URL:
    try:
        url = sa.make_url(address)
    except SQLAlchemyError:
        shown = re.sub(r"//.*@", "//***@", str(address))  # never show a password
        raise RecordsError(
            f"{shown!r} is not the address of a database; write it like "
            "sqlite:////folder/records.db or postgresql+psycopg://user@host/database"
        ) from None
    choose(url.get_backend_name(), ["sqlite", "postgresql"], "database", RecordsError)
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:" or "mode" in url.query:
            raise RecordsError(
                "the records cannot be kept in memory, where no other program would see them; "
                "write the address like sqlite:////folder/records.db"
            )
        if sqlite3.sqlite_version_info < (3, 35):
            raise RecordsError(
                f"this Python comes with SQLite {sqlite3.sqlite_version}; "
                "the records need 3.35 or newer"
            )
        # A notebook may change its folder: the records stay where they were.
        return url.set(database=str(Path(url.database).absolute()))
    return url


def _begin(connection: sa.Connection) -> None:
    # A transaction that begins by reading and then writes would be refused, without waiting, when
    # another process wrote in between: so one that will write says so at once.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_locked(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
