"""What a notebook's server counts as being used, in a real Jupyter Server that nobody looks at."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from datetime import datetime

import httpx
import pytest
from jupyter_client import BlockingKernelClient

from flautim_lab.records.store import Records
from hub_config.culling import SERVER_ARGUMENTS
from tests.folders import free_port

QUICK = """\
from flautim_lab.jupyter import activity
activity.LOOK_SECONDS = 0.2
from jupyter_server.serverapp import main
main()
"""
RUN = "r20261125-202140-iris-7d1947b4"
TOKEN = "of the test"


class Server:
    def __init__(self, folder):
        self.folder, port = folder, free_port()
        self.url = f"http://127.0.0.1:{port}"
        options = [f"--port={port}", "--port-retries=0", "--no-browser", "--allow-root"]
        environment = os.environ | {
            "JUPYTER_TOKEN": TOKEN,
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
        }
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", QUICK, *options, *SERVER_ARGUMENTS],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                self.active()
                return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def ask(self, method, path):
        headers = {"Authorization": f"token {TOKEN}"}
        answer = httpx.request(
            method, self.url + path, headers=headers, trust_env=False, timeout=30
        )
        answer.raise_for_status()
        return answer.json()

    def active(self):
        """When it was in use last; to ask that is no use."""
        return datetime.fromisoformat(self.ask("GET", "/api/status")["last_activity"])

    def is_used(self):
        """Whether it counts as used from now on."""
        before = self.active()
        end = time.monotonic() + 10
        while time.monotonic() < end:
            time.sleep(0.1)
            if self.active() > before:
                return True
        return False

    def is_idle(self):
        """Whether nothing counts as use any more, for so many looks."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            before = self.active()
            time.sleep(0.8)
            if self.active() == before:
                return True
        return False

    def kernel(self):
        name = f"kernel-{self.ask('POST', '/api/kernels')['id']}.json"
        client = BlockingKernelClient(connection_file=str(self.folder / "runtime" / name))
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=30)
        return client


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.process.terminate()  # it ends its kernels
    made.process.wait(30)


def test_a_run_and_a_busy_kernel_are_use_and_nothing_else_is(server):
    assert server.is_idle()
    records = Records.default()
    told = {"runner": "cluster", "rounds": 1, "clients": 1, "settings": {}, "plan": {}}
    records.create_run(RUN, name="iris", detached=True, **told)  # waiting
    assert server.is_used()
    records.set_status(RUN, "running")
    assert server.is_used()
    records.set_status(RUN, "finished")
    assert server.is_idle()

    kernel = server.kernel()
    assert server.is_idle()  # a kernel alone computes nothing
    kernel.execute("import time\nfor _ in range(60):\n    time.sleep(1)")
    assert server.is_used()
    time.sleep(0.5)  # its messages have come
    assert server.is_used()
    server.ask("POST", "/api/kernels/" + server.ask("GET", "/api/kernels")[0]["id"] + "/restart")
    assert server.is_idle()
    kernel.stop_channels()


def test_records_that_cannot_be_read_are_no_use_and_no_trouble(server, tmp_path):
    home = os.environ["FLAUTIM_LAB_HOME"]
    database = os.path.join(home, "records.db")
    assert server.is_idle()
    for name in os.listdir(home):
        if name.startswith("records.db"):
            os.remove(os.path.join(home, name))
    with open(database, "wb") as file:
        file.write(b"this is no database" * 1000)
    assert server.is_idle()
    assert "Traceback" not in server.log.read_text()
