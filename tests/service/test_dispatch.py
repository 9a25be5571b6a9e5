"""From a notebook's kernel through the service to pods and back; folders stand for the cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import flautim_lab as lab
from flautim_lab.runners.service import ServiceRun
from tests.federations import DropoutNet, Net, experiment, same
from tests.folders import Folders, free_port
from tests.service.conftest import PREFIX

pytestmark = pytest.mark.measures_children
ROOT = Path(__file__).parents[2]
PATIENCE = 120


class RunningService:
    """The service as a process of its own, with a home and a cluster of its own."""

    module = "tests.service.serve"

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{PREFIX}"
        self.cluster = Folders(folder / "cluster")
        self._environment = os.environ | {
            "FLAUTIM_LAB_HOME": str(folder / "service"),
            "FLAUTIM_LAB_SERVICE_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
        }
        self.start()

    def start(self):
        with open(self.folder / "service.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, str(self.folder / "cluster")],
                cwd="/",
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.url}/health", trust_env=False)
                return
            except httpx.HTTPError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < end, self.log()
                time.sleep(0.1)

    def log(self):
        return (self.folder / "service.log").read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def service(tmp_path, institutions, hub, monkeypatch):
    made = RunningService(tmp_path)
    # From here on this process is the kernel of ana's notebook.
    monkeypatch.setenv("FLAUTIM_LAB_SERVICE_URL", made.url)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", hub.token("ana"))
    monkeypatch.setenv("FLAUTIM_LAB_INSTITUTION", "ufmg")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    yield made
    for run in lab.runs():
        ServiceRun(run.folder).folder.kill("watch")
    made.process.send_signal(signal.SIGTERM)
    made.process.wait(20)
    made.cluster.end()


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: it did not happen in {PATIENCE} s"
        time.sleep(0.05)


@pytest.mark.chaos
def test_a_run_goes_through_the_service_whatever_dies(service):
    made = experiment(DropoutNet, rounds=60, clients=4, strategy="FedAdam")
    expected = lab.run(made).wait()
    run = lab.run(
        made, on="cluster", chaos=lambda chaos: chaos.kill("server", round=2, during="storing")
    )
    wait_for(lambda: run.round >= 3, "three rounds")
    assert "server killed in round" not in run.chaos.kill("server", round=50)
    with pytest.raises(lab.ExperimentError, match="a pod cannot be paused, only killed"):
        run.chaos.pause("client-0")
    with pytest.raises(lab.ExperimentError, match="on a cluster only the server can be killed in"):
        run.chaos.kill("client-0", round=50)
    service.kill()
    ServiceRun(run.folder).folder.kill("watch")
    service.start()
    lab.resume(run).wait(timeout_seconds=PATIENCE)
    assert (str(run.status), run.message) == ("finished", "")
    assert list(run.faults["round"]) == [2, 50]
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)  # nothing lost, nothing doubled
    assert run.predict(made.dataset.features).equal(expected.predict(made.dataset.features))
    wait_for(lambda: not service.cluster.living(), "its pods are gone")
    # Neither here nor at the service anything secret is left; the token was in no log.
    token = os.environ["JUPYTERHUB_API_TOKEN"]
    for path in [p for p in service.folder.rglob("*") if p.is_file()]:
        inside = "cluster" in path.relative_to(service.folder).parts
        assert inside or path.suffix not in (".key", ".pem", ".pub", ".gz"), path
        assert token.encode() not in path.read_bytes(), path


def test_a_stop_goes_through_the_service(service):
    run = lab.run(experiment(Net, rounds=100_000, clients=2), on=lab.Cluster(workers=1))
    wait_for(lambda: run.round >= 1, "a round")
    run.stop().wait(timeout_seconds=PATIENCE)
    assert (str(run.status), run.message.split(" ")[0]) == ("stopped", "stopped")
    assert run.model()
    wait_for(lambda: not service.cluster.living(), "its pods are gone")


@pytest.mark.chaos  # scaling itself is tested without the service, too
def test_a_run_is_scaled_through_the_service(service):
    made = experiment(DropoutNet, rounds=150, clients=4, strategy="FedAdam")
    expected = lab.run(made).wait()
    run = lab.run(made, on=lab.Cluster(workers={"ufmg": 3}))
    wait_for(lambda: run.round >= 1, "a round")
    assert run.scale({"ufmg": 1}) == "3 workers -> 1"
    with pytest.raises(lab.ExperimentError, match="workers must be a whole number from 1, not 0"):
        run.scale(0)
    with pytest.raises(lab.ClusterError, match="ana is not of the institution 'usp'; choose one"):
        run.scale({"usp": 1})
    with pytest.raises(lab.ClusterError, match="this run has room for 4 workers in 'flautim-ufmg'"):
        run.scale(5)
    before = run.round
    wait_for(lambda: run.round > before + 1, "two rounds more")
    assert run.scale(2) == "1 worker -> 2"
    run.wait(timeout_seconds=PATIENCE)
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)
    assert "3 workers -> 1" in run.logs()
    assert "1 worker -> 2" in run.logs()


def test_what_the_hub_decides_is_not_the_notebooks_to_choose(service):
    for settings, sentence in [
        ({"namespace": "kube-system"}, "namespace='kube-system' is the hub's to choose; name inst"),
        ({"image": "mine:1"}, "image='mine:1' is the hub's to choose; leave it out"),
        ({"priority_class": "system"}, "priority_class='system' is the hub's to choose"),
    ]:
        with pytest.raises(lab.ExperimentError, match=sentence):
            lab.run(experiment(Net), on=lab.Cluster(**settings))
    with pytest.raises(lab.ClusterError, match="ana is not of the institution 'usp'; choose one"):
        lab.run(experiment(Net), on=lab.Cluster(workers={"usp": 1}))
    assert [str(run.status) for run in lab.runs()] == ["failed"]


def test_without_the_service_or_its_trust_nothing_is_recorded(service, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "0" * 64)
    with pytest.raises(lab.ClusterError, match="the Hub does not know this token; stop your ser"):
        lab.run(experiment(Net), on="cluster")
    service.kill()
    with pytest.raises(lab.ClusterError, match=r"the hub's service does not answer at http://127"):
        lab.run(experiment(Net), on="cluster")
    assert lab.runs() == []
    service.start()
