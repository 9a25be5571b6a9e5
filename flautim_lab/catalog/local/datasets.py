"""Datasets: their schema, their size and where their rows live, version by version."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import MOST_SOURCE_CHARACTERS, Base, named, not_there, text
from flautim_lab.catalog.local.projects import holds
from flautim_lab.catalog.refs import Ref, contains, fold, make_key, read_ref
from flautim_lab.catalog.schema import (
    dataset_versions,
    datasets,
    experiment_versions,
    grants,
    institutions,
    members,
    projects,
    run_links,
)
from flautim_lab.catalog.things import Column, Dataset, DatasetVersion, Page
from flautim_lab.errors import CatalogError, InUseError, NotFoundError
from flautim_lab.names import choose

KINDS = ("number", "integer", "boolean", "text")
MOST_COLUMNS = 10_000
MOST_SCHEMA_CHARACTERS = 2**22
_HASH = re.compile(r"[0-9a-f]{64}")
_COMPARED = ("columns", "target", "rows", "sha256", "path", "source", "class_name")


class Datasets(Base):
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

    def _usable(self, project: sa.Row[Any]) -> sa.ColumnElement[bool]:
        """Return the condition that a dataset may be used in a project now."""
        granted = sa.select(grants.c.dataset_id).where(
            grants.c.project_id == project.id, holds(self._now())
        )
        own = datasets.c.institution_id == project.institution_id
        return sa.or_(own, datasets.c.id.in_(granted))

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
            "columns": _checked_columns(columns, target),
            "target": target,
            "rows": _checked_rows(rows),
            "sha256": _checked_hash(sha256),
            "path": _checked_path(path),
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
                kept = asdict(newest) | {"columns": _checked_columns(newest.columns, target)}
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
            return self._dataset(connection, dataset_id, number).latest

    def change_dataset(
        self, ref: str, *, description: str | None = None, archived: bool | None = None
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
            used = experiment_versions.c.dataset_id == row.id
            mine = dataset_versions.c.dataset_id == row.id
            if asked.version is not None:
                self._dataset(connection, row.id, asked.version)
                used &= experiment_versions.c.dataset_number == asked.version
                mine &= dataset_versions.c.number == asked.version
            self._refuse_used(connection, used, f"dataset {ref}")
            connection.execute(sa.delete(dataset_versions).where(mine))
            left = sa.select(dataset_versions.c.number).where(
                dataset_versions.c.dataset_id == row.id
            )
            if connection.scalar(left.limit(1)) is None:
                connection.execute(sa.delete(grants).where(grants.c.dataset_id == row.id))
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

    def _dataset_row(
        self, connection: sa.Connection, ref: Ref, action: Action, see: Action | None = None
    ) -> sa.Row[Any]:
        """Return a dataset's row if this may be done to it.

        One of another institution is seen by who works in a project to which it was granted.
        """
        query = (
            sa.select(datasets, institutions.c.key.label("institution"))
            .join_from(datasets, institutions)
            .where(institutions.c.key == ref.keys[0], datasets.c.key == ref.keys[1])
        )
        row = connection.execute(query).one_or_none()
        shown = f"dataset {'/'.join(ref.keys)}"
        if row is None:
            raise not_there(shown)
        if action is Action.SEE_DATASETS and self._may_use(connection, row):
            return row
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


def _ran() -> sa.ColumnElement[bool]:
    return (run_links.c.experiment_id == experiment_versions.c.experiment_id) & (
        run_links.c.experiment_number == experiment_versions.c.number
    )


def _versions() -> sa.Select[Any]:
    """Return the query for datasets with each of their versions."""
    used = (
        sa.exists()
        .where(
            experiment_versions.c.dataset_id == dataset_versions.c.dataset_id,
            experiment_versions.c.dataset_number == dataset_versions.c.number,
            _ran(),
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
    )


def _checked_columns(columns: Sequence[Column], target: str) -> str:
    """Return a schema as it is kept."""
    if not 0 < len(columns) <= MOST_COLUMNS:
        raise CatalogError(
            f"a dataset has 1 to {MOST_COLUMNS} columns, and this one has {len(columns)}"
        )
    names = [column.name for column in columns]
    for column in columns:
        choose(column.kind, KINDS, f"kind of column ({column.name})", CatalogError)
        text(column.name, "the name of a column", 1000)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CatalogError(f"two columns are named {twice!r}; each needs a name of its own")
    choose(target, names, "column (the target)", CatalogError)
    try:
        kept = json.dumps([asdict(column) for column in columns], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CatalogError(f"the schema cannot be kept: {error}") from None
    return text(kept, "the schema", MOST_SCHEMA_CHARACTERS)


def _checked_hash(sha256: str) -> str:
    if sha256 and not _HASH.fullmatch(text(sha256, "the hash")):
        raise CatalogError(f"{sha256!r} is no SHA-256; give its 64 hexadecimal digits, or nothing")
    return sha256


def _checked_path(path: str) -> str:
    if not text(path, "the path", 4096).strip():
        raise CatalogError("the path is empty; say where the rows live")
    return path


def _checked_rows(rows: int) -> int:
    if isinstance(rows, bool) or not isinstance(rows, int) or not 0 <= rows < 2**63:
        raise CatalogError(f"the number of rows must be a whole number from 0, not {rows!r}")
    return rows
