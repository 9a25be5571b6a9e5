"""Requests for datasets: a project asks with its code, the data's owner reads it and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import MOST_SOURCE_CHARACTERS, not_there, text
from flautim_lab.catalog.local.between import between
from flautim_lab.catalog.local.experiments import MOST_SETTINGS_CHARACTERS
from flautim_lab.catalog.local.grants import Grants
from flautim_lab.catalog.local.runs import Runs
from flautim_lab.catalog.plain_json import to_json
from flautim_lab.catalog.refs import read_ref
from flautim_lab.catalog.schema import datasets, grant_requests
from flautim_lab.catalog.things import Answer, GrantRequest, Page
from flautim_lab.errors import BundleError, CatalogError, ConflictError
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.code import Code, check_readable
from flautim_lab.names import choose

YES = (Answer.THIS_CODE, Answer.ANY_CODE)
ANSWERS = (*YES, Answer.NO)
MOST_WAITING = 50  # requests of one project
_CODE = ("code", "files", "roles", "guards", "settings")


class Requests(Runs, Grants):
    """The part of the catalog that keeps requests."""

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
        """Ask a dataset's owners for it, with the code that is to read it."""
        text(note, "the note")
        if bool(experiment) is (code is not None):
            raise CatalogError(
                "say for which code the dataset is asked: experiment= a saved one, such as "
                "'ufmg/vision/first', or code= and settings= of one in a notebook"
            )
        asked = read_ref(dataset, 2)
        with self._writing() as connection:
            row = self._project_row(connection, project, Action.DO_WORK, Action.SEE_WORK)
            home = self._dataset_row(connection, asked, Action.SEE_DATASETS)
            shown, there = f"{home.institution}/{home.key}", f"{row.institution}/{row.key}"
            if home.institution_id == row.institution_id:
                raise CatalogError(
                    f"dataset {shown} is of {row.institution}, as project {there} is; it needs no "
                    "grant"
                )
            if experiment:
                experiment, code, settings = self._saved(connection, experiment, shown, there)
            else:
                code = _of_settings(code, settings or {})
            kept = _kept(code, settings or {})
            if self._usable_row(connection, row, asked, kept["code"]) is not None:
                raise CatalogError(
                    f"dataset {shown} is granted to project {there} for this code already; run it"
                )
            both = (grant_requests.c.dataset_id == home.id) & (
                grant_requests.c.project_id == row.id
            )
            waiting = both & (grant_requests.c.answer == Answer.WAITING.value)
            same = sa.select(grant_requests.c.id).where(
                waiting, grant_requests.c.code == kept["code"]
            )
            request_id = connection.scalar(same)
            if request_id is None:
                self._check_number(connection, row)
                for old in connection.execute(_requests().where(waiting)).all():
                    self._withdraw(connection, old)
                made = connection.execute(
                    sa.insert(grant_requests).values(
                        dataset_id=home.id,
                        project_id=row.id,
                        experiment=experiment,
                        note=note,
                        asked_by=self._actor.user,
                        asked=self._now(),
                        answer=Answer.WAITING.value,
                        answered_by="",
                        answered=None,
                        reason="",
                        **kept,
                    )
                )
                (request_id,) = made.inserted_primary_key or (0,)
                told = {"project": there, "code": kept["code"], "request": request_id}
                self._note(connection, home.institution, "asked for", shown, **told)
            return self._request(connection, request_id)

    def _saved(
        self, connection: sa.Connection, experiment: str, dataset: str, project: str
    ) -> tuple[str, Code, Mapping[str, Any]]:
        """Return a saved experiment's reference with its version, its code and its settings."""
        asked = read_ref(experiment, 3)
        if "/".join(asked.keys[:2]) != project:
            raise CatalogError(f"experiment {experiment} is not of project {project}; name its own")
        row = self._experiment_row(connection, asked, Action.DO_WORK, Action.SEE_WORK)
        version = self._experiment(connection, row.id, asked.version)
        named = [each.partition("@")[0] for each in version.datasets]
        if dataset not in named:
            raise CatalogError(
                f"experiment {version.ref} does not use {dataset}; it uses {', '.join(named)}"
            )
        code = self._code_of(connection, version)
        return version.ref, code, version.settings

    def _check_number(self, connection: sa.Connection, project: sa.Row[Any]) -> None:
        waiting = sa.select(sa.func.count()).where(
            grant_requests.c.project_id == project.id,
            grant_requests.c.answer == Answer.WAITING.value,
        )
        if (connection.scalar(waiting) or 0) >= MOST_WAITING:
            raise CatalogError(
                f"project {project.institution}/{project.key} has {MOST_WAITING} requests that "
                "wait for an answer; withdraw one"
            )

    def grant_requests(
        self,
        *,
        institution: str = "",
        project: str = "",
        waiting: bool = False,
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[GrantRequest]:
        """Return what an institution is asked for, or what a project asks for, newest first."""
        if bool(institution) is bool(project):
            raise CatalogError("say whose requests: those to an institution, or of a project")
        query = _requests().order_by(grant_requests.c.asked.desc(), grant_requests.c.id.desc())
        if waiting:
            query = query.where(grant_requests.c.answer == Answer.WAITING.value)
        with self._database.reading() as connection:
            if institution:
                row = self._institution_row(connection, institution)
                self._require(
                    connection, Action.GRANT_DATASETS, f"requests to {institution}", row.id
                )
                query = query.where(datasets.c.institution_id == row.id)
            else:
                row = self._project_row(connection, project, Action.SEE_WORK)
                query = query.where(grant_requests.c.project_id == row.id)
            return self._page(
                connection, query, page, per_page, lambda rows: [_listed(one) for one in rows]
            )

    def grant_request(self, request_id: int) -> GrantRequest:
        """Return a request with its code, and the code that was said yes to last."""
        with self._database.reading() as connection:
            row = self._request_row(connection, request_id)
            unseen = not_there(f"request {request_id}")
            owner = self._may(connection, Action.GRANT_DATASETS, row.home_id)
            if not owner and not self._may(
                connection, Action.SEE_WORK, row.other_id, row.project_id
            ):
                raise unseen
            return self._request(connection, row.id)

    def answer_request(
        self, request_id: int, answer: Answer, *, until: float | None = None, reason: str = ""
    ) -> GrantRequest:
        """Say yes for this code, yes for any code of the project, or no."""
        said = Answer(choose(str(answer), [str(each) for each in ANSWERS], "answer", CatalogError))
        text(reason, "the reason")
        self._check_until(until)
        with self._writing() as connection:
            row = self._request_row(connection, request_id)
            self._require(connection, Action.GRANT_DATASETS, f"request {request_id}", row.home_id)
            if row.answer == said.value:
                return self._request(connection, row.id)
            self._check_waiting(row)
            values = self._answer(said) | {"reason": reason}
            this = grant_requests.c.id == row.id
            connection.execute(sa.update(grant_requests).where(this).values(values))
            shown, project = f"{row.home}/{row.dataset}", f"{row.other}/{row.project}"
            if said in YES:
                given = self._dataset_row(connection, read_ref(shown, 2), Action.GRANT_DATASETS)
                code = row.code if said is Answer.THIS_CODE else ""
                self._give(connection, given, row.project_id, code=code, until=until)
            else:
                self._note(connection, row.home, "refused", shown, project=project, reason=reason)
                self._touch(connection, row.project_id)
            return self._request(connection, row.id)

    def withdraw_request(self, request_id: int) -> GrantRequest:
        """Take a request back that was not answered yet; once more changes nothing."""
        with self._writing() as connection:
            row = self._request_row(connection, request_id)
            self._require(
                connection,
                Action.DO_WORK,
                f"request {request_id}",
                row.other_id,
                row.project_id,
                see=Action.SEE_WORK,
            )
            if row.answer != Answer.WITHDRAWN.value:
                self._check_waiting(row)
                self._withdraw(connection, row)
            return self._request(connection, row.id)

    def _withdraw(self, connection: sa.Connection, row: sa.Row[Any]) -> None:
        """Take a request back that waits: by itself, or since another takes its place."""
        this = grant_requests.c.id == row.id
        values = self._answer(Answer.WITHDRAWN)
        connection.execute(sa.update(grant_requests).where(this).values(values))
        self._note_withdrawn(connection, row)

    def _check_waiting(self, row: sa.Row[Any]) -> None:
        if row.answer != Answer.WAITING.value:
            raise ConflictError(
                f"request {row.id} was answered already: {row.answer}, by {row.answered_by}"
            )

    def _answer(self, answer: Answer) -> dict[str, Any]:
        return {
            "answer": answer.value,
            "answered_by": self._actor.user,
            "answered": self._now(),
        }

    def _request_row(self, connection: sa.Connection, request_id: int) -> sa.Row[Any]:
        """Return a request's row; nothing is said yet about who may see it."""
        wrong = isinstance(request_id, bool) or not isinstance(request_id, int)
        row = None
        if not wrong and abs(request_id) < 2**31:
            query = _requests().where(grant_requests.c.id == request_id)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise not_there(f"request {request_id}")
        return row

    def _request(self, connection: sa.Connection, request_id: int) -> GrantRequest:
        columns = [grant_requests.c[name] for name in _CODE]
        whole = _requests().add_columns(*columns[1:])
        row = connection.execute(whole.where(grant_requests.c.id == request_id)).one()
        last = (
            sa.select(*columns)
            .where(
                grant_requests.c.dataset_id == row.dataset_id,
                grant_requests.c.project_id == row.project_id,
                grant_requests.c.answer.in_([each.value for each in YES]),
                grant_requests.c.id != row.id,
            )
            .order_by(grant_requests.c.answered.desc(), grant_requests.c.id.desc())
            .limit(1)
        )
        before = connection.execute(last).one_or_none()
        return GrantRequest(
            **_facts(row),
            code=_code(row),
            settings=json.loads(row.settings),
            before=None if before is None else _code(before),
            before_settings={} if before is None else json.loads(before.settings),
        )


def _of_settings(code: Code | None, settings: Mapping[str, Any]) -> Code:
    """Return a code that was sent; refuse one that counts other settings than those shown."""
    if code is None:
        raise CatalogError("there is no code")
    to_json(settings, "the settings")
    to_json(code.guards, "the settings of the code")
    for what, texts in (("file", code.files), ("role", code.references)):
        for name, value in texts.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise CatalogError(f"the {what} {name!a} of the code must be text")
    try:
        found = Code.of_bundle(Bundle(code.files, code.references), settings)
        same = found.hash == code.hash
    except BundleError as error:
        raise CatalogError(f"the code cannot be kept: {error}") from None
    if not same:
        sent, shown = (
            {key: json.dumps(one) for key, one in each.items()}
            for each in (code.guards, found.guards)
        )
        names = [name for name in {**sent, **shown} if sent.get(name) != shown.get(name)]
        raise CatalogError(
            f"the code says other settings than those that its owner is shown "
            f"({', '.join(sorted(names))}); make it of both, with Code.of_bundle(bundle, settings)"
        )
    return found


def _kept(code: Code, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return a code as the table keeps it; refuse one of which a reader would not see all."""
    try:
        check_readable(code)
    except BundleError as error:
        raise CatalogError(f"the code cannot be shown to the data's owner: {error}") from None
    most = MOST_SETTINGS_CHARACTERS
    return {
        "code": code.hash,
        "files": text(to_json(code.files, "the code"), "the code", MOST_SOURCE_CHARACTERS),
        "roles": text(to_json(code.references, "the code's roles"), "the code's roles"),
        "guards": text(to_json(code.guards, "the settings"), "the settings", most),
        "settings": text(to_json(settings, "the settings"), "the settings", most),
    }


def _requests() -> sa.Select[Any]:
    """Return the query for requests, without what is long in them."""
    light = (column for column in grant_requests.c if column.name not in _CODE[1:])
    return between(grant_requests, *light)


def _listed(row: sa.Row[Any]) -> GrantRequest:
    return GrantRequest(**_facts(row))


def _facts(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "dataset": f"{row.home}/{row.dataset}",
        "project": f"{row.other}/{row.project}",
        "experiment": row.experiment,
        "code_hash": row.code,
        "note": row.note,
        "asked_by": row.asked_by,
        "asked": row.asked,
        "answer": Answer(row.answer),
        "answered_by": row.answered_by,
        "answered": row.answered,
        "reason": row.reason,
    }


def _code(row: sa.Row[Any]) -> Code:
    return Code(json.loads(row.files), json.loads(row.roles), json.loads(row.guards))
