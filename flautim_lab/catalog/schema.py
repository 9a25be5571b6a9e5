"""The tables of the catalog, and the database that holds them; ``migrations/`` makes them.

A change of a table is a new file in ``migrations/versions`` (``alembic revision``); a test compares
what the migrations make with what is written here.
"""

from __future__ import annotations

from types import ModuleType

import sqlalchemy as sa

from flautim_lab.database import Database
from flautim_lab.errors import CatalogUnavailableError
from flautim_lab.home import ELSEWHERE

# Names of constraints are the same in every database, so that a migration can change them.
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# PostgreSQL orders text by the language of the server unless told otherwise; SQLite by code point.
_Name = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True)


def _of(table: str, *, key: bool = False) -> sa.Column[int]:
    """Return a column that says what a row belongs to."""
    name = f"{table.removesuffix('s')}_id"
    foreign = sa.ForeignKey(f"{table}.id")
    return sa.Column(name, sa.Integer, foreign, primary_key=key, nullable=False, index=not key)


def _name(name: str, *, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, _Name, primary_key=key, nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, default="")


def _flag(name: str, default: bool) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, default=default)


def _time(name: str, *, nullable: bool = False) -> sa.Column[float]:
    """Return a column of seconds since 1970 (UTC)."""
    return sa.Column(name, sa.Double, nullable=nullable)


def _version() -> sa.Column[int]:
    return sa.Column("number", sa.Integer, primary_key=True, autoincrement=False)


def _made() -> tuple[sa.Column[float], sa.Column[str]]:
    return _time("created"), _name("created_by")


institutions = sa.Table(
    "institutions",
    metadata,
    _id(),
    _name("key"),
    _name("name"),
    # The name as searches compare it.
    _name("folded"),
    sa.Column("cnpj", _Name, nullable=False, index=True),
    sa.Column("logo", sa.LargeBinary, nullable=False),
    _flag("active", True),
    _time("created"),
    _time("changed"),
    sa.UniqueConstraint("key"),
)

roles = sa.Table(
    "roles",
    metadata,
    _of("institutions", key=True),
    _name("user", key=True),
    _name("role", key=True),
    sa.Index("ix_roles_user", "user"),
)

projects = sa.Table(
    "projects",
    metadata,
    _id(),
    _of("institutions"),
    _name("key"),
    _name("name"),
    _name("folded"),
    _text("description"),
    _flag("archived", False),
    _time("created"),
    _time("changed"),
    sa.UniqueConstraint("institution_id", "key"),
)

members = sa.Table(
    "members",
    metadata,
    _of("projects", key=True),
    _name("user", key=True),
    sa.Index("ix_members_user", "user"),
)

datasets = sa.Table(
    "datasets",
    metadata,
    _id(),
    _of("institutions"),
    _name("key"),
    _name("name"),
    _name("folded"),
    _text("description"),
    _flag("archived", False),
    sa.Column("last", sa.Integer, nullable=False),  # the number given last, never given again
    _flag("published", False),
    sa.UniqueConstraint("institution_id", "key"),
)

dataset_versions = sa.Table(
    "dataset_versions",
    metadata,
    _of("datasets", key=True),
    _version(),
    _text("columns"),
    _text("target"),
    sa.Column("rows", sa.BigInteger, nullable=False),
    _text("sha256"),
    _text("path"),
    _text("source"),
    _text("class_name"),
    *_made(),
)

grants = sa.Table(
    "grants",
    metadata,
    _id(),
    _of("datasets"),
    _of("projects"),
    _name("given_by"),
    _time("given"),
    _time("until", nullable=True),
    _time("ended", nullable=True),
    _text("code"),
)

grant_requests = sa.Table(
    "grant_requests",
    metadata,
    _id(),
    _of("datasets"),
    _of("projects"),
    _text("experiment"),
    _name("code"),
    _text("files"),
    _text("roles"),  # which name in which file is the model, and so on
    _text("guards"),
    _text("settings"),
    _text("note"),
    _name("asked_by"),
    _time("asked"),
    _name("answer"),  # see things.Answer
    _name("answered_by"),
    _time("answered", nullable=True),
    _text("reason"),
)

models = sa.Table(
    "models",
    metadata,
    _id(),
    _of("projects"),
    _name("key"),
    _name("name"),
    _flag("archived", False),
    sa.UniqueConstraint("project_id", "key"),
)

model_versions = sa.Table(
    "model_versions",
    metadata,
    _of("models", key=True),
    _version(),
    _text("source"),
    _text("class_name"),
    *_made(),
)

