"""A real Hub, users' tokens, and the service."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from flautim_lab.runners.pod_files import pack
from tests.federations import Net, experiment
from tests.folders import free_port

HERE = Path(__file__).parent
PREFIX = "/services/flautim-lab"
INSTITUTIONS = {
    "ufmg": {"name": "Universidade Federal de Minas Gerais", "namespace": "flautim-ufmg"},
    "ifnmg": {"name": "Instituto Federal do Norte de Minas Gerais", "namespace": "flautim-ifnmg"},
}


@functools.cache
def packed():
    """An experiment as it is sent to the service."""
    return pack(experiment(Net, clients=3))


class TestHub:
    """A JupyterHub that runs, as its administrator sees it."""

    __test__ = False

    def __init__(self, folder):
        self.told = {
            "port": free_port(),
            "public": free_port(),
            "service": secrets.token_hex(32),
            "tests": secrets.token_hex(32),
            "metrics": secrets.token_hex(32),
        }
        self.url = f"http://127.0.0.1:{self.told['port']}/hub/api"
        environment = os.environ | {
            "TEST_HUB": json.dumps(self.told),
            "PYTHONPATH": str(HERE.parents[1]),
        }
        self.log = folder / "hub.log"
        self._log = open(self.log, "wb")  # noqa: SIM115 - the process's, to its end
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "--config", str(HERE / "hub_config.py")],
            cwd=folder,
            env=environment,
            stdout=self._log,
            stderr=self._log,
        )
        self._ask = httpx.Client(
            headers={"Authorization": f"token {self.told['tests']}"}, timeout=10, trust_env=False
        )
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(self.url, trust_env=False).status_code == 200:
                    return
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def token(self, user, **settings):
        """A new token of a user."""
        self._ask.post(f"{self.url}/users/{user}")
        answer = self._ask.post(f"{self.url}/users/{user}/tokens", json=settings)
        assert answer.status_code == 201, answer.text
        return answer.json()["token"]

    def end(self):
        self._ask.close()
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    made = TestHub(tmp_path_factory.mktemp("hub"))
    yield made
    made.end()


@pytest.fixture
def institutions(tmp_path, monkeypatch, hub):
    """The environment of a service."""
    path = tmp_path / "institutions.json"
    path.write_text(json.dumps(INSTITUTIONS))
    monkeypatch.setenv("FLAUTIM_LAB_INSTITUTIONS", str(path))
    monkeypatch.setenv("JUPYTERHUB_API_URL", hub.url)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", hub.told["service"])
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", f"{PREFIX}/")
    return path
