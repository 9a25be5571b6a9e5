"""A run of more than a minute: longer than Flower waits for a sign of life of its app."""

from __future__ import annotations

import time

import pytest

import flautim_lab as lab
from tests.federations import Net, iris

pytestmark = pytest.mark.chaos


class Slow(lab.Experiment):
    def training_loop(self, model, loader):
        time.sleep(25)
        return super().training_loop(model, loader)


def test_a_run_of_more_than_a_minute_ends_as_one_in_the_kernel():
    run = lab.run(Slow(iris(), Net, clients=2, rounds=3, lr=0.1), on="processes", workers=2)
    run.wait(timeout_seconds=240)
    assert run.record.seconds > 75
    assert str(run.status) == "finished"
    quick = lab.run(lab.Experiment(iris(), Net, clients=2, rounds=3, lr=0.1)).wait()
    assert run.final() == quick.final()
