"""How soon all who follow a run are told, and how soon a run is begun, at the hub's service.

``python tests/benchmarks/followers.py [--before FOLDER] [--repeats N]``: a real service with a real
JupyterHub on loopback, and 50 followers of one run in 5 processes, each with a connection of its
own. FOLDER holds ``flautim_lab`` as it was (``git archive COMMIT flautim_lab``); its service is
measured by the same script. It prints the figures, and writes them to
``build/bench/followers.json``.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from flautim_lab.records.store import Records  # noqa: E402
from tests.folders import free_port  # noqa: E402
from tests.mock_cluster import MockCluster  # noqa: E402
from tests.service.conftest import INSTITUTIONS, PREFIX, TestHub, packed  # noqa: E402

HERE = Path(__file__).parent
PROCESSES, EACH = 5, 10
EVENTS, PAUSE = 60, 0.5
IDLE_SECONDS = 10.0
STARTS = 5
REVIEWS = "post /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
RUN = "r20261125-202140-iris-7d1947b4"


class Bench:
    """A hub, and services of one code or another.

    Parameters
    ----------
    scratch : Path
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._number = 0
        self._hub = TestHub(scratch)
        self._token = self._hub.token("ana")
        (scratch / "institutions.json").write_text(json.dumps(INSTITUTIONS))

    def close(self) -> None:
        """End the hub."""
        self._hub.end()

    def _environment(self, code: Path) -> tuple[Path, dict[str, str]]:
        self._number += 1
        home = self._scratch / str(self._number)
        home.mkdir()
        return home, os.environ | {
            "FLAUTIM_LAB_HOME": str(home),
            "FLAUTIM_LAB_SERVICE_PORT": str(free_port()),
            "FLAUTIM_LAB_SERVICE_HOST": "127.0.0.1",
            "FLAUTIM_LAB_INSTITUTIONS": str(self._scratch / "institutions.json"),
            "JUPYTERHUB_API_URL": self._hub.url,
            "JUPYTERHUB_API_TOKEN": self._hub.told["service"],
            "JUPYTERHUB_SERVICE_PREFIX": f"{PREFIX}/",
            "KUBECONFIG": str(home / "kubeconfig"),
            "PYTHONPATH": str(code),
        }

    @contextlib.contextmanager
    def _service(
        self, command: list[str], home: Path, environment: dict[str, str]
    ) -> Iterator[tuple[str, psutil.Process]]:
        url = f"http://127.0.0.1:{environment['FLAUTIM_LAB_SERVICE_PORT']}{PREFIX}"
        with open(home / "service.log", "wb") as log:
            process = psutil.Popen(command, env=environment, stdout=log, stderr=log, cwd="/")
        try:
            end = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(f"{url}/health", trust_env=False)
                    break
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((home / "service.log").read_text())
                time.sleep(0.1)
            yield url, process
        finally:
            process.kill()
            process.wait()

    def follow(self, code: Path, way: str) -> dict[str, float]:
        """Return the seconds until the last follower has an event, and the service's CPU."""
        home, environment = self._environment(code)
        address = f"sqlite:///{home / 'records.db'}"
        Records(address).create_run(
            RUN, name="iris", runner="cluster", rounds=EVENTS, clients=2,
            settings={"owner": "ana", "institution": "ufmg"}, plan={}, detached=True,
        )  # fmt: skip
        script = [str(HERE / "followers_service.py"), RUN, str(EVENTS), str(PAUSE)]
        with self._service([sys.executable, *script], home, environment) as (url, service):
            Records(address).set_status(RUN, "running")
            command = [sys.executable, str(HERE / "followers_client.py"), url, RUN, way, str(EACH)]
            own = os.environ | {"JUPYTERHUB_API_TOKEN": self._token, "PYTHONPATH": str(code)}
            clients = [
                subprocess.Popen(command, env=own, stdout=subprocess.PIPE, text=True)
                for _ in range(PROCESSES)
            ]
            try:
                for client in clients:
                    assert client.stdout
                    if client.stdout.readline() != "following\n":
                        raise RuntimeError((home / "service.log").read_text())
                time.sleep(2)
                before = _cpu(service)
                time.sleep(IDLE_SECONDS)
                idle = (_cpu(service) - before) / IDLE_SECONDS
                before, began = _cpu(service), time.monotonic()
                (home / "go").touch()
                while not (home / "stored").exists():
                    time.sleep(0.1)
                busy = (_cpu(service) - before) / (time.monotonic() - began)
                (home / "over").touch()
                told = [json.loads(client.communicate(timeout=60)[0]) for client in clients]
            finally:
                for client in clients:
                    client.kill()
        stored = json.loads((home / "stored").read_text())
        if any(set(each) != set(stored) for each in told):
            raise RuntimeError("a follower was not told all of it")
        late = sorted(max(each[seq] for each in told) - moment for seq, moment in stored.items())
        return {
            "median": statistics.median(late),
            "95th": late[round(0.95 * len(late)) - 1],
            "most": late[-1],
            "cpu": busy,
            "cpu idle": idle,
        }

    def start(self, code: Path) -> list[float]:
        """Return the seconds of some requests for a run, each until its answer."""
        home, environment = self._environment(code)
        cluster = MockCluster()
        try:
            cluster.call(lambda handler: handler[REVIEWS] << _allowed)
            (home / "kubeconfig").write_text(yaml.safe_dump(cluster.kubeconfig()))
            command = [sys.executable, "-m", "flautim_lab.service"]
            with self._service(command, home, environment) as (url, _):
                headers = {"Authorization": f"token {self._token}"}
                with httpx.Client(headers=headers, timeout=60, trust_env=False) as client:
                    return [self._put(client, url) for _ in range(STARTS)]
        finally:
            cluster.close()

    def _put(self, client: httpx.Client, url: str) -> float:
        asked = {"name": "iris", "rounds": 2, "clients": 3, "settings": {}, "plan": {}}
        asked["cluster"] = {"institution": "ufmg", "workers": 2}
        asked["archive"] = base64.b64encode(packed()).decode()
        began = time.perf_counter()
        run_id = f"r20261125-202140-iris-{secrets.token_hex(4)}"
        answer = client.put(f"{url}/runs/{run_id}", json=asked)
        seconds = time.perf_counter() - began
        if answer.status_code != 200:
            raise RuntimeError(answer.text)
        return seconds


