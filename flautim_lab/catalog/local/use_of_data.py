"""Which datasets a project may use, and who may see one."""

from __future__ import annotations

from typing import Any, NoReturn

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.local.base import not_there
from flautim_lab.catalog.local.between import Between, holds
from flautim_lab.catalog.refs import Ref
from flautim_lab.catalog.schema import datasets, grants, institutions, members, projects
from flautim_lab.errors import NotAllowedError


class UseOfData(Between):
    """The part of the catalog that says who may use, and see, which datasets."""

    def _usable(self, project: sa.Row[Any], code: str | None = None) -> sa.ColumnElement[bool]:
        """Return the condition that a dataset may be used in a project now.

        Parameters
        ----------
        project : Row
        code : str, optional
            The hash of the code that is to use it, or ``""`` for any; by default that of some code.
        """
        granted = sa.select(grants.c.dataset_id).where(
            grants.c.project_id == project.id, holds(self._now())
        )
        if code is not None:
            granted = granted.where(grants.c.code.in_(["", code]))
        own = datasets.c.institution_id == project.institution_id
        return sa.or_(own, datasets.c.id.in_(granted))

    def _usable_row(
        self, connection: sa.Connection, project: sa.Row[Any], ref: Ref, code: str | None = None
    ) -> sa.Row[Any] | None:
        """Return the row of a dataset that may be used in a project now, or None."""
        query = dataset_named(ref).where(self._usable(project, code))
        return connection.execute(query).one_or_none()

    def _refuse_dataset(self, ref: Ref, project: sa.Row[Any], code: str = "") -> NoReturn:
        """Refuse a dataset that a project may not use, or not with this code."""
        shown = "/".join(ref.keys)
        what = " for this code" if code else ""
        raise NotAllowedError(
            f"dataset {shown} is not granted to project {project.institution}/{project.key}{what}; "
            f"ask a data owner of {ref.keys[0]} for a grant"
        )

    def _dataset_row(
        self, connection: sa.Connection, ref: Ref, action: Action, see: Action | None = None
    ) -> sa.Row[Any]:
        """Return a dataset's row if this may be done to it.

        One of another institution is seen by all if it is published, else by who works in a
        project to which it was granted.
        """
        row = connection.execute(dataset_named(ref)).one_or_none()
        shown = f"dataset {'/'.join(ref.keys)}"
        if row is None:
            raise not_there(shown)
        if action is Action.SEE_DATASETS and (row.published or self._may_use(connection, row)):
            return row
        if see is Action.SEE_DATASETS and row.published:
            see = Action.SEE_INSTITUTIONS  # which all may
        self._require(connection, action, shown, row.institution_id, see=see)
        return row

    def _may_use(self, connection: sa.Connection, dataset: sa.Row[Any]) -> bool:
        """Return whether who asks works in a project that may use a dataset now."""
        granted = sa.select(grants.c.project_id).where(
            grants.c.dataset_id == dataset.id, holds(self._now())
        )
        mine = (
            sa.select(members.c.project_id)
            .join_from(members, projects)
            .where(
                members.c.user == self._actor.user,
                (projects.c.institution_id == dataset.institution_id)
                | members.c.project_id.in_(granted),
            )
        )
        return connection.scalar(mine.limit(1)) is not None


def dataset_named(ref: Ref) -> sa.Select[Any]:
    """Return the query for the dataset that a reference names, with its institution's key."""
    return (
        sa.select(datasets, institutions.c.key.label("institution"))
        .join_from(datasets, institutions)
        .where(institutions.c.key == ref.keys[0], datasets.c.key == ref.keys[1])
    )
