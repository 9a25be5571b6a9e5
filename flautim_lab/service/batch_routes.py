"""The routes of batches.

::

    GET  /batches                       your batches (an admin: all), newest first
    PUT  /batches/ID                    make one; the same once more changes nothing
    GET  /batches/ID                    how it stands: its points, its pods, how far they are
    GET  /batches/ID/results/POD        what a pod made, packed; nothing where it made nothing
    DEL  /batches/ID                    end it, and remove all of it; "left" names pods that still
                                        end: ask again
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from fastapi import APIRouter, Request, Response

from flautim_lab.service import access
from flautim_lab.service.access import Action, Role
from flautim_lab.service.batches import AskedBatch, Batches, KnownBatch
from flautim_lab.service.hub import Caller
from flautim_lab.service.requests import Refused, Who, archive_of, read_large

MOST_STARTING = 4  # batches that are begun at once, each of another user
MOST_ASKING = 8  # questions to the cluster at once, each of another user
Answer = TypeVar("Answer")


def batch_router(batches: Batches) -> APIRouter:
    """Return the routes.

    Parameters
    ----------
    batches : Batches
    """
    router = APIRouter(prefix="/batches")
    # Threads of their own, and one question of each user at a time: a cluster that is slow must not
    # keep others from what asks no cluster.
    threads = ThreadPoolExecutor(MOST_ASKING, "batch")
    turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
    asking, starting = asyncio.Semaphore(MOST_ASKING), asyncio.Semaphore(MOST_STARTING)

    async def in_turn(who: Caller, ask: Callable[..., Answer], *arguments: Any) -> Answer:
        from flautim_lab.pods.api import Unreachable

        async with turns.setdefault(who.name, asyncio.Lock()), asking:
            try:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(threads, ask, *arguments)
            except Unreachable as error:
                raise Refused(503, str(error)) from error

    def allowed(batch_id: str, who: Caller, action: Action) -> KnownBatch:
        """Return a batch, if somebody may do this to it; to a stranger there is no such batch."""
        known = batches.find(batch_id)
        if known is None or not access.may(_role(known, who), action):
            raise Refused(404, f"there is no batch {batch_id} of yours")
        return known

    @router.get("")
    def listed(who: Who) -> list[Any]:
        return [each.shown() for each in batches.all() if access.may(_role(each, who), Action.READ)]

    @router.put("/{batch_id}")
    async def start(batch_id: str, request: Request, who: Who) -> dict[str, Any]:
        # Its turn before it is taken in: so many are in memory, one of each user.
        async with turns.setdefault(f"{who.name} sends", asyncio.Lock()), starting:
            asked = await read_large(request, AskedBatch)
            known = await in_turn(who, _start, batches, batch_id, who, asked)
        return known.shown()

    @router.get("/{batch_id}")
    async def look(batch_id: str, who: Who) -> dict[str, Any]:
        known = allowed(batch_id, who, Action.READ)
        if not known.made:
            raise Refused(404, f"batch {batch_id} was not made whole; begin it again")
        seen = await in_turn(who, batches.look, known)
        return known.shown() | seen.as_dict()

    @router.get("/{batch_id}/results/{pod}")
    async def result(batch_id: str, pod: str, who: Who) -> Response:
        known = allowed(batch_id, who, Action.READ)
        packed = await in_turn(who, batches.result, known, pod)
        return Response(packed or b"", media_type="application/octet-stream")

    @router.delete("/{batch_id}")
    async def remove(batch_id: str, who: Who) -> dict[str, list[str]]:
        allowed(batch_id, who, Action.STOP)
        return {"left": await in_turn(who, batches.remove, batch_id)}

    return router


def _start(batches: Batches, batch_id: str, who: Caller, asked: AskedBatch) -> KnownBatch:
    archive = archive_of(asked)
    return batches.start(batch_id, who, asked, archive)


def _role(known: KnownBatch, who: Caller) -> Role:
    if known.owner == who.name:
        return Role.OWNER
    return Role.ADMIN if who.admin else Role.STRANGER
