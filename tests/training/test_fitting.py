"""Cohorts where a device's memory is too small for them."""

from __future__ import annotations

import pytest
import torch

import flautim_lab as lab
from flautim_lab.experiment import loops
from flautim_lab.training.cohort import Stack
from flautim_lab.training.stackable import choose_engine
from tests.federations import Net, experiment, iris
from tests.training.test_cohort import CPU, answers, compare, learned, measures, uneven


@pytest.fixture
def tried(monkeypatch):
    """Memory for so many clients; what was tried is in the list."""
    sizes = []

    def memory_for(most, made):
        assert choose_engine(made, CPU).name == "cohort"  # tried before there is too little
        gradients = Stack.gradients

        def limited(stack, weights, wanted, x, y, counts, draws):
            sizes.append(len(x))
            found = gradients(stack, weights, wanted, x, y, counts, draws)
            if len(x) > most:  # after something was drawn
                raise torch.OutOfMemoryError(f"no memory for {len(x)} clients")
            return found

        monkeypatch.setattr(Stack, "gradients", limited)
        return sizes

    return memory_for


@pytest.mark.parametrize("most", [1, 3, 5])
def test_they_are_trained_in_parts_with_the_loops_numbers(tried, most):
    made = uneven("dropout", torch.float64)
    sizes = tried(most, made)
    compare(made, 1e-9)
    too_many = [size for size in sizes if size > most]
    assert too_many == {1: [10, 5, 3, 2], 3: [10, 5], 5: [10]}[most]


def test_a_client_that_diverges_in_a_later_part_is_named(tried):
    made = uneven("linear", lr=1e30)
    expected = answers(made)
    tried(3, made)
    ours = answers(made)
    assert [reply.has_error() for reply in ours] == [reply.has_error() for reply in expected]
    assert any(reply.has_error() for reply in ours)
    for mine, other in zip(ours, expected, strict=True):
        if mine.has_error():
            assert mine.error.reason == other.error.reason


def test_how_many_fit_is_found_once_in_a_run_and_said(tried):
    made = experiment(Net, iris(), clients=48, rounds=3)
    sizes = tried(6, made)
    run = lab.run(made, workers=1).wait()
    assert str(run.status) == "finished"
    assert sum(size > 6 for size in sizes) == 1
    said = [line for line in run.logs().splitlines() if "has no room" in line]
    assert len(said) == 1
    assert "Flower" not in said[0]  # it is ours
    assert said[0].endswith(
        "the device's memory has no room for 12 clients at once; from here on at most 6 are "
        "trained together"
    )


def test_without_room_for_one_the_loop_trains_them(tried):
    lines = []
    made = experiment(Net, iris(), clients=10)
    tried(0, made)
    ours = answers(made, log=lines.append)
    # One after another they need less, and have it here.
    theirs = answers(made.replace(engine="loop"))
    for mine, other in zip(ours, theirs, strict=True):
        assert measures(mine) == measures(other)
        for name, value in learned(other).items():
            assert (learned(mine)[name] == value).all()
    assert any("no memory for 1 clients" in line for line in lines)


@pytest.mark.parametrize("own", [False, True])
def test_rows_are_evaluated_in_parts(monkeypatch, own):
    class Measured(lab.Experiment):
        def metrics(self, outputs, targets):
            return {"sum": outputs.sum()}

    made = experiment(Net, iris(), Measured if own else lab.Experiment, clients=10)
    whole = answers(made, kind="evaluate")
    sizes, row_losses = [], loops.row_losses

    def limited(outputs, targets, task):
        sizes.append(len(outputs))
        if len(outputs) > 20:
            raise torch.OutOfMemoryError(f"no memory for {len(outputs)} rows")
        return row_losses(outputs, targets, task)

    monkeypatch.setattr(loops, "row_losses", limited)
    lines = []
    parts = answers(made, kind="evaluate", log=lines.append)
    assert max(sizes) > 20
    assert lines[-1].startswith("the device's memory has no room for ")
    assert lines[-1].endswith(" are evaluated together")
    for mine, other in zip(parts, whole, strict=True):
        assert measures(mine) == pytest.approx(measures(other), rel=1e-6)
