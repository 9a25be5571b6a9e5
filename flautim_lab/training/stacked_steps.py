"""The operations of a model for many clients at once, each with its gradient.

All clients' weights are one tensor of shape (clients, ...), their batches (clients, rows, ...).
Each step says itself how a gradient goes back through it, by the very operators that torch's
autograd would call, so that the numbers are the same to the bit (but for a convolution with its
pooling): for layers as small as these, to note a graph and to walk it takes as long as all that is
computed. What has no such rule here is left to autograd, by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Drop",
    "Dropout",
    "Elementwise",
    "Followed",
    "Linear",
    "Run",
    "Step",
    "View",
    "Weighted",
    "Weightless",
    "losses_of_rows",
]

#: Gets the share that is dropped and what of; returns what is left, each client's draw its own.
Drop = Callable[[float, Tensor], Tensor]

#: Gets the gradient of what an operation gave, and returns that of what it was given.
Back = Callable[[Tensor], Tensor]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Step(ABC):
    """One operation.

    Attributes
    ----------
    name : str
        Of what it gives.
    source : str
        The name of what it is given; "" for the inputs of the model.
    """

    name: str
    source: str

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of its weights."""
        return ()

    @abstractmethod
    def forward(
        self, x: Tensor, weights: Mapping[str, Tensor], drop: Drop, needed: bool
    ) -> tuple[Tensor, Any]:
        """Return what it gives, and what it must know on the way back.

        ``needed`` says whether somebody wants the gradient of ``x``.
        """

    @abstractmethod
    def back(
        self, gradient: Tensor, kept: Any, *, weights: bool, inputs: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the gradients of its weights and of what it was given, where they are wanted."""


@dataclass(frozen=True)
class Weightless(Step):
    """An operation without weights."""

    @abstractmethod
    def backward(self, gradient: Tensor, kept: Any) -> Tensor:
        """Return the gradient of what it was given."""

    def back(
        self, gradient: Tensor, kept: Any, *, weights: bool, inputs: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the gradient of what it was given, where it is wanted."""
        return {}, self.backward(gradient, kept) if inputs else None


@dataclass(frozen=True)
class Weighted(Step):
    """An operation with a weight, and perhaps a bias, by their names in the model."""

    weight: str
    bias: str | None

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of its weights."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True)
class Followed(Weightless):
    """An operation whose gradient is torch's autograd's, by itself."""

    @abstractmethod
    def values(self, x: Tensor, drop: Drop) -> Tensor:
        """Return what it gives."""

    def forward(
        self, x: Tensor, weights: Mapping[str, Tensor], drop: Drop, needed: bool
    ) -> tuple[Tensor, Any]:
        """Return what it gives, and how a gradient goes back."""
        if needed:
            return _followed(lambda inside: self.values(inside, drop), x)
        return self.values(x, drop), None

    def backward(self, gradient: Tensor, kept: Any) -> Tensor:
        """Return the gradient of what it was given."""
        back: Tensor = kept(gradient)
        return back


@dataclass(frozen=True)
class Linear(Weighted):
    """``nn.Linear``: (clients, rows, ..., in) to (clients, rows, ..., out).

    The gradient of its weights is a product by itself: autograd would compute that of ``baddbmm``
    transposed, which takes five times as long where there are many inputs and few outputs.
    """

    def forward(
        self, x: Tensor, weights: Mapping[str, Tensor], drop: Drop, needed: bool
    ) -> tuple[Tensor, Any]:
        """Return the products, and both their factors."""
        wide, weight = x.flatten(1, -2) if x.ndim > 3 else x, weights[self.weight]
        turned = weight.transpose(1, 2)
        if self.bias is None:
            made = torch.bmm(wide, turned)
        else:
            made = torch.baddbmm(weights[self.bias][:, None], wide, turned)
        kept = wide, weight, x.shape
        return (made.reshape(*x.shape[:-1], made.shape[-1]) if x.ndim > 3 else made), kept

    def back(
        self, gradient: Tensor, kept: Any, *, weights: bool, inputs: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the gradients of the weight and the bias, and of the inputs."""
        wide, weight, shape = kept
        if gradient.ndim > 3:
            gradient = gradient.reshape(len(gradient), -1, gradient.shape[-1])
        found = {}
        if weights:
            found[self.weight] = torch.bmm(gradient.transpose(1, 2), wide)
            if self.bias is not None:
                found[self.bias] = gradient.sum(1)
        return found, torch.bmm(gradient, weight).reshape(shape) if inputs else None


@dataclass(frozen=True)
class View(Weightless):
    """Another shape of each row: a flat one, or the one that is given."""

    shape: tuple[int, ...] = (-1,)

    def forward(
        self, x: Tensor, weights: Mapping[str, Tensor], drop: Drop, needed: bool
    ) -> tuple[Tensor, Any]:
        """Return the same numbers, and their shape before."""
        return x.reshape(*x.shape[:2], *self.shape), x.shape

    def backward(self, gradient: Tensor, kept: Any) -> Tensor:
        """Return the gradient in the shape before."""
        return gradient.reshape(kept)


#: How the gradient of some functions follows from what they gave, as torch's autograd has it.
_FROM_RESULT: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    function: rule
    for rule, functions in (
        (lambda g, y: _aten.threshold_backward(g, y, 0), (F.relu, torch.relu)),
        (lambda g, y: _aten.tanh_backward(g, y), (F.tanh, torch.tanh)),
        (lambda g, y: _aten.sigmoid_backward(g, y), (F.sigmoid, torch.sigmoid)),
    )
    for function in functions
}


@dataclass(frozen=True)
class Elementwise(Weightless):
    """A function of each number by itself, or of each row's last dimension."""

    function: Callable[[Tensor], Tensor]

    def forward(
        self, x: Tensor, weights: Mapping[str, Tensor], drop: Drop, needed: bool
    ) -> tuple[Tensor, Any]:
        """Return the function's values, and what its gradient is made from."""
        if needed and self.function not in _FROM_RESULT:
            return _followed(self.function, x)
        made = self.function(x)
        return made, made

    def backward(self, gradient: Tensor, kept: Any) -> Tensor:
        """Return the gradient of what it was given."""
        rule = _FROM_RESULT.get(self.function)
        back: Tensor = kept(gradient) if rule is None else rule(gradient, kept)
        return back


@dataclass(frozen=True)
class Dropout(Followed):
    """``nn.Dropout`` in training."""

    share: float

    def values(self, x: Tensor, drop: Drop) -> Tensor:
        """Return what is left."""
        return drop(self.share, x)


def _followed(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Back]:
    """Return a function's value, and its gradient by torch's autograd."""
    inside = x.detach().requires_grad_()
    with torch.enable_grad():
        made = function(inside)

    def back(gradient: Tensor) -> Tensor:
        return torch.autograd.grad(made, inside, gradient)[0]

    return made.detach(), back


class Run:
    """One way through some steps, forward and back.

    Parameters
    ----------
    steps : sequence of Step
        Each is given what the inputs are or an earlier one gave; the last one gives the outputs.
    weights : mapping of str to Tensor
        Each weight of the model by its name, (clients, ...).
    wanted : collection of str
        The weights whose gradients will be asked for.
    inputs : Tensor
        (clients, rows, ...).
    drop : callable
        Drops out.

    Attributes
    ----------
    outputs : Tensor
        Of all clients, (clients, rows, ...).
    """

    def __init__(
        self,
        steps: Sequence[Step],
        weights: Mapping[str, Tensor],
        wanted: Collection[str],
        inputs: Tensor,
        drop: Drop,
    ) -> None:
        self._wanted = wanted
        self._steps = {step.name: step for step in steps}
        self._kept: dict[str, Any] = {}
        self._needed = {"": False}
        known = {"": inputs}
        for step in steps:
            needed = self._needed[step.source]
            known[step.name], self._kept[step.name] = step.forward(
                known[step.source], weights, drop, needed
            )
            self._needed[step.name] = needed or any(name in wanted for name in step.weights)
        self.last = steps[-1].name
        self.outputs = known[self.last]

    def gradients(self, gradient: Tensor) -> dict[str, Tensor]:
        """Return the gradients of the weights that are wanted, from that of the outputs.

        A weight on which the outputs do not depend has none.
        """
        found: dict[str, Tensor] = {}
        name = self.last
        # Each step is given one thing, so there is one way back.
        while self._needed[name]:
            step, kept = self._steps[name], self._kept[name]
            name = step.source
            trained = any(weight in self._wanted for weight in step.weights)
            own, before = step.back(gradient, kept, weights=trained, inputs=self._needed[name])
            gradient = gradient if before is None else before
            for weight, one in own.items():
                if weight in self._wanted:
                    found[weight] = found[weight] + one if weight in found else one
        return found


def losses_of_rows(
    losses: Callable[[Tensor], Tensor], outputs: Tensor, shares: Tensor, numbers: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the loss of each row, and the gradient of a weighted sum of them.

    Parameters
    ----------
    losses : callable
        Gets outputs and returns the loss of each row.
    outputs : Tensor
        (rows, ...).
    shares : Tensor
        The weight of each row's loss in the sum, (rows,).
    numbers : Tensor or None
        Class numbers, where the loss is their cross entropy.

    Returns
    -------
    (Tensor, Tensor)
        (rows,), and the gradient of the outputs.
    """
    if numbers is None:
        each, back = _followed(losses, outputs)
        return each, back(shares)
    # What F.cross_entropy and its gradient are made of.
    chances = torch.log_softmax(outputs, 1)
    each, total = _aten.nll_loss_forward(chances, numbers, None, 0, _IGNORED)
    of_chances = _aten.nll_loss_backward(shares, chances, numbers, None, 0, _IGNORED, total)
    return each, _aten._log_softmax_backward_data(of_chances, chances, 1, outputs.dtype)


_IGNORED = -100  # the class that F.cross_entropy leaves out by default
