"""What every catalog can do: one interface, on a database and over REST alike.

Who asks is known to the object: a catalog is always somebody's. Every method raises

* :class:`~flautim_lab.errors.NotFoundError` for what is not there, or is not to be seen,
* :class:`~flautim_lab.errors.NotAllowedError` for what the role does not allow
  (:mod:`flautim_lab.catalog.authorization` is the table),
* :class:`~flautim_lab.errors.InUseError` for deleting what a run used (archiving is offered),
* :class:`~flautim_lab.errors.ConflictError` for a key that is taken already,
* :class:`~flautim_lab.errors.CatalogError` for a value that cannot be kept, in one sentence.

Lists come in pages; ``page`` counts from 1, and a page holds at most 100 things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from flautim_lab.catalog.things import (
    Answer,
    AuditEntry,
    Column,
    Dataset,
    DatasetVersion,
    ExperimentVersion,
    Grant,
    GrantRequest,
    Institution,
    Me,
    ModelVersion,
    Page,
    Person,
    Project,
    Role,
    RunLink,
    RunUse,
)
from flautim_lab.experiment.code import Code

PER_PAGE = 20
MOST_PER_PAGE = 100


class Catalog(Protocol):
    """Institutions, projects, datasets, models, experiments, and who may use them."""

    def me(self) -> Me:
        """Return who asks, and what they may do."""

    def close(self) -> None:
        """Close connections; they open again when the catalog is used again."""

    # --- institutions ---------------------------------------------------------------------

    def institutions(
        self,
        search: str = "",
        *,
        active_only: bool = False,
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[Institution]:
        """Return institutions by name; all may see them.

        ``search`` is part of a name, with or without accents and capitals, or of a CNPJ, with or
        without punctuation.
        """

    def institution(self, key: str) -> Institution:
        """Return one institution."""

    def add_institution(
        self, name: str, *, key: str = "", cnpj: str = "", logo: bytes = b""
    ) -> Institution:
        """Make an institution; ``key`` is made from the name where none is given."""

    def change_institution(
        self,
        key: str,
        *,
        name: str | None = None,
        cnpj: str | None = None,
        logo: bytes | None = None,
        active: bool | None = None,
    ) -> Institution:
        """Change what is given of an institution."""

    def remove_institution(self, key: str) -> None:
        """Remove an institution that has no projects and no datasets."""

    # --- people ---------------------------------------------------------------------------

    def users(self, institution: str, *, page: int = 1, per_page: int = PER_PAGE) -> Page[Person]:
        """Return who belongs to an institution, by name."""

    def set_roles(self, institution: str, user: str, roles: Iterable[Role]) -> Person:
        """Let somebody be this at an institution, and nothing else; adds who was not there."""

    def remove_user(self, institution: str, user: str) -> None:
        """Take somebody off an institution, and off its projects."""

    # --- projects -------------------------------------------------------------------------

    def projects(
        self,
        institution: str,
        search: str = "",
        *,
        archived: bool = False,
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[Project]:
        """Return an institution's projects, the one that changed last first."""

    def project(self, ref: str) -> Project:
        """Return one project."""

    def add_project(
        self, institution: str, name: str, *, key: str = "", description: str = ""
    ) -> Project:
        """Make a project; who makes it is a member."""

    def change_project(
        self,
        ref: str,
        *,
        name: str | None = None,
        description: str | None = None,
        archived: bool | None = None,
    ) -> Project:
        """Change what is given of a project."""

    def remove_project(self, ref: str) -> None:
        """Remove a project of which nothing was run, with what is in it."""

    def members(self, project: str) -> tuple[str, ...]:
        """Return who works on a project, by name; of any institution."""

    def add_member(self, project: str, user: str) -> None:
        """Let somebody work on a project; once more changes nothing."""

    def remove_member(self, project: str, user: str) -> None:
        """Take somebody off a project; runs that they started stay."""

    # --- datasets and grants --------------------------------------------------------------

    def datasets(
        self,
        institution: str,
        search: str = "",
        *,
        archived: bool = False,
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[Dataset]:
        """Return an institution's datasets by name: schema and size, never rows."""

    def usable(self, project: str) -> tuple[Dataset, ...]:
        """Return the datasets that a project may use now: its institution's, and granted ones."""

    def dataset(self, ref: str) -> Dataset:
        """Return one dataset; ``latest`` is the version that the reference names."""

    def dataset_versions(self, ref: str) -> tuple[DatasetVersion, ...]:
        """Return all versions of a dataset, the newest first."""

    def add_dataset_version(
        self,
        institution: str,
        name: str,
        *,
        columns: Sequence[Column],
        target: str,
        rows: int,
        path: str,
        key: str = "",
        sha256: str = "",
        description: str | None = None,
        source: str = "",
        class_name: str = "",
    ) -> DatasetVersion:
        """Register a dataset, or a new version of one that is there.

        What equals the newest version makes no new one: that is returned.
        """

    def published(
        self, search: str = "", *, page: int = 1, per_page: int = PER_PAGE
    ) -> Page[Dataset]:
        """Return the datasets of all institutions that may be asked for."""

    def change_dataset(
        self,
        ref: str,
        *,
        description: str | None = None,
        archived: bool | None = None,
        published: bool | None = None,
    ) -> Dataset:
        """Change what is given of a dataset; its versions never change.

        Schema and size of a ``published`` one are seen by users of all institutions, who may ask
        for it.
        """

    def remove_dataset(self, ref: str) -> None:
        """Remove a dataset that no run used, or with ``@version`` that version."""

    def grants(self, *, dataset: str = "", project: str = "") -> tuple[Grant, ...]:
        """Return the grants of a dataset, of a project, or of both, the newest first.

        Of a dataset its owners see all; anybody else those to projects that they may see.
        """

    def give_grant(self, dataset: str, project: str, *, until: float | None = None) -> Grant:
        """Let a project use a dataset; instead of a grant of the two that is there already."""

    def end_grant(self, grant_id: int) -> Grant:
        """End a grant now; once more changes nothing."""

    def granted(self, dataset: str, project: str, *, code: str = "") -> bool:
        """Return whether a project may use a dataset now: any code of it, or the one of a hash."""

    def ask_grant(
        self,
        dataset: str,
        project: str,
        *,
        experiment: str = "",
        code: Code | None = None,
        settings: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> GrantRequest:
        """Ask a dataset's owners for it, with the code that is to read it.

        ``experiment`` is a saved one; else ``code`` and ``settings`` are those of a notebook's. The
        same once more is no second request; one that waits with other code is withdrawn.
        """

    def grant_requests(
        self,
        *,
        institution: str = "",
        project: str = "",
        waiting: bool = False,
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[GrantRequest]:
        """Return what an institution is asked for, or what a project asks for, the newest first.

        Without the code: :meth:`grant_request` has it.
        """

    def grant_request(self, request_id: int) -> GrantRequest:
        """Return a request with its code, and the code that was said yes to last."""

    def answer_request(
        self, request_id: int, answer: Answer, *, until: float | None = None, reason: str = ""
    ) -> GrantRequest:
        """Say yes for this code, yes for any code of the project, or no."""

    def withdraw_request(self, request_id: int) -> GrantRequest:
        """Take a request back that was not answered yet; once more changes nothing."""

    # --- models and experiments -----------------------------------------------------------

    def models(
        self, project: str, *, archived: bool = False, page: int = 1, per_page: int = PER_PAGE
    ) -> Page[ModelVersion]:
        """Return the newest version of each model of a project, by name."""

    def model(self, ref: str) -> ModelVersion:
        """Return a version of a model."""

    def model_versions(self, ref: str) -> tuple[ModelVersion, ...]:
        """Return all versions, the newest first."""

    def save_model(
        self, project: str, name: str, *, source: str, class_name: str, key: str = ""
    ) -> ModelVersion:
        """Keep a model: a new version where it differs from the newest one, else that one."""

    def archive_model(self, ref: str, archived: bool = True) -> ModelVersion:
        """Put a model away, or take it back; nothing of it is lost."""

    def remove_model(self, ref: str) -> None:
        """Remove a model that no run and no experiment used."""

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

    def experiment(self, ref: str) -> ExperimentVersion:
        """Return a version of an experiment."""

    def experiment_versions(self, ref: str) -> tuple[ExperimentVersion, ...]:
        """Return all versions, the newest first."""

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
        """Keep an experiment: a new version where it differs from the newest one, else that one.

        ``model`` and datasets are pinned to the versions that they mean now. ``more_datasets`` are
        of further institutions. One that is published may be named before it is granted; it cannot
        be run before.
        """

    def archive_experiment(self, ref: str, archived: bool = True) -> ExperimentVersion:
        """Put an experiment away, or take it back."""

    def remove_experiment(self, ref: str) -> None:
        """Remove an experiment that was never run."""

    # --- runs -----------------------------------------------------------------------------

    def add_run(self, run_id: str, experiment: str) -> RunLink:
        """Note which versions a run is made with; once more changes nothing.

        Refused where a dataset is neither the institution's own nor granted for this code.
        """

    def runs(
        self,
        project: str,
        *,
        experiment: str = "",
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[RunLink]:
        """Return the runs of a project, or of one experiment, the newest first."""

    def run(self, run_id: str) -> RunLink:
        """Return what a run was made with."""

    def end_run(self, run_id: str) -> None:
        """Note that a run of one's own reads no data any more; once more changes nothing."""

    # --- what a data owner sees -----------------------------------------------------------

    def uses(
        self, institution: str, *, dataset: str = "", page: int = 1, per_page: int = PER_PAGE
    ) -> Page[RunUse]:
        """Return the runs that read an institution's datasets, or one of them, newest first."""

    def stop_use(self, run_id: str) -> tuple[RunUse, ...]:
        """Ask for the end of a run that reads one's institution's data.

        It ends in seconds; one of a hub's service that does not loses its pods.
        """

    def audit(
        self, institution: str, *, page: int = 1, per_page: int = PER_PAGE
    ) -> Page[AuditEntry]:
        """Return who did what to, or with, what is an institution's, the newest first."""

    # --- what the panel remembers ---------------------------------------------------------

    def remember(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep something of who asks, under a key, in place of what was there."""

    def remembered(self, key: str) -> Mapping[str, Any]:
        """Return what is kept of who asks under a key; ``{}`` where there is nothing."""
