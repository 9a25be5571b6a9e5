"""Catalog and records as a file, and back: from SQLite to PostgreSQL, or the other way, too.

What is in the folders of runs (weights, logs of processes, checkpoints) is not in it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flautim_lab.database import Database
from flautim_lab.database_rows import (
    AT_ONCE,
    Restoring,
    count_rows,
    rows_of,
    tables_of,
)
from flautim_lab.errors import BackupError, FlautimError
from flautim_lab.names import count
from flautim_lab.runners import databases
from flautim_lab.runners.backup_file import Reader, written

NAME = "flautim-lab-%Y%m%d-%H%M%S.jsonl.gz"
"""Of a file in a folder of backups: the time in UTC, so that their order is that of their names."""

OURS = re.compile(r"flautim-lab-[0-9]{8}-[0-9]{6}\.jsonl\.gz")
PART = re.compile(r"\.flautim-lab-[0-9]{8}-[0-9]{6}\.jsonl\.gz\.[0-9]+\.part")
OLD_PART_SECONDS = 24 * 3600.0  # after which whoever wrote it is surely gone


def back_up(target: Path, *, keep: int | None = None) -> tuple[Path, dict[str, int]]:
    """Write the rows of catalog and records to a file, and read it once more to be sure.

    Each database is seen at one moment, both at the same where they are one. Others may write
    meanwhile.

    Parameters
    ----------
    target : Path
        A file that is not there yet, or a folder, in which it is named by the time.
    keep : int, optional
        How many files of that kind stay in the folder, the newest; all by default.

    Returns
    -------
    tuple of Path and dict
        The file, and how many rows of each table are in it.

    Raises
    ------
    BackupError
        If the file cannot be written, or is there already.
    CatalogUnavailableError, RecordsError
        If a database cannot be read, or its tables are of another version: this changes nothing.
    """
    if keep is not None and (keep < 1 or not target.is_dir()):
        raise BackupError(
            f"how many to keep ({keep}) must be at least 1 and goes with a folder that is there; "
            f"{target} is {'one' if target.is_dir() else 'none'}"
        )
    path = target / time.strftime(NAME, time.gmtime()) if target.is_dir() else target
    with databases.both(apart=True) as opened, contextlib.ExitStack() as stack:
        header = {
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "flautim_lab": version("flautim-lab"),
            "tables": {each.what: each.newest for each in opened},
        }
        file = stack.enter_context(written(path, header))
        connection: Any = None
        for each in opened:
            if connection is None or not _one(opened):
                connection = stack.enter_context(each.reading())
            for table in tables_of(each):
                file.table(f"{each.what}.{table.name}", [column.name for column in table.columns])
                for row in rows_of(connection, table):
                    file.row(row)
    try:
        rows = check(path)
    except BackupError:
        path.unlink(missing_ok=True)
        raise
    if keep is not None:
        _forget(target, keep)
    return path, rows


def check(path: Path) -> dict[str, int]:
    """Read a backup to its end; returns how many rows of each table are in it.

    Raises
    ------
    BackupError
        If it is no backup, is not whole, or is of a newer version.
    """
    reader = Reader(path)
    for _name, _columns, rows in reader.tables():
        for _ in rows:
            pass
    return reader.rows


def restore(path: Path, *, replace: bool = False) -> dict[str, int]:
    """Put the rows of a backup into catalog and records: all of them, or none.

    Both are written whole before the first is committed. Two databases have no commit in common: if
    the second is lost in that moment, the error says what is where, and the same once more, with
    ``replace``, mends it. A backup of an older version is brought to the tables of this one. Nobody
    else should use the databases meanwhile.

    Parameters
    ----------
    path : Path
        A file that :func:`back_up` wrote.
    replace : bool
        Remove what is there before. Without it a database that is not empty is refused.

    Returns
    -------
    dict
        How many rows of each table are there now.

    Raises
    ------
    BackupError
        If it is damaged or does not fit, or there is something already.
    CatalogUnavailableError, RecordsError
        If a database cannot be written.
    """
    check(path)  # all of it, before anything is changed
    with databases.both(apart=False) as opened, _writing(path, opened) as connections:
        for each in opened:
            there = count_rows(connections[each.what], each)
            if any(there.values()) and not replace:
                raise BackupError(_not_empty(each, there))
        reader = Reader(path)
        tables = reader.tables()
        first = next(tables, None)  # after this the header is known
        restoring = {
            each.what: Restoring(connections[each.what], each, _version_of(path, reader, each))
            for each in opened
        }
        seen = set()
        for name, columns, rows in itertools.chain([first] if first else [], tables):
            what, _, table = name.partition(".")
            if what not in restoring or table not in restoring[what].names():
                raise BackupError(f"the backup {path} has {name}, which is no table of ours")
            if set(columns) != restoring[what].columns(table):
                raise BackupError(f"the backup {path} has other columns of {name} than there are")
            seen.add(name)
            for some in _some(rows):
                restoring[what].put(table, columns, some)
        wanted = {f"{what}.{name}" for what, each in restoring.items() for name in each.names()}
        if wanted - seen:
            raise BackupError(f"the backup {path} lacks {', '.join(sorted(wanted - seen))}")
        for tables_there in restoring.values():
            tables_there.finish()
    return reader.rows


@contextlib.contextmanager
def _writing(path: Path, opened: Sequence[Database]) -> Iterator[dict[str, Any]]:
    """Give a connection to each database, by what it holds; all that is done by them is stored.

    Raises
    ------
    BackupError
        If one was stored, and the other was lost in that moment.
    """
    first, second = opened
    if _one(opened):
        with first.writing() as connection:
            yield {each.what: connection for each in opened}
        return
    stored = False
    try:
        with first.writing() as one:
            with second.writing() as other:
                yield {first.what: one, second.what: other}
                first.ask(one)  # before the other is stored, which nothing takes back
            stored = True
    except FlautimError as error:
        if not stored:
            raise
        raise BackupError(
            f"the {second.what} were restored, and the {first.what} in {first.where} is as it was: "
            f"{error}; restore {path} again with --replace before anybody uses them"
        ) from error


def _one(opened: Sequence[Database]) -> bool:
    """Whether catalog and records are in the same database."""
    return len({each.url for each in opened}) == 1


def _version_of(path: Path, reader: Reader, database: Database) -> str:
    version = str(reader.header.get("tables", {}).get(database.what, ""))
    if not version or not database.knows(version):
        raise BackupError(
            f"the backup {path} is of tables {version or 'of no version'} of the "
            f"{database.what}, which this Flautim Lab does not know; restore it with flautim-lab "
            f"{reader.header.get('flautim_lab', 'as it was made')} or newer"
        )
    return version


def _not_empty(database: Database, there: dict[str, int]) -> str:
    rows = ", ".join(f"{name} {number}" for name, number in there.items() if number)
    return (
        f"there are {database.what} in {database.where} already (rows: {rows}); restore into "
        "another database, or add --replace, with which what is there is lost"
    ).replace("are catalog", "is a catalog")


def _some(rows: Iterator[list[Any]]) -> Iterator[list[list[Any]]]:
    while some := list(itertools.islice(rows, AT_ONCE)):
        yield some


def _forget(folder: Path, keep: int) -> None:
    """Remove all backups of a folder but the newest, and what killed ones left."""
    found = sorted(path for path in folder.iterdir() if OURS.fullmatch(path.name))
    parts = [
        path
        for path in folder.iterdir()
        if PART.fullmatch(path.name) and time.time() - path.stat().st_mtime > OLD_PART_SECONDS
    ]
    for path in [*found[:-keep], *parts]:
        path.unlink(missing_ok=True)


def summary(rows: dict[str, int]) -> str:
    """Return what is in a backup, as one line."""
    told = {
        "institution": "catalog.institutions",
        "project": "catalog.projects",
        "dataset": "catalog.datasets",
        "model": "catalog.models",
        "experiment": "catalog.experiments",
        "run": "records.runs",
        "event": "records.events",
    }
    return ", ".join(count(rows.get(table, 0), word) for word, table in told.items())
