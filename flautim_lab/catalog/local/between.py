"""What is between a dataset and a project: grants and requests, which end as one of both goes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.local.audit import Audit
from flautim_lab.catalog.schema import datasets, grant_requests, grants, institutions, projects
from flautim_lab.catalog.things import Answer

#: Why a grant or a request is over that nobody ended by itself.
PROJECT_REMOVED = "the project was removed"
DATASET_REMOVED = "the dataset was removed"


class Between(Audit):
    """The part of the catalog that ends grants and requests, and tells the dataset's owners."""

    def _remove_between(
        self, connection: sa.Connection, *, project: int = 0, dataset: int = 0
    ) -> None:
        """Remove the grants and requests of a project, or of a dataset, which is removed next.

        What holds, or waits, until then is in the audit as what somebody ended or withdrew.
        """
        gone = PROJECT_REMOVED if project else DATASET_REMOVED

        def mine(table: sa.Table) -> sa.ColumnElement[bool]:
            return table.c.project_id == project if project else table.c.dataset_id == dataset

        held = between(grants, *grants.c).where(mine(grants), holds(self._now()))
        for row in connection.execute(held.order_by(grants.c.id)).all():
            self._note_ended(connection, row, reason=gone)
        asked = between(grant_requests, grant_requests.c.id, grant_requests.c.code).where(
            mine(grant_requests), grant_requests.c.answer == Answer.WAITING.value
        )
        for row in connection.execute(asked.order_by(grant_requests.c.id)).all():
            self._note_withdrawn(connection, row, reason=gone)
        for table in (grants, grant_requests):
            connection.execute(sa.delete(table).where(mine(table)))

    def _note_ended(self, connection: sa.Connection, row: sa.Row[Any], **more: Any) -> None:
        """Note that a grant is ended: a row of :func:`between`."""
        told = {"project": f"{row.other}/{row.project}", "code": row.code or "any"} | more
        self._note(connection, row.home, "ended a grant", f"{row.home}/{row.dataset}", **told)

    def _note_withdrawn(self, connection: sa.Connection, row: sa.Row[Any], **more: Any) -> None:
        """Note that a request is withdrawn: a row of :func:`between`."""
        told = {"project": f"{row.other}/{row.project}", "code": row.code, "request": row.id}
        about = f"{row.home}/{row.dataset}"
        self._note(connection, row.home, "withdrew", about, **told | more)


def holds(now: float) -> sa.ColumnElement[bool]:
    """Return the condition that a grant holds."""
    return grants.c.ended.is_(None) & (grants.c.until.is_(None) | (grants.c.until > now))


def between(table: sa.Table, *columns: sa.Column[Any]) -> sa.Select[Any]:
    """Return the query for what is between a dataset and a project, with the keys of both.

    Parameters
    ----------
    table : Table
        With a ``dataset_id`` and a ``project_id``.
    *columns : Column
        Those of it that are wanted.
    """
    home, other = institutions.alias(), institutions.alias()
    return (
        sa.select(
            *columns,
            home.c.id.label("home_id"),
            home.c.key.label("home"),
            datasets.c.key.label("dataset"),
            other.c.id.label("other_id"),
            other.c.key.label("other"),
            projects.c.key.label("project"),
        )
        .join_from(table, datasets)
        .join(home, datasets.c.institution_id == home.c.id)
        .join(projects, table.c.project_id == projects.c.id)
        .join(other, projects.c.institution_id == other.c.id)
    )
