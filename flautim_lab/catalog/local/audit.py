"""Who did what with what is an institution's: written with the thing itself, never changed."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import Base
from flautim_lab.catalog.schema import audit
from flautim_lab.catalog.things import AuditEntry, Page


class Audit(Base):
    """The part of the catalog that remembers who did what."""

    def audit(
        self, institution: str, *, page: int = 1, per_page: int = PER_PAGE
    ) -> Page[AuditEntry]:
        """Return what was done to, or with, what is an institution's, the newest first."""
        with self._database.reading() as connection:
            row = self._institution_row(connection, institution)
            self._require(connection, Action.SEE_AUDIT, f"audit of {institution}", row.id)
            query = (
                sa.select(audit)
                .where(audit.c.institution == row.key)
                .order_by(audit.c.time.desc(), audit.c.id.desc())
            )
            return self._page(
                connection, query, page, per_page, lambda rows: [_entry(one) for one in rows]
            )

    def _note(
        self, connection: sa.Connection, institution: str, action: str, about: str, **details: Any
    ) -> None:
        """Write an entry, in the transaction in which the thing itself is done."""
        connection.execute(
            sa.insert(audit).values(
                institution=institution,
                time=self._now(),
                user=self._actor.user,
                action=action,
                about=about,
                details=json.dumps(details, sort_keys=True),
            )
        )


def _entry(row: sa.Row[Any]) -> AuditEntry:
    return AuditEntry(row.time, row.user, row.action, row.about, json.loads(row.details))
