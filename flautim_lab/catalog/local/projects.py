"""Projects and who works on them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog import schema
from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import named, text, user_name
from flautim_lab.catalog.local.between import Between, holds
from flautim_lab.catalog.refs import contains, fold, make_key
from flautim_lab.catalog.schema import (
    datasets,
    experiment_versions,
    experiments,
    grants,
    institutions,
    members,
    model_versions,
    models,
    projects,
    run_links,
)
from flautim_lab.catalog.things import Page, Project
from flautim_lab.errors import ConflictError, InUseError, NotFoundError


class Projects(Between):
    """The part of the catalog that keeps projects."""

    def projects(
        self,
        institution: str,
        search: str = "",
        *,
        archived: bool = False,
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[Project]:
        """Return an institution's projects that one may see, the one that changed last first."""
        with self._database.reading() as connection:
            row = self._institution_row(connection, institution)
            query = (
                self._projects()
                .where(projects.c.institution_id == row.id)
                .order_by(projects.c.changed.desc(), projects.c.id.desc())
            )
            if not self._may(connection, Action.SEE_PROJECTS, row.id):
                # Somebody of another institution sees what they are a member of.
                mine = sa.select(members.c.project_id).where(members.c.user == self._actor.user)
                query = query.where(projects.c.id.in_(mine))
            if not archived:
                query = query.where(~projects.c.archived)
            if words := fold(search):
                pattern = contains(words)
                query = query.where(
                    projects.c.folded.like(pattern, escape="\\")
                    | projects.c.key.like(pattern, escape="\\")
                )
            return self._page(
                connection, query, page, per_page, lambda rows: [_thing(one) for one in rows]
            )

    def project(self, ref: str) -> Project:
        """Return one project."""
        with self._database.reading() as connection:
            row = self._project_row(connection, ref, Action.SEE_PROJECTS)
            return self._project(connection, row.id)

    def add_project(
        self, institution: str, name: str, *, key: str = "", description: str = ""
    ) -> Project:
        """Make a project; who makes it is a member."""
        name = named(name, "project")
        key = make_key(name, key)
        now = self._now()
        with self._writing() as connection:
            row = self._institution_row(connection, institution)
            self._require(
                connection,
                Action.MAKE_PROJECTS,
                f"institution {institution}",
                row.id,
                see=Action.SEE_INSTITUTIONS,
            )
            taken = sa.select(projects.c.id).where(
                projects.c.institution_id == row.id, projects.c.key == key
            )
            if connection.scalar(taken):
                raise ConflictError(
                    f"there is a project {row.key}/{key} already; give this one another name or key"
                )
            made = connection.execute(
                sa.insert(projects).values(
                    institution_id=row.id,
                    key=key,
                    name=name,
                    folded=fold(name),
                    description=text(description, "the description"),
                    archived=False,
                    created=now,
                    changed=now,
                )
            )
            (project_id,) = made.inserted_primary_key or (0,)
            connection.execute(
                sa.insert(members).values(project_id=project_id, user=self._actor.user)
            )
            return self._project(connection, project_id)

    def change_project(
        self,
        ref: str,
        *,
        name: str | None = None,
        description: str | None = None,
        archived: bool | None = None,
    ) -> Project:
        """Change what is given of a project."""
        with self._writing() as connection:
            row = self._project_row(connection, ref, Action.CHANGE_PROJECT, Action.SEE_PROJECTS)
            values: dict[str, Any] = {"changed": self._now()}
            if name is not None:
                values["name"] = named(name, "project")
                values["folded"] = fold(values["name"])
            if description is not None:
                values["description"] = text(description, "the description")
            if archived is not None:
                values["archived"] = bool(archived)
            connection.execute(sa.update(projects).where(projects.c.id == row.id).values(values))
            return self._project(connection, row.id)

    def remove_project(self, ref: str) -> None:
        """Remove a project of which nothing was run, with what is in it."""
        with self._writing() as connection:
            row = self._project_row(connection, ref, Action.CHANGE_PROJECT, Action.SEE_PROJECTS)
            inside = sa.select(experiments.c.id).where(experiments.c.project_id == row.id)
            ran = sa.select(run_links.c.run_id).where(run_links.c.experiment_id.in_(inside))
            if (run_id := connection.scalar(ran.limit(1))) is not None:
                raise InUseError(
                    f"project {ref} has runs, such as {run_id}, and stays; archive it instead"
                )
            beside = schema.experiment_datasets
            connection.execute(sa.delete(beside).where(beside.c.experiment_id.in_(inside)))
            for versions, table, column in (
                (experiment_versions, experiments, "experiment_id"),
                (model_versions, models, "model_id"),
            ):
                here = sa.select(table.c.id).where(table.c.project_id == row.id)
                connection.execute(sa.delete(versions).where(versions.c[column].in_(here)))
                connection.execute(sa.delete(table).where(table.c.project_id == row.id))
            self._remove_between(connection, project=row.id)
            connection.execute(sa.delete(members).where(members.c.project_id == row.id))
            connection.execute(sa.delete(projects).where(projects.c.id == row.id))

    def members(self, project: str) -> tuple[str, ...]:
        """Return who works on a project, by name; of any institution."""
        with self._database.reading() as connection:
            row = self._project_row(connection, project, Action.SEE_PROJECTS)
            query = sa.select(members.c.user).where(members.c.project_id == row.id)
            return tuple(connection.scalars(query.order_by(members.c.user)))

    def add_member(self, project: str, user: str) -> None:
        """Let somebody work on a project; once more changes nothing."""
        user = user_name(user)
        with self._writing() as connection:
            row = self._project_row(connection, project, Action.CHANGE_PROJECT, Action.SEE_PROJECTS)
            there = (members.c.project_id == row.id) & (members.c.user == user)
            if connection.scalar(sa.select(members.c.user).where(there)) is None:
                connection.execute(sa.insert(members).values(project_id=row.id, user=user))
                self._touch(connection, row.id)

    def remove_member(self, project: str, user: str) -> None:
        """Take somebody off a project; runs that they started stay."""
        with self._writing() as connection:
            row = self._project_row(connection, project, Action.CHANGE_PROJECT, Action.SEE_PROJECTS)
            there = (members.c.project_id == row.id) & (members.c.user == user)
            if not connection.execute(sa.delete(members).where(there)).rowcount:
                raise NotFoundError(f"{user} is no member of project {project}")
            self._touch(connection, row.id)

    def _project(self, connection: sa.Connection, project_id: int) -> Project:
        return _thing(connection.execute(self._projects().where(projects.c.id == project_id)).one())

    def _projects(self) -> sa.Select[Any]:
        """Return the query for projects with how much each holds."""

        def counted(table: sa.FromClause, *where: Any) -> Any:
            query = sa.select(sa.func.count()).select_from(table).where(*where)
            return query.correlate(projects).scalar_subquery()

        own = counted(
            datasets, datasets.c.institution_id == projects.c.institution_id, ~datasets.c.archived
        )
        granted = counted(
            sa.join(grants, datasets),
            grants.c.project_id == projects.c.id,
            holds(self._now()),
            datasets.c.institution_id != projects.c.institution_id,
            ~datasets.c.archived,
        )
        return sa.select(
            projects,
            institutions.c.key.label("institution"),
            counted(models, models.c.project_id == projects.c.id, ~models.c.archived).label(
                "models"
            ),
            counted(
                experiments, experiments.c.project_id == projects.c.id, ~experiments.c.archived
            ).label("experiments"),
            counted(
                sa.join(schema.run_links, experiments), experiments.c.project_id == projects.c.id
            ).label("runs"),
            (own + granted).label("datasets"),
        ).join_from(projects, institutions)


def _thing(row: sa.Row[Any]) -> Project:
    return Project(
        ref=f"{row.institution}/{row.key}",
        institution=row.institution,
        name=row.name,
        description=row.description,
        archived=row.archived,
        created=row.created,
        changed=row.changed,
        models=row.models,
        datasets=row.datasets,
        experiments=row.experiments,
        runs=row.runs,
    )
