"""The tables of the records."""

from __future__ import annotations

import sqlalchemy as sa

from flautim_lab.database import Database
from flautim_lab.errors import RecordsError
from flautim_lab.home import ELSEWHERE

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


class RecordsDatabase(Database):
    """The database of the records; the tables are made where they are missing."""

    what = "records"
    error = RecordsError

    def prepare(self) -> None:
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
            self.lock(connection)
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