def _allowed(request):
    return request.data | {"status": {"allowed": True}}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> int:
    """Measure, print and write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="a folder with flautim_lab as it was")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    sides = [("now", ROOT, "stream"), ("now", ROOT, "poll")]
    if options.before:
        sides.insert(0, ("before", options.before.resolve(), "poll"))
    results: dict = {}
    starts: dict = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fl-bench-") as scratch:
        bench = Bench(Path(scratch))
        try:
            for _ in range(options.repeats):
                for name, code, way in sides:
                    results.setdefault(f"{name}, {way}", []).append(bench.follow(code, way))
                for name, code, way in sides:
                    if (name, way) != ("now", "poll"):
                        starts.setdefault(name, []).extend(bench.start(code))
        finally:
            bench.close()
    print(f"{PROCESSES * EACH} followers, {EVENTS} events {PAUSE} s apart; load before: {load:.2f}")
    print(f"{'':16} to the last follower: median, 95th, most     CPU of the service, and idle")
    for side, found in results.items():
        shown = {key: statistics.median(each[key] for each in found) for key in found[0]}
        late = [f"{shown[key] * 1000:7.0f} ms" for key in ("median", "95th", "most")]
        used = [f"{shown[key]:8.1%}" for key in ("cpu", "cpu idle")]
        print(f"{side:16} {' '.join(late)}  {' '.join(used)}")
    for name, seconds in starts.items():
        print(
            f"PUT /runs/ID, {name}: median {statistics.median(seconds) * 1000:.0f} ms "
            f"({min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f}) of {len(seconds)}"
        )
    path = ROOT / "build" / "bench" / "followers.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"load": load, "followers": results, "starts": starts}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
