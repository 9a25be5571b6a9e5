"""Worker processes of the kernel: none is left when it is killed, and none when one of them is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.chaos

PATIENCE = 120

# As a script without a `__main__` guard: a worker must not run it again.
KERNEL = """
import os, time
import torch
from torch import nn
import flautim_lab as lab
from flautim_lab.training import process_trial
from tests.federations import tensors

process_trial.START_SECONDS = 0.0
process_trial.usable_cores = lambda: 2


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        time.sleep(0.02)  # another thread may train meanwhile: the trial must not say so
        return self.layer(x)


class Judged(process_trial.ProcessTrial):
    def judge(self, seconds):
        super().judge(1.0 if self.at_hand() else 1000.0)

    def consider(self, alone, best, done, content):
        super().consider(alone, alone, done, content)


import flautim_lab.runners.local as local
local.ProcessTrial = Judged
experiment = lab.Experiment(
    tensors(80), Own, clients=4, rounds=100_000, engine="loop", seed=7, batch_size=16
)
run = lab.run(experiment)
while "worker processes from here on" not in run.logs():
    time.sleep(0.05)
    assert not run.status.ended, run.logs()
print("there", flush=True)
input()  # something is killed meanwhile
now = run.record.round
while run.record.round < now + 20 and not run.status.ended:
    time.sleep(0.05)
run.stop()
print(run.wait().status, flush=True)
"""


def started(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KERNEL)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"PYTHONPATH": str(root), "FLAUTIM_LAB_HOME": str(tmp_path / "home")}
        | {"FLAUTIM_LAB_CORES": "2"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def gone(processes):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
            return True
        time.sleep(0.05)
    return False


def test_no_worker_is_left_when_the_kernel_is_killed(tmp_path):
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    process = started(tmp_path)
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) == 3  # the template and two workers
    process.kill()
    process.wait()
    assert gone(below)
    if before:
        assert set(os.listdir("/dev/shm")) <= before


@pytest.mark.parametrize("target", ["worker", "all workers", "template"])
def test_a_run_ends_whatever_is_killed_below_its_kernel(tmp_path, target):
    process = started(tmp_path)
    (template,) = psutil.Process(process.pid).children()
    workers = template.children()
    killed = {"worker": workers[:1], "all workers": workers, "template": [template]}[target]
    for one in killed:
        one.kill()
    said, _ = process.communicate("go on\n", timeout=PATIENCE)
    assert said == "stopped\n"
    assert gone([template, *workers])
