"""How the service takes requests in, and how it refuses: in sentences, and never by more memory."""

from __future__ import annotations

import asyncio
import base64
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from flautim_lab.catalog import wire
from flautim_lab.errors import CatalogError, ExperimentError, FlautimError, RecordsError
from flautim_lab.service.hub import Caller, Hub, Unknown

SENDING_SECONDS = 60.0  # that a request may take to come in
MOST_BYTES = 32 * 2**20  # of a request: an archive of 20 MiB in base64, and the rest
MOST_READING = 3  # of those, taken in at once: each is in memory several times
Asked = TypeVar("Asked", bound=BaseModel)


class Refused(Exception):  # noqa: N818 - an answer
    """A status, and the sentence that goes with it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


async def caller(request: Request) -> Caller:
    """Return who sent a request; every route but one asks for it."""
    hub: Hub = request.app.state.hub
    return await hub.caller(request.headers.get("authorization", ""))


Who = Annotated[Caller, Depends(caller)]


async def body_of(request: Request, most_bytes: int) -> bytes:
    """Return a request's body, without taking in more than is allowed.

    FastAPI would take in all of it before it asks who sends it.

    Raises
    ------
    Refused
        If it is too large, or too slow.
    """
    content = bytearray()
    try:
        async with asyncio.timeout(SENDING_SECONDS):
            async for part in request.stream():
                content += part
                if len(content) > most_bytes:
                    raise Refused(413, f"a request may hold at most {most_bytes // 2**10} KiB")
    except TimeoutError:
        raise Refused(
            408, f"the request did not come in within {SENDING_SECONDS:g} s; send it again"
        ) from None
    return bytes(content)


async def read(request: Request, kind: type[Asked], most_bytes: int) -> Asked:
    """Return what is asked for.

    Raises
    ------
    Refused
        If it is something else, too large, or too slow.
    """
    content = await body_of(request, most_bytes)
    try:
        return await asyncio.to_thread(kind.model_validate_json, content)
    except ValidationError as error:
        raise Refused(422, first_problem(error)) from None


async def read_large(request: Request, kind: type[Asked]) -> Asked:
    """Return what is asked for with an archive, when it is its turn."""
    reading: asyncio.Semaphore = request.app.state.reading
    async with reading:
        return await read(request, kind, MOST_BYTES)


def archive_of(asked: Any) -> bytes:
    """Take the archive out of what is asked for; it is in memory once from then on.

    Raises
    ------
    Refused
        If it is not in base64.
    """
    try:
        archive = base64.b64decode(asked.archive, validate=True)
    except ValueError:
        raise Refused(422, "the archive is no base64") from None
    asked.archive = ""
    return archive


def first_problem(error: Any) -> str:
    """Return the first thing that is wrong with a request, and where."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the request"
    return f"{where}: {first['msg']}"


def refuse_in_sentences(app: FastAPI) -> None:
    """Let every error be problem+json (RFC 9457)."""

    def problem(status: int, sentence: str, kind: str = "about:blank") -> JSONResponse:
        body = {"type": kind, "title": HTTPStatus(status).phrase, "status": status}
        return JSONResponse(
            body | {"detail": sentence}, status, media_type="application/problem+json"
        )

    @app.exception_handler(Refused)
    @app.exception_handler(Unknown)
    async def refused(_request: Request, error: Any) -> JSONResponse:
        return problem(error.status, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, first_problem(error))

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, error: Exception) -> JSONResponse:
        # What it says may be about somebody else's run; the log has all of it.
        return problem(500, f"the service failed ({type(error).__name__}); tell who runs the hub")

    @app.exception_handler(CatalogError)
    async def catalogs(_request: Request, error: CatalogError) -> JSONResponse:
        status, kind = wire.problem(error)
        return problem(status, str(error), kind)

    @app.exception_handler(FlautimError)
    async def ours(_request: Request, error: FlautimError) -> JSONResponse:
        if isinstance(error, RecordsError):
            return problem(500, str(error))
        return problem(422 if isinstance(error, ExperimentError) else 409, str(error))
