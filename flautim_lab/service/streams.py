"""How a run is followed: as a stream (server-sent events), or by questions that wait for news.

A stream is, in the words of https://html.spec.whatwg.org/multipage/server-sent-events.html::

    id: 12
    data: [12, 1764460800.0, "metric", 3, -1, "validation", "loss", 0.25, ""]

    event: state
    data: {"status": "running", "message": ""}

An event of the run is a message whose id is its number. ``state`` comes after all that is known,
and when a run stands otherwise; ``more`` in its place, after so many events, where others follow.
``end`` is how the run ended: nothing comes after it. A stream that breaks off before is asked for
again, with the last number as ``Last-Event-ID``. A comment is a sign of life.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from flautim_lab.errors import FlautimError
from flautim_lab.runners.pod_api import LONGEST_WAIT_SECONDS, MOST_EVENTS
from flautim_lab.service.hub import Unknown
from flautim_lab.service.readers import PAGE, News, Readers, look
from flautim_lab.service.requests import Refused, Who, caller

MOST_WAITING = 50  # streams and waiting questions of one user
LAST_EVENT = 2**63 - 1  # that the records can number
BEAT_SECONDS = 10.0  # of silence, after which a stream gives a sign of life
STUCK_SECONDS = 30.0  # that a follower may take to read what it was sent
CHECK_SECONDS = 60.0  # between looks whether a follower may still follow
Allowed = Callable[[str, Any], Awaitable[Any]]

_log = logging.getLogger(__name__)


def stream_router(readers: Readers, allowed: Allowed) -> APIRouter:
    """Return the routes.

    Parameters
    ----------
    readers : Readers
    allowed : callable
        Called with the id of a run and who asks; raises where they may not read it.
    """
    router = APIRouter()
    waiting: Counter[str] = Counter()

    @router.get("/runs/{run_id}/events")
    async def events(
        run_id: str,
        who: Who,
        after: Annotated[int, Query(ge=0, le=LAST_EVENT)] = 0,
        wait: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.0,
    ) -> Response:
        await allowed(run_id, who)
        wait = min(wait, LONGEST_WAIT_SECONDS)
        if waiting[who.name] >= MOST_WAITING:  # one look, late, as if there had been no news
            await asyncio.sleep(wait)
            wait = 0.0
        with _counted(waiting, who.name):
            found = await _news(readers, run_id, after, wait)
        # Not a JSONResponse, which refuses a loss that is not a number any more.
        return Response(found.page(), media_type="application/json")

    @router.get(
        "/runs/{run_id}/stream",
        response_class=StreamingResponse,
        responses={200: {"content": {EventStream.media_type: {}}}},
    )
    async def stream(
        run_id: str,
        request: Request,
        who: Who,
        after: Annotated[int, Query(ge=0, le=LAST_EVENT)] = 0,
        last_event_id: Annotated[int, Header(ge=0, le=LAST_EVENT)] = 0,
    ) -> Response:
        await allowed(run_id, who)
        if waiting[who.name] >= MOST_WAITING:
            raise Refused(
                429,
                f"{who.name} follows runs over {MOST_WAITING} connections, and no more are let in; "
                "close one, or ask for /events",
            )

        async def may_still() -> bool:
            # A token may be taken back, and an administrator be none any more.
            try:
                await allowed(run_id, await caller(request))
            except (Unknown, Refused, FlautimError):
                return False
            return True

        # Who comes back by itself asks for the same address, with what it knows in the header.
        told = _told(readers, run_id, max(after, last_event_id), may_still)
        return EventStream(told, _counted(waiting, who.name))

    return router


class EventStream(StreamingResponse):
    """A stream of events, which leaves a follower that does not read.

    What is not read yet is in the buffers of one connection, and never more: nothing else is made
    for a follower before it has taken what it was sent.

    Parameters
    ----------
    told : async generator of bytes
    counted : context manager
        In which it is sent.
    """

    media_type: str = "text/event-stream"

    def __init__(
        self, told: AsyncGenerator[bytes, None], counted: contextlib.AbstractContextManager[None]
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # for proxies
        super().__init__(told, headers=headers)
        self._told = told
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._counted:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send it, as long as it is read."""
        async with contextlib.aclosing(self._told) as told:
            start = {"type": "http.response.start", "status": self.status_code}
            await send(start | {"headers": self.raw_headers})
            try:
                async for part in told:
                    async with asyncio.timeout(STUCK_SECONDS):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
            except TimeoutError:
                # Without an end: its server closes the connection, and its reader comes again.
                _log.info("a follower did not read for %g s, and was left", STUCK_SECONDS)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.contextmanager
def _counted(waiting: Counter[str], name: str) -> Iterator[None]:
    waiting[name] += 1
    try:
        yield
    finally:
        waiting[name] -= 1
        if not waiting[name]:
            del waiting[name]


async def _told(
    readers: Readers, run_id: str, after: int, may_still: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    """Yield what is sent, until the run has ended or the follower may not follow any more."""
    known: dict[str, Any] | None = None
    checked = time.monotonic()
    with readers.following(run_id) as reader:
        while True:
            if time.monotonic() - checked > CHECK_SECONDS:
                checked = time.monotonic()
                if not await may_still():
                    return
            try:
                found = await reader.news(after, known, BEAT_SECONDS, PAGE)
            except FlautimError as error:  # who asks again is told
                _log.info("a stream of %s was ended: %s", run_id, error)
                return
            if found is None:
                yield KEEPALIVE_COMMENT
                continue
            known = found.state
            after = found.events[-1].seq if found.events else after
            kind = "more" if found.more else "end" if known["ended"] else "state"
            shown = {} if found.more else {name: known[name] for name in ("status", "message")}
            frames = [each.frame for each in found.events]
            frames.append(format_sse_event(event=kind, data_str=json.dumps(shown)))
            yield b"".join(frames)
            if kind == "end":
                return


async def _news(readers: Readers, run_id: str, after: int, wait: float) -> News:
    """Return what happened after an event, waiting for so many seconds for news."""
    if not wait:
        return await asyncio.to_thread(look, readers.records, run_id, after, MOST_EVENTS)
    end = time.monotonic() + wait
    with readers.following(run_id) as reader:
        now = await reader.news(after, None, LONGEST_WAIT_SECONDS, MOST_EVENTS)
        if now is None:  # the records take that long to be read
            return await asyncio.to_thread(look, readers.records, run_id, after, MOST_EVENTS)
        if now.events or now.state["ended"]:
            return now
        left = max(0.0, end - time.monotonic())
        return await reader.news(after, now.state, left, MOST_EVENTS) or now
