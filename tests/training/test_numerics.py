"""The numerics plan: what changes the bits of a run is written in it."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch

from flautim_lab.training.numerics import make_plan, pick_device
from tests.federations import experiment


def plan():
    return make_plan(experiment(), torch.device("cpu"))


def test_it_is_plain_and_the_same_twice():
    made = plan()
    assert made == plan()
    assert json.loads(json.dumps(made.as_dict())) == made.as_dict()
    assert made.torch == torch.__version__
    assert made.seed == 7


@contextlib.contextmanager
def precision(value):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(value)
    yield
    torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def default_dtype(value):
    before = torch.get_default_dtype()
    torch.set_default_dtype(value)
    yield
    torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic(value):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(value)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize(
    ("name", "context", "value"),
    [
        ("matmul_precision", lambda: precision("medium"), "medium"),
        ("mkldnn", lambda: torch.backends.mkldnn.flags(enabled=False), False),
        ("deterministic_algorithms", lambda: deterministic(True), True),
    ],
)
def test_a_switch_of_torch_is_another_plan(name, context, value):
    before = plan()
    with context():
        changed = plan()
    assert getattr(changed, name) == value != getattr(before, name)
    assert plan() == before


def test_the_default_type_is_written_too():
    made = experiment()
    with default_dtype(torch.float64):
        assert make_plan(made, torch.device("cpu")).default_dtype == "float64"
    assert make_plan(made, torch.device("cpu")).default_dtype == "float32"


def test_auto_is_a_device_that_is_there():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")
