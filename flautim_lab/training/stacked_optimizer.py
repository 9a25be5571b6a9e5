"""One optimizer over the weights of many clients."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flautim_lab.experiment.experiment import Experiment

__all__ = ["StackedOptimizer"]


class StackedOptimizer:
    """The experiment's optimizer over stacked weights.

    Torch's optimizers treat each number of a weight by itself and keep one count of steps, so that
    over a stack they do for each client what they do for one; all clients in the stack have taken
    equally many steps.
    """

    def __init__(self, experiment: Experiment, full: Mapping[str, Tensor]) -> None:
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

    def step(
        self, gradients: Sequence[Tensor | None], start: Mapping[str, Tensor], mu: float
    ) -> None:
        """Take one step against gradients, FedProx's term added to them."""
        for (name, leaf), gradient in zip(self.leaves.items(), gradients, strict=True):
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
