"""Convolutions with the max pooling behind them: what most models of images begin by.

One client after another goes through all of them, so that what a convolution has made, the largest
thing in a model, is pooled, and the next one begins, while it lies in a core's cache; and each in
one of two ways, whichever is quicker. Both compute what torch's own modules do one after the other,
with sums of the same products.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flautim_lab.training.stacked_steps import Drop, Step

__all__ = ["ChannelsLast", "PooledConvolution", "PooledConvolutions", "Way", "WindowsAsChannels"]

#: Of a client: the gradients of its inputs, filters and biases, where they are wanted.
Gradients = tuple[Any, Any, Any]

_aten = torch.ops.aten
# The library behind torch fills what a core computes at once with so many output channels.
_AT_ONCE = 16
# How many times as many multiply-adds may be made for the places of a window to be channels.
_MOST_MORE = 2.0
# Filters of more weights than this go back to images without padding quicker as they came.
_FEW_WEIGHTS = 9
_NOTHING, _ONE = (0, 0), (1, 1)


@dataclass(frozen=True)
class PooledConvolution:
    """``nn.Conv2d`` with zeros around, then ``nn.MaxPool2d`` with windows that do not overlap.

    Attributes
    ----------
    weights : tuple of str
        The names in the model of its weight, and of its bias if it has one.
    stride, padding : (int, int)
        Of the convolution, whose dilation and groups are 1.
    kernel, distance : (int, int)
        The size of the windows, and how far they are from each other. What is left over at the
        edges is left out.
    rectified : bool
        Then a ReLU.
    """

    weights: tuple[str, ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    kernel: tuple[int, int]
    distance: tuple[int, int]
    rectified: bool = False

    def way(self, weights: Mapping[str, Tensor], needed: bool) -> Way:
        """Return how it is computed with all clients' weights.

        Of few channels, most of what a core can do at once would lie idle, unless the places of a
        window are channels, too. To go back to the inputs by that takes longer than it saves.
        """
        weight, *biases = (weights[name] for name in self.weights)
        channels, before = weight.shape[1:3]
        few = channels < _AT_ONCE or before == 1
        as_channels = few and not needed and WindowsAsChannels.work(self, weight) <= _MOST_MORE
        way = WindowsAsChannels if as_channels else ChannelsLast
        return way(self, weight, *biases)


@dataclass(frozen=True)
class PooledConvolutions(Step):
    """Some of them, one behind the other."""

    layers: tuple[PooledConvolution, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of all weights."""
        return tuple(name for layer in self.layers for name in layer.weights)

    def forward(
        self, x: Tensor, weights: Mapping[str, Tensor], drop: Drop, needed: bool
    ) -> tuple[Tensor, Any]:
        """Return the largest numbers of the last windows, and what the way back needs, once."""
        ways = [layer.way(weights, needed or at > 0) for at, layer in enumerate(self.layers)]
        made, kept = [], []
        for client, own in enumerate(x):
            of_layers = []
            for way in ways:
                own, of_layer = way.forward(client, own)
                of_layers.append(of_layer)
            made.append(own)
            kept.append(of_layers)
        return torch.stack(made), (ways, kept)

    def back(
        self, gradient: Tensor, kept: Any, *, weights: bool, inputs: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the gradients of all weights, if any is wanted, and of what it was given."""
        ways, of_clients = kept
        before = []
        found: list[list[Any]] = [[] for _ in ways]
        for client, (own, of_layers) in enumerate(zip(gradient, of_clients, strict=True)):
            for at in reversed(range(len(ways))):
                wanted = (inputs or at > 0, weights, weights and len(self.layers[at].weights) > 1)
                own, *of_weights = ways[at].back(client, own, of_layers[at], wanted)
                found[at].append(of_weights[: len(self.layers[at].weights)])
            before.append(own)
        known: dict[str, Tensor] = {}
        for layer, way, each in zip(self.layers, ways, found, strict=True):
            if weights:
                stacks = [torch.stack(of_clients) for of_clients in zip(*each, strict=True)]
                known |= zip(layer.weights, way.of_weights(*stacks), strict=True)
        return known, torch.stack(before) if inputs else None


class Way(ABC):
    """How clients' images become the largest numbers of windows, and the way back.

    Parameters
    ----------
    of : PooledConvolution
    weight : Tensor
        (clients, channels, channels before, height, width).
    bias : Tensor, optional
        (clients, channels).
    """

    def __init__(self, of: PooledConvolution, weight: Tensor, bias: Tensor | None = None) -> None:
        self._of = of
        self._filters = weight
        self._biases = bias

    @abstractmethod
    def forward(self, client: int, x: Tensor) -> tuple[Tensor, Any]:
        """Return a client's largest numbers, (rows, channels, ...), and what is to be kept."""

    @abstractmethod
    def back(
        self, client: int, gradient: Tensor, kept: Any, wanted: tuple[bool, bool, bool]
    ) -> Gradients:
        """Return a client's gradients, from that of its largest numbers; once."""

    def of_weights(self, *gradients: Tensor) -> Sequence[Tensor]:
        """Return the gradients of weights and biases, from those of filters and what is added."""
        return gradients

    def _convolved(self, client: int, x: Tensor, stride: tuple[int, int]) -> Tensor:
        bias = None if self._biases is None else self._biases[client]
        return torch.convolution(x, self._filters[client], bias, *self._settings(stride))

    def _back(
        self,
        gradient: Tensor,
        x: Tensor,
        filters: Tensor,
        stride: tuple[int, int],
        wanted: tuple[bool, bool, bool],
    ) -> Gradients:
        found: Gradients = _aten.convolution_backward(
            gradient, x, filters, [len(filters)], *self._settings(stride), wanted
        )
        return found

    def _settings(self, stride: tuple[int, int]) -> tuple[Any, ...]:
        """Return what torch's operators want to know of a plain convolution."""
        return stride, self._of.padding, _ONE, False, _NOTHING, 1


class ChannelsLast(Way):
    """The channels of a pixel lie together, so that torch pools many of them at once."""

    def __init__(self, of: PooledConvolution, weight: Tensor, bias: Tensor | None = None) -> None:
        turned = weight.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        super().__init__(of, turned, bias)
        self._weight = weight

    def forward(self, client: int, x: Tensor) -> tuple[Tensor, Any]:
        """Return the largest numbers; kept is where they were."""
        of = self._of
        turned = x.contiguous(memory_format=torch.channels_last)
        made = self._convolved(client, turned, of.stride)
        most, places = _aten.max_pool2d_with_indices(made, of.kernel, of.distance)
        if of.rectified:
            most.relu_()
        return most, (x, turned, made, places, most)

    def back(
        self, client: int, gradient: Tensor, kept: Any, wanted: tuple[bool, bool, bool]
    ) -> Gradients:
        """Return the gradients, by the operators that autograd calls."""
        of, (x, turned, made, places, most) = self._of, kept
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if of.rectified:
            gradient = _aten.threshold_backward(gradient, most, 0)
        gradient = _aten.max_pool2d_with_indices_backward(
            gradient, made, of.kernel, of.distance, _NOTHING, _ONE, False, places
        )
        filters, weight = self._filters[client], self._weight[client]
        if not wanted[0] or of.padding != _NOTHING or weight[0, 0].numel() <= _FEW_WEIGHTS:
            return self._back(gradient, turned, filters, of.stride, wanted)
        *_, of_filters, of_bias = self._back(
            gradient, turned, filters, of.stride, (False, *wanted[1:])
        )
        of_inputs, *_ = self._back(
            gradient.contiguous(), x, weight, of.stride, (True, False, False)
        )
        return of_inputs, of_filters, of_bias


class WindowsAsChannels(Way):
    """Each place of the windows is a channel: the largest of a window is one of so many channels.

    A convolution whose filters are as large as what a window sees, and which goes on from window to
    window; each place has the weights where they belong for it, and zeros around them. Gradients of
    inputs are not computed.
    """

    def __init__(self, of: PooledConvolution, weight: Tensor, bias: Tensor | None = None) -> None:
        (height, width), (down, right) = of.kernel, of.stride
        self._places = [(y * down, x * right) for y in range(height) for x in range(width)]
        clients, *channels, self._height, self._width = weight.shape
        number = len(self._places)
        filters = weight.new_zeros(clients, number, *channels, *_seen(of, weight))
        for own in self._own(filters):
            own.copy_(weight)
        super().__init__(
            of, filters.flatten(1, 2), None if bias is None else bias.repeat(1, number)
        )
        self._stride = down * of.distance[0], right * of.distance[1]

    @staticmethod
    def work(of: PooledConvolution, weight: Tensor) -> float:
        """Return how many times as many multiply-adds it takes as the convolution."""
        height, width = _seen(of, weight)
        return height * width / weight[0, 0, 0].numel()

    def _own(self, filters: Tensor) -> list[Tensor]:
        """Return where the weights are in filters, (clients, places, ...), for each place."""
        return [
            filters[:, number, ..., top : top + self._height, left : left + self._width]
            for number, (top, left) in enumerate(self._places)
        ]

    def of_weights(self, *gradients: Tensor) -> Sequence[Tensor]:
        """Return sums over the places, (clients, channels, ...)."""
        filters, *biases = (
            each.reshape(len(each), len(self._places), -1, *each.shape[2:]) for each in gradients
        )
        return [torch.stack(self._own(filters)).sum(0), *(each.sum(1) for each in biases)]

    def forward(self, client: int, x: Tensor) -> tuple[Tensor, Any]:
        """Return the largest numbers; kept are those of all places."""
        made = self._convolved(client, x, self._stride)
        first, *others = made.chunk(len(self._places), 1)
        most = first if others else first.contiguous()
        for part in others:
            most = torch.maximum(most, part)
        if self._of.rectified:
            most.relu_()  # where it becomes zero there is no gradient, whichever place it was
        return most, (x, made, most)

    def back(
        self, client: int, gradient: Tensor, kept: Any, wanted: tuple[bool, bool, bool]
    ) -> Gradients:
        """Return the gradients: of equal numbers, the first one's place gets it, as in torch.

        They are put where the numbers were: a tensor as large, and not in the cache, saved.
        """
        x, made, most = kept
        if self._of.rectified:
            gradient = _aten.threshold_backward(gradient, most, 0)
        *firsts, last = made.chunk(len(self._places), 1)
        for own in firsts:
            # Into numbers, ones and zeros, many at a time; a mask would go one by one.
            torch.eq(own, most, out=own).mul_(gradient)
            gradient = gradient - own
        last.copy_(gradient)
        return self._back(made, x, self._filters[client], self._stride, wanted)


def _seen(of: PooledConvolution, weight: Tensor) -> tuple[int, int]:
    """Return height and width of what a window sees, through a convolution's weights."""
    (height, width), (down, right) = of.kernel, of.stride
    return weight.shape[-2] + (height - 1) * down, weight.shape[-1] + (width - 1) * right
