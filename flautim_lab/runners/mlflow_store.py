"""Whether an address is that of an MLflow store that takes runs, found out at once, in few words.

MLflow itself tries a database that refuses ten times, for 100 seconds, and says so with SQL.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from flautim_lab.errors import RecordsError, UsageError
from flautim_lab.names import choose
from flautim_lab.records.artifacts import check_folder

SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
OWN_TABLE = "latest_metrics"  # of MLflow's
PATIENCE_SECONDS = 10
LONGEST = 200  # of what MLflow says of an error


def check_store(uri: str) -> None:
    """Refuse an address that MLflow would refuse late, at length, or not at all.

    Raises
    ------
    UsageError
        If it is none of a store.
    RecordsError
        If it is that of an SQLite file that cannot be made or written, or that is not MLflow's.
    """
    if uri.startswith("file:"):
        raise UsageError("MLflow keeps runs in no plain folder any more; give sqlite:///mlflow.db")
    kind = _kind(uri)
    choose(kind, SCHEMES, "kind of MLflow store", UsageError)
    if kind == "sqlite":
        name = uri.partition("://")[2].partition("?")[0]
        if not name.startswith("/") or name in ("/", "/:memory:"):
            raise UsageError(f"{uri!r} names no file; give sqlite:///FILE, with three slashes")
        _check_sqlite(Path(name[1:]).absolute())


def _kind(uri: str) -> str:
    return uri.partition("://")[0].partition("+")[0]  # sqlite+pysqlite is sqlite, too


def _check_sqlite(path: Path) -> None:
    check_folder(path)
    other = "choose another, such as sqlite:///mlflow.db"
    if os.path.isdir(path):
        raise RecordsError(f"{path} is a folder, not an SQLite file; {other}")
    try:
        known = _tables(path) if os.path.exists(path) else set()
    except sqlite3.Error as error:
        raise RecordsError(f"{path} cannot be used: {error}; {other}") from None
    if known and OWN_TABLE not in known:  # MLflow would put its tables between those
        raise RecordsError(f"{path} is the database of another program; {other}")
    for place in (path, path.parent):  # SQLite writes a journal beside its file
        if os.path.exists(place) and not os.access(place, os.W_OK):
            raise RecordsError(f"{path} cannot be written: {place} is read-only for you; {other}")


def _tables(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master")}


def try_once(uri: str) -> None:
    """Connect to a store that is a database, once: MLflow tries what refuses for 100 seconds."""
    kind = _kind(uri)
    if kind not in DATABASES:
        return
    from mlflow.store.db.utils import create_sqlalchemy_engine

    if kind in ("postgresql", "mysql") and "connect_timeout" not in uri:
        uri += f"{'&' if '?' in uri else '?'}connect_timeout={PATIENCE_SECONDS}"
    engine = create_sqlalchemy_engine(uri)  # type: ignore[no-untyped-call]
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what MLflow and alembic log to themselves; what matters is in their exceptions."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def said(error: Exception, uri: str) -> str:
    """Return the first line of an error without SQL, links, and passwords."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = re.sub(r"^\(\S*Error\) |\[SQL:.*|\(Background on this error.*", "", lines[0])
    if cause := re.search(r"\(Caused by \w+\(.*?: (.*?)['\"]\)\)", text):  # of requests
        text = cause[1]
    with contextlib.suppress(ValueError):
        if password := urlsplit(uri).password:
            text = text.replace(password, "***")
    return textwrap.shorten(text.strip().rstrip(".;"), LONGEST, placeholder=" ...")


def without_password(uri: str) -> str:
    """Return an address as it may be shown."""
    with contextlib.suppress(ValueError):
        if password := urlsplit(uri).password:
            return uri.replace(f":{password}@", ":***@")
    return uri
