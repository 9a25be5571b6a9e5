"""The peer of runs as processes: Flower's deployment engine, as its documentation has it.

``flower-superlink``, a ``flower-supernode`` per client and ``flwr run``, all on the loopback
interface, with TLS off and without installing what the app needs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
from work import Work

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
COMMANDS = ("flower-superlink", "flower-supernode", "flower-superexec", "flwr")
HOST = "127.0.0.1"
IDLE_ROUNDS = 3  # of 6 to 10 seconds each
LIMIT_SECONDS = 240  # less than a process is given: what ends by itself says why
POLL_SECONDS = 0.02

_PROJECT = """
[project]
name = "bench-{work}"
version = "1.0.0"
description = "What the benchmarks ask of Flower's deployment engine."
license = "BSD-3-Clause"
dependencies = ["flwr"]

[tool.flwr.app]
publisher = "flautim-lab"

[tool.flwr.app.components]
serverapp = "flower_engine_server:app"
clientapp = "{client}:app"

[tool.flwr.app.config]
work = "{work}"
data = "{data}"
clients = {clients}
rounds = {rounds}
result = ""
"""
_CONNECTION = """
[superlink]
default = "bench"

[superlink.bench]
address = "{address}"
insecure = true
"""


class Engine:
    """A SuperLink and its SuperNodes; use it as a context, which starts and ends them.

    Parameters
    ----------
    folder : Path
        Where they, and ``flwr run``, keep what they write.
    nodes : int
        How many SuperNodes.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self._folder = folder
        self._nodes = nodes
        self._number = 0
        self._deadline = time.monotonic() + LIMIT_SECONDS
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = os.environ | {
            # They start each other by name.
            "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)]),
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }

    def __enter__(self) -> Engine:
        """Start the SuperLink and, as soon as it answers, the SuperNodes.

        A SuperNode that finds no SuperLink would wait longer and longer between its tries.
        """
        link, *ports = _free_ports(1 + self._nodes)
        address = f"{HOST}:{link}"
        config = self._folder / "config.toml"
        config.write_text(_CONNECTION.format(address=address), encoding="utf-8")
        try:
            self._start(
                "flower-superlink",
                "superlink",
                *("--insecure", "--host", HOST, "--port", str(link)),
                "--disable-runtime-dependency-installation",
            )
            self._wait(lambda: _answers(f"http://{address}/health"), "the SuperLink answered")
            for number, port in enumerate(ports):
                self._start(
                    "flower-supernode",
                    f"supernode-{number}",
                    *("--insecure", "--superlink", address, "--host", HOST, "--port", str(port)),
                    *("--node-config", f"partition-id={number} num-partitions={self._nodes}"),
                )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, app: Path) -> tuple[float, dict]:
        """Run an app; returns when ``flwr run`` was called, and what its ServerApp noted."""
        self._number += 1
        result = self._folder / f"result-{self._number}.json"
        begin = time.time()
        name = f"run-{self._number}"
        self._start("flwr", name, "run", str(app), "bench", "--run-config", f'result="{result}"')
        self._wait(result.exists, "the app had ended")
        noted = json.loads(result.read_text(encoding="utf-8"))
        if "error" in noted:
            raise RuntimeError(f"{self._said()}\nthe ServerApp failed: {noted['error']}")
        return begin, noted

    def _start(self, command: str, name: str, *arguments: str) -> None:
        # Not in sessions of their own: what ends this process's group ends them as well.
        with open(self._folder / f"{name}.log", "wb") as log:
            self._started[name] = subprocess.Popen(
                [str(BIN / command), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
            )

    def _wait(self, happened: Callable[[], bool], until: str) -> None:
        while not happened():
            for name, process in self._started.items():
                status = process.poll()
                # `flwr run` alone may end: it has handed the app over then.
                may_end = name.startswith("run-") and status == 0
                if status is not None and not may_end:
                    raise RuntimeError(f"{self._said()}\n{name} ended with {status}")
            if time.monotonic() > self._deadline:
                raise RuntimeError(f"{self._said()}\nmore than {LIMIT_SECONDS} s until {until}")
            time.sleep(POLL_SECONDS)

    def _said(self) -> str:
        """Return the end of what each of them said."""
        said = []
        for name in self._started:
            text = (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
            said.append("\n".join([f"--- {name}", *text.splitlines()[-8:]]))
        return "\n".join(said)

    def _end(self) -> None:
        """Kill them, and all that they have started: a SuperNode leaves its SuperExec behind."""
        while family := psutil.Process().children(recursive=True):
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=5)


def overhead(_: Work, clients: str) -> dict:
    """Return the seconds of each round but the first, of clients that compute nothing."""
    folder = _folder()
    app = _write_app(folder, "nothing", "flower_engine_idle", int(clients), IDLE_ROUNDS)
    with Engine(folder, int(clients)) as engine:
        _, noted = engine.run(app)
    ends = noted["evaluated"]
    return {"rounds": [end - before for before, end in itertools.pairwise(ends)]}


def start(work: Work, clients: str, data: str) -> dict:
    """Return the seconds to the first round's aggregated evaluation.

    ``seconds`` from the start of the SuperLink on, ``run_seconds`` from a second ``flwr run`` on
    the same SuperLink and SuperNodes, which have unpacked the app by then.
    """
    folder = _folder()
    app = _write_app(folder, work.name, "flower_app", int(clients), work.rounds, data)
    begin = time.time()
    with Engine(folder, int(clients)) as engine:
        _, first = engine.run(app)
        called, second = engine.run(app)
    return {
        "seconds": first["evaluated"][0] - begin,
        "run_seconds": second["evaluated"][0] - called,
        "loss": first["losses"][0],
        "validation_loss": first["validation_losses"][0],
        "steps": first["steps"],
    }


def is_installed() -> bool:
    """Return whether Flower's commands are beside this Python."""
    return all((BIN / command).exists() for command in COMMANDS)


def _folder() -> Path:
    """Return a new folder in the home of this measurement, which goes with it."""
    folder = Path(os.environ["FLAUTIM_LAB_HOME"]) / "flower"
    folder.mkdir()
    return folder


def _write_app(
    folder: Path, work: str, client: str, clients: int, rounds: int, data: str = ""
) -> Path:
    """Write a Flower app: the modules it consists of, and its ``pyproject.toml``."""
    app = folder / "app"
    app.mkdir()
    modules = ["flower_engine_server", client]
    if data:
        modules += ["plain_pytorch", "work"]  # what the simulation's ClientApp imports
    for module in modules:
        shutil.copy(HERE / f"{module}.py", app)
    project = _PROJECT.format(work=work, client=client, clients=clients, rounds=rounds, data=data)
    (app / "pyproject.toml").write_text(project, encoding="utf-8")
    return app


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now; the system does not give them out again at once."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [made.getsockname()[1] for made in taken]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return response.status == 200
    except OSError:
        return False
