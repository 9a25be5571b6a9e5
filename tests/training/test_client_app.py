"""The client's half: the proximal term, clipping, optimizers, what loops return."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import flautim_lab as lab
from flautim_lab.errors import TrainingError
from flautim_lab.experiment import loops
from flautim_lab.training.client_app import add_proximal_term, as_measures
from tests.federations import experiment


def test_the_proximal_term_is_that_of_the_paper():
    """mu/2 ||w - w_t||^2 added to the loss, arXiv:1812.06127, against autograd."""
    made = experiment()
    mu = 0.7
    start = made.build_model()
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    ours, theirs = copy.deepcopy(start), copy.deepcopy(start)
    add_proximal_term(made, ours, mu)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.5) for model in (ours, theirs)]
    for _ in range(5):
        optimizers[0].zero_grad()
        made.loss(ours, (x, y)).backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        distance = sum(
            ((w - w_t.detach()) ** 2).sum()
            for w, w_t in zip(theirs.parameters(), start.parameters(), strict=True)
        )
        (made.loss(theirs, (x, y)) + mu / 2 * distance).backward()
        optimizers[1].step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_proximal_term_needs_our_loop():
    class Mine(lab.Experiment):
        def training_loop(self, model, loader):
            return 0.0

    with pytest.raises(TrainingError, match="a training_loop of your own does not have"):
        add_proximal_term(experiment(cls=Mine), nn.Linear(2, 2), 0.1)


def test_our_loop_is_the_plain_loop_of_pytorch():
    made = experiment(optimizer="SGD", lr=0.1, local_epochs=2)
    x, y = torch.randn(30, 4), torch.randint(0, 3, (30,))
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 30, 8)]
    ours, plain = made.build_model(), made.build_model()
    result = loops.train(made, ours, batches, made.make_optimizer(ours))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        for bx, by in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(plain(bx), by)
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(bx)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True)
    )
    assert result["loss"] == pytest.approx(sum(losses) / len(losses))


def test_a_loss_that_is_no_longer_finite_says_what_to_do():
    made = experiment(optimizer="SGD", lr=1e30)
    model = made.build_model()
    batches = [(torch.randn(8, 4) * 1e20, torch.zeros(8, dtype=torch.int64))] * 5
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf); lower lr \(now 1e\+30\)"):
        loops.train(made, model, batches, made.make_optimizer(model))


@pytest.mark.parametrize("result", [{"loss": 1.0, "f1": torch.tensor(0.5)}, 1, torch.tensor([1.0])])
def test_what_a_loop_may_return(result):
    assert as_measures(result, "training_loop")["loss"] == 1.0


@pytest.mark.parametrize("result", [None, {"f1": 1.0}, True, {"loss": "low"}, {"loss": [1, 2]}])
def test_what_a_loop_may_not_return(result):
    with pytest.raises(
        TrainingError, match=r"^validation_loop (must return its loss|returned some)"
    ):
        as_measures(result, "validation_loop")
