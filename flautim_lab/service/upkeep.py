"""The routes for who runs the hub: whether the service can work, and how it does.

::

    GET  /health    without a token: it is there
    GET  /ready     without a token: it is there, and its databases answer
    GET  /metrics   with the token in FLAUTIM_LAB_METRICS_TOKEN: for Prometheus
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from fastapi import APIRouter, Request, Response

from flautim_lab.errors import FlautimError
from flautim_lab.service.metrics import CONTENT_TYPE, Metrics
from flautim_lab.service.requests import Refused

PATIENCE_SECONDS = 3.0  # less than that of the probe

_log = logging.getLogger(__name__)


def upkeep_router(
    checks: Mapping[str, Callable[[], None]], metrics: Metrics, token: str
) -> APIRouter:
    """Return the routes.

    Parameters
    ----------
    checks : mapping of str to callable
        Each raises a FlautimError where what it is named for cannot be used.
    metrics : Metrics
    token : str
        Of Prometheus; without one there are no metrics to be had.
    """
    router = APIRouter()
    readiness = _Readiness(checks)

    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "well"}

    @router.get("/ready")
    async def ready() -> dict[str, str]:
        if missing := await readiness.missing():
            # Whoever asks is not told more; the log has all of it.
            raise Refused(503, f"the {missing} cannot be used now; try again in a moment")
        return {"status": "ready"}

    @router.get("/metrics")
    def numbers(request: Request) -> Response:
        if not token:
            raise Refused(404, "there are no metrics here; FLAUTIM_LAB_METRICS_TOKEN is not set")
        told = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(told, f"Bearer {token}".encode()):
            raise Refused(401, "send the token of the metrics as 'Authorization: Bearer ...'")
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router


class _Readiness:
    """Asks the databases, one question at a time: one that hangs does not take all threads."""

    def __init__(self, checks: Mapping[str, Callable[[], None]]) -> None:
        self._checks = checks
        self._threads = ThreadPoolExecutor(1, "ready")
        self._asked: Future[str] | None = None
        self._said = ""

    async def missing(self) -> str:
        """Return what cannot be used, "" where everything can."""
        if self._asked is None or self._asked.done():
            self._asked = self._threads.submit(self._look)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.shield(asyncio.wrap_future(self._asked))
        except TimeoutError:
            self._say(f"the databases did not answer within {PATIENCE_SECONDS:g} s")
            return " and ".join(self._checks)

    def _look(self) -> str:
        for name, check in self._checks.items():
            try:
                check()
            except FlautimError as error:
                self._say(str(error))
                return name
        self._say("")
        return ""

    def _say(self, sentence: str) -> None:
        """Write to the log what is new; the probe asks every other second."""
        if sentence != self._said:
            self._said = sentence
            _log.warning("%s", f"not ready: {sentence}" if sentence else "ready again")
