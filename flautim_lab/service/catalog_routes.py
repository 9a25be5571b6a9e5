"""The catalog's routes, made from the table that its REST side is made from too.

::

    GET  /catalog/institutions?search=ufmg     and so on: flautim_lab/catalog/wire.py

Who asks is asked of the Hub before a byte of a body is taken in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message

from flautim_lab.catalog import wire
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.refs import read_ref
from flautim_lab.service.hub import Caller
from flautim_lab.service.keeper import Around
from flautim_lab.service.requests import Who, body_of, caller

MOST_BYTES = 8 * 2**20  # of a body: a schema of many columns, or a source, as JSON
Opener = Callable[[Caller], Catalog]


class _AskedFirst(APIRoute):
    """A route that knows who asks before it takes in what they send."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def asked_first(request: Request) -> Response:
            await caller(request)
            content = await body_of(request, MOST_BYTES)
            message: Message = {"type": "http.request", "body": content, "more_body": False}

            async def receive() -> Message:
                return message

            return await handle(Request(request.scope, receive))

        return asked_first


def catalog_router(open_catalog: Opener, around: Around = MappingProxyType({})) -> APIRouter:
    """Return the routes.

    Parameters
    ----------
    open_catalog : callable
        Gives the catalog as a caller may use it.
    around : mapping
        What else is done before and after some methods, by their names.
    """
    router = APIRouter(prefix=wire.PREFIX, route_class=_AskedFirst, tags=["catalog"])
    for name, route in wire.ROUTES.items():
        refusals: dict[int | str, dict[str, Any]] = {
            status: {"description": "problem+json"} for status, _ in wire.PROBLEMS.values()
        }
        router.add_api_route(
            route.path,
            _endpoint(name, route, open_catalog, around),
            methods=[route.method],
            operation_id=name,
            summary=(inspect.getdoc(getattr(Catalog, name)) or "").splitlines()[0],
            # For the document alone: what is answered is a Response already.
            response_model=wire.signature(name).return_annotation,
            responses={401: {"description": "problem+json"}, **refusals},
        )
    return router


def _endpoint(
    name: str, route: wire.Route, open_catalog: Opener, around: Around
) -> Callable[..., Response]:
    """Return the function that answers a route; FastAPI reads its signature."""
    shape = wire.body(name)
    also = around.get(name, _nothing_else)

    def answer(who: Caller, **given: Any) -> Response:
        if (sent := given.pop("body", None)) is not None:
            given |= {key: getattr(sent, key) for key in sent.model_fields_set}
        if route.reference:
            keys = [given.pop(key) for key in route.in_path[: route.parts]]
            given[route.reference] = str(read_ref("/".join(keys), route.parts))
        with also(who, given):
            told = getattr(open_catalog(who), name)(**given)
        return Response(wire.answer(name).dump_json(told), media_type="application/json")

    answer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_keyword("who", Who), *_parameters(name, route, shape)]
    )
    answer.__name__ = name
    return answer


def _nothing_else(_who: Caller, _given: Mapping[str, Any]) -> AbstractContextManager[None]:
    return nullcontext()


def _parameters(name: str, route: wire.Route, shape: Any) -> list[inspect.Parameter]:
    types = {key: each.annotation for key, each in wire.signature(name).parameters.items()}
    found = [
        _keyword(key, Annotated[types.get(key, str) if at >= route.parts else str, Path()])
        for at, key in enumerate(route.in_path)
    ]
    if shape is not None:
        return [*found, _keyword("body", Annotated[shape, Body()])]
    return found + [
        _keyword(each.name, Annotated[each.annotation, Query()], each.default)
        for each in wire.elsewhere(name)
    ]


def _keyword(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)
