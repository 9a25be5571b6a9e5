"""An API server that keeps objects in memory, and a kubeconfig that points at it."""

from __future__ import annotations

import asyncio
import datetime
import re
import threading
import uuid

import kmock
import pytest
import yaml
from kmock._internal import parsing

RESOURCES = (
    "v1/namespaces",
    "v1/pods",
    "v1/configmaps",
    "v1/events",
    "v1/persistentvolumeclaims",
    "batch/v1/jobs",
)


def parse_path(path, theirs=parsing.parse_path):
    """Read a path as the mock server does, and those of namespaces, which it cannot read."""
    namespace = re.fullmatch("/api/v1/namespaces(?:/([^/]+))?/?", path)
    if namespace:
        return parsing.ParsedPath("", "v1", "namespaces", None, namespace[1])
    return theirs(path)


parsing.parse_path = parse_path


class Emulator(kmock.KubernetesEmulator):
    """The mock server, which leaves identity and age of new objects to its users."""

    async def _handle(self, request):
        if request.action is not None and request.action.name == "CREATE":
            metadata = request.data.setdefault("metadata", {})
            metadata.setdefault("uid", str(uuid.uuid4()))
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            metadata.setdefault("creationTimestamp", now)
            metadata.setdefault("name", metadata["uid"])  # a review of access has none
        if isinstance(request.data, list):  # a JSON patch of ours (RFC 6902), of whole members
            assert {each["op"] for each in request.data} == {"add"}
            told = {each["path"].removeprefix("/"): each["value"] for each in request.data}
            key = (request.resource, request.namespace, request.name)
            if key in self.objects:  # what the mock server merges into
                self.objects[key].patch(dict.fromkeys(told))
            object.__setattr__(request, "data", told)  # it is frozen
        return await super()._handle(request)


class MockCluster:
    """The mock server in a thread of its own, since our client waits for its answers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        async with Emulator() as handler, kmock.Server(handler) as server:
            for resource in RESOURCES:
                handler.resources[resource] = {}
            self.handler, self.url = handler, str(server.url).rstrip("/")
            self._ready.set()
            await self._over.wait()

    def call(self, function):
        """Run something in the server's thread, as its objects belong to that."""

        async def wrapped():
            return function(self.handler)

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(10)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        self.loop.close()

    def kubeconfig(self) -> dict:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "mock",
            "contexts": [
                {"name": name, "context": {"cluster": name, "user": "me", "namespace": "ufmg"}}
                for name in ("mock", "away")
            ],
            "clusters": [
                {"name": "mock", "cluster": {"server": self.url}},
                {"name": "away", "cluster": {"server": "http://127.0.0.1:9"}},
            ],
            "users": [{"name": "me", "user": {"token": "t"}}],
        }


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    made = MockCluster()
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(made.kubeconfig()), encoding="utf-8")
    # The client reads the variable once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    yield made
    made.close()
