"""A batch through a service that is a process: the command and the service killed meanwhile.

The API server is the mock one; what executes the points is ``tests/kubelet.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import nbformat
import pytest
import yaml

import flautim_lab as lab
from flautim_lab.runners.stamp import read_stamp
from tests.kubelet import Kubelet
from tests.mock_cluster import cluster  # noqa: F401 - a fixture
from tests.service.test_dispatch import RunningService

pytestmark = pytest.mark.chaos
NOTEBOOK = """\
import time

from torch import nn

import flautim_lab as lab

time.sleep(slow)


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(1, 2))


table = lab.CSVDataset("data/points.csv", target="kind")
run = lab.run(lab.Experiment(table, Net, name="halves", clients=2, rounds=2, lr=0.1))
"""
COMMAND = ["rerun", "halves.ipynb", "--on", "cluster", "--grid", "slow=0,4", "--output", "batch"]


class ServiceAtACluster(RunningService):
    module = "flautim_lab.service"


@pytest.fixture
def kubelet(cluster, tmp_path):  # noqa: F811
    made = Kubelet(cluster, tmp_path / "kubelet")
    yield made
    made.close()


@pytest.fixture
def service(cluster, kubelet, tmp_path, institutions, hub, monkeypatch):  # noqa: F811
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(cluster.kubeconfig()))
    monkeypatch.setenv("KUBECONFIG", str(path))
    made = ServiceAtACluster(tmp_path)
    # From here on this process is the kernel of ana's notebook.
    monkeypatch.setenv("FLAUTIM_LAB_SERVICE_URL", made.url)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", hub.token("ana"))
    monkeypatch.setenv("FLAUTIM_LAB_INSTITUTION", "ufmg")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    yield made
    made.process.send_signal(signal.SIGTERM)
    made.process.wait(20)


@pytest.fixture
def place(tmp_path):
    rows = "\n".join(f"{n},{'low' if n < 12 else 'high'}" for n in range(24))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "points.csv").write_text(f"x,kind\n{rows}\n")
    tagged = nbformat.v4.new_code_cell("slow = 0", metadata={"tags": ["parameters"]})
    cells = [tagged, nbformat.v4.new_code_cell(NOTEBOOK)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "halves.ipynb")
    return tmp_path


@pytest.fixture
def command(place):
    """Begins the command; what is left of it at the end is killed."""
    begun = []

    def begin():
        begun.append(
            subprocess.Popen([sys.executable, "-m", "flautim_lab.cli", *COMMAND], cwd=place)
        )
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def test_killed_command_and_killed_service_lose_nothing(service, kubelet, place, command):
    points = place / "batch" / "points"
    first = command()
    kubelet.wait_for(lambda: points.is_dir() and any(points.iterdir()), "the first point")
    first.kill()
    first.wait()
    service.kill()
    before = {path.name: read_stamp(path) for path in points.iterdir()}
    assert len(before) == 1
    (name,) = kubelet.jobs
    template = kubelet.object("batch/v1/jobs", "flautim-ufmg", name)["spec"]["template"]["spec"]
    assert template["automountServiceAccountToken"] is False
    assert os.environ["JUPYTERHUB_API_TOKEN"] not in str(template)

    second = command()  # the service does not answer yet
    assert second.wait(60) != 0
    service.start()
    third, read = command(), kubelet.read
    kubelet.wait_for(lambda: kubelet.read > read, "a look of the command")
    service.kill()  # while the command looks
    service.start()
    assert third.wait(120) == 0
    assert kubelet.begun == [name]  # one job, whatever died
    batch = lab.Batch.read(place / "batch")
    assert batch.finished
    assert len(set(batch.runs)) == 2
    for file, stamp in before.items():
        assert read_stamp(points / file) == stamp
    assert lab.attach(batch.runs[0]).model()
    # Nothing is left: not at the cluster but for what a real one would have removed, not here.
    owned = [each for each in kubelet.there() if each[0] in ("jobs", "pods") or "-" not in each[2]]
    assert owned == []
    assert not (place / "batch" / "cluster.json").exists()
    assert not any((service.folder / "service" / "batches").iterdir())
    assert os.environ["JUPYTERHUB_API_TOKEN"] not in service.log()


def test_ctrl_c_leaves_nothing(service, kubelet, place, command):
    stopped = command()
    kubelet.wait_for(lambda: kubelet.jobs, "its job")
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(60) != 0
    kubelet.wait_for(lambda: not kubelet.jobs, "its job is gone")
    assert not (place / "batch" / "cluster.json").exists()
    assert not any((service.folder / "service" / "batches").iterdir())
