"""Training many clients as one stacked model: weights (clients, ...), batches (clients, rows, ...).

What each client computes is what ``loops.train`` computes for it, within rounding: its batches are
the same rows in the same order, its loss is the mean over its own rows, and torch's optimizers,
which treat each number by itself, step on the stack. Clients with fewer steps than others leave
the stack when they are done: those with the most come first, so that it is cut and never masked.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from flautim_lab.errors import DivergedError, TrainingError
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.loops import row_losses, why_not_finite
from flautim_lab.training.stacked_layers import Layers

__all__ = ["Member", "Stack", "Trained"]

AT_ONCE = 2**19  # numbers of inputs that are put together at once: they stay in a core's cache


@dataclass(frozen=True)
class Member:
    """One client of a cohort.

    Attributes
    ----------
    rows : Tensor
        Numbers of its rows in the pool, int64 (rows,).
    orders : sequence of Tensor
        For each local epoch the order of its rows, int64 (rows,).
    draws : torch.Generator, optional
        Where its dropout comes from.
    """

    rows: Tensor
    orders: Sequence[Tensor]
    draws: torch.Generator | None = None


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

    def losses(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        counts: NDArray[np.int64],
        draws: Sequence[torch.Generator | None],
    ) -> Tensor:
        """Return the loss of each client's batch, (clients,).

        Parameters
        ----------
        weights : mapping of str to Tensor
            (clients, ...).
        x, y : Tensor
            Batches, (clients, rows, ...); what is beyond a client's count is not looked at.
        counts : ndarray of shape (clients,)
            Rows of each client's batch.
        draws : sequence of Generator or None
            Each client's.
        """
        if not self._filled:
            return self._by_size(weights, x, y, counts)
        if self._products:
            outputs = self._layers.run(weights, x, _Dropping(counts, draws))
        else:
            outputs = self._outputs_of(weights, x)
        clients, rows = y.shape[:2]
        task = self._experiment.task
        each = row_losses(outputs.flatten(0, 1), y.flatten(0, 1), task).view(clients, rows)
        if (counts == rows).all():
            return each.mean(1)
        there = torch.from_numpy(counts).to(each.device)[:, None]
        own = torch.arange(rows, device=each.device) < there
        return torch.where(own, each, 0.0).sum(1) / there[:, 0]

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
        steps = _Steps(members, self._experiment.batch_size)
        data_seconds = clock() - begin
        number = len(members)
        full = {name: _repeated(start[name], number) for name in trained}
        frozen = {n: v.expand(number, *v.shape) for n, v in start.items() if n not in full}
        losses = torch.zeros(number, steps.number, dtype=torch.float64)
        optimizer = _StackedOptimizer(self._experiment, full)
        draws = [members[place].draws for place in steps.order]
        now = frozen
        batches = steps.batches(pool)
        for step in range(steps.number):
            check(int(steps.order[0]))
            begin = clock()
            active, inputs, targets, counts = next(batches)
            data_seconds += clock() - begin
            if optimizer.cut_to(active) or step == 0:
                now = {name: value[:active] for name, value in frozen.items()} | optimizer.leaves
            batch = self.losses(now, inputs, targets, counts, draws[:active])
            optimizer.step(batch.sum(), start, mu)
            losses[:active, step] = batch.detach()
        back = torch.from_numpy(np.argsort(steps.order))
        return self._trained(full, losses, steps, back, pool, data_seconds)

    def _trained(
        self,
        full: Mapping[str, Tensor],
        losses: Tensor,
        steps: _Steps,
        back: Tensor,
        pool: tuple[Tensor, Tensor],
        data_seconds: float,
    ) -> Trained:
        """Return weights, losses and failures in the order of the members."""
        failures: dict[int, TrainingError] = {}
        values = losses.numpy()
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


def _taken(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``values[rows]``, which is quicker for one dimension of rows than for two."""
    return values.index_select(0, rows.flatten()).view(*rows.shape, *values.shape[1:])


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


