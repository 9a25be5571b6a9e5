"""The catalog over HTTP: one table of routes, from which both sides are made.

The service (``flautim_lab/service/catalog_routes.py``) answers what :mod:`flautim_lab.catalog.rest`
asks. What a method of the interface takes that is not in the path is in the query of a GET or a
DELETE, and in the JSON body of any other. Pictures are base64 (its URL-safe alphabet), as Pydantic
writes bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model

from flautim_lab.catalog.interface import Catalog
from flautim_lab.errors import (
    CatalogError,
    CatalogUnavailableError,
    ConflictError,
    InUseError,
    NotAllowedError,
    NotFoundError,
)

PREFIX = "/catalog"


@dataclass(frozen=True)
class Route:
    """Where a method of the interface is found.

    Attributes
    ----------
    method, path : str
        A name in braces is one key of the reference, or an argument of that name.
    reference : str
        The argument whose keys the first ``parts`` names in the path are.
    parts : int
    """

    method: str
    path: str
    reference: str = ""
    parts: int = 0

    @property
    def in_path(self) -> tuple[str, ...]:
        """The names in the path, in order."""
        return tuple(part.strip("{}") for part in self.path.split("/") if part.startswith("{"))

    @property
    def has_body(self) -> bool:
        """Whether arguments come as JSON."""
        return self.method in ("POST", "PUT", "PATCH")


_INSTITUTION = "/institutions/{institution}"
_PROJECT = "/projects/{institution}/{project}"
_DATASET = "/datasets/{institution}/{dataset}"
_MODEL = "/models/{institution}/{project}/{model}"
_EXPERIMENT = "/experiments/{institution}/{project}/{experiment}"

ROUTES: Mapping[str, Route] = {
    "me": Route("GET", "/me"),
    "institutions": Route("GET", "/institutions"),
    "add_institution": Route("POST", "/institutions"),
    "institution": Route("GET", _INSTITUTION, "key", 1),
    "change_institution": Route("PATCH", _INSTITUTION, "key", 1),
    "remove_institution": Route("DELETE", _INSTITUTION, "key", 1),
    "users": Route("GET", f"{_INSTITUTION}/users", "institution", 1),
    "set_roles": Route("PUT", f"{_INSTITUTION}/users/{{user}}", "institution", 1),
    "remove_user": Route("DELETE", f"{_INSTITUTION}/users/{{user}}", "institution", 1),
    "projects": Route("GET", f"{_INSTITUTION}/projects", "institution", 1),
    "add_project": Route("POST", f"{_INSTITUTION}/projects", "institution", 1),
    "project": Route("GET", _PROJECT, "ref", 2),
    "change_project": Route("PATCH", _PROJECT, "ref", 2),
    "remove_project": Route("DELETE", _PROJECT, "ref", 2),
    "members": Route("GET", f"{_PROJECT}/members", "project", 2),
    "add_member": Route("PUT", f"{_PROJECT}/members/{{user}}", "project", 2),
    "remove_member": Route("DELETE", f"{_PROJECT}/members/{{user}}", "project", 2),
    "datasets": Route("GET", f"{_INSTITUTION}/datasets", "institution", 1),
    "add_dataset_version": Route("POST", f"{_INSTITUTION}/datasets", "institution", 1),
    "usable": Route("GET", f"{_PROJECT}/datasets", "project", 2),
    "dataset": Route("GET", _DATASET, "ref", 2),
    "dataset_versions": Route("GET", f"{_DATASET}/versions", "ref", 2),
    "change_dataset": Route("PATCH", _DATASET, "ref", 2),
    "remove_dataset": Route("DELETE", _DATASET, "ref", 2),
    "published": Route("GET", "/published"),
    "ask_grant": Route("POST", "/requests"),
    "grant_requests": Route("GET", "/requests"),
    "grant_request": Route("GET", "/requests/{request_id}"),
    "answer_request": Route("POST", "/requests/{request_id}/answer"),
    "withdraw_request": Route("POST", "/requests/{request_id}/withdraw"),
    "grants": Route("GET", "/grants"),
    "give_grant": Route("POST", "/grants"),
    "end_grant": Route("POST", "/grants/{grant_id}/end"),
    "granted": Route("GET", "/granted"),
    "models": Route("GET", f"{_PROJECT}/models", "project", 2),
    "save_model": Route("POST", f"{_PROJECT}/models", "project", 2),
    "model": Route("GET", _MODEL, "ref", 3),
    "model_versions": Route("GET", f"{_MODEL}/versions", "ref", 3),
    "archive_model": Route("PATCH", _MODEL, "ref", 3),
    "remove_model": Route("DELETE", _MODEL, "ref", 3),
    "experiments": Route("GET", f"{_PROJECT}/experiments", "project", 2),
    "save_experiment": Route("POST", f"{_PROJECT}/experiments", "project", 2),
    "experiment": Route("GET", _EXPERIMENT, "ref", 3),
    "experiment_versions": Route("GET", f"{_EXPERIMENT}/versions", "ref", 3),
    "archive_experiment": Route("PATCH", _EXPERIMENT, "ref", 3),
    "remove_experiment": Route("DELETE", _EXPERIMENT, "ref", 3),
    "add_run": Route("PUT", "/runs/{run_id}"),
    "runs": Route("GET", f"{_PROJECT}/runs", "project", 2),
    "run": Route("GET", "/runs/{run_id}"),
    "end_run": Route("POST", "/runs/{run_id}/end"),
    "uses": Route("GET", f"{_INSTITUTION}/uses", "institution", 1),
    "stop_use": Route("POST", "/uses/{run_id}/stop"),
    "audit": Route("GET", f"{_INSTITUTION}/audit", "institution", 1),
    "remember": Route("PUT", "/remembered/{key}"),
    "remembered": Route("GET", "/remembered/{key}"),
}

#: Status and type (RFC 9457) of each refusal; the first that fits is meant.
PROBLEMS: Mapping[type[CatalogError], tuple[int, str]] = {
    NotFoundError: (404, "urn:flautim-lab:not-found"),
    NotAllowedError: (403, "urn:flautim-lab:not-allowed"),
    InUseError: (409, "urn:flautim-lab:in-use"),
    ConflictError: (409, "urn:flautim-lab:conflict"),
    CatalogUnavailableError: (503, "urn:flautim-lab:unavailable"),
    CatalogError: (422, "urn:flautim-lab:unfit"),
}


def problem(error: CatalogError) -> tuple[int, str]:
    """Return status and type of a refusal."""
    return next(told for kind, told in PROBLEMS.items() if isinstance(error, kind))


def refusal(kind: str, sentence: str) -> CatalogError:
    """Return the refusal of a type."""
    known = {uri: error for error, (_, uri) in PROBLEMS.items()}
    return known.get(kind, CatalogError)(sentence)


@cache
def signature(name: str) -> inspect.Signature:
    """Return the signature of a method of the interface, without ``self``; its types are types."""
    method = getattr(Catalog, name)
    hints = get_type_hints(method)
    bare = inspect.signature(method)
    kept = [
        each.replace(annotation=hints[each.name])
        for each in list(bare.parameters.values())[1:]  # not self
    ]
    return bare.replace(parameters=kept, return_annotation=hints["return"])


def elsewhere(name: str) -> list[inspect.Parameter]:
    """Return the arguments of a method that are not in its path."""
    route = ROUTES[name]
    there = {route.reference, *route.in_path[route.parts :]}
    return [each for each in signature(name).parameters.values() if each.name not in there]


@cache
def body(name: str) -> type[BaseModel] | None:
    """Return what the body of a method holds, if it has one."""
    fields: dict[str, Any] = {
        each.name: (
            each.annotation,
            ... if each.default is inspect.Parameter.empty else each.default,
        )
        for each in elsewhere(name)
    }
    if not (ROUTES[name].has_body and fields):
        return None
    config = ConfigDict(
        extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", strict=False
    )
    title = "".join(word.capitalize() for word in name.split("_"))
    return create_model(title, __config__=config, **fields)


@cache
def answer(name: str) -> TypeAdapter[Any]:
    """Return how what a method returns is written and read."""
    return TypeAdapter(signature(name).return_annotation)
