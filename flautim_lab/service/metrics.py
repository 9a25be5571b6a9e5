"""What Prometheus is told of the service: load, runs, failures, self-healing.

No name of a user, a run or a project is a label: it would be read by whoever reads the dashboards,
and each would be a time series for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flautim_lab.database import Database
from flautim_lab.errors import FlautimError
from flautim_lab.pods import follow
from flautim_lab.records.event import SERVER_BACK, WORKER_LOST, Event
from flautim_lab.records.store import Records
from flautim_lab.records.totals import totals

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = frozenset({"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"})
OTHER = "other"
DATABASES = ("catalog", "records")
ENDS = ("finished", "failed", "stopped")


class Metrics:
    """The numbers of one service.

    Parameters
    ----------
    records : Records
    """

    def __init__(self, records: Records) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "flautim_lab_requests",
            "Requests that were answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "flautim_lab_request_seconds",
            "From a request to the first byte of its answer; questions for events wait for news.",
            ["method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._events = Counter(
            "flautim_lab_events",
            "Events of runs that were stored since the service started.",
            ["kind"],
            registry=self.registry,
        )
        self._workers_lost = Counter(
            "flautim_lab_workers_lost",
            "Workers that were lost while they had work, which others did.",
            registry=self.registry,
        )
        self._servers_back = Counter(
            "flautim_lab_servers_resumed",
            "Servers of runs that went on from a checkpoint.",
            registry=self.registry,
        )
        self.registry.register(_Totals(records))
        ProcessCollector(registry=self.registry)
        records.listeners.append(self._heard)

    def text(self) -> bytes:
        """Return all of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def _heard(self, _run_id: str, events: Sequence[Event]) -> None:
        for event in events:
            self._events.labels(event.kind).inc()
            if event.kind == "log":
                self._workers_lost.inc(event.text.startswith(WORKER_LOST))
                self._servers_back.inc(event.text.startswith(SERVER_BACK))


class _Totals(Collector):
    """What is asked of the database, and of those who count, whenever Prometheus asks."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def describe(self) -> Iterable[Metric]:
        """Return nothing: to know the names here a database would have to be asked."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers of now."""
        up = GaugeMetricFamily(
            "flautim_lab_records_up", "Whether the database of the records answers."
        )
        try:
            known = totals(self._records)
        except FlautimError:
            up.add_metric([], 0)
        else:
            up.add_metric([], 1)
            runs = GaugeMetricFamily(
                "flautim_lab_runs", "Runs by how they stand now.", labels=["status"]
            )
            ended = CounterMetricFamily(
                "flautim_lab_runs_ended", "Runs that have ended for good.", labels=["status"]
            )
            for status, number in known.by_status.items():
                runs.add_metric([status], number)
                if status in ENDS:
                    ended.add_metric([status], number)
            yield runs
            yield ended
            yield CounterMetricFamily(
                "flautim_lab_runs_started", "Runs that have started.", value=known.started
            )
            yield CounterMetricFamily(
                "flautim_lab_rounds", "Rounds that runs have finished.", value=known.rounds
            )
        yield up
        failures = CounterMetricFamily(
            "flautim_lab_database_errors", "What a database refused or did not answer.",
            labels=["database"],
        )  # fmt: skip
        for name in DATABASES:
            failures.add_metric([name], Database.failures[name])
        yield failures
        replaced = CounterMetricFamily(
            "flautim_lab_pods_replaced", "Pods of runs in whose place came another.",
            labels=["role"],
        )  # fmt: skip
        for role in follow.ROLES:
            replaced.add_metric([role], follow.replaced[role])
        yield replaced


class Measured:
    """The application around it, with every request counted.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    prefix : str
        That all routes begin with; it is left out.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, prefix: str) -> None:
        self._app, self._metrics, self._prefix = app, metrics, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        answered = False

        def count(status: int) -> None:
            nonlocal answered
            if not answered:
                answered = True
                self._count(scope, status, time.perf_counter() - begun)

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except BaseException:
            count(500)
            raise

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # The route as it is written, with {run_id}; what is none of ours is one together.
        route = getattr(scope.get("route"), "path", "").removeprefix(self._prefix) or OTHER
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
