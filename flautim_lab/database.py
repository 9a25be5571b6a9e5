"""A database of ours, the records' or the catalog's: a SQLite file, or PostgreSQL.

Whatever SQLAlchemy or the database says leaves this module as one error of ours.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import sqlite3
import time
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from flautim_lab.errors import FlautimError, UsageError
from flautim_lab.home import ELSEWHERE, FILE_MODE, disk_full
from flautim_lab.names import choose

MIGRATIONS_VARIABLE = "FLAUTIM_LAB_MIGRATIONS"
HERE, APART = "here", "apart"
ROWS_AT_ONCE = 50  # in one INSERT of SQLite's: two thirds of the time, and few enough variables
CONNECT_SECONDS = 5  # to a PostgreSQL; one whose machine was lost answers nothing at all


def insert_new(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that passes over the rows which are there already (by any unique key)."""
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def store_new(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
) -> int:
    """Insert rows as :func:`insert_new` does, and return how many of them were new.

    All of them go to the driver as they are: what SQLAlchemy does with each row, and with what an
    INSERT returns, takes longer than SQLite takes to store it.

    Parameters
    ----------
    connection : Connection
    table : Table
    columns : sequence of str
        In the order that the table has them.
    rows : sequence of tuple
        At least one; by column, in types that the driver takes.
    """
    if connection.dialect.name == "postgresql":
        one = _insert_text(table, connection.dialect, tuple(columns), 1)
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        return connection.exec_driver_sql(one, named).rowcount
    stored, rest = 0, len(rows) % ROWS_AT_ONCE
    for number, part in ((ROWS_AT_ONCE, rows[: len(rows) - rest]), (1, rows[len(rows) - rest :])):
        if part:
            text = _insert_text(table, connection.dialect, tuple(columns), number)
            each = range(0, len(part), number)
            taken = [tuple(itertools.chain(*part[begin : begin + number])) for begin in each]
            stored += connection.exec_driver_sql(text, taken).rowcount
    return stored


@functools.lru_cache(maxsize=32)
def _insert_text(table: sa.Table, dialect: sa.Dialect, columns: tuple[str, ...], rows: int) -> str:
    """Return the text of an INSERT of so many rows."""
    insert = insert_new(table, dialect.name)
    if rows > 1:
        insert = insert.values([dict.fromkeys(columns) for _ in range(rows)])
    return str(insert.compile(dialect=dialect, column_keys=list(columns)))


