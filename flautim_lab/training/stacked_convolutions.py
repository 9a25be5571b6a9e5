"""Convolutions and pooling for many clients at once, each with its gradient.

A convolution of many clients with weights of their own would be a grouped one, which is slower
than as many plain ones: so each client's is torch's own, by itself. What is saved is around them:
torch's autograd, and its search for the largest number of a window, which goes number by number
and takes ten times as long as the maximum of two tensors. In LeNet's training on small batches
both together are four tenths of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flautim_lab.training.stacked_steps import Drop, Followed, Step, Weighted

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

    def of_weights(self, gradient: Tensor, kept: Any) -> dict[str, Tensor]:
        """Return the gradients of the weight and the bias."""
        has_bias = self.bias is not None
        _, weights, biases = zip(*self._back(gradient, kept, (False, True, has_bias)), strict=True)
        found = {self.weight: torch.stack(weights)}
        if self.bias is not None:
            found[self.bias] = torch.stack(biases)
        return found

    def backward(self, gradient: Tensor, kept: Any) -> Tensor:
        """Return the gradient of the inputs."""
        return torch.stack([x for x, _, _ in self._back(gradient, kept, (True, False, False))])

    def _back(
        self, gradient: Tensor, kept: Any, wanted: tuple[bool, bool, bool]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return what is wanted of each client: gradients of inputs, weight and bias."""
        sizes = [gradient.shape[2]]
        return [
            _aten.convolution_backward(*of_client, sizes, *self._settings, wanted)
            for of_client in zip(gradient, *kept, strict=True)
        ]


@dataclass(frozen=True)
class EachRow(Followed):
    """What torch computes row by row and without weights, such as pooling."""

    function: Callable[[Tensor], Tensor]

    def values(self, x: Tensor, drop: Drop) -> Tensor:
        """Return the function's values."""
        made = self.function(x.flatten(0, 1))
        return made.reshape(*x.shape[:2], *made.shape[1:])


@dataclass(frozen=True)
class MaxPool2d(Step):
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
        lines = self._largest(x, 1)
        most = self._largest(lines, 0)
        return most, (x, lines, most)

    def backward(self, gradient: Tensor, kept: Any) -> Tensor:
        """Return the gradient of what it was given."""
        x, lines, most = kept
        return self._back(x, lines, self._back(lines, most, gradient, 0), 1)

    def _largest(self, x: Tensor, side: int) -> Tensor:
        first, *others = self._parts(x, side)
        most = first.clone(memory_format=torch.contiguous_format)
        for part in others:
            torch.maximum(most, part, out=most)
        return most

    def _back(self, x: Tensor, most: Tensor, gradient: Tensor, side: int) -> Tensor:
        """Return the gradient of ``x`` from that of the largest along one side of the windows."""
        tiled = most.shape[3 + side] * self.kernel[side] == x.shape[3 + side]
        made = torch.empty_like(x) if tiled else torch.zeros_like(x)
        into = self._parts(made, side)
        left = gradient
        for part, place in zip(self._parts(x, side)[:-1], into[:-1], strict=True):
            # Into numbers, ones and zeros, many at a time; a mask would go one by one.
            own = torch.eq(part.contiguous(), most, out=torch.empty_like(most)).mul_(left)
            place.copy_(own)
            left = left - own
        into[-1].copy_(left)
        return made

    def _parts(self, x: Tensor, side: int) -> list[Tensor]:
        """Return the first of each window along its height (0) or width (1), the second, ..."""
        kernel, stride = self.kernel[side], self.stride[side]
        windows = (x.shape[3 + side] - kernel) // stride + 1
        index = (slice(None),) * (3 + side)
        return [x[*index, at : at + (windows - 1) * stride + 1 : stride] for at in range(kernel)]
