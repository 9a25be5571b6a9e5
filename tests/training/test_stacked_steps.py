"""The gradients of a stack's steps against those of torch's autograd."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flautim_lab.training.stacked_steps import (
    Dropout,
    Elementwise,
    Linear,
    Run,
    View,
    losses_of_rows,
)

CLIENTS, ROWS, FEATURES = 3, 5, 4


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).double()


def halved(share, x):
    return x * share


SHARED = {"weight": numbers(CLIENTS, FEATURES, FEATURES), "bias": numbers(CLIENTS, FEATURES)}
HEAD = {"head": numbers(CLIENTS, 2, FEATURES)}
BODIES = {
    "relu": [Elementwise("a", "first", F.relu)],
    "torch.relu": [Elementwise("a", "first", torch.relu)],
    "tanh": [Elementwise("a", "first", torch.tanh)],
    "sigmoid": [Elementwise("a", "first", F.sigmoid)],
    "another": [Elementwise("a", "first", F.gelu)],
    "softmax": [Elementwise("a", "first", functools.partial(torch.softmax, dim=2))],
    "dropout": [Dropout("a", "first", 0.5)],
    "shared": [Linear("b", "first", "weight", "bias"), Linear("a", "b", "weight", "bias")],
    "unused": [Linear("b", "first", "weight", None), Elementwise("a", "first", F.tanh)],
    "views": [View("b", "first", (2, 2)), View("c", "b", (1, 4)), View("a", "c")],
    "rows of rows": [
        View("b", "first", (1, FEATURES)),
        Linear("c", "b", "weight", "bias"),
        View("a", "c"),
    ],
}


def modules(body, weights, x):
    """The same with autograd, client after client."""
    outputs = []
    for client in range(CLIENTS):
        known = {"": x[client]}
        for step in body:
            given = known[step.source]
            if isinstance(step, Linear):
                bias = None if step.bias is None else weights[step.bias][client]
                made = F.linear(given, weights[step.weight][client], bias)
            elif isinstance(step, Dropout):
                made = halved(step.share, given)
            elif isinstance(step, View):
                made = given.reshape(ROWS, *step.shape)
            else:
                made = step.function(given[None])[0]
            known[step.name] = made
        outputs.append(known[body[-1].name])
    return torch.stack(outputs)


@pytest.mark.parametrize("kind", BODIES)
def test_gradients_are_those_of_autograd(kind):
    steps = [
        Linear("first", "", "weight", "bias"),
        *BODIES[kind],
        Linear("last", "a", "head", None),
    ]
    weights = {n: w.clone().requires_grad_() for n, w in (SHARED | HEAD).items()}
    x, gradient = numbers(CLIENTS, ROWS, FEATURES), numbers(CLIENTS, ROWS, 2)
    wanted = modules(steps, weights, x)
    found = torch.autograd.grad(wanted, list(weights.values()), gradient)
    with torch.no_grad():
        run = Run(steps, weights, weights, x, halved)
        ours = run.gradients(gradient)
    torch.testing.assert_close(run.outputs, wanted.detach(), rtol=1e-12, atol=1e-12)
    assert set(ours) == set(weights)
    for name, theirs in zip(weights, found, strict=True):
        torch.testing.assert_close(ours[name], theirs, rtol=1e-12, atol=1e-12)


def test_only_what_is_wanted_is_computed():
    steps = [
        Linear("first", "", "weight", "bias"),
        Elementwise("a", "first", F.gelu),
        Linear("last", "a", "head", None),
    ]
    x, gradient = numbers(CLIENTS, ROWS, FEATURES), numbers(CLIENTS, ROWS, 2)
    with torch.no_grad():
        assert set(Run(steps, SHARED | HEAD, ["head"], x, halved).gradients(gradient)) == {"head"}
        assert set(Run(steps, SHARED | HEAD, ["bias"], x, halved).gradients(gradient)) == {"bias"}
        assert Run(steps, SHARED | HEAD, ["other"], x, halved).gradients(gradient) == {}


@pytest.mark.parametrize("rule", [F.relu, torch.tanh, torch.sigmoid])
def test_a_rule_of_ours_gives_the_bits_of_autograd(rule):
    step = Elementwise("a", "", rule)
    x, gradient = numbers(CLIENTS, ROWS, 37).float().requires_grad_(), numbers(CLIENTS, ROWS, 37)
    made, kept = step.forward(x.detach(), {}, halved, True)
    (theirs,) = torch.autograd.grad(rule(x), x, gradient.float())
    assert torch.equal(made, rule(x.detach()))
    assert torch.equal(step.backward(gradient.float(), kept), theirs)


def test_cross_entropy_has_the_bits_of_torch():
    outputs, classes = numbers(30, 7).float().requires_grad_(), torch.arange(30) % 7
    classes[3] = nn.CrossEntropyLoss().ignore_index
    shares = torch.linspace(0.1, 1.0, 30)
    each = F.cross_entropy(outputs, classes, reduction="none")
    (theirs,) = torch.autograd.grad((each * shares).sum(), outputs)
    for known in (classes, None):
        losses, gradient = losses_of_rows(
            lambda made: F.cross_entropy(made, classes, reduction="none"),
            outputs.detach(),
            shares,
            known,
        )
        assert torch.equal(losses, each.detach())
        assert torch.equal(gradient, theirs)
