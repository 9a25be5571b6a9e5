"""Training many clients as one stacked model: weights (clients, ...), batches (clients, rows, ...).

What each client computes is what ``loops.train`` computes for it, within rounding: its batches are
the same rows in the same order, its loss is the mean over its own rows, and torch's optimizers,
which treat each number by itself, step on the stack. Clients with fewer steps than others leave
the stack when they are done: those with the most come first, so that it is cut and never masked.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from flautim_lab.errors import DivergedError, TrainingError
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.loops import numbers_of_classes, row_losses, why_not_finite
from flautim_lab.training.stacked_batches import Member, Steps
from flautim_lab.training.stacked_layers import Layers
from flautim_lab.training.stacked_optimizer import StackedOptimizer
from flautim_lab.training.stacked_steps import Run, Step, losses_of_rows

__all__ = ["Stack", "Trained"]


@dataclass(frozen=True)
class Trained:
    """What became of a cohort.

    Attributes
    ----------
    weights : dict
        What was trained, by name, each (clients, ...).
    losses : list of float
        Each client's mean loss over its rows and epochs.
    failures : dict
        Errors, by a client's place in the cohort.
    data_seconds : float
        What it took to order the rows and to put them together in batches.
    """

    weights: dict[str, Tensor]
    losses: list[float]
    failures: dict[int, TrainingError]
    data_seconds: float


class Stack:
    """How the losses of a stack of clients are computed.

    Parameters
    ----------
    experiment : Experiment
    model : nn.Module
        In training mode; its own weights are not used.
    layers : Layers
        What was read from its ``forward``.
    products : bool
        Its layers are run as products of stacks, else by ``vmap``.
    filled : bool
        Batches of unequal size are filled up and the rest is left out of the mean. Only where each
        row is computed by itself, and the loss is the default; else those of one size go together.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,
        layers: Layers,
        *,
        products: bool,
        filled: bool,
    ) -> None:
        self._experiment = experiment
        self._layers = layers
        self._products = products
        self._filled = filled
        whole = _Loss(experiment, model)
        self._outputs_of = vmap(lambda weights, x: functional_call(model, weights, (x,)))
        self._losses_of = vmap(
            lambda weights, x, y: functional_call(whole, _inside(weights), (x, y))
        )

    def gradients(
        self,
        weights: Mapping[str, Tensor],
        wanted: Sequence[str],
        x: Tensor,
        y: Tensor,
        counts: NDArray[np.int64],
        draws: Sequence[torch.Generator | None],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the loss of each client's batch, and its gradients.

        Parameters
        ----------
        weights : mapping of str to Tensor
            (clients, ...).
        wanted : sequence of str
            The weights whose gradients are returned; these require them.
        x, y : Tensor
            Batches, (clients, rows, ...); what is beyond a client's count is not looked at.
        counts : ndarray of shape (clients,)
            Rows of each client's batch.
        draws : sequence of Generator or None
            Each client's.

        Returns
        -------
        (Tensor, list of Tensor or None)
            (clients,), and for each weight (clients, ...); None where no loss depends on it.
        """
        if self._layers.steps is not None and self._products:
            return self._by_products(self._layers.steps, weights, wanted, x, y, counts, draws)
        if self._filled:
            outputs = self._outputs_of(weights, x)
            each = row_losses(outputs.flatten(0, 1), y.flatten(0, 1), self._experiment.task)
            losses = _means(each.view(y.shape[:2]), _uneven(counts, y))
        else:
            losses = self._by_size(weights, x, y, counts)
        leaves = [weights[name] for name in wanted]
        found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        return losses.detach(), list(found)

    def _by_products(
        self,
        steps: Sequence[Step],
        weights: Mapping[str, Tensor],
        wanted: Sequence[str],
        x: Tensor,
        y: Tensor,
        counts: NDArray[np.int64],
        draws: Sequence[torch.Generator | None],
    ) -> tuple[Tensor, list[Tensor | None]]:
        clients, rows = y.shape[:2]
        targets, task = y.flatten(0, 1), self._experiment.task
        there = _uneven(counts, y)
        with torch.no_grad():
            run = Run(steps, weights, wanted, x, _Dropping(counts, draws))
            outputs = run.outputs.flatten(0, 1)
            each, gradient = losses_of_rows(
                lambda made: row_losses(made, targets, task),
                outputs,
                _shares(there, clients, rows, outputs),
                numbers_of_classes(outputs, targets, task),
            )
            found = run.gradients(gradient.reshape(run.outputs.shape))
            losses = _means(each.view(clients, rows), there)
        return losses, [found.get(name) for name in wanted]

    def _by_size(
        self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor, counts: NDArray[np.int64]
    ) -> Tensor:
        """Return the losses, those of batches of one size computed together."""
        sizes = np.unique(counts)
        if len(sizes) == 1:
            count = int(sizes[0])
            made: Tensor = self._losses_of(dict(weights), x[:, :count], y[:, :count])
            return made.reshape(len(counts))
        losses: list[Tensor] = []
        places: list[Tensor] = []
        for size in sizes.tolist():
            place = torch.from_numpy(np.flatnonzero(counts == size)).to(x.device)
            part = {name: value[place] for name, value in weights.items()}
            made = self._losses_of(part, x[place, :size], y[place, :size])
            losses.append(made.reshape(len(place)))
            places.append(place)
        return torch.cat(losses)[torch.argsort(torch.cat(places))]

    def train(
        self,
        start: Mapping[str, Tensor],
        trained: Sequence[str],
        pool: tuple[Tensor, Tensor],
        members: Sequence[Member],
        *,
        mu: float = 0.0,
        check: Callable[[int], None] = lambda _place: None,
    ) -> Trained:
        """Train all members from the same weights.

        Parameters
        ----------
        start : mapping of str to Tensor
            All weights of the model, by name.
        trained : sequence of str
            Those that are trained.
        pool : (Tensor, Tensor)
            Inputs and targets of which the members' rows are numbers.
        members : sequence of Member
        mu : float
            Of FedProx's term.
        check : callable
            Called before each step with the place of the first member that is at work.
        """
        clock = time.perf_counter
        begin = clock()
        steps = Steps(members, self._experiment.batch_size)
        data_seconds = clock() - begin
        number = len(members)
        full = {name: _repeated(start[name], number) for name in trained}
        frozen = {n: v.expand(number, *v.shape) for n, v in start.items() if n not in full}
        losses: list[Tensor] = []
        optimizer = StackedOptimizer(self._experiment, full)
        draws = [members[place].draws for place in steps.order]
        now = frozen
        batches = steps.batches(pool)
        first = int(steps.order[0])
        for step in range(steps.number):
            check(first)
            begin = clock()
            active, inputs, targets, counts = next(batches)
            data_seconds += clock() - begin
            if optimizer.cut_to(active) or step == 0:
                now = {name: value[:active] for name, value in frozen.items()} | optimizer.leaves
            of_batch, gradients = self.gradients(
                now, trained, inputs, targets, counts, draws[:active]
            )
            optimizer.step(gradients, start, mu)
            losses.append(of_batch)
        back = torch.from_numpy(np.argsort(steps.order))
        return self._trained(full, losses, steps, back, pool, data_seconds)

    def _trained(
        self,
        full: Mapping[str, Tensor],
        losses: Sequence[Tensor],
        steps: Steps,
        back: Tensor,
        pool: tuple[Tensor, Tensor],
        data_seconds: float,
    ) -> Trained:
        """Return weights, losses and failures in the order of the members."""
        failures: dict[int, TrainingError] = {}
        values = np.zeros(steps.counts.shape)
        for step, of_batch in enumerate(losses):
            values[: len(of_batch), step] = of_batch.cpu().numpy()
        means = (values * steps.counts).sum(1) / steps.counts.sum(1)
        for place in np.flatnonzero(~np.isfinite(values).all(1)):
            step = int(np.flatnonzero(~np.isfinite(values[place]))[0])
            rows = steps.rows[place, step, : steps.counts[place, step]]
            batch = tuple(part[rows.to(part.device)] for part in pool)
            sentence = why_not_finite(self._experiment, batch, float(values[place, step]))
            failures[int(steps.order[place])] = DivergedError(sentence)
        for name, value in full.items():
            flat = value.detach().reshape(len(value), -1)
            if bool(torch.isfinite(flat.sum(1)).all()):
                continue  # a quick look: a sum with something in it that is not finite is not
            finite = torch.isfinite(flat).all(1).cpu().numpy()
            for place in np.flatnonzero(~finite):
                failures.setdefault(int(steps.order[place]), not_finite(self._experiment, name))
        same = bool((steps.order[:-1] < steps.order[1:]).all())
        weights = {n: v.cpu() if same else v.cpu()[back] for n, v in full.items()}
        return Trained(weights, means[back.numpy()].tolist(), failures, data_seconds)


def not_finite(experiment: Experiment, name: str) -> DivergedError:
    """Return the error of a weight that is no longer finite, worded as the loop does."""
    return DivergedError(
        f"the weight {name!r} became NaN or infinite while training; "
        f"lower lr (now {experiment.lr:g}), or scale the data and the targets"
    )


def _uneven(counts: NDArray[np.int64], y: Tensor) -> Tensor | None:
    """Return how many rows of each batch are the client's own, (clients, 1); None for all."""
    if (counts == y.shape[1]).all():
        return None
    return torch.from_numpy(counts).to(y.device)[:, None]


def _means(each: Tensor, there: Tensor | None) -> Tensor:
    """Return the mean loss of each client's own rows, (clients,), from (clients, rows)."""
    if there is None:
        return each.mean(1)
    return torch.where(_own(there, each.shape[1]), each, 0.0).sum(1) / there[:, 0]


def _own(there: Tensor, rows: int) -> Tensor:
    """Return which rows of batches that are filled up are the clients' own, (clients, rows)."""
    return torch.arange(rows, device=there.device) < there


def _shares(there: Tensor | None, clients: int, rows: int, like: Tensor) -> Tensor:
    """Return the gradient of the sum of :func:`_means` by each row's loss, (clients x rows,)."""
    if there is None:
        return _even_shares(clients, rows, like.dtype, like.device)
    return (_own(there, rows).to(like.dtype) / there).flatten()


@functools.lru_cache(maxsize=64)
def _even_shares(clients: int, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones(clients * rows, dtype=dtype, device=device) / rows


def _repeated(value: Tensor, times: int) -> Tensor:
    return value.detach().expand(times, *value.shape).clone()


class _Loss(nn.Module):
    """The experiment's loss as a module, so that ``functional_call`` reaches the model in it."""

    def __init__(self, experiment: Experiment, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._experiment = [experiment]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self._experiment[0].loss(self.model, (x, y))


def _inside(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{name}": value for name, value in weights.items()}


class _Dropping:
    """Drops out of a stack of batches; each client draws from its own generator, as in the loop."""

    def __init__(self, counts: NDArray[np.int64], draws: Sequence[torch.Generator | None]) -> None:
        self._counts = counts
        self._draws = draws

    def __call__(self, share: float, x: Tensor) -> Tensor:
        """Return ``x`` with a share of its numbers dropped, as ``nn.Dropout`` does in training."""
        if share == 0.0:
            return x
        if share == 1.0:
            return x * torch.zeros(())
        noise = torch.ones_like(x, memory_format=torch.contiguous_format)
        for client, generator in enumerate(self._draws):
            noise[client, : self._counts[client]].bernoulli_(1.0 - share, generator=generator)
        return x * noise.div_(1.0 - share)
