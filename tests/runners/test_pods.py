"""Server and workers as their pods run them, and the watch that follows: all but the cluster.

The processes, the mounts, TLS, keys, records and the watch are the real ones; what stands in for
Kubernetes are folders where it would mount volumes, and a socket where it would forward a port.
``tests/cluster`` has the rest.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time

import pytest

import flautim_lab as lab
from flautim_lab.errors import ClusterError
from flautim_lab.pods import manifests
from flautim_lab.pods.manifests import SERVER, WORKER
from flautim_lab.records.store import Records
from flautim_lab.runners import cluster_watch
from flautim_lab.runners.cluster import Cluster, ClusterRun
from flautim_lab.runners.cluster_watch import ClusterWatch
from tests.federations import DropoutNet, Net, experiment, same

pytestmark = pytest.mark.xdist_group("processes")
PATIENCE = 150


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Folders:
    """Stands for a cluster: mounts are folders, pods are processes on this machine."""

    namespace = "here"

    def __init__(self, root):
        self.root = root
        self.ports = (free_port(), free_port())
        self.processes = {}
        self.run = None
        self.removed = False

    def check_access(self, namespaces):
        assert namespaces

    def spaces(self, run):
        return list(dict.fromkeys([run.namespace, *run.workers]))

    def make(self, run, archive, server_files, worker_files):
        if self.run is not None:
            return
        self.run = run
        owner = None
        self._mount(run, run.namespace, SERVER, archive, server_files, owner)
        for space, files in worker_files.items():
            self._mount(run, space, WORKER, archive, files, owner)
        self.start("server")
        for slot in range(run.slots):
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
        environment["FLAUTIM_LAB_MOUNTS"] = str(root)
        command = [sys.executable, "-m", f"flautim_lab.runners.{module}"]
        with open(self.root / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd="/"
            )

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()
        self.start(name)

    def follow(self, run, say, stopped):
        return []

    def failure(self, run):
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
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)  # they were told that the run has ended
        self.end()
        return []

    def end(self):
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    made = Folders(tmp_path / "cluster")
    monkeypatch.setattr("flautim_lab.pods.api.Api", lambda context: made)
    yield made
    made.end()


def start(made, folders, **settings):
    """What ``lab.run`` does, with the watch left to the caller."""
    records = Records.default()
    run_id = f"r20261125-000000-test-{os.urandom(4).hex()}"
    pods = ClusterRun(records.folder(run_id))
    pods.prepare(made, Cluster(**settings), run_id)
    made.save(pods.folder.run_folder / "experiment")
    records.create_run(
        run_id,
        name=made.name,
        runner="cluster",
        rounds=made.rounds,
        clients=len(made.splits),
        settings={},
        plan={},
        detached=True,
    )
    pods.make(folders)
    return lab.Run(records, run_id, made), pods


def test_as_pods_it_ends_with_the_kernels_bits_whatever_dies(folders, monkeypatch):
    made = experiment(DropoutNet, rounds=12, clients=5, strategy="FedAdam")
    expected = lab.run(made).wait()
    run, pods = start(made, folders, workers={"here": 1, "there": 1})
    watch = ClusterWatch(pods)
    hits = {2: "server", 4: "client-1", 6: "server"}

    polled = watch._poll

    def poll(line):
        outcome = polled(line)
        for round_number in list(hits):
            if run.round >= round_number:
                folders.kill(hits.pop(round_number))
        return outcome

    monkeypatch.setattr(watch, "_poll", poll)
    watch.run()
    assert not hits
    assert (str(run.status), run.message) == ("finished", "")
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)  # nothing lost, nothing doubled
    assert "the server goes on after round" in run.logs()
    assert run.predict(made.dataset.features).equal(expected.predict(made.dataset.features))
    assert folders.removed
    # The workers were told that the run has ended, and ended by themselves.
    assert {folders.processes[f"client-{slot}"].returncode for slot in range(2)} == {0}
    left = {path.name for path in pods.folder.path.rglob("*") if path.is_file()}
    assert not {n for n in left if n.endswith((".key", ".pem", ".pub", ".pid", ".gz"))}
    assert "token" not in left


def test_a_stop_reaches_the_server_and_what_was_learned_is_kept(folders):
    run, pods = start(experiment(Net, rounds=100_000, clients=2), folders, workers=1)
    run._records.request_stop(run.id)
    ClusterWatch(pods).run()
    assert str(run.status) == "stopped"
    assert run.message.startswith("stopped after round")


def test_who_has_not_the_token_is_told_nothing(folders):
    run, pods = start(experiment(Net, rounds=100_000, clients=2), folders, workers=1)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            line = cluster_watch.Line(folders, pods)
            line.ask("GET", "/events")
            break
        except (OSError, ClusterError):
            assert time.monotonic() < end
            time.sleep(0.1)
    with contextlib.closing(line):
        for token in ("", "wrong", line._token + "x"):
            line._token = token
            for method, path in (
                ("GET", "/events"),
                ("GET", "/files/model.safetensors"),
                ("POST", "/stop"),
                ("POST", "/collected"),
                ("POST", "/log"),
                ("POST", "/faults/planned"),
            ):
                with pytest.raises(cluster_watch.http.client.HTTPException, match="401"):
                    line.ask(method, path, {})
    assert not run._records.run(run.id).status.ended


def test_what_cannot_be_loaded_there_fails_with_its_sentence(folders):
    made = experiment(Net, clients=2)
    run, pods = start(made, folders, workers=1)
    folders.end()
    code = folders.root / "server" / "code"
    for path in code.iterdir():
        path.unlink()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path in sorted((pods.folder.run_folder / "experiment").rglob("*")):
            if path.suffix != ".py":
                archive.add(path, path.relative_to(pods.folder.run_folder / "experiment"), False)
    (code / "part-0000").write_bytes(gzip.compress(raw.getvalue()))
    shutil.rmtree(folders.root / "server" / "state")
    (folders.root / "server" / "state").mkdir()
    folders.start("server")
    ClusterWatch(pods).run()
    assert str(run.status) == "failed"
    assert run.message
    assert len(run.message.splitlines()) == 1
