"""Datasets: their schema, their size and where their rows live, version by version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import MOST_SOURCE_CHARACTERS, named, text
from flautim_lab.catalog.local.dataset_checks import (
    checked_columns,
    checked_hash,
    checked_path,
    checked_rows,
)
from flautim_lab.catalog.local.use_of_data import UseOfData
from flautim_lab.catalog.refs import contains, fold, make_key, read_ref
from flautim_lab.catalog.schema import (
    dataset_versions,
    datasets,
    experiment_datasets,
    experiment_versions,
    institutions,
    run_links,
    run_uses,
)
from flautim_lab.catalog.things import Column, Dataset, DatasetVersion, Page
from flautim_lab.errors import InUseError, NotFoundError

_COMPARED = ("columns", "target", "rows", "sha256", "path", "source", "class_name")


class Datasets(UseOfData):
    """The part of the catalog that keeps datasets."""

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
        with self._database.reading() as connection:
            row = self._institution_row(connection, institution)
            self._require(
                connection, Action.SEE_DATASETS, f"list of datasets of {institution}", row.id
            )
            query = _newest().where(datasets.c.institution_id == row.id)
            if not archived:
                query = query.where(~datasets.c.archived)
            if words := fold(search):
                pattern = contains(words)
                query = query.where(
                    datasets.c.folded.like(pattern, escape="\\")
                    | datasets.c.key.like(pattern, escape="\\")
                )
            query = query.order_by(datasets.c.folded, datasets.c.key)
            return self._page(
                connection, query, page, per_page, lambda rows: [_thing(one) for one in rows]
            )

    def published(
        self, search: str = "", *, page: int = 1, per_page: int = PER_PAGE
    ) -> Page[Dataset]:
        """Return the datasets of all institutions that may be asked for."""
        query = _newest().where(datasets.c.published, ~datasets.c.archived, institutions.c.active)
        if words := fold(search):
            pattern = contains(words)
            query = query.where(
                datasets.c.folded.like(pattern, escape="\\")
                | datasets.c.key.like(pattern, escape="\\")
                | institutions.c.folded.like(pattern, escape="\\")
            )
        query = query.order_by(institutions.c.folded, datasets.c.folded, datasets.c.key)
        with self._database.reading() as connection:
            return self._page(
                connection, query, page, per_page, lambda rows: [_thing(one) for one in rows]
            )

    def usable(self, project: str) -> tuple[Dataset, ...]:
        """Return the datasets that a project may use now: its institution's, and granted ones."""
        with self._database.reading() as connection:
            row = self._project_row(connection, project, Action.SEE_WORK)
            query = (
                _newest()
                .where(self._usable(row), ~datasets.c.archived)
                .order_by(institutions.c.key, datasets.c.folded, datasets.c.key)
            )
            return tuple(_thing(one) for one in connection.execute(query))

    def dataset(self, ref: str) -> Dataset:
        """Return one dataset; ``latest`` is the version that the reference names."""
        with self._database.reading() as connection:
            asked = read_ref(ref, 2)
            row = self._dataset_row(connection, asked, Action.SEE_DATASETS)
            return self._dataset(connection, row.id, asked.version)

    def dataset_versions(self, ref: str) -> tuple[DatasetVersion, ...]:
        """Return all versions of a dataset, the newest first."""
        with self._database.reading() as connection:
            row = self._dataset_row(connection, read_ref(ref, 2), Action.SEE_DATASETS)
            query = _versions().where(datasets.c.id == row.id)
            query = query.order_by(dataset_versions.c.number.desc())
            return tuple(_version(one) for one in connection.execute(query))

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
        """Register a dataset, or a new version of one that is there."""
        name = named(name, "dataset")
        key = make_key(name, key)
        values = {
            "columns": checked_columns(columns, target),
            "target": target,
            "rows": checked_rows(rows),
            "sha256": checked_hash(sha256),
            "path": checked_path(path),
            "source": text(source, "the source", MOST_SOURCE_CHARACTERS),
            "class_name": text(class_name, "the class's name", 200),
        }
        with self._writing() as connection:
            home = self._institution_row(connection, institution)
            self._require(
                connection,
                Action.REGISTER_DATASETS,
                f"institution {institution}",
                home.id,
                see=Action.SEE_INSTITUTIONS,
            )
            there = sa.select(datasets).where(
                datasets.c.institution_id == home.id, datasets.c.key == key
            )
            known = connection.execute(there).one_or_none()
            if known is None:
                made = connection.execute(
                    sa.insert(datasets).values(
                        institution_id=home.id,
                        key=key,
                        name=name,
                        folded=fold(name),
                        description=text(description or "", "the description"),
                        archived=False,
                        published=False,
                        last=0,
                    )
                )
                (dataset_id,) = made.inserted_primary_key or (0,)
                number = 1
            else:
                dataset_id = known.id
                newest = self._dataset(connection, dataset_id, None).latest
                number = known.last + 1  # never one that was removed
                changes: dict[str, Any] = {"name": name, "folded": fold(name), "archived": False}
                if description is not None:
                    changes["description"] = text(description, "the description")
                same_row = datasets.c.id == dataset_id
                connection.execute(sa.update(datasets).where(same_row).values(changes))
                kept = asdict(newest) | {"columns": checked_columns(newest.columns, target)}
                if all(kept[column] == values[column] for column in _COMPARED):
                    return newest
            connection.execute(
                sa.update(datasets).where(datasets.c.id == dataset_id).values(last=number)
            )
            connection.execute(
                sa.insert(dataset_versions).values(
                    dataset_id=dataset_id,
                    number=number,
                    created=self._now(),
                    created_by=self._actor.user,
                    **values,
                )
            )
            made_version = self._dataset(connection, dataset_id, number).latest
            self._note(connection, home.key, "registered", made_version.ref, rows=rows)
            return made_version

    def change_dataset(
        self,
        ref: str,
        *,
        description: str | None = None,
        archived: bool | None = None,
        published: bool | None = None,
    ) -> Dataset:
        """Change what is given of a dataset; its versions never change."""
        with self._writing() as connection:
            row = self._dataset_row(
                connection, read_ref(ref, 2), Action.REGISTER_DATASETS, Action.SEE_DATASETS
            )
            values: dict[str, Any] = {}
            if description is not None:
                values["description"] = text(description, "the description")
            if archived is not None:
                values["archived"] = bool(archived)
            if published is not None:
                values["published"] = bool(published)
                if values["published"] is not row.published:
                    told = "published" if published else "no longer published"
                    self._note(connection, row.institution, told, f"{row.institution}/{row.key}")
            if values:
                connection.execute(
                    sa.update(datasets).where(datasets.c.id == row.id).values(values)
                )
            return self._dataset(connection, row.id, None)

    def remove_dataset(self, ref: str) -> None:
        """Remove a dataset that no experiment used, or with ``@version`` that version."""
        asked = read_ref(ref, 2)
        with self._writing() as connection:
            row = self._dataset_row(
                connection, asked, Action.REGISTER_DATASETS, Action.SEE_DATASETS
            )
            beside, reads = experiment_datasets, run_uses
            used = experiment_versions.c.dataset_id == row.id
            used_beside = beside.c.dataset_id == row.id
            read = reads.c.dataset_id == row.id
            mine = dataset_versions.c.dataset_id == row.id
            if asked.version is not None:
                self._dataset(connection, row.id, asked.version)
                used &= experiment_versions.c.dataset_number == asked.version
                used_beside &= beside.c.dataset_number == asked.version
                read &= reads.c.dataset_number == asked.version
                mine &= dataset_versions.c.number == asked.version
            there = (
                sa.exists()
                .where(
                    beside.c.experiment_id == experiment_versions.c.experiment_id,
                    beside.c.number == experiment_versions.c.number,
                    used_beside,
                )
                .correlate(experiment_versions)
            )
            self._refuse_used(connection, used | there, f"dataset {ref}")
            if run_id := connection.scalar(sa.select(reads.c.run_id).where(read).limit(1)):
                raise InUseError(
                    f"dataset {ref} was used by run {run_id} and stays; archive it instead"
                )
            connection.execute(sa.delete(dataset_versions).where(mine))
            left = sa.select(dataset_versions.c.number).where(
                dataset_versions.c.dataset_id == row.id
            )
            if connection.scalar(left.limit(1)) is None:
                self._remove_between(connection, dataset=row.id)
                connection.execute(sa.delete(datasets).where(datasets.c.id == row.id))

    def _refuse_used(
        self, connection: sa.Connection, used: sa.ColumnElement[bool], shown: str
    ) -> None:
        """Refuse to remove what an experiment points at; a run is named before an experiment."""
        query = (
            sa.select(run_links.c.run_id, experiment_versions.c.experiment_id)
            .select_from(sa.outerjoin(experiment_versions, run_links, _ran()))
            .where(used)
            .order_by(run_links.c.run_id.desc().nulls_last())
            .limit(1)
        )
        first = connection.execute(query).one_or_none()
        if first is not None:
            by = f"run {first.run_id}" if first.run_id else "an experiment that was saved"
            raise InUseError(f"{shown} was used by {by} and stays; archive it instead")

    def _dataset(self, connection: sa.Connection, dataset_id: int, number: int | None) -> Dataset:
        """Return a dataset with one of its versions, the newest by default."""
        query = _newest() if number is None else _versions()
        query = query.where(datasets.c.id == dataset_id)
        if number is not None:
            query = query.where(dataset_versions.c.number == number)
        row = connection.execute(query).one_or_none()
        if row is None:
            newest = self._dataset(connection, dataset_id, None)
            raise NotFoundError(
                f"dataset {newest.ref} has no version {number}; the newest is {newest.latest.ref}"
            )
        return _thing(row)

    def read_by(self, run_id: str) -> tuple[DatasetVersion, ...]:
        """Return what a run was let to read; for the service alone."""
        query = _versions().join(
            run_uses,
            (run_uses.c.dataset_id == datasets.c.id)
            & (run_uses.c.dataset_number == dataset_versions.c.number),
        )
        with self._database.reading() as connection:
            rows = connection.execute(query.where(run_uses.c.run_id == run_id))
            return tuple(_version(row) for row in rows)


