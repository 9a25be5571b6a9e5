"""The rows of a database as plain JSON values, and back: the same from SQLite and PostgreSQL."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flautim_lab.database import Database

AT_ONCE = 1000  # rows that are in memory


def tables_of(database: Database) -> list[sa.Table]:
    """Return the tables whose rows are somebody's, each after those that it refers to."""
    return _without_version(database, database.metadata)


def count_rows(connection: sa.Connection, database: Database) -> dict[str, int]:
    """Return how many rows each table has, by its name."""
    return {
        table.name: int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)
        for table in tables_of(database)
    }


def rows_of(connection: sa.Connection, table: sa.Table) -> Iterator[list[Any]]:
    """Yield the rows of a table in the order of its key, as JSON can hold them."""
    query = sa.select(table).order_by(*table.primary_key.columns)
    with connection.execution_options(yield_per=AT_ONCE).execute(query) as result:
        for row in result:
            yield [_plain(value) for value in row]


class Restoring:
    """Rows on their way into the empty tables of a database, in one transaction.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction that writes.
    database : Database
        What it is of.
    version : str
        The form of the tables that the rows are from: it is made, and brought to the newest
        in the end.
    """

    def __init__(self, connection: sa.Connection, database: Database, version: str) -> None:
        self._connection, self._database = connection, database
        self._older = version != database.newest
        database.lock(connection)
        tables = tables_of(database)
        if connection.dialect.name == "postgresql":
            # Who reads goes on reading; who would write now waits, and SQLite lets in no other.
            names = ", ".join(f'"{table.name}"' for table in tables)
            connection.execute(sa.text(f"LOCK TABLE {names} IN EXCLUSIVE MODE"))
        if self._older:
            database.drop(connection)
            database.upgrade(connection, version)
            made = sa.MetaData()
            made.reflect(connection, only=lambda name, _: name in database.metadata.tables)
            tables = _without_version(database, made)
        else:
            for table in reversed(tables):
                connection.execute(sa.delete(table))
        self._tables = {table.name: table for table in tables}

    def names(self) -> list[str]:
        """Return the names of the tables."""
        return list(self._tables)

    def columns(self, name: str) -> set[str]:
        """Return the names of a table's columns."""
        return set(self._tables[name].columns.keys())

    def put(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows as :func:`rows_of` gave them."""
        values = [
            {column: _value(each) for column, each in zip(columns, row, strict=True)}
            for row in rows
        ]
        if values:
            self._connection.execute(sa.insert(self._tables[name]), values)

    def finish(self) -> None:
        """Bring the tables to their newest form, and let numbers go on where they stopped."""
        if self._older:
            self._database.upgrade(self._connection)
        if self._connection.dialect.name != "postgresql":
            return  # SQLite takes the number after the highest
        for table in self._tables.values():
            column = table.autoincrement_column
            if column is None:
                continue
            highest = sa.select(sa.func.max(column)).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(f'"{table.name}"', column.name)
            self._connection.execute(
                sa.select(
                    sa.func.setval(sequence, sa.func.coalesce(highest, 1), highest.is_not(None))
                )
            )


def _without_version(database: Database, metadata: sa.MetaData) -> list[sa.Table]:
    """Return tables without the mark of their version, which is none of somebody's rows."""
    mark = f"{database.what}_version"
    return [table for table in metadata.sorted_tables if table.name != mark]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}  # JSON has no such number
    return value


def _value(plain: Any) -> Any:
    if isinstance(plain, Mapping):
        ((kind, value),) = plain.items()
        return base64.b64decode(value) if kind == "base64" else float(value)
    return plain