class _Steps:
    """Which rows each client takes at each of its steps; clients with the most steps come first."""

    def __init__(self, members: Sequence[Member], batch_size: int) -> None:
        per_epoch = np.array([-(-len(m.rows) // batch_size) for m in members])
        epochs = np.array([len(m.orders) for m in members])
        own = per_epoch * epochs
        self.order: NDArray[np.int64] = np.argsort(-own, kind="stable")
        self.number = int(own.max())
        width = min(batch_size, max(len(m.rows) for m in members))
        self._active = [int((own > step).sum()) for step in range(self.number)]
        self.rows = torch.zeros(len(members), self.number, width, dtype=torch.int64)
        self.counts = np.zeros((len(members), self.number), dtype=np.int64)
        # Clients of as many rows have batches of the same sizes: they are placed together.
        alike: dict[tuple[int, int], list[int]] = {}
        for place, member in enumerate(self.order):
            one = members[member]
            alike.setdefault((len(one.rows), len(one.orders)), []).append(place)
        for places in alike.values():
            self._place(places, [members[self.order[place]] for place in places], batch_size)
        # Where all batches are of one size, as they mostly are, it need not be looked up.
        self._widths = self.counts.max(0).tolist()

    def _place(self, places: list[int], members: list[Member], size: int) -> None:
        number = len(members[0].rows)
        whole, rest = divmod(number, size)
        steps = whole + bool(rest)
        rows = torch.stack([member.rows for member in members])
        for epoch, orders in enumerate(zip(*(member.orders for member in members), strict=True)):
            taken = rows.gather(1, torch.stack(orders))
            first = epoch * steps
            if whole:
                full = taken[:, : whole * size].view(len(places), whole, size)
                self.rows[places, first : first + whole, :size] = full
                self.counts[places, first : first + whole] = size
            if rest:
                # Filled up with a row of its own, whose loss is not looked at.
                self.rows[places, first + whole] = taken[:, -1:]
                self.rows[places, first + whole, :rest] = taken[:, whole * size :]
                self.counts[places, first + whole] = rest

    def batches(
        self, pool: tuple[Tensor, Tensor]
    ) -> Iterator[tuple[int, Tensor, Tensor, NDArray[np.int64]]]:
        """Yield for each step how many clients have one, their batches, and rows in each.

        Those of several steps are put together at once, which takes a fraction of the time.
        """
        x, y = pool
        step = 0
        while step < self.number:
            active, width = self._active[step], max(self._widths[step:])
            of_a_step = active * width * x[:1].numel()
            end = min(self.number, step + max(1, AT_ONCE // max(of_a_step, 1)))
            rows = self.rows[:active, step:end, :width].transpose(0, 1).to(x.device)
            inputs, targets = _taken(x, rows), _taken(y, rows)
            for at, number in enumerate(range(step, end)):
                now, wide = self._active[number], self._widths[number]
                counts = self.counts[:now, number]
                yield now, inputs[at, :now, :wide], targets[at, :now, :wide], counts
            step = end


class _StackedOptimizer:
    """The experiment's optimizer over stacked weights.

    Torch's optimizers treat each number of a weight by itself and keep one count of steps, so that
    over a stack they do for each client what they do for one; all clients in the stack have taken
    equally many steps.
    """

    def __init__(self, experiment: Experiment, full: Mapping[str, Tensor]) -> None:
        self._names = list(full)
        self._clients = len(next(iter(full.values())))
        self.leaves = {name: value.requires_grad_() for name, value in full.items()}
        given: Any = _Parameters(list(self.leaves.values()))
        self._optimizer = experiment.make_optimizer(given)
        if next(iter(full.values())).device.type == "cpu":
            # What torch comes to by itself on a CPU, after a look that takes longer than the step.
            for group in self._optimizer.param_groups:
                group.update({"foreach": False} if "foreach" in group else {})
        # Without what torch wraps it in for profilers and compilers, half of its time here.
        self._step = inspect.unwrap(type(self._optimizer).step)

    def cut_to(self, clients: int) -> bool:
        """Go on with the first clients alone; returns whether that is a change."""
        if clients == self._clients:
            return False
        self._clients = clients
        state = dict(self._optimizer.state)
        self._optimizer.state.clear()
        cut: dict[str, Tensor] = {}
        for name, leaf in self.leaves.items():
            cut[name] = leaf.detach()[:clients].requires_grad_()
            if leaf in state:
                self._optimizer.state[cut[name]] = {
                    key: _cut(value, leaf, clients) for key, value in state[leaf].items()
                }
        self.leaves = cut
        (group,) = self._optimizer.param_groups
        group["params"] = list(cut.values())
        return True

    def step(self, loss: Tensor, start: Mapping[str, Tensor], mu: float) -> None:
        """Take one step against the gradients of ``loss``, FedProx's term added to them."""
        leaves = list(self.leaves.values())
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        for name, leaf, gradient in zip(self._names, leaves, gradients, strict=True):
            if gradient is not None and mu:
                gradient = gradient + mu * (leaf.detach() - start[name])
            leaf.grad = gradient
        with torch.no_grad():
            self._step(self._optimizer)


def _cut(value: Any, leaf: Tensor, clients: int) -> Any:
    """Return what an optimizer keeps of a weight, for the first clients alone."""
    if isinstance(value, Tensor) and value.shape == leaf.shape:
        return value[:clients]
    return value


class _Parameters:
    """Stands for a model where an optimizer is made: it has parameters and nothing else."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters

    def parameters(self) -> list[Tensor]:
        """Return the stacked weights."""
        return self._parameters
