"""On a GPU: the answers of a CPU's loop, within rounding."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

import flautim_lab as lab
from tests.federations import Net, experiment, final, iris
from tests.training.test_cohort import bodies, compare, uneven

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def all_bits(monkeypatch):
    """Convolutions of all bits of a float32, as on a CPU; other products are that anyway."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("kind", [kind for kind in bodies() if kind != "dropout"])
def test_cohorts(kind):
    """Models with dropout are trained by the loop there, from draws of the device's own."""
    compare(uneven(kind), 1e-3, GPU)


class Rows(Dataset):
    """Rows that are no tensors of ours: each batch is put together and carried over."""

    def __len__(self):
        return 60

    def __getitem__(self, row):
        generator = torch.Generator().manual_seed(row)
        return torch.randn(4, generator=generator), row % 3


def test_batches_that_are_carried_over():
    compare(experiment(Net, Rows(), clients=10), 1e-3, GPU, engine="loop")


@pytest.mark.parametrize("engine", ["loop", "cohort"])
def test_a_run(engine):
    made = experiment(Net, iris(), clients=12, rounds=5, engine=engine)
    on_cpu, here = (lab.run(made.replace(device=name)).wait() for name in ("cpu", "cuda"))
    assert str(here.status) == "finished", here.message
    assert here.plan["device"] == "cuda"
    assert final(here) == pytest.approx(final(on_cpu), rel=1e-3)