class Database(ABC):
    """The open database of one process; it must not be taken along into a forked one.

    Attributes
    ----------
    what : str
        What it holds, in the words of its errors: "records" or "catalog".
    error : type of FlautimError
        What is raised.
    metadata : sqlalchemy.MetaData
        Its tables.
    found : str
        The version of the tables that were there when it was opened, "" for none.
    failures : Counter
        How often a database failed in this process, by ``what``.

    Parameters
    ----------
    address : str or sqlalchemy.URL
        SQLAlchemy URL of a SQLite file or a PostgreSQL database. What is missing is made: the
        file (mode 0600) and, by :meth:`prepare`, the tables.
    timeout_seconds : float
        How long to wait for another program that is writing to the SQLite file.
    apart : bool, optional
        See :meth:`prepare`; by default what ``FLAUTIM_LAB_MIGRATIONS`` says.

    Raises
    ------
    FlautimError
        The class in ``error``: if it cannot be opened, is no database, or holds something else.
    """

    what: ClassVar[str]
    error: ClassVar[type[FlautimError]]
    metadata: ClassVar[sa.MetaData]
    failures: ClassVar[Counter[str]] = Counter()

    def __init__(
        self, address: str | sa.URL, timeout_seconds: float, *, apart: bool | None = None
    ) -> None:
        self._apart = _apart() if apart is None else apart
        self.found = ""
        self.url = url = self._parse(address)
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
            self.prepare()

    @property
    def _s(self) -> str:
        return "" if self.what.endswith("s") else "s"

    @property
    def _have(self) -> str:
        return "have" if self.what.endswith("s") else "has"

    @property
    def _is_file(self) -> bool:
        return self.dialect == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection for reading: all of it sees one moment."""
        engine = self._engine
        if not self._is_file:
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._plainly(), engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection for one transaction: all of it is stored, or nothing."""
        engine = self._engine.execution_options(writes=True)
        with self._plainly(), engine.begin() as connection:
            yield connection

    def ask(self, connection: sa.Connection) -> None:
        """Ask for nothing, by a connection of its own: whether it is still there.

        Raises
        ------
        FlautimError
            The class in ``error``: if it is not.
        """
        with self._plainly():
            connection.execute(sa.select(1))

    def check(self) -> None:
        """Ask the database, and make sure that its tables are still those of this code.

        Raises
        ------
        FlautimError
            The class in ``error``: if it does not answer, or they are not.
        """
        with self.reading() as connection:
            found = self.version(connection)
        if found != self.newest:
            raise self.error(
                f"the tables of the {self.what} in {self.where} are {found or 'gone'} now, and "
                f"this Flautim Lab needs {self.newest}; start the version that goes with them"
            )

    def close(self) -> None:
        """Close what is open; the database opens again when it is used again."""
        self._engine.dispose()

    def _make_engine(self, url: sa.URL) -> sa.Engine:
        options: dict[str, Any] = {"hide_parameters": True}
        if self._is_file:
            options["connect_args"] = {"timeout": self._timeout_seconds}
        else:
            options["pool_pre_ping"] = True  # a server may have been started anew
            options["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
        try:
            engine = sa.create_engine(url, **options)
        except ImportError as error:
            raise self.error(
                f"the {self.what} in {self.where} need{self._s} the Python package {error.name!r}, "
                f"which is not installed; pip install {error.name}"
            ) from None
        except (SQLAlchemyError, TypeError, ValueError) as error:
            raise self.error(
                f"the {self.what} in {self.where} cannot be opened: {_first_line(error)}"
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

    def prepare(self) -> None:
        """Bring the tables to the newest form, and refuse those of another program, or a newer one.

        Safely while other processes do the same. ``apart`` from whoever does that nothing is made
        or changed here, and tables that are not the newest are refused.
        """
        with self._engine.connect() as connection:
            self.found = self.version(connection)
            self._check(connection)
        if self.found == self.newest:
            return
        if self._apart:
            are = f"are {self.found}" if self.found else "are not there yet"
            raise self.error(
                f"the tables of the {self.what} in {self.where} {are}, and this Flautim Lab needs "
                f"{self.newest}; run flautim-lab migrate"
            )
        with self._engine.execution_options(writes=True).begin() as connection:
            self.lock(connection)
            self.found = self.version(connection)
            self._check(connection)
            if self.found != self.newest:
                self.upgrade(connection)

    def _check(self, connection: sa.Connection) -> None:
        """Refuse tables that are not ours, or too new."""
        if self.found:
            wrong = "" if self.knows(self.found) else self.newer(self.found)
        else:
            there = set(sa.inspect(connection).get_table_names())
            foreign = there & set(self.metadata.tables) and not self.version(connection)
            wrong = (
                f"{self.where} holds the tables of another program; "
                f"move it away, or {ELSEWHERE} of its own"
            ) * bool(foreign)
        if wrong:
            error = self.error(wrong)
            error.lasting = True
            raise error

    @property
    @abstractmethod
    def newest(self) -> str:
        """The version of the tables that this code reads and writes."""

    @abstractmethod
    def version(self, connection: sa.Connection) -> str:
        """Return the version of the tables that are there, "" where there are none."""

    @abstractmethod
    def knows(self, version: str) -> bool:
        """Return whether tables of a version can be brought to the newest form."""

    @abstractmethod
    def newer(self, version: str) -> str:
        """Return the sentence for tables of a newer Flautim Lab."""

    def drop(self, connection: sa.Connection) -> None:
        """Take all tables away, with the mark of their version."""
        self.metadata.drop_all(connection)

    @abstractmethod
    def upgrade(self, connection: sa.Connection, to: str = "") -> None:
        """Make the tables, or bring them to the newest form, in the connection's transaction.

        ``to`` names an older form to make them in; see :mod:`flautim_lab.runners.backup`.
        """

    def lock(self, connection: sa.Connection) -> None:
        """Let one process in at a time, to make tables, until the transaction has ended.

        SQLite's BEGIN IMMEDIATE does it where a transaction begins to write.
        """
        if not self._is_file:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))

    def _parse(self, address: str | sa.URL) -> sa.URL:
        try:
            url = sa.make_url(address)
        except SQLAlchemyError:
            shown = re.sub(r"//.*@", "//***@", str(address))  # never show a password
            raise self.error(
                f"{shown!r} is not the address of a database; write it like "
                f"sqlite:////folder/{self.what}.db or postgresql+psycopg://user@host/database"
            ) from None
        choose(url.get_backend_name(), ["sqlite", "postgresql"], "database", self.error)
        if url.get_backend_name() == "sqlite":
            if not url.database or url.database == ":memory:" or "mode" in url.query:
                raise self.error(
                    f"the {self.what} cannot be kept in memory, where no other program would see "
                    f"them; write the address like sqlite:////folder/{self.what}.db"
                )
            if sqlite3.sqlite_version_info < (3, 35):
                raise self.error(
                    f"this Python comes with SQLite {sqlite3.sqlite_version}; "
                    f"the {self.what} need{self._s} 3.35 or newer"
                )
            # A notebook may change its folder: the records stay where they were.
            return url.set(database=str(Path(url.database).absolute()))
        if url.drivername == "postgresql":  # SQLAlchemy's own choice is one that we do not bring
            return url.set(drivername="postgresql+psycopg")
        return url

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            self.failures[self.what] += 1
            raise self.error(self._sentence(error)) from None

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
                f"the {self.what} in {self.where} {self._have} been locked by another program for "
                f"{self._timeout_seconds:g} s; end that program, and try again"
            )
        if kind in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
            return (
                f"the {self.what} in {self.where} cannot be opened for writing ({cause}); "
                f"change the permissions of that file and its folder, or {ELSEWHERE} of your own"
            )
        if kind == sqlite3.SQLITE_IOERR:
            return (
                f"the disk that holds {self.where} cannot be read or written ({cause}); check that "
                f"it is there and that your quota is not used up, or {ELSEWHERE} on another disk"
            )
        check = "" if self._is_file else "; check the address and that the server runs"
        return f"the {self.what} in {self.where} cannot be used: {_first_line(cause)}{check}"

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


def _begin(connection: sa.Connection) -> None:
    # A transaction that begins by reading and then writes would be refused, without waiting, when
    # another process wrote in between: so one that will write says so at once.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_locked(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _apart() -> bool:
    """Whether somebody else makes and changes the tables."""
    told = os.environ.get(MIGRATIONS_VARIABLE) or HERE
    return choose(told, [HERE, APART], MIGRATIONS_VARIABLE, UsageError) == APART


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
