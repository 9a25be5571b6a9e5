"""Models: their source, version by version."""

from __future__ import annotations

import keyword
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import MOST_SOURCE_CHARACTERS, named, not_there, text
from flautim_lab.catalog.local.datasets import Datasets
from flautim_lab.catalog.refs import Ref, make_key, read_ref
from flautim_lab.catalog.schema import (
    experiment_versions,
    institutions,
    model_versions,
    models,
    projects,
    run_links,
)
from flautim_lab.catalog.things import ModelVersion, Page
from flautim_lab.errors import CatalogError, NotFoundError


class Models(Datasets):
    """The part of the catalog that keeps models."""

    def models(
        self, project: str, *, archived: bool = False, page: int = 1, per_page: int = PER_PAGE
    ) -> Page[ModelVersion]:
        """Return the newest version of each model of a project, by name."""
        with self._database.reading() as connection:
            row = self._project_row(connection, project, Action.SEE_WORK)
            query = _newest().where(models.c.project_id == row.id)
            if not archived:
                query = query.where(~models.c.archived)
            query = query.order_by(models.c.key)
            return self._page(
                connection, query, page, per_page, lambda rows: [_thing(one) for one in rows]
            )

    def model(self, ref: str) -> ModelVersion:
        """Return a version of a model."""
        with self._database.reading() as connection:
            asked = read_ref(ref, 3)
            row = self._model_row(connection, asked, Action.SEE_WORK)
            return self._model(connection, row.id, asked.version)

    def model_versions(self, ref: str) -> tuple[ModelVersion, ...]:
        """Return all versions, the newest first."""
        with self._database.reading() as connection:
            row = self._model_row(connection, read_ref(ref, 3), Action.SEE_WORK)
            query = _versions().where(models.c.id == row.id)
            query = query.order_by(model_versions.c.number.desc())
            return tuple(_thing(one) for one in connection.execute(query))

    def save_model(
        self, project: str, name: str, *, source: str, class_name: str, key: str = ""
    ) -> ModelVersion:
        """Keep a model: a new version where it differs from the newest one, else that one."""
        name = named(name, "model")
        key = make_key(name, key)
        text(source, "the source", MOST_SOURCE_CHARACTERS)
        if not (class_name.isidentifier() and not keyword.iskeyword(class_name)):
            raise CatalogError(f"{class_name!r} is no name of a class")
        text(class_name, "the class's name", 200)
        with self._writing() as connection:
            home = self._project_row(connection, project, Action.DO_WORK, Action.SEE_WORK)
            there = sa.select(models.c.id).where(
                models.c.project_id == home.id, models.c.key == key
            )
            model_id = connection.scalar(there)
            number = 1
            if model_id is None:
                made = connection.execute(
                    sa.insert(models).values(project_id=home.id, key=key, name=name, archived=False)
                )
                (model_id,) = made.inserted_primary_key or (0,)
            else:
                newest = self._model(connection, model_id, None)
                connection.execute(
                    sa.update(models)
                    .where(models.c.id == model_id)
                    .values(name=name, archived=False)
                )
                if (newest.source, newest.class_name) == (source, class_name):
                    return self._model(connection, model_id, None)
                number = newest.number + 1
            connection.execute(
                sa.insert(model_versions).values(
                    model_id=model_id,
                    number=number,
                    source=source,
                    class_name=class_name,
                    created=self._now(),
                    created_by=self._actor.user,
                )
            )
            self._touch(connection, home.id)
            return self._model(connection, model_id, number)

    def archive_model(self, ref: str, archived: bool = True) -> ModelVersion:
        """Put a model away, or take it back; nothing of it is lost."""
        with self._writing() as connection:
            row = self._model_row(connection, read_ref(ref, 3), Action.DO_WORK, Action.SEE_WORK)
            values = {"archived": bool(archived)}
            connection.execute(sa.update(models).where(models.c.id == row.id).values(values))
            self._touch(connection, row.project_id)
            return self._model(connection, row.id, None)

    def remove_model(self, ref: str) -> None:
        """Remove a model that no run and no experiment used."""
        with self._writing() as connection:
            asked = read_ref(ref, 3)
            row = self._model_row(connection, asked, Action.DO_WORK, Action.SEE_WORK)
            mine = model_versions.c.model_id == row.id
            used = experiment_versions.c.model_id == row.id
            if asked.version is not None:
                self._model(connection, row.id, asked.version)
                mine &= model_versions.c.number == asked.version
                used &= experiment_versions.c.model_number == asked.version
            self._refuse_used(connection, used, f"model {ref}")
            connection.execute(sa.delete(model_versions).where(mine))
            left = sa.select(model_versions.c.number).where(model_versions.c.model_id == row.id)
            if connection.scalar(left.limit(1)) is None:
                connection.execute(sa.delete(models).where(models.c.id == row.id))
            self._touch(connection, row.project_id)

    def _model_row(
        self, connection: sa.Connection, ref: Ref, action: Action, see: Action | None = None
    ) -> sa.Row[Any]:
        project = self._project_of(connection, ref, action, see)
        query = sa.select(models).where(
            models.c.project_id == project.id, models.c.key == ref.keys[2]
        )
        row = connection.execute(query).one_or_none()
        if row is None:
            raise not_there(f"model {'/'.join(ref.keys)}")
        return row

    def _model(self, connection: sa.Connection, model_id: int, number: int | None) -> ModelVersion:
        query = _newest() if number is None else _versions()
        query = query.where(models.c.id == model_id)
        if number is not None:
            query = query.where(model_versions.c.number == number)
        row = connection.execute(query).one_or_none()
        if row is None:
            newest = self._model(connection, model_id, None)
            raise NotFoundError(
                f"model {newest.ref.partition('@')[0]} has no version {number}; "
                f"the newest is {newest.ref}"
            )
        return _thing(row)


def _versions() -> sa.Select[Any]:
    used = (
        sa.exists()
        .where(
            experiment_versions.c.model_id == model_versions.c.model_id,
            experiment_versions.c.model_number == model_versions.c.number,
            run_links.c.experiment_id == experiment_versions.c.experiment_id,
            run_links.c.experiment_number == experiment_versions.c.number,
        )
        .correlate(model_versions)
    )
    return (
        sa.select(
            models,
            projects.c.key.label("project"),
            institutions.c.key.label("institution"),
            *(c for c in model_versions.c if c.name != "model_id"),
            used.label("used"),
        )
        .join_from(models, projects)
        .join(institutions)
        .join(model_versions, model_versions.c.model_id == models.c.id)
    )


def _newest() -> sa.Select[Any]:
    other = model_versions.alias()
    newest = (
        sa.select(sa.func.max(other.c.number))
        .where(other.c.model_id == models.c.id)
        .correlate(models)
        .scalar_subquery()
    )
    return _versions().where(model_versions.c.number == newest)


def _thing(row: sa.Row[Any]) -> ModelVersion:
    return ModelVersion(
        ref=f"{row.institution}/{row.project}/{row.key}@{row.number}",
        number=row.number,
        name=row.name,
        source=row.source,
        class_name=row.class_name,
        archived=row.archived,
        created=row.created,
        created_by=row.created_by,
        used=bool(row.used),
    )
