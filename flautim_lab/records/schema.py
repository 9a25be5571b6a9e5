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
    metadata = metadata

    @property
    def newest(self) -> str:
        """The only version that there has been."""
        return str(SCHEMA_VERSION)

    def version(self, connection: sa.Connection) -> str:
        """Return the version of the tables, "" where there are none."""
        if not sa.inspect(connection).has_table(version.name):
            return ""
        return str(connection.execute(sa.select(version.c.version)).scalar_one())

    def knows(self, version: str) -> bool:
        """Return whether tables of a version can be read here."""
        return int(version) <= SCHEMA_VERSION

    def newer(self, version: str) -> str:
        """Return the sentence for tables of a newer Flautim Lab."""
        return (
            f"the records in {self.where} were written by a newer Flautim Lab "
            f"(version {version} of the tables, this one reads {self.newest}); "
            f"update flautim-lab, or {ELSEWHERE} of its own"
        )

    def upgrade(self, connection: sa.Connection, to: str = "") -> None:
        """Make the tables; there has been one form of them so far."""
        metadata.create_all(connection)
        connection.execute(sa.insert(version).values(version=SCHEMA_VERSION))
