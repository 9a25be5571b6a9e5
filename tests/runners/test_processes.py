"""Runs as processes: killed in every way they can be, they end with the kernel's own bits."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

import flautim_lab as lab
from flautim_lab.runners.processes import Processes, worker_count
from tests.federations import DropoutNet, experiment, same, tensors

# Several Python processes with torch each: beside one another they would starve on two cores.
pytestmark = pytest.mark.measures_children

PATIENCE = 150


def wait_for(condition, what, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: it did not happen in {seconds} s"
        time.sleep(0.05)


def of_run(run):
    """Every process of this machine that belongs to the run."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(run.folder) in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def started():
    """Start runs; whatever happens, none of their processes is left."""
    runs = []

    def start(made, **settings):
        runs.append(lab.run(made, on="processes", **settings))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()
        Processes(run.folder).kill_all()
        for process in of_run(run):
            process.kill()


class Talking(DropoutNet):
    """Its clients print in every batch."""

    def forward(self, x):
        print(len(x), "rows")
        return super().forward(x)


def test_cohorts_of_workers_end_with_the_kernels_bits_though_a_worker_and_the_server_die(started):
    made = experiment(DropoutNet, rounds=5, clients=40, batch_size=2, strategy="FedAdam")
    expected = lab.run(made).wait()
    assert expected.plan["engine"] == "cohort"
    run = started(
        made,
        workers=2,
        chaos=lambda chaos: (
            chaos.kill("client-1", round=2, during="training"),
            chaos.kill("server", round=3, during="aggregating"),
        ),
    )
    run.wait(timeout_seconds=PATIENCE)
    assert run.plan == expected.plan
    assert set(run.faults.target) == {"client-1", "server"}
    assert same(run.model().state_dict(), expected.model().state_dict())
    assert run.metrics.equals(expected.metrics)
    assert {"client-0", "client-1"} <= set(run.resources.process)


def nothing_is_left(run):
    wait_for(lambda: not of_run(run), "its processes ended")
    left = {path.name for path in (run.folder / "processes").rglob("*") if path.is_file()}
    assert not {name for name in left if name.endswith((".key", ".pem", ".pub", ".pid"))}


def test_killed_one_after_another_it_ends_with_the_kernels_bits(started):
    made = experiment(Talking, rounds=40, clients=5, strategy="FedAdam")
    expected = lab.run(made).wait()
    run = started(made)
    processes = Processes(run.folder)
    wait_for(lambda: run.round, "a round is recorded, and then kept")
    for name in ("server", "client-1", "watch"):
        before = run.round
        wait_for(lambda n=before: run.round > n, f"a round before {name} is killed")
        wait_for(lambda n=name: n in processes.names(), f"{name} lives")
        processes.kill(name)
    run.wait(timeout_seconds=PATIENCE)
    assert str(run.status) == "finished"
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)  # nothing lost, nothing doubled
    assert "the server goes on after round" in run.logs()
    for number in (0, 4):  # what clients print comes from the workers, once, as from the kernel
        printed = [line[20:] for line in run.logs(number).splitlines() if "PRINT" in line]
        here = [line[20:] for line in expected.logs(number).splitlines() if "PRINT" in line]
        assert printed == here
        assert f"round 40 client {number} PRINT 16 rows" in printed
    assert run.predict(made.dataset.features).equal(expected.predict(made.dataset.features))
    nothing_is_left(run)


def test_everything_killed_at_once_is_interrupted_and_goes_on_when_resumed(started, monkeypatch):
    monkeypatch.setattr("flautim_lab.records.process.DETACHED_SILENCE_SECONDS", 2.0)
    made = experiment(DropoutNet, rounds=40, clients=3)
    expected = lab.run(made).wait()
    run = started(made)
    wait_for(lambda: run.round >= 2, "two rounds")
    Processes(run.folder).kill_all()
    wait_for(lambda: not of_run(run), "all processes are gone")
    wait_for(lambda: str(run.status) == "interrupted", "it is said")
    assert "have been silent for" in run.message
    monkeypatch.setattr("flautim_lab.records.process.DETACHED_SILENCE_SECONDS", 60.0)
    lab.resume(run.id).wait(timeout_seconds=PATIENCE)
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)
    nothing_is_left(run)
    with pytest.raises(lab.ExperimentError, match="has finished; there is nothing to resume"):
        lab.resume(run)


SCRIPT = """
import os, flautim_lab as lab
from tests.federations import experiment
print(lab.run(experiment(rounds=4), on="processes").id, flush=True)
os.kill(os.getpid(), 9)
"""


def test_the_kernel_may_die_and_another_one_sees_the_whole_curve():
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    run = lab.attach(out.stdout.strip())
    try:
        assert out.returncode == -9
        run.wait(timeout_seconds=PATIENCE)
        assert set(run.metrics["round"]) == {1, 2, 3, 4}
        nothing_is_left(run)
    finally:
        Processes(run.folder).kill_all()


def test_a_stop_ends_all_of_its_processes(started):
    run = started(experiment(rounds=100_000, clients=2), workers=1)
    wait_for(lambda: run.round >= 1, "a round")
    modes = {path.stat().st_mode & 0o777 for path in (run.folder / "processes").rglob("*.key")}
    assert modes == {0o600}
    run.stop().wait(timeout_seconds=PATIENCE)
    assert str(run.status) == "stopped"
    assert run.model()
    nothing_is_left(run)


class Fails(lab.Experiment):
    def loss(self, model, batch):
        if not model.training or batch[0].shape[0] != 8:
            raise ValueError("only in the check does it work")
        return super().loss(model, batch)


def test_a_run_that_cannot_go_on_fails_with_its_reason(started):
    run = started(experiment(cls=Fails, clients=2, batch_size=5), workers=1)
    with pytest.raises(lab.TrainingError, match="ValueError: only in the check does it work"):
        run.wait(timeout_seconds=PATIENCE)
    nothing_is_left(run)


def test_what_cannot_leave_the_kernel_is_refused():
    with pytest.raises(lab.ExperimentError, match="the dataset is a live TensorDataset object"):
        lab.run(experiment(dataset=tensors()), on="processes")
    from flwr.serverapp.strategy import FedAvg

    with pytest.raises(lab.ExperimentError, match="the strategy is a live FedAvg object"):
        lab.run(experiment(strategy=FedAvg()), on="processes")
    maker = eval("lambda: Net()", {"Net": DropoutNet})
    with pytest.raises(lab.BundleError):
        lab.run(experiment(maker), on="processes")
    assert lab.runs() == []
    with pytest.raises(lab.ExperimentError, match="was inside its kernel and ended with it"):
        lab.resume(lab.run(experiment()).wait())


def test_there_is_a_worker_per_core_and_no_more_than_clients():
    assert worker_count(experiment(clients=1), "auto") == 1
    assert worker_count(experiment(clients=4), 3) == 3
    assert 1 <= worker_count(experiment(clients=4), "auto") <= 4
