"""Alembic's way in: it runs this file; the connection is always given."""

from __future__ import annotations

from alembic import context

from flautim_lab.catalog.migrations import VERSION_TABLE
from flautim_lab.catalog.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
