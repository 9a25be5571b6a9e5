"""What the server of a run in a pod tells, and is told, over HTTPS: events, files, stop, scale.

Only who holds the run's token may ask. The watch that follows the run (``cluster_watch.py``) is
the client; it comes by port-forward, or from inside the cluster.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse

from flautim_lab.errors import RecordsError
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
from flautim_lab.runners import faults
from flautim_lab.runners.process_files import ProcessFolder

FILES = ("model.safetensors", "scale.json")
MOST_EVENTS = 5000  # in one answer
LONGEST_WAIT_SECONDS = 20.0
LOOK_SECONDS = 0.1


def make_api(
    records: Records,
    run_id: str,
    folder: ProcessFolder,
    token: str,
    collected: threading.Event,
    recorder: Callable[[], Recorder | None],
) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    records : Records
        The pod's own.
    run_id : str
    folder : ProcessFolder
    token : str
        Who asks must send it as ``Authorization: Bearer``.
    collected : Event
        Set when whoever follows the run has all of it.
    recorder : callable
        Returns what records the run, None where nothing does (yet, or any more).
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def authorize(
        request: Request, call: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), token.encode()):
            return Response("the token is not that of this run", 401)
        return await call(request)

    @app.get("/events")
    def events(after: int = 0, wait: float = 0.0) -> Response:
        end = time.monotonic() + min(wait, LONGEST_WAIT_SECONDS)
        while True:
            page = event_page(records, run_id, after)
            if page["events"] or page["ended"] or time.monotonic() >= end:
                return Response(json.dumps(page), media_type="application/json")
            time.sleep(LOOK_SECONDS)

    @app.get("/files/{name}")
    def file(name: str) -> Response:
        path = folder.run_folder / name
        if name not in FILES or not path.exists():
            return Response(f"there is no {name}", 404)
        return FileResponse(path)

    @app.post("/stop")
    def stop() -> dict[str, bool]:
        records.request_stop(run_id)
        return {"asked": True}

    @app.post("/workers")
    async def workers(request: Request) -> Response:
        asked: dict[str, Any] = await request.json()
        slots = {int(slot) for slot in asked["slots"]}
        if not slots or not slots <= set(range(folder.facts().slots)):
            return Response("some slots that this run has must be named", 422)
        changed = slots != set(folder.workers())
        folder.write_workers(slots)
        writer = recorder()
        if changed and writer is not None:
            with contextlib.suppress(RecordsError):  # the run is over
                writer.log(str(asked["text"]))
        return Response("noted")

    @app.post("/log")
    async def log(request: Request) -> dict[str, bool]:
        said: dict[str, Any] = await request.json()
        writer = recorder()
        if writer is None:
            return {"logged": False}
        try:
            writer.log(str(said["text"]), level="warning")
        except RecordsError:  # the run is over
            return {"logged": False}
        return {"logged": True}

    @app.post("/faults/{what}")
    async def fault(what: str, request: Request) -> Response:
        one = faults.from_dict(await request.json())
        if what == "planned":
            faults.plan(folder, one)
        elif what == "struck":  # whoever tells it does it next
            faults.note_struck(folder, one)
        else:
            return Response("a fault is planned or struck", 404)
        return Response("noted")

    @app.post("/collected")
    def is_collected() -> dict[str, bool]:
        collected.set()
        return {"collected": True}

    return app


def event_page(
    records: Records, run_id: str, after: int, most: int = MOST_EVENTS
) -> dict[str, Any]:
    """Return how a run stands and what happened after an event, so many events at most.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    """
    record = records.run(run_id)  # before the events: an end is told with all of them
    new = records.events(run_id, after=after, limit=most + 1)
    return {
        "status": str(record.status),
        "ended": record.status.over,
        "message": record.message,
        "plan": record.plan,
        "more": len(new) > most,
        "events": [list(event) for event in new[:most]],
    }


def read_token(path: Path) -> str:
    """Return the token of a run."""
    return path.read_text(encoding="ascii").strip()
