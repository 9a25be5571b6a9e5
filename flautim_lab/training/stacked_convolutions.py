"""Convolutions and pooling for many clients at once, each with its gradient.

A convolution of many clients with weights of their own would be a grouped one, which is slower
than as many plain ones: so each client's is torch's own, by itself. What is saved is around them:
torch's autograd, and its search for the largest number of a window, which goes number by number
and takes ten times as long as the maximum of two tensors. In LeNet's training on small batches
both together are four tenths of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flautim_lab.training import pairs
from flautim_lab.training.stacked_steps import Drop, Followed, Weighted, Weightless

__all__ = ["Convolution", "EachRow", "MaxPool2d"]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Convolution(Weighted):
    """``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d`` with zeros around.

    Attributes
    ----------
    stride, padding, dilation : tuple of int
        One number for each dimension of an image.
    groups : int
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def _settings(self) -> tuple[Any, ...]:
        straight, nothing = False, [0] * len(self.stride)
        return self.stride, self.padding, self.dilation, straight, nothing, self.groups

    def forward(
        self, x: Tensor, weights: Mapping[str, Tensor], drop: Drop, needed: bool
    ) -> tuple[Tensor, Any]:
        """Return the convolutions, and both their factors."""
        weight = weights[self.weight]
        biases = [None] * len(weight) if self.bias is None else weights[self.bias]
        made = [
            torch.convolution(*of_client, *self._settings)
            for of_client in zip(x, weight, biases, strict=True)
        ]
        return torch.stack(made), (x, weight)

    def back(
        self, gradient: Tensor, kept: Any, *, weights: bool, inputs: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return what is wanted of all clients, by one call of the operator for each of them."""
        wanted = [inputs, weights, weights and self.bias is not None]
        sizes = [gradient.shape[2]]
        of_clients = [
            _aten.convolution_backward(*of_client, sizes, *self._settings, wanted)
            for of_client in zip(gradient, *kept, strict=True)
        ]
        of_inputs, *of_weights = zip(*of_clients, strict=True)
        names = self.weights if weights else ()
        found = {name: torch.stack(one) for name, one in zip(names, of_weights, strict=False)}
        return found, torch.stack(of_inputs) if inputs else None


@dataclass(frozen=True)
class EachRow(Followed):
    """What torch computes row by row and without weights, such as pooling."""

    function: Callable[[Tensor], Tensor]

    def values(self, x: Tensor, drop: Drop) -> Tensor:
        """Return the function's values."""
        made = self.function(x.flatten(0, 1))
        return made.reshape(*x.shape[:2], *made.shape[1:])


@dataclass(frozen=True)
class MaxPool2d(Weightless):
    """``nn.MaxPool2d`` of windows that do not overlap, with nothing around the image.

    The largest number of each line of a window, then of those: so that of equal ones the first
    gets the gradient, as in torch. What is left over at the edges is left out.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]

    def forward(
        self, x: Tensor, weights: Mapping[str, Tensor], drop: Drop, needed: bool
    ) -> tuple[Tensor, Any]:
        """Return the largest number of each window, and what they were taken from."""
        columns = self._parts(x, 1)
        lines = _largest(columns)
        rows = self._parts(lines, 0)
        most = _largest(rows)
        return most, (x.shape, columns, lines, rows, most)

    def backward(self, gradient: Tensor, kept: Any) -> Tensor:
        """Return the gradient of what it was given."""
        shape, columns, lines, rows, most = kept
        of_lines = self._whole(_shared(gradient, rows, most), lines.shape, 0)
        return self._whole(_shared(of_lines, columns, lines), shape, 1)

    def _parts(self, x: Tensor, side: int) -> list[Tensor]:
        """Return the first of each window along its height (0) or width (1), the second, ..."""
        if self._in_pairs(x, x.shape, side):
            return list(pairs.split(x))
        return self._places(x, side)

    def _whole(self, parts: Sequence[Tensor], shape: torch.Size, side: int) -> Tensor:
        """Return what such parts are parts of, with zeros for what is in no window."""
        if self._in_pairs(parts[0], shape, side):
            return pairs.join(*parts)
        tiled = parts[0].shape[3 + side] * self.kernel[side] == shape[3 + side]
        made = parts[0].new_empty(shape) if tiled else parts[0].new_zeros(shape)
        for place, part in zip(self._places(made, side), parts, strict=True):
            place.copy_(part)
        return made

    def _in_pairs(self, x: Tensor, shape: torch.Size, side: int) -> bool:
        halves = side == 1 and self.kernel[1] == self.stride[1] == 2 and shape[-1] % 2 == 0
        return halves and pairs.can_be_halved(x)

    def _places(self, x: Tensor, side: int) -> list[Tensor]:
        kernel, stride = self.kernel[side], self.stride[side]
        windows = (x.shape[3 + side] - kernel) // stride + 1
        index = (slice(None),) * (3 + side)
        return [x[*index, at : at + (windows - 1) * stride + 1 : stride] for at in range(kernel)]


def _largest(parts: Sequence[Tensor]) -> Tensor:
    """Return the largest of numbers at the same places."""
    first, *others = parts
    most = first if others else first.clone(memory_format=torch.contiguous_format)
    for part in others:
        most = torch.maximum(most, part, out=most.new_empty(most.shape))
    return most


def _shared(gradient: Tensor, parts: Sequence[Tensor], most: Tensor) -> list[Tensor]:
    """Return the gradient of each part, from that of the largest: it goes to the first of those."""
    found = []
    for part in parts[:-1]:
        # Into numbers, ones and zeros, many at a time; a mask would go one by one.
        own = torch.eq(part.contiguous(), most, out=torch.empty_like(most)).mul_(gradient)
        found.append(own)
        gradient = gradient - own
    return [*found, gradient]
