"""Idle notebooks are ended; those in which something computes, or a run goes on, are not.

A real JupyterHub, real singleuser servers with real kernels, and the real culler, with seconds in
place of minutes. Nobody has a browser open.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest
from jupyter_client import BlockingKernelClient

from flautim_lab.records.store import Records
from hub_config import culling
from tests.folders import free_port

HERE = Path(__file__).parent
USERS = ("idle", "busy", "running")
IDLE = 3  # seconds
RUN = "r20261125-202140-iris-7d1947b4"


class CullingHub:
    def __init__(self, folder):
        self.folder, self.processes = folder, []
        self.told = {
            "port": free_port(),
            "public": free_port(),
            "ports": {user: free_port() for user in USERS},
            **{name: secrets.token_hex(32) for name in ("service", "tests", "culler")},
        }
        self.url = f"http://127.0.0.1:{self.told['port']}/hub/api"
        self.headers = {"Authorization": f"token {self.told['tests']}"}
        path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        self.environment = os.environ | {"TEST_HUB": json.dumps(self.told), "PYTHONPATH": path}
        self.environment.pop("FLAUTIM_LAB_HOME", None)
        self.start(["-m", "jupyterhub", "--config", str(HERE / "culling_hub_config.py")])
        self.wait(lambda: self.get(self.url).status_code == 200)

    def start(self, arguments, **more):
        log = self.folder / f"{len(self.processes)}.log"
        with log.open("wb") as output:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    cwd=self.folder,
                    env=self.environment | more,
                    stdout=output,
                    stderr=output,
                )
            )

    def words(self):
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def wait(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if found := condition():
                    return found
            for process in self.processes:
                assert process.poll() is None, self.words()
            assert time.monotonic() < end, self.words()
            time.sleep(0.1)

    def get(self, url):
        return httpx.get(url, headers=self.headers, trust_env=False, timeout=30)

    def post(self, url):
        answer = httpx.post(url, headers=self.headers, trust_env=False, timeout=60)
        assert answer.status_code < 300, answer.text
        return answer

    def there(self):
        """Whose servers there are."""
        return {user for user in USERS if self.get(f"{self.url}/users/{user}").json()["servers"]}

    def ready(self, user):
        servers = self.get(f"{self.url}/users/{user}").json()["servers"]
        return servers and servers[""]["ready"]

    def active(self, user):
        """When the hub heard last that a server was in use."""
        servers = self.get(f"{self.url}/users/{user}").json()["servers"]
        return datetime.fromisoformat(servers[""]["last_activity"])

    def kernel(self, user):
        """Start a kernel in somebody's server; returns a way to talk to it without a browser."""
        url = f"http://127.0.0.1:{self.told['ports'][user]}/user/{user}/api/kernels"
        name = f"kernel-{self.post(url).json()['id']}.json"
        (path,) = self.wait(lambda: list((self.folder / "homes" / user).rglob(name)))
        client = BlockingKernelClient(connection_file=str(path))
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=30)
        return client

    def end(self):
        """End everything; servers and kernels are not to outlive a test that failed, either."""
        family = [
            child
            for process in self.processes
            for child in psutil.Process(process.pid).children(recursive=True)
        ]
        for process in reversed(self.processes):
            process.terminate()
            process.wait(30)
        _, left = psutil.wait_procs(family, timeout=5)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def hub(tmp_path):
    made = CullingHub(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.chaos  # what it rests on is in tests/jupyter/test_activity.py
def test_an_idle_notebook_is_ended_and_none_that_computes(hub, monkeypatch):
    for user in USERS:
        hub.post(f"{hub.url}/users/{user}/server")
    hub.wait(lambda: all(hub.ready(user) for user in USERS))
    clients = {user: hub.kernel(user) for user in ("idle", "busy")}
    clients["busy"].execute("import time; [time.sleep(0.1) for _ in range(6000)]")  # in silence
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(hub.folder / "homes" / "running" / ".flautim-lab"))
    records = Records.default()
    told = {"runner": "cluster", "rounds": 1, "clients": 1, "settings": {}, "plan": {}}
    records.create_run(RUN, name="iris", detached=True, **told)
    records.set_status(RUN, "running")

    begun = datetime.now(UTC)
    hub.wait(lambda: all(hub.active(user) > begun for user in ("busy", "running")))

    service = culling.service(IDLE, hub.url, 0, 1)
    hub.start(service["command"][1:], JUPYTERHUB_API_TOKEN=hub.told["culler"])
    hub.wait(lambda: "idle" not in hub.there())
    time.sleep(IDLE)
    assert hub.there() == {"busy", "running"}, hub.words()

    records.set_status(RUN, "finished")
    hub.wait(lambda: "running" not in hub.there())
    assert hub.there() == {"busy"}
    for client in clients.values():
        client.stop_channels()
