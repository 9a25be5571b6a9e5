"""The service's routes. Every refusal is problem+json (RFC 9457) with one sentence as its detail.

::

    GET  /health /ready /metrics        for who runs the hub: upkeep.py
    GET  /                              who you are, and your institutions
    GET  /runs                          your runs (an admin: all), newest first
    PUT  /runs/ID                       start a run; the same once more changes nothing
    GET  /runs/ID                       how it stands
    DEL  /runs/ID                       remove a run that is over, with all that it left here
    GET  /runs/ID/events?after=&wait=   what happened after an event, waiting for news
    GET  /runs/ID/stream?after=         the same as it happens: streams.py
    GET  /runs/ID/files/NAME            what it leaves
    POST /runs/ID/stop                  end it, keeping its last whole round
    POST /runs/ID/faults                strike it on purpose
    POST /runs/ID/scale                 more or fewer workers while it goes
    ...  /batches/...                   the points of a batch as pods: batch_routes.py
    GET  /places?user=                  where somebody belongs; the hub alone may ask: places.py
    ...  /catalog/...                   institutions, projects, datasets: catalog_routes.py
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any
from weakref import WeakValueDictionary

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse

from flautim_lab.errors import RunNotFoundError
from flautim_lab.pods.namespaces import Namespaces, check_claim, objects_of, read_objects
from flautim_lab.records.store import Records, RunRecord
from flautim_lab.runners.pod_api import FILES
from flautim_lab.service import access, run_request
from flautim_lab.service.access import Action, Role
from flautim_lab.service.batch_routes import batch_router
from flautim_lab.service.batches import Batches
from flautim_lab.service.catalog_routes import catalog_router
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.dispatch import Dispatch
from flautim_lab.service.hub import Caller, Hub
from flautim_lab.service.keeper import NONE_IS_MADE, Keeper
from flautim_lab.service.metrics import Measured, Metrics
from flautim_lab.service.places import places_router
from flautim_lab.service.readers import Readers
from flautim_lab.service.requests import (
    MOST_READING,
    Refused,
    Who,
    archive_of,
    read,
    read_large,
    refuse_in_sentences,
)
from flautim_lab.service.settings import Settings
from flautim_lab.service.spaces import Claims, Spaces
from flautim_lab.service.streams import stream_router
from flautim_lab.service.upkeep import upkeep_router

MOST_STRIKE_BYTES = 2**16
MOST_STARTING = 8  # runs that are begun at once, each of another user
SHOWN_RUNS = 100


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
    runs = Dispatch(records, settings, catalogs)
    readers, batches = Readers(records), Batches(settings)
    keeper = _keeper(records, settings, catalogs)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        if keeper:
            await asyncio.to_thread(keeper.start)
        await asyncio.to_thread(runs.go_on)
        async with readers.open():
            batches.go_on()
            yield
        runs.close()
        batches.close()
        if keeper:
            await asyncio.to_thread(keeper.close)

    app = FastAPI(
        title="Flautim Lab",
        version=version("flautim-lab"),
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{settings.prefix}/openapi.json",
    )
    app.state.hub = hub
    app.state.reading = asyncio.Semaphore(MOST_READING)
    refuse_in_sentences(app)
    app.include_router(_routes(records, runs, readers), prefix=settings.prefix)
    app.include_router(batch_router(batches), prefix=settings.prefix)
    around = keeper.around if keeper else NONE_IS_MADE
    app.include_router(catalog_router(catalogs, around), prefix=settings.prefix)
    app.include_router(places_router(settings, catalogs), prefix=settings.prefix)
    metrics = Metrics(records)
    checks = {"catalog": catalogs.check, "records": records.check}
    upkeep = upkeep_router(checks, metrics, settings.metrics_token)
    app.include_router(upkeep, prefix=settings.prefix)
    app.add_middleware(Measured, metrics=metrics, prefix=settings.prefix)
    return app


def _keeper(records: Records, settings: Settings, catalogs: Catalogs) -> Keeper | None:
    """Return who makes the namespaces of institutions; None where nobody does."""
    if settings.objects is None or not isinstance(settings.institutions, Spaces):
        return None
    told = read_objects(settings.objects)  # what cannot be read ends the start, in a sentence
    claim = settings.data.made if isinstance(settings.data, Claims) else ""
    check_claim(settings.objects, told, claim)

    def connect() -> Namespaces:
        from flautim_lab.pods.api import Api

        return Api(None).namespaces(settings.namespace)

    objects = partial(objects_of, settings.objects)
    return Keeper(settings.institutions, catalogs, records, connect, objects)


def _routes(records: Records, runs: Dispatch, readers: Readers) -> APIRouter:
    router = APIRouter()
    starting = asyncio.Semaphore(MOST_STARTING)
    # One at a time of each user, so that nobody keeps all others from starting by sending slowly.
    turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
    threads = ThreadPoolExecutor(MOST_STARTING, "start")

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
            asked = await read_large(request, run_request.Request)
            # Threads of their own: a cluster that is slow must not keep others from their events.
            loop = asyncio.get_running_loop()
            record = await loop.run_in_executor(threads, _start, runs, run_id, who, asked)
        return _shown(record)

    @router.get("/runs/{run_id}")
    def run(run_id: str, who: Who) -> dict[str, Any]:
        return _shown(allowed(run_id, who, Action.READ))

    @router.delete("/runs/{run_id}")
    def remove(run_id: str, who: Who) -> dict[str, bool]:
        allowed(run_id, who, Action.REMOVE)
        runs.remove(run_id)
        return {"removed": True}

    async def readable(run_id: str, who: Caller) -> None:
        await asyncio.to_thread(allowed, run_id, who, Action.READ)

    router.include_router(stream_router(readers, readable))

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
        asked = await read(request, run_request.Strike, MOST_STRIKE_BYTES)
        await asyncio.to_thread(runs.strike, run_id, asked)
        return {"struck": True}

    @router.post("/runs/{run_id}/scale")
    async def scale(run_id: str, asked: run_request.Scaling, who: Who) -> dict[str, str]:
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


def _start(runs: Dispatch, run_id: str, who: Caller, asked: run_request.Request) -> RunRecord:
    """Start a run whose experiment is in base64."""
    archive = archive_of(asked)
    return runs.start(run_id, who, asked, archive)
