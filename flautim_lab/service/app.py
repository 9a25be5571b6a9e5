"""The service's routes. Every refusal is problem+json (RFC 9457) with one sentence as its detail.

::

    GET  /health /ready /metrics        for who runs the hub: upkeep.py
    GET  /                              who you are, and your institutions
    GET  /runs                          your runs (an admin: all), newest first
    PUT  /runs/ID                       start a run; the same once more changes nothing
    GET  /runs/ID                       how it stands
    GET  /runs/ID/events?after=&wait=   what happened after an event, waiting for news
    GET  /runs/ID/files/NAME            what it leaves
    POST /runs/ID/stop                  end it, keeping its last whole round
    POST /runs/ID/faults                strike it on purpose
    POST /runs/ID/scale                 more or fewer workers while it goes
    ...  /catalog/...                   institutions, projects, datasets: catalog_routes.py
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, TypeVar
from weakref import WeakValueDictionary

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ValidationError

from flautim_lab.errors import RunNotFoundError
from flautim_lab.records.store import Records, RunRecord
from flautim_lab.runners.pod_api import FILES, LONGEST_WAIT_SECONDS, event_page
from flautim_lab.service import access, dispatch
from flautim_lab.service.access import Action, Role
from flautim_lab.service.catalog_routes import catalog_router
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.hub import Caller, Hub
from flautim_lab.service.metrics import Measured, Metrics
from flautim_lab.service.requests import Refused, Who, body_of, first_problem, refuse_in_sentences
from flautim_lab.service.settings import Settings
from flautim_lab.service.upkeep import upkeep_router

MOST_BYTES = 32 * 2**20  # of a request: an archive of 20 MiB in base64, and the rest
MOST_STRIKE_BYTES = 2**16
MOST_STARTING = 4  # requests for a run that are in memory at once
MOST_WAITING = 50  # questions of one user that look for news again and again
LAST_EVENT = 2**63 - 1  # that the records can number
LOOK_SECONDS = 0.2
SHOWN_RUNS = 100

Asked = TypeVar("Asked", bound=BaseModel)


def make_app(records: Records, settings: Settings, hub: Hub, catalogs: Catalogs) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    records : Records
    settings : Settings
    hub : Hub
        Who knows the users.
    catalogs : Catalogs
    """
    runs = dispatch.Dispatch(records, settings)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(runs.go_on)
        yield
        runs.close()

    app = FastAPI(
        title="Flautim Lab",
        version=version("flautim-lab"),
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{settings.prefix}/openapi.json",
    )
    app.state.hub = hub
    refuse_in_sentences(app)
    app.include_router(_routes(records, runs), prefix=settings.prefix)
    app.include_router(catalog_router(catalogs), prefix=settings.prefix)
    metrics = Metrics(records)
    checks = {"catalog": catalogs.check, "records": records.check}
    upkeep = upkeep_router(checks, metrics, settings.metrics_token)
    app.include_router(upkeep, prefix=settings.prefix)
    app.add_middleware(Measured, metrics=metrics, prefix=settings.prefix)
    return app


