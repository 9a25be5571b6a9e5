"""Which runs read which datasets: noted before they do, for the datasets' owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import not_there
from flautim_lab.catalog.local.datasets import Datasets
from flautim_lab.catalog.refs import Ref, read_ref
from flautim_lab.catalog.schema import (
    dataset_versions,
    datasets,
    institutions,
    run_links,
    run_uses,
)
from flautim_lab.catalog.things import Page, RunUse
from flautim_lab.errors import CatalogError, ConflictError, NotAllowedError
from flautim_lab.names import RUN_ID


class Uses(Datasets):
    """The part of the catalog that knows which runs read which datasets."""

    def uses(
        self, institution: str, *, dataset: str = "", page: int = 1, per_page: int = PER_PAGE
    ) -> Page[RunUse]:
        """Return the runs that read an institution's datasets, or one of them, newest first."""
        with self._database.reading() as connection:
            row = self._institution_row(connection, institution)
            self._require(
                connection, Action.GRANT_DATASETS, f"list of what reads {institution}", row.id
            )
            query = _uses().where(institutions.c.id == row.id)
            if dataset:
                asked = read_ref(dataset, 2)
                found = self._dataset_row(connection, asked, Action.SEE_DATASETS)
                query = query.where(datasets.c.id == found.id)
                if asked.version is not None:
                    query = query.where(run_uses.c.dataset_number == asked.version)
            query = query.order_by(run_uses.c.started.desc(), run_uses.c.run_id.desc())
            return self._page(
                connection, query, page, per_page, lambda rows: [_use(one) for one in rows]
            )

    def stop_use(self, run_id: str) -> tuple[RunUse, ...]:
        """Ask for the end of a run that reads one's institution's data.

        It ends in seconds; one of a hub's service that does not loses its pods.
        """
        with self._writing() as connection:
            query = _uses().where(run_uses.c.run_id == run_id).order_by(datasets.c.id)
            mine = [
                row
                for row in connection.execute(query)
                if self._may(connection, Action.GRANT_DATASETS, row.institution_id)
            ]
            if not mine:
                raise not_there(f"run {run_id} that reads your data")
            for row in mine:
                if row.stop_asked is None:
                    asked = {"stop_asked": self._now(), "stop_asked_by": self._actor.user}
                    one = (run_uses.c.run_id == run_id) & (run_uses.c.dataset_id == row.dataset_id)
                    connection.execute(sa.update(run_uses).where(one).values(asked))
                    ref = f"{row.institution}/{row.key}@{row.dataset_number}"
                    self._note(connection, row.institution, "stopped", run_id, dataset=ref)
            theirs = [row.dataset_id for row in mine]
            query = query.where(run_uses.c.dataset_id.in_(theirs))
            return tuple(_use(row) for row in connection.execute(query))

    def end_run(self, run_id: str) -> None:
        """Note that a run of one's own reads no data any more; once more changes nothing.

        Of a run that the service made only the service knows: its owner cannot hide it so.
        """
        with self._writing() as connection:
            mine = (run_uses.c.run_id == run_id) & (run_uses.c.started_by == self._actor.user)
            mine &= run_uses.c.by_service == self._actor.service
            going = mine & run_uses.c.ended.is_(None)
            connection.execute(sa.update(run_uses).where(going).values(ended=self._now()))

    def admit_run(
        self, run_id: str, project: str, homes: Mapping[str, str], code: str, target: str
    ) -> None:
        """Let a run read tables of institutions, and note it; for the service alone.

        Parameters
        ----------
        run_id : str
        project : str
            That who asks works in.
        homes : mapping of str to str
            The path of a dataset by the key of its institution.
        code : str
            The hash of the code that is to read them.
        target : str
            The column that it learns: of another institution's dataset none but the registered one.

        Raises
        ------
        ConflictError
            If anything was noted of a run of that id, by whomever: what an earlier run has noted
            (its end, a stop) would hide this one from the data's owners.
        NotFoundError, NotAllowedError
            If there is no such dataset or project, or it is not granted to it for this code.
        """
        check_run_id(run_id)
        with self._writing() as connection:
            row = self._project_row(connection, project, Action.DO_WORK, Action.SEE_WORK)
            for table in (run_uses, run_links):
                there = sa.select(table.c.run_id).where(table.c.run_id == run_id)
                if connection.scalar(there.limit(1)) is not None:
                    raise taken(run_id)
            read = []
            for key, path in homes.items():
                found = self._at(connection, row, key, path, code)
                if found.target != target and found.institution_id != row.institution_id:
                    raise NotAllowedError(
                        f"the data owners of {found.institution}/{found.key} let its column "
                        f"{found.target!r} be learned, and the experiment learns {target!r}"
                    )
                read.append((found, found.number))
            shown = f"{row.institution}/{row.key}"
            self._note_uses(connection, run_id, read, shown, code, by_service=True)

    def _at(
        self, connection: sa.Connection, project: sa.Row[Any], key: str, path: str, code: str
    ) -> sa.Row[Any]:
        """Return the dataset, and its version, that has its rows at a path of an institution."""
        query = (
            sa.select(
                datasets,
                institutions.c.key.label("institution"),
                dataset_versions.c.number,
                dataset_versions.c.target,
            )
            .join_from(datasets, institutions)
            .join(dataset_versions)
            .where(institutions.c.key == key, dataset_versions.c.path == path)
            .order_by(dataset_versions.c.number.desc())
        )
        found = connection.execute(query).all()
        allowed = connection.execute(query.where(self._usable(project, code))).first()
        if allowed is not None:
            return allowed
        seen = [each for each in found if each.published or self._may_use(connection, each)]
        if seen:
            self._refuse_dataset(Ref((key, seen[0].key)), project, code)
        raise not_there(f"dataset of {key} whose rows are in {path!r}")

    def stops_asked(self, runs: Mapping[str, str]) -> dict[str, tuple[str, float]]:
        """Return which of some runs are to end; for the service alone.

        Parameters
        ----------
        runs : mapping of str to str
            Who started each, by its id: what others noted under that id is not this run's.

        Returns
        -------
        dict of str to (str, float)
            Who asked first, and when (seconds since 1970), by the run's id.
        """
        asked = run_uses.c.run_id.in_(sorted(runs)) & run_uses.c.stop_asked.is_not(None)
        query = sa.select(run_uses).where(asked).order_by(run_uses.c.stop_asked.desc())
        with self._database.reading() as connection:
            return {
                row.run_id: (row.stop_asked_by, row.stop_asked)
                for row in connection.execute(query)
                if row.started_by == runs[row.run_id]
            }

    def going_by_service(self, before: float) -> dict[str, str]:
        """Return who started each run of the service's whose end is not noted, by its id.

        Parameters
        ----------
        before : float
            Those that were admitted before that moment (seconds since 1970).
        """
        going = run_uses.c.by_service & run_uses.c.ended.is_(None) & (run_uses.c.started < before)
        query = sa.select(run_uses.c.run_id, run_uses.c.started_by).where(going).distinct()
        with self._database.reading() as connection:
            return {row.run_id: row.started_by for row in connection.execute(query)}

    def _note_uses(
        self,
        connection: sa.Connection,
        run_id: str,
        read: Sequence[tuple[sa.Row[Any], int]],
        project: str,
        code: str,
        *,
        by_service: bool = False,
    ) -> None:
        """Note what a run reads, before it does; what is noted already stays.

        Parameters
        ----------
        connection : Connection
        run_id : str
        read : sequence of (row of a dataset with its institution's key, number of its version)
        project, code : str
        by_service : bool
            Whether the service makes the run.
        """
        noted = set(
            connection.scalars(sa.select(run_uses.c.dataset_id).where(run_uses.c.run_id == run_id))
        )
        for row, number in read:
            if row.id in noted:
                continue
            connection.execute(
                sa.insert(run_uses).values(
                    run_id=run_id,
                    dataset_id=row.id,
                    dataset_number=number,
                    project=project,
                    code=code,
                    started_by=self._actor.user,
                    by_service=by_service,
                    started=self._now(),
                    ended=None,
                    stop_asked=None,
                    stop_asked_by="",
                )
            )
            ref = f"{row.institution}/{row.key}@{number}"
            told = {"dataset": ref, "project": project, "code": code}
            self._note(connection, row.institution, "ran", run_id, **told)


def check_run_id(run_id: str) -> None:
    """Refuse an id that no run has.

    Raises
    ------
    CatalogError
    """
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        shown = repr(run_id[:100] if isinstance(run_id, str) else run_id)
        raise CatalogError(f"{shown} is no run id, such as r20261125-202140-iris-7d1947b4")


def taken(run_id: str) -> ConflictError:
    """Return the refusal of an id that another run has, or had."""
    return ConflictError(f"the run id {run_id} is taken; run the experiment again")


def _uses() -> sa.Select[Any]:
    return (
        sa.select(
            run_uses,
            datasets.c.key,
            datasets.c.institution_id,
            institutions.c.key.label("institution"),
        )
        .join_from(run_uses, datasets, run_uses.c.dataset_id == datasets.c.id)
        .join(institutions, datasets.c.institution_id == institutions.c.id)
    )


def _use(row: sa.Row[Any]) -> RunUse:
    return RunUse(
        run_id=row.run_id,
        dataset=f"{row.institution}/{row.key}@{row.dataset_number}",
        project=row.project,
        code=row.code,
        started_by=row.started_by,
        started=row.started,
        ended=row.ended,
        stop_asked=row.stop_asked,
        stop_asked_by=row.stop_asked_by,
    )
