"""The kill matrix: whatever is killed, whenever, the run ends with the weights it would have had.

{server, watch, one worker, half of the workers, the kernel, the whole machine} x {before round 1,
during training, during aggregation, while the checkpoint is written, after the last round} x
{FedAvg, FedAdam, FedProx}. Six of the ninety cells are run by ``make test``, beside the tests that
kill one after another in one run (``tests/runners/test_processes.py``), and all by ``make chaos``.
The reference is the same experiment in the kernel, left alone.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import flautim_lab as lab
from flautim_lab.runners.processes import Processes
from tests.federations import DropoutNet, experiment, same

ROUNDS = 4
PATIENCE = 150
TARGETS = ("server", "watch", "client-0", "half", "kernel", "machine")
MOMENTS = {"starting": 1, "training": 2, "aggregating": 2, "storing": 2, "ended": ROUNDS}
STRATEGIES = {"FedAvg": {}, "FedAdam": {}, "FedProx": {"proximal_mu": 0.1}}


def _cells():
    """Every target is hit once, and every moment and strategy is met, in the short tier."""
    moments, strategies = list(MOMENTS), list(STRATEGIES)
    for t, target in enumerate(TARGETS):
        short = ((t + 3) % 5, (t + 1) % 3)
        for m, moment in enumerate(moments):
            for s, strategy in enumerate(strategies):
                marks = () if (m, s) == short else pytest.mark.chaos
                yield pytest.param(
                    target, moment, strategy, marks=marks, id=f"{target}-{moment}-{strategy}"
                )


def made(strategy, workers):
    return experiment(
        DropoutNet,
        rounds=ROUNDS,
        clients=max(4, workers),
        strategy=strategy,
        strategy_args=STRATEGIES[strategy],
    )


# A kernel: starts the run, plans the fault, and goes on as a notebook would.
KERNEL = """
import json, sys, time
import flautim_lab as lab
from tests.chaos.test_kill_matrix import made
target, moment, round, strategy, workers = json.loads(sys.argv[1])
run = lab.run(made(strategy, workers), on="processes", workers=workers)
run.chaos.kill(target, round=round, during=moment)
print(run.id, flush=True)
while not run.status.ended:
    time.sleep(0.2)
"""


def start(target, moment, strategy, workers):
    """Start a run that will be struck; returns it and its kernel, a process where that is hit."""
    if target not in ("kernel", "machine"):
        run = lab.run(made(strategy, workers), on="processes", workers=workers)
        run.chaos.kill(target, round=MOMENTS[moment], during=moment)
        return run, None
    facts = json.dumps([target, moment, MOMENTS[moment], strategy, workers])
    kernel = subprocess.Popen(
        [sys.executable, "-c", KERNEL, facts],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    run_id = kernel.stdout.readline().strip()
    assert run_id, "the kernel could not start the run"
    return lab.attach(run_id), kernel


@functools.cache
def undisturbed(strategy, workers):
    """Return weights and metrics of the same experiment in the kernel, left alone."""
    run = lab.run(made(strategy, workers)).wait()
    return run.model().state_dict(), run.metrics


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


def wait_for(condition, what, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: it did not happen in {seconds} s"
        time.sleep(0.05)


@pytest.mark.parametrize(("target", "moment", "strategy"), list(_cells()))
def test_killed_it_ends_with_the_weights_it_would_have_had(
    target, moment, strategy, record_property
):
    workers = 4 if target == "half" else 2
    weights, metrics = undisturbed(strategy, workers)
    run, kernel = start(target, moment, strategy, workers)
    try:
        if kernel is not None:
            assert kernel.wait(PATIENCE) == -signal.SIGKILL
        if target == "machine":
            wait_for(lambda: not of_run(run), "all processes are gone")
            lab.resume(run.id)
        run.wait(timeout_seconds=PATIENCE)
        assert str(run.status) == "finished"
        assert same(weights, run.model().state_dict())
        assert run.metrics.equals(metrics)  # nothing lost, nothing doubled
        (fault,) = run.faults.itertuples()
        assert (fault.what, fault.round) == ("killed", MOMENTS[moment])
        if target in ("server", "machine"):  # the others may come back after the run has ended
            assert 0 < fault.recovery_seconds < PATIENCE
        record_property("recovery_seconds", fault.recovery_seconds)
        wait_for(lambda: not of_run(run), "its processes ended")
        left = [path.name for path in run.folder.rglob("*") if path.is_file()]
        assert not [n for n in left if n.endswith((".key", ".pem", ".pub", ".pid", ".tmp"))]
        assert "port" not in left
    finally:
        if kernel is not None:
            kernel.kill()
            kernel.wait()
        Processes(run.folder).kill_all()
        for process in of_run(run):
            process.kill()
