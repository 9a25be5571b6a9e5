"""Experiments: their definition, version by version, with the exact model and dataset of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import MOST_SOURCE_CHARACTERS, named, not_there, text
from flautim_lab.catalog.local.models import Models
from flautim_lab.catalog.plain_json import to_json
from flautim_lab.catalog.refs import Ref, contains, fold, make_key, read_ref
from flautim_lab.catalog.schema import (
    datasets,
    experiment_versions,
    experiments,
    institutions,
    models,
    projects,
    run_links,
)
from flautim_lab.catalog.things import ExperimentVersion, Page
from flautim_lab.errors import CatalogError, InUseError, NotAllowedError, NotFoundError

MOST_SETTINGS_CHARACTERS = 2**18


class Experiments(Models):
    """The part of the catalog that keeps experiments."""

    def experiments(
        self,
        project: str,
        search: str = "",
        *,
        archived: bool = False,
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[ExperimentVersion]:
        """Return the newest version of each experiment of a project, newest first."""
        with self._database.reading() as connection:
            row = self._project_row(connection, project, Action.SEE_WORK)
            query = _newest().where(experiments.c.project_id == row.id)
            if not archived:
                query = query.where(~experiments.c.archived)
            if words := fold(search):
                pattern = contains(words)
                query = query.where(
                    experiments.c.folded.like(pattern, escape="\\")
                    | experiments.c.key.like(pattern, escape="\\")
                )
            query = query.order_by(experiments.c.changed.desc(), experiments.c.id.desc())
            return self._page(
                connection, query, page, per_page, lambda rows: [_thing(one) for one in rows]
            )

    def experiment(self, ref: str) -> ExperimentVersion:
        """Return a version of an experiment."""
        with self._database.reading() as connection:
            asked = read_ref(ref, 3)
            row = self._experiment_row(connection, asked, Action.SEE_WORK)
            return self._experiment(connection, row.id, asked.version)

    def experiment_versions(self, ref: str) -> tuple[ExperimentVersion, ...]:
        """Return all versions, the newest first."""
        with self._database.reading() as connection:
            row = self._experiment_row(connection, read_ref(ref, 3), Action.SEE_WORK)
            query = _versions().where(experiments.c.id == row.id)
            query = query.order_by(experiment_versions.c.number.desc())
            return tuple(_thing(one) for one in connection.execute(query))

    def save_experiment(
        self,
        project: str,
        name: str,
        *,
        model: str,
        dataset: str,
        settings: Mapping[str, Any],
        details: str = "",
        source: str = "",
        key: str = "",
    ) -> ExperimentVersion:
        """Keep an experiment: a new version where it differs from the newest one, else that one."""
        name = named(name, "experiment")
        key = make_key(name, key)
        values: dict[str, Any] = {
            "details": text(details, "the details"),
            "settings": text(
                to_json(settings, "the settings"), "the settings", MOST_SETTINGS_CHARACTERS
            ),
            "source": text(source, "the file of hyperparameters", MOST_SOURCE_CHARACTERS),
        }
        now = self._now()
        with self._writing() as connection:
            home = self._project_row(connection, project, Action.DO_WORK, Action.SEE_WORK)
            values |= self._pinned(connection, home, model, dataset)
            there = sa.select(experiments.c.id).where(
                experiments.c.project_id == home.id, experiments.c.key == key
            )
            experiment_id = connection.scalar(there)
            number = 1
            shown = {"name": name, "folded": fold(name), "archived": False, "changed": now}
            if experiment_id is None:
                made = connection.execute(
                    sa.insert(experiments).values(project_id=home.id, key=key, **shown)
                )
                (experiment_id,) = made.inserted_primary_key or (0,)
            else:
                newest = connection.execute(
                    sa.select(experiment_versions)
                    .where(experiment_versions.c.experiment_id == experiment_id)
                    .order_by(experiment_versions.c.number.desc())
                    .limit(1)
                ).one()
                same_row = experiments.c.id == experiment_id
                connection.execute(sa.update(experiments).where(same_row).values(shown))
                if all(getattr(newest, column) == value for column, value in values.items()):
                    return self._experiment(connection, experiment_id, None)
                number = newest.number + 1
            connection.execute(
                sa.insert(experiment_versions).values(
                    experiment_id=experiment_id,
                    number=number,
                    created=now,
                    created_by=self._actor.user,
                    **values,
                )
            )
            self._touch(connection, home.id)
            return self._experiment(connection, experiment_id, number)

    def _pinned(
        self, connection: sa.Connection, project: sa.Row[Any], model: str, dataset: str
    ) -> dict[str, int]:
        """Return which versions of model and dataset are meant now; refuse what may not be used."""
        asked = read_ref(model, 3)
        if asked.keys[:2] != (project.institution, project.key):
            raise CatalogError(
                f"model {model} belongs to another project; save it in "
                f"{project.institution}/{project.key} first"
            )
        model_row = self._model_row(connection, asked, Action.DO_WORK, Action.SEE_WORK)
        model_version = self._model(connection, model_row.id, asked.version)
        data = read_ref(dataset, 2)
        query = (
            sa.select(datasets.c.id)
            .join_from(datasets, institutions)
            .where(institutions.c.key == data.keys[0], datasets.c.key == data.keys[1])
        )
        dataset_id = connection.scalar(query.where(self._usable(project)))
        if dataset_id is None:
            self._dataset_row(connection, data, Action.SEE_DATASETS)
            self._refuse_dataset(connection, data, project)
        version = self._dataset(connection, dataset_id or 0, data.version).latest
        return {
            "model_id": model_row.id,
            "model_number": model_version.number,
            "dataset_id": dataset_id or 0,
            "dataset_number": version.number,
        }

    def _refuse_dataset(self, connection: sa.Connection, ref: Ref, project: sa.Row[Any]) -> None:
        """Refuse a dataset that a project may not use."""
        shown = "/".join(ref.keys)
        raise NotAllowedError(
            f"dataset {shown} is not granted to project {project.institution}/{project.key}; "
            f"ask a data owner of {ref.keys[0]} for a grant"
        )

    def archive_experiment(self, ref: str, archived: bool = True) -> ExperimentVersion:
        """Put an experiment away, or take it back."""
        with self._writing() as connection:
            asked = read_ref(ref, 3)
            row = self._experiment_row(connection, asked, Action.DO_WORK, Action.SEE_WORK)
            values = {"archived": bool(archived)}
            mine = experiments.c.id == row.id
            connection.execute(sa.update(experiments).where(mine).values(values))
            self._touch(connection, row.project_id)
            return self._experiment(connection, row.id, None)

    def remove_experiment(self, ref: str) -> None:
        """Remove an experiment that was never run."""
        with self._writing() as connection:
            asked = read_ref(ref, 3)
            row = self._experiment_row(connection, asked, Action.DO_WORK, Action.SEE_WORK)
            ran = sa.select(run_links.c.run_id).where(run_links.c.experiment_id == row.id)
            if (run_id := connection.scalar(ran.limit(1))) is not None:
                raise InUseError(
                    f"experiment {ref} has runs, such as {run_id}, and stays; archive it instead"
                )
            mine = experiment_versions.c.experiment_id == row.id
            connection.execute(sa.delete(experiment_versions).where(mine))
            connection.execute(sa.delete(experiments).where(experiments.c.id == row.id))
            self._touch(connection, row.project_id)

    def _experiment_row(
        self, connection: sa.Connection, ref: Ref, action: Action, see: Action | None = None
    ) -> sa.Row[Any]:
        project = self._project_of(connection, ref, action, see)
        query = sa.select(experiments).where(
            experiments.c.project_id == project.id, experiments.c.key == ref.keys[2]
        )
        row = connection.execute(query).one_or_none()
        if row is None:
            raise not_there(f"experiment {'/'.join(ref.keys)}")
        return row

    def _experiment(
        self, connection: sa.Connection, experiment_id: int, number: int | None
    ) -> ExperimentVersion:
        query = _newest() if number is None else _versions()
        query = query.where(experiments.c.id == experiment_id)
        if number is not None:
            query = query.where(experiment_versions.c.number == number)
        row = connection.execute(query).one_or_none()
        if row is None:
            newest = self._experiment(connection, experiment_id, None)
            raise NotFoundError(
                f"experiment {newest.ref.partition('@')[0]} has no version {number}; "
                f"the newest is {newest.ref}"
            )
        return _thing(row)


def _versions() -> sa.Select[Any]:
    home = institutions.alias()
    used = (
        sa.exists()
        .where(
            run_links.c.experiment_id == experiment_versions.c.experiment_id,
            run_links.c.experiment_number == experiment_versions.c.number,
        )
        .correlate(experiment_versions)
    )
    return (
        sa.select(
            experiments,
            projects.c.key.label("project"),
            institutions.c.key.label("institution"),
            models.c.key.label("model"),
            home.c.key.label("home"),
            datasets.c.key.label("dataset"),
            *(c for c in experiment_versions.c if c.name != "experiment_id"),
            used.label("used"),
        )
        .join_from(experiments, projects)
        .join(institutions, projects.c.institution_id == institutions.c.id)
        .join(experiment_versions, experiment_versions.c.experiment_id == experiments.c.id)
        .join(models, experiment_versions.c.model_id == models.c.id)
        .join(datasets, experiment_versions.c.dataset_id == datasets.c.id)
        .join(home, datasets.c.institution_id == home.c.id)
    )


def _newest() -> sa.Select[Any]:
    other = experiment_versions.alias()
    newest = (
        sa.select(sa.func.max(other.c.number))
        .where(other.c.experiment_id == experiments.c.id)
        .correlate(experiments)
        .scalar_subquery()
    )
    return _versions().where(experiment_versions.c.number == newest)


def _thing(row: sa.Row[Any]) -> ExperimentVersion:
    return ExperimentVersion(
        ref=f"{row.institution}/{row.project}/{row.key}@{row.number}",
        number=row.number,
        name=row.name,
        details=row.details,
        model=f"{row.institution}/{row.project}/{row.model}@{row.model_number}",
        dataset=f"{row.home}/{row.dataset}@{row.dataset_number}",
        settings=json.loads(row.settings),
        source=row.source,
        archived=row.archived,
        created=row.created,
        created_by=row.created_by,
        used=bool(row.used),
    )
