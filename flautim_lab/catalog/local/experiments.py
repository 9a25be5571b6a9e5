"""Experiments: their definition, version by version, with the exact model and dataset of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import MOST_SOURCE_CHARACTERS, named, not_there, text
from flautim_lab.catalog.local.models import Models
from flautim_lab.catalog.local.more_datasets import Version, read_more, write_more
from flautim_lab.catalog.plain_json import to_json
from flautim_lab.catalog.refs import Ref, contains, fold, make_key, read_ref
from flautim_lab.catalog.schema import (
    datasets,
    experiment_datasets,
    experiment_versions,
    experiments,
    institutions,
    models,
    projects,
    run_links,
)
from flautim_lab.catalog.things import ExperimentVersion, Page
from flautim_lab.errors import CatalogError, InUseError, NotFoundError

MOST_SETTINGS_CHARACTERS = 2**18
MOST_DATASETS = 100  # of one experiment


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
                connection, query, page, per_page, lambda rows: _things(connection, rows)
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
            return tuple(_things(connection, connection.execute(query).all()))

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
        more_datasets: Sequence[str] = (),
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
            pinned = self._pinned_datasets(connection, home, [dataset, *more_datasets])
            (values["dataset_id"], values["dataset_number"]), *more = pinned
            values |= self._pinned_model(connection, home, model)
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
                same = all(getattr(newest, column) == value for column, value in values.items())
                if same and _more(connection, experiment_id, newest.number) == more:
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
            write_more(connection, experiment_id, number, more)
            self._touch(connection, home.id)
            return self._experiment(connection, experiment_id, number)

    def _pinned_model(
        self, connection: sa.Connection, project: sa.Row[Any], model: str
    ) -> dict[str, int]:
        """Return which version of a model is meant now."""
        asked = read_ref(model, 3)
        if asked.keys[:2] != (project.institution, project.key):
            raise CatalogError(
                f"model {model} belongs to another project; save it in "
                f"{project.institution}/{project.key} first"
            )
        model_row = self._model_row(connection, asked, Action.DO_WORK, Action.SEE_WORK)
        model_version = self._model(connection, model_row.id, asked.version)
        return {"model_id": model_row.id, "model_number": model_version.number}

    def _pinned_datasets(
        self, connection: sa.Connection, project: sa.Row[Any], refs: Sequence[str]
    ) -> list[Version]:
        """Return which versions of datasets are meant now; refuse what may not be named.

        One that is published may be named before it is granted: code is written, and shown to its
        owner, before that.
        """
        if len(refs) > MOST_DATASETS:
            raise CatalogError(
                f"an experiment has at most {MOST_DATASETS} datasets, not {len(refs)}"
            )
        asked = [read_ref(ref, 2) for ref in refs]
        homes = [each.keys[0] for each in asked]
        twice = next((home for home in homes if homes.count(home) > 1), None)
        if twice is not None:
            raise CatalogError(
                f"two datasets are of {twice}, and each institution is one client; name one of each"
            )
        return [self._pinned_dataset(connection, project, each) for each in asked]

    def _pinned_dataset(self, connection: sa.Connection, project: sa.Row[Any], ref: Ref) -> Version:
        found = self._usable_row(connection, project, ref)
        if found is None:
            found = self._dataset_row(connection, ref, Action.SEE_DATASETS)
            if not found.published:
                self._refuse_dataset(ref, project)
        version = self._dataset(connection, found.id, ref.version).latest
        return found.id, version.number

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
            beside = experiment_datasets.c.experiment_id == row.id
            connection.execute(sa.delete(experiment_datasets).where(beside))
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
        return _things(connection, [row])[0]


def _more(connection: sa.Connection, experiment: int, number: int) -> list[Version]:
    table = experiment_datasets
    query = (
        sa.select(table.c.dataset_id, table.c.dataset_number)
        .where(table.c.experiment_id == experiment, table.c.number == number)
        .order_by(table.c.position)
    )
    return [(row.dataset_id, row.dataset_number) for row in connection.execute(query)]


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


def _things(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[ExperimentVersion]:
    more = read_more(connection, (row.id for row in rows))
    return [_thing(row, tuple(more.get((row.id, row.number), ()))) for row in rows]


def _thing(row: sa.Row[Any], more: tuple[str, ...]) -> ExperimentVersion:
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
        more_datasets=more,
    )