experiments = sa.Table(
    "experiments",
    metadata,
    _id(),
    _of("projects"),
    _name("key"),
    _name("name"),
    _name("folded"),
    _flag("archived", False),
    _time("changed"),
    sa.UniqueConstraint("project_id", "key"),
)

experiment_versions = sa.Table(
    "experiment_versions",
    metadata,
    _of("experiments", key=True),
    _version(),
    _text("details"),
    _of("models"),
    sa.Column("model_number", sa.Integer, nullable=False),
    _of("datasets"),
    sa.Column("dataset_number", sa.Integer, nullable=False),
    _text("settings"),
    _text("source"),
    *_made(),
    # What an experiment was made with stays as long as the experiment does.
    sa.ForeignKeyConstraint(
        ["model_id", "model_number"], ["model_versions.model_id", "model_versions.number"]
    ),
    sa.ForeignKeyConstraint(
        ["dataset_id", "dataset_number"], ["dataset_versions.dataset_id", "dataset_versions.number"]
    ),
)

experiment_datasets = sa.Table(
    "experiment_datasets",  # those beside the first one
    metadata,
    _of("experiments", key=True),
    _version(),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    _of("datasets"),
    sa.Column("dataset_number", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(
        ["experiment_id", "number"],
        ["experiment_versions.experiment_id", "experiment_versions.number"],
    ),
    sa.ForeignKeyConstraint(
        ["dataset_id", "dataset_number"], ["dataset_versions.dataset_id", "dataset_versions.number"]
    ),
)

run_links = sa.Table(
    "run_links",  # the records have runs, and may be in the same database
    metadata,
    _name("run_id", key=True),
    _of("experiments"),
    sa.Column("experiment_number", sa.Integer, nullable=False),
    _name("started_by"),
    _time("created"),
    sa.ForeignKeyConstraint(
        ["experiment_id", "experiment_number"],
        ["experiment_versions.experiment_id", "experiment_versions.number"],
    ),
)

run_uses = sa.Table(
    "run_uses",  # which datasets a run reads, for their owners
    metadata,
    _name("run_id", key=True),
    _of("datasets", key=True),
    sa.Column("dataset_number", sa.Integer, nullable=False),
    _name("project"),  # references: a project that is removed does not take this with it
    _name("code"),
    _name("started_by"),
    _flag("by_service", False),  # which alone says when it has ended
    _time("started"),
    _time("ended", nullable=True),
    _time("stop_asked", nullable=True),
    _name("stop_asked_by"),
    sa.Index("ix_run_uses_dataset_id", "dataset_id"),
)

audit = sa.Table(
    "audit",  # only ever added to: it outlives the institution itself
    metadata,
    _id(),
    sa.Column("institution", _Name, nullable=False, index=True),
    _time("time"),
    _name("user"),
    _name("action"),
    _text("about"),
    _text("details"),
)

remembered = sa.Table(
    "remembered",
    metadata,
    _name("user", key=True),
    _name("key", key=True),
    _text("value"),
)


def _migrations() -> ModuleType:
    """Return the migrations, which bring Alembic: not before a database is opened."""
    from flautim_lab.catalog import migrations

    return migrations


class CatalogDatabase(Database):
    """The database of the catalog; its tables are brought to the newest form when it is opened."""

    what = "catalog"
    error = CatalogUnavailableError
    metadata = metadata

    @property
    def newest(self) -> str:
        """The revision that the migrations make."""
        return str(_migrations().NEWEST)

    def version(self, connection: sa.Connection) -> str:
        """Return the revision of the tables, "" where there are none."""
        return str(_migrations().revision(connection))

    def knows(self, version: str) -> bool:
        """Return whether a revision is one of ours."""
        return bool(_migrations().is_known(version))

    def newer(self, version: str) -> str:
        """Return the sentence for tables of a newer Flautim Lab."""
        return (
            f"the catalog in {self.where} was written by a newer Flautim Lab "
            f"(its tables are {version}, this one knows {self.newest}); "
            f"update flautim-lab, or {ELSEWHERE} of its own"
        )

    def drop(self, connection: sa.Connection) -> None:
        """Take all tables away, with the mark of their revision."""
        super().drop(connection)
        connection.execute(sa.text(f"DROP TABLE IF EXISTS {_migrations().VERSION_TABLE}"))

    def upgrade(self, connection: sa.Connection, to: str = "") -> None:
        """Run the migrations that are missing."""
        _migrations().upgrade(connection, to or "head")
