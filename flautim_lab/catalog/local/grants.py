"""Grants: that a project of any institution may use a dataset, until a time or until ended."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.local.between import between, holds
from flautim_lab.catalog.local.datasets import Datasets
from flautim_lab.catalog.refs import read_ref
from flautim_lab.catalog.schema import grants, institutions, projects
from flautim_lab.catalog.things import Grant
from flautim_lab.errors import CatalogError, NotFoundError


class Grants(Datasets):
    """The part of the catalog that keeps grants."""

    def grants(self, *, dataset: str = "", project: str = "") -> tuple[Grant, ...]:
        """Return the grants of a dataset, of a project, or of both, the newest first.

        Of a dataset its owners see all; anybody else those to projects that they may see.
        """
        if not (dataset or project):
            raise CatalogError("say whose grants: those of a dataset, of a project, or of both")
        query = _grants().order_by(grants.c.given.desc(), grants.c.id.desc())
        with self._database.reading() as connection:
            if dataset:
                row = self._dataset_row(connection, read_ref(dataset, 2), Action.SEE_DATASETS)
                query = query.where(grants.c.dataset_id == row.id)
            if project:
                row = self._project_row(connection, project, Action.SEE_PROJECTS)
                query = query.where(grants.c.project_id == row.id)
            found = connection.execute(query).all()
            seen = {
                of: self._may(connection, Action.GRANT_DATASETS, of[0])
                or self._may(connection, Action.SEE_PROJECTS, *of[1:])
                for of in {_between(row) for row in found}
            }
            return tuple(_grant(row) for row in found if seen[_between(row)])

    def give_grant(self, dataset: str, project: str, *, until: float | None = None) -> Grant:
        """Let a project use a dataset; instead of a grant of the two that is there already."""
        self._check_until(until)
        with self._writing() as connection:
            given = self._dataset_row(
                connection, read_ref(dataset, 2), Action.GRANT_DATASETS, Action.SEE_DATASETS
            )
            # Whoever gives it need not be able to see the project: they were told its reference.
            to = self._any_project(connection, project)
            return self._give(connection, given, to.id, until=until)

    def _check_until(self, until: float | None) -> None:
        """Refuse an end of a grant that cannot be."""
        if until is not None and not (
            isinstance(until, int | float) and math.isfinite(until) and until > self._now()
        ):
            raise CatalogError(
                "a grant ends at a time that is yet to come, in seconds since 1970, "
                f"not at {until!r}"
            )

    def _give(
        self,
        connection: sa.Connection,
        dataset: sa.Row[Any],
        project: int,
        *,
        code: str = "",
        until: float | None = None,
    ) -> Grant:
        """Let a project use a dataset: with the code of a hash, or with any."""
        now = self._now()
        there = (grants.c.dataset_id == dataset.id) & (grants.c.project_id == project)
        if code:  # else one for any code stands for all that were given for one
            there &= grants.c.code == code
        connection.execute(sa.update(grants).where(there, holds(now)).values(ended=now))
        made = connection.execute(
            sa.insert(grants).values(
                dataset_id=dataset.id,
                project_id=project,
                given_by=self._actor.user,
                given=now,
                until=until,
                ended=None,
                code=code,
            )
        )
        self._touch(connection, project)
        (grant_id,) = made.inserted_primary_key or (0,)
        grant = _grant(connection.execute(_grants().where(grants.c.id == grant_id)).one())
        told = {"project": grant.project, "code": code or "any", "until": until}
        self._note(connection, dataset.institution, "granted", grant.dataset, **told)
        return grant

    def end_grant(self, grant_id: int) -> Grant:
        """End a grant now; once more changes nothing."""
        unknown = NotFoundError(f"there is no grant {grant_id}, or it is not shown to you")
        if isinstance(grant_id, bool) or not isinstance(grant_id, int) or abs(grant_id) >= 2**31:
            raise unknown
        with self._writing() as connection:
            row = connection.execute(_grants().where(grants.c.id == grant_id)).one_or_none()
            if row is None:
                raise unknown
            ref = read_ref(f"{row.home}/{row.dataset}", 2)
            self._dataset_row(connection, ref, Action.GRANT_DATASETS, Action.SEE_DATASETS)
            now = self._now()
            mine = (grants.c.id == grant_id) & holds(now)
            if connection.execute(sa.update(grants).where(mine).values(ended=now)).rowcount:
                self._note_ended(connection, row)
            return _grant(connection.execute(_grants().where(grants.c.id == grant_id)).one())

    def granted(self, dataset: str, project: str, *, code: str = "") -> bool:
        """Return whether a project may use a dataset now: any code of it, or the one of a hash."""
        with self._database.reading() as connection:
            asked = read_ref(dataset, 2)
            row = self._project_row(connection, project, Action.SEE_WORK)
            return self._usable_row(connection, row, asked, code) is not None

    def _any_project(self, connection: sa.Connection, ref: str) -> sa.Row[Any]:
        keys = read_ref(ref, 2).keys
        query = (
            sa.select(projects.c.id)
            .join_from(projects, institutions)
            .where(institutions.c.key == keys[0], projects.c.key == keys[1])
        )
        row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no project {ref}; ask its members for its reference")
        return row


def _between(row: sa.Row[Any]) -> tuple[int, int, int]:
    """Return a dataset's institution, and a project's with the project itself."""
    return row.home_id, row.other_id, row.project_id


def _grants() -> sa.Select[Any]:
    return between(grants, *grants.c)


def _grant(row: sa.Row[Any]) -> Grant:
    return Grant(
        id=row.id,
        dataset=f"{row.home}/{row.dataset}",
        project=f"{row.other}/{row.project}",
        given_by=row.given_by,
        given=row.given,
        until=row.until,
        ended=row.ended,
        code=row.code,
    )
