"""Bring the catalog's tables to their newest form, one step after another, by Alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

VERSION_TABLE = "catalog_version"


def config(connection: sa.Connection | None = None) -> Config:
    """Return what Alembic needs to find the migrations, and the connection they run on."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["connection"] = connection
    return made


_scripts = ScriptDirectory.from_config(config())
NEWEST = _scripts.get_current_head() or ""


def is_known(revision: str) -> bool:
    """Return whether a revision is one of ours."""
    return any(script.revision == revision for script in _scripts.walk_revisions())


def revision(connection: sa.Connection) -> str:
    """Return the revision of a database, or ``""`` for one that was never migrated."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision() or ""


def upgrade(connection: sa.Connection, to: str = "head") -> None:
    """Run the migrations that are missing, within the transaction of the connection."""
    command.upgrade(config(connection), to)