def _ran() -> sa.ColumnElement[bool]:
    return (run_links.c.experiment_id == experiment_versions.c.experiment_id) & (
        run_links.c.experiment_number == experiment_versions.c.number
    )


def _versions() -> sa.Select[Any]:
    """Return the query for datasets with each of their versions."""
    used = (
        sa.exists()
        .where(
            run_uses.c.dataset_id == dataset_versions.c.dataset_id,
            run_uses.c.dataset_number == dataset_versions.c.number,
        )
        .correlate(dataset_versions)
    )
    return (
        sa.select(
            datasets,
            institutions.c.key.label("institution"),
            *(c for c in dataset_versions.c if c.name != "dataset_id"),
            used.label("used"),
        )
        .join_from(datasets, institutions)
        .join(dataset_versions)
    )


def _newest() -> sa.Select[Any]:
    other = dataset_versions.alias()
    newest = (
        sa.select(sa.func.max(other.c.number))
        .where(other.c.dataset_id == datasets.c.id)
        .correlate(datasets)
        .scalar_subquery()
    )
    return _versions().where(dataset_versions.c.number == newest)


def _version(row: sa.Row[Any]) -> DatasetVersion:
    return DatasetVersion(
        ref=f"{row.institution}/{row.key}@{row.number}",
        number=row.number,
        columns=tuple(
            Column(**(one | {"values": tuple(one["values"])})) for one in json.loads(row.columns)
        ),
        target=row.target,
        rows=row.rows,
        sha256=row.sha256,
        path=row.path,
        source=row.source,
        class_name=row.class_name,
        created=row.created,
        created_by=row.created_by,
        used=bool(row.used),
    )


def _thing(row: sa.Row[Any]) -> Dataset:
    return Dataset(
        ref=f"{row.institution}/{row.key}",
        institution=row.institution,
        name=row.name,
        description=row.description,
        archived=row.archived,
        latest=_version(row),
        published=row.published,
    )
