"""Which versions a run was made with; what happened in it is in the records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.code import code_of
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import not_there
from flautim_lab.catalog.local.experiments import Experiments
from flautim_lab.catalog.local.more_datasets import read_more
from flautim_lab.catalog.local.use_of_data import dataset_named
from flautim_lab.catalog.local.uses import Uses, check_run_id, taken
from flautim_lab.catalog.refs import read_ref
from flautim_lab.catalog.schema import (
    datasets,
    experiment_versions,
    experiments,
    institutions,
    models,
    projects,
    run_links,
    run_uses,
)
from flautim_lab.catalog.things import ExperimentVersion, Page, RunLink
from flautim_lab.errors import ConflictError
from flautim_lab.experiment.code import Code


class Runs(Uses, Experiments):
    """The part of the catalog that keeps what runs were made with."""

    def add_run(self, run_id: str, experiment: str) -> RunLink:
        """Note which versions a run is made with; once more changes nothing.

        Of a run that the service made they must be those that it was made with.
        """
        check_run_id(run_id)
        asked = read_ref(experiment, 3)
        with self._writing() as connection:
            row = self._experiment_row(connection, asked, Action.DO_WORK, Action.SEE_WORK)
            version = self._experiment(connection, row.id, asked.version)
            link = _found(connection, run_id)
            if link is not None:
                if link.started_by != self._actor.user:
                    raise taken(run_id)
                if link.experiment != version.ref:
                    raise ConflictError(f"run {run_id} was made with {link.experiment} already")
                return link
            project = self._project_of(connection, asked, Action.DO_WORK, Action.SEE_WORK)
            code = self._code_of(connection, version).hash
            read = []
            for ref in version.datasets:
                data = read_ref(ref, 2)
                found = self._usable_row(connection, project, data, code)
                if found is None:
                    self._refuse_dataset(data, project, code)
                read.append((found, data.version or 0))
            shown = f"{project.institution}/{project.key}"
            self._check_uses(connection, run_id, {found.id for found, _ in read}, shown, code)
            self._note_uses(connection, run_id, read, shown, code)
            connection.execute(
                sa.insert(run_links).values(
                    run_id=run_id,
                    experiment_id=row.id,
                    experiment_number=version.number,
                    started_by=self._actor.user,
                    created=self._now(),
                )
            )
            self._touch(connection, project.id)
            made = connection.execute(_links().where(run_links.c.run_id == run_id)).one()
            return _all(connection, [made])[0]

    def _check_uses(
        self, connection: sa.Connection, run_id: str, read: set[int], project: str, code: str
    ) -> None:
        """Refuse to call a run that was admitted another one than it is.

        Raises
        ------
        ConflictError
        """
        noted = connection.execute(sa.select(run_uses).where(run_uses.c.run_id == run_id)).all()
        if not noted:
            return
        if any(use.started_by != self._actor.user for use in noted):
            raise taken(run_id)
        said = {(use.project, use.code) for use in noted}
        if said != {(project, code)} or read != {use.dataset_id for use in noted}:
            raise ConflictError(
                f"run {run_id} reads data for project {noted[0].project} with its own code, which "
                "is not this experiment; name the one that it was made with"
            )

    def _code_of(self, connection: sa.Connection, version: ExperimentVersion) -> Code:
        asked = read_ref(version.model, 3)
        row = self._model_row(connection, asked, Action.SEE_WORK)
        model = self._model(connection, row.id, asked.version)
        data = []
        for ref in version.datasets:  # shown or not: its schema is not told
            named = read_ref(ref, 2)
            found = connection.execute(dataset_named(named)).one()
            data.append(self._dataset(connection, found.id, named.version).latest)
        return code_of(model, version.settings, data)

    def runs(
        self,
        project: str,
        *,
        experiment: str = "",
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[RunLink]:
        """Return the runs of a project, or of one experiment, the newest first."""
        with self._database.reading() as connection:
            row = self._project_row(connection, project, Action.SEE_WORK)
            query = _links().where(projects.c.id == row.id)
            if experiment:
                asked = read_ref(experiment, 3)
                found = self._experiment_row(connection, asked, Action.SEE_WORK)
                query = query.where(experiments.c.id == found.id)
                if asked.version is not None:
                    query = query.where(run_links.c.experiment_number == asked.version)
            query = query.order_by(run_links.c.created.desc(), run_links.c.run_id.desc())
            return self._page(
                connection, query, page, per_page, lambda rows: _all(connection, rows)
            )

    def run(self, run_id: str) -> RunLink:
        """Return what a run was made with."""
        with self._database.reading() as connection:
            row = connection.execute(_links().where(run_links.c.run_id == run_id)).one_or_none()
            if row is None:
                raise not_there(f"run {run_id} in the catalog")
            self._require(
                connection,
                Action.SEE_WORK,
                f"run {run_id} in the catalog",
                row.institution_id,
                row.project_id,
            )
            return _all(connection, [row])[0]


def _found(connection: sa.Connection, run_id: str) -> RunLink | None:
    rows = connection.execute(_links().where(run_links.c.run_id == run_id)).all()
    return _all(connection, rows)[0] if rows else None


def _all(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[RunLink]:
    more = read_more(connection, (row.experiment_id for row in rows))
    uses = sa.select(run_uses.c.run_id, run_uses.c.stop_asked_by).where(
        run_uses.c.run_id.in_([row.run_id for row in rows]), run_uses.c.stop_asked.is_not(None)
    )
    stopped = {row.run_id: row.stop_asked_by for row in connection.execute(uses)}
    return [
        _link(
            row,
            tuple(more.get((row.experiment_id, row.experiment_number), ())),
            stopped.get(row.run_id, ""),
        )
        for row in rows
    ]


def _links() -> sa.Select[Any]:
    home = institutions.alias()
    return (
        sa.select(
            run_links,
            projects.c.id.label("project_id"),
            projects.c.institution_id,
            institutions.c.key.label("institution"),
            projects.c.key.label("project"),
            experiments.c.key.label("experiment"),
            models.c.key.label("model"),
            experiment_versions.c.model_number,
            home.c.key.label("home"),
            datasets.c.key.label("dataset"),
            experiment_versions.c.dataset_number,
        )
        .join_from(
            run_links,
            experiment_versions,
            (run_links.c.experiment_id == experiment_versions.c.experiment_id)
            & (run_links.c.experiment_number == experiment_versions.c.number),
        )
        .join(experiments, experiments.c.id == run_links.c.experiment_id)
        .join(projects, experiments.c.project_id == projects.c.id)
        .join(institutions, projects.c.institution_id == institutions.c.id)
        .join(models, experiment_versions.c.model_id == models.c.id)
        .join(datasets, experiment_versions.c.dataset_id == datasets.c.id)
        .join(home, datasets.c.institution_id == home.c.id)
    )


def _link(row: sa.Row[Any], more: tuple[str, ...], stop_asked_by: str) -> RunLink:
    project = f"{row.institution}/{row.project}"
    return RunLink(
        run_id=row.run_id,
        project=project,
        experiment=f"{project}/{row.experiment}@{row.experiment_number}",
        model=f"{project}/{row.model}@{row.model_number}",
        dataset=f"{row.home}/{row.dataset}@{row.dataset_number}",
        started_by=row.started_by,
        created=row.created,
        more_datasets=more,
        stop_asked_by=stop_asked_by,
    )