def _routes(records: Records, runs: dispatch.Dispatch) -> APIRouter:
    router = APIRouter()
    starting = asyncio.Semaphore(MOST_STARTING)
    # One at a time of each user, so that nobody keeps all others from starting by sending slowly.
    turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
    threads = ThreadPoolExecutor(MOST_STARTING, "start")
    waiting: Counter[str] = Counter()

    def allowed(run_id: str, who: Caller, action: Action) -> RunRecord:
        """Return a run, if somebody may do this to it; to a stranger there is no such run."""
        nothing = Refused(404, f"there is no run {run_id} of yours")
        try:
            record = records.run(run_id)
        except RunNotFoundError:
            raise nothing from None
        role = _role(record, who)
        if not access.may(role, Action.READ):
            raise nothing
        if not access.may(role, action):
            owner = record.settings["owner"]
            raise Refused(403, f"run {run_id} is {owner}'s, who alone may do that")
        return record

    @router.get("/")
    async def me(who: Who) -> dict[str, Any]:
        return {"user": who.name, "admin": who.admin, "institutions": sorted(who.institutions)}

    @router.get("/runs")
    def listed(who: Who, limit: Annotated[int, Query(ge=1, le=SHOWN_RUNS)] = 20) -> list[Any]:
        mine = [each for each in records.runs() if access.may(_role(each, who), Action.READ)]
        return [_shown(each) for each in mine[:limit]]

    @router.put("/runs/{run_id}")
    async def start(run_id: str, request: Request, who: Who) -> dict[str, Any]:
        async with turns.setdefault(who.name, asyncio.Lock()), starting:
            asked = await _read(request, dispatch.Request, MOST_BYTES)
            # Threads of their own: a cluster that is slow must not keep others from their events.
            loop = asyncio.get_running_loop()
            record = await loop.run_in_executor(threads, _start, runs, run_id, who, asked)
        return _shown(record)

    @router.get("/runs/{run_id}")
    def run(run_id: str, who: Who) -> dict[str, Any]:
        return _shown(allowed(run_id, who, Action.READ))

    @router.get("/runs/{run_id}/events")
    async def events(
        run_id: str,
        who: Who,
        after: Annotated[int, Query(ge=0, le=LAST_EVENT)] = 0,
        wait: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.0,
    ) -> Response:
        await asyncio.to_thread(allowed, run_id, who, Action.READ)
        wait = min(wait, LONGEST_WAIT_SECONDS)
        if waiting[who.name] >= MOST_WAITING:  # one look, late, as if there had been no news
            await asyncio.sleep(wait)
            wait = 0.0
        waiting[who.name] += 1
        try:
            return await _news(records, run_id, after, wait)
        finally:
            waiting[who.name] -= 1
            if not waiting[who.name]:
                del waiting[who.name]

    @router.get("/runs/{run_id}/files/{name}")
    def file(run_id: str, name: str, who: Who) -> Response:
        allowed(run_id, who, Action.READ)
        path = records.folder(run_id) / name
        if name not in FILES or not path.exists():
            raise Refused(404, f"run {run_id} has no {name}")
        return FileResponse(path)

    @router.post("/runs/{run_id}/stop")
    def stop(run_id: str, who: Who) -> dict[str, Any]:
        record = allowed(run_id, who, Action.STOP)
        if not record.status.over:
            records.request_stop(run_id)
        return _shown(record)

    @router.post("/runs/{run_id}/faults")
    async def strike(run_id: str, request: Request, who: Who) -> dict[str, bool]:
        await asyncio.to_thread(allowed, run_id, who, Action.CHANGE)
        asked = await _read(request, dispatch.Strike, MOST_STRIKE_BYTES)
        await asyncio.to_thread(runs.strike, run_id, asked)
        return {"struck": True}

    @router.post("/runs/{run_id}/scale")
    async def scale(run_id: str, asked: dispatch.Scaling, who: Who) -> dict[str, str]:
        record = await asyncio.to_thread(allowed, run_id, who, Action.CHANGE)
        return {"done": await asyncio.to_thread(runs.scale, record, who, asked.workers)}

    return router


def _role(record: RunRecord, who: Caller) -> Role:
    if record.settings.get("owner") == who.name:
        return Role.OWNER
    return Role.ADMIN if who.admin else Role.STRANGER


def _shown(record: RunRecord) -> dict[str, Any]:
    """Return what is told of a run."""
    told = {
        field.name: getattr(record, field.name)
        for field in dataclasses.fields(record)
        if field.name in ("id", "name", "rounds", "clients", "round", "message", "seconds")
    }
    told["status"] = str(record.status)
    told["owner"] = record.settings.get("owner")
    told["institution"] = record.settings.get("institution")
    return told


async def _news(records: Records, run_id: str, after: int, wait: float) -> Response:
    """Return what happened after an event, waiting for so many seconds for news."""
    end = time.monotonic() + wait
    before: tuple[Any, ...] = ()
    while True:
        page = await asyncio.to_thread(event_page, records, run_id, after)
        now = (page["status"], page["message"])
        fresh = page["events"] or page["ended"] or (before and now != before)
        if fresh or time.monotonic() >= end:
            # Not a JSONResponse, which refuses a loss that is not a number any more.
            return Response(json.dumps(page), media_type="application/json")
        before = now
        await asyncio.sleep(LOOK_SECONDS)


def _start(runs: dispatch.Dispatch, run_id: str, who: Caller, asked: dispatch.Request) -> RunRecord:
    """Start a run whose experiment is in base64."""
    try:
        archive = base64.b64decode(asked.archive, validate=True)
    except ValueError:
        raise Refused(422, "the archive is no base64") from None
    asked.archive = ""  # once in memory is enough
    return runs.start(run_id, who, asked, archive)


async def _read(request: Request, kind: type[Asked], most_bytes: int) -> Asked:
    """Return what is asked for."""
    content = await body_of(request, most_bytes)
    try:
        return await asyncio.to_thread(kind.model_validate_json, content)
    except ValidationError as error:
        raise Refused(422, first_problem(error)) from None
