"""Stands for a cluster: mounts are folders, and pods are processes on this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import sys

import psutil

from flautim_lab.errors import ClusterError
from flautim_lab.pods import manifests
from flautim_lab.pods.manifests import SERVER, WORKER


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Folders:
    """Stands for a cluster: mounts are folders, pods are processes on this machine."""

    namespace = "here"

    def __init__(self, root):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        kept = root / "ports"
        if not kept.exists():
            kept.write_text(f"{free_port()} {free_port()}")
        #: Folder of the data volume of each namespace that has one.
        self.data = {}
        self.ports = tuple(int(port) for port in kept.read_text().split())
        self.processes = {}
        self.run = None
        self.removed = False

    def check_access(self, namespaces):
        assert namespaces

    def spaces(self, run):
        return list(dict.fromkeys([run.namespace, *run.workers]))

    def make(self, run, archive, server_files, worker_files):
        self.run = run
        if (self.root / SERVER).exists():  # another process made it
            return
        owner = None
        self._mount(run, run.namespace, SERVER, archive, server_files, owner)
        for space, files in worker_files.items():
            self._mount(run, space, WORKER, archive, files, owner)
        self.start("server")
        for slot in run.taken(self.workers(run)):
            self.start(f"client-{slot}")

    def workers(self, run):
        kept = self.root / "workers.json"
        return json.loads(kept.read_text()) if kept.exists() else dict(run.workers)

    def scale(self, run, space, number):
        """As the controller of an Indexed Job: pods that are too many are told to end."""
        numbers = self.workers(run)
        first, before = run.first_slot(space), numbers[space]
        (self.root / "workers.json").write_text(json.dumps(numbers | {space: number}))
        for slot in range(first + number, first + before):
            os.kill(int((self.root / f"client-{slot}.pid").read_text()), signal.SIGTERM)
        for slot in range(first + before, first + number):
            self.start(f"client-{slot}")

    def _mount(self, run, space, role, archive, files, owner):
        root = self.root / (SERVER if role == SERVER else space)
        for name in ("run", "code", "keys", "state"):
            (root / name).mkdir(parents=True, exist_ok=True)
        anchor = manifests.make_anchor(run, space, role)
        (root / "run" / "run.json").write_text(anchor.data["run.json"])
        for part in manifests.make_code(run, space, role, archive, owner):
            for name, content in part.binary_data.items():
                (root / "code" / name).write_bytes(base64.b64decode(content))
        for name, content in files.items():
            (root / "keys" / name).write_bytes(content)

    def start(self, name):
        environment = os.environ | {"FLAUTIM_LAB_PORTS": f"{self.ports[0]} {self.ports[1]}"}
        if name == "server":
            module, root = "pod_server", self.root / SERVER
        else:
            space, index = self.run.place(int(name.removeprefix("client-")))
            module, root = "pod_client", self.root / space
            environment |= {
                "FLAUTIM_LAB_SERVER": f"localhost:{self.ports[0]}",
                "FLAUTIM_LAB_FIRST_SLOT": str(self.run.first_slot(space)),
                "JOB_COMPLETION_INDEX": str(index),
            }
            if space in self.run.data:
                environment["FLAUTIM_LAB_DATA"] = str(self.data[space])
                if space in self.run.fewest_rows:
                    environment["FLAUTIM_LAB_FEWEST_ROWS"] = str(self.run.fewest_rows[space])
                environment["FLAUTIM_LAB_DATA_HASHES"] = json.dumps(self.run.hashes.get(space, {}))
        environment["FLAUTIM_LAB_MOUNTS"] = str(root)
        environment["TMPDIR"] = str(self.root / "tmp")  # a pod's goes with it
        (self.root / "tmp").mkdir(exist_ok=True)
        command = [sys.executable, "-m", f"flautim_lab.runners.{module}"]
        with open(self.root / f"{name}.log", "ab") as log:
            self.processes[name] = psutil.Popen(
                command, env=environment, stdout=log, stderr=log, cwd="/"
            )
        (self.root / f"{name}.pid").write_text(str(self.processes[name].pid))

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()
        self.start(name)

    def follow(self, run, say, lost, stopped):
        return []

    def failure(self, run):
        for name, process in list(self.processes.items()):  # what a Job does
            if process.poll() not in (None, 0):
                self.start(name)
        mark = self.root / "server.pid"  # of a server that another process started
        if "server" not in self.processes and not psutil.pid_exists(int(mark.read_text())):
            self.start("server")
        return ""

    def pods(self, run, role=None):
        return []

    def forward(self, run, port):
        try:
            return socket.create_connection(("127.0.0.1", self.ports[1]))
        except OSError as error:
            raise ClusterError("the server's pod is not running yet") from error

    def remove(self, run, seconds=60.0):
        self.removed = True
        psutil.wait_procs(self.living(), 10)  # they were told that the run has ended
        self.end()
        return []

    def living(self):
        """Every process of the run, those that another process started too."""
        found = list(self.processes.values())
        mine = {process.pid for process in found}
        for path in self.root.glob("*.pid"):
            # One that ends takes its file away.
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ValueError):
                if int(path.read_text()) not in mine:
                    found.append(psutil.Process(int(path.read_text())))
        return [process for process in found if process.is_running()]

    def end(self):
        for process in self.living():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(self.living(), 20)
        for process in alive:
            process.kill()
        for path in self.root.glob("*.pid"):
            path.unlink()
