"""Convolutions and the pooling behind them as one step, against torch's modules and autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flautim_lab.training.stacked_convolutions import Convolution, MaxPool2d
from flautim_lab.training.stacked_layers import read_layers
from flautim_lab.training.stacked_pooled_convolutions import (
    ChannelsLast,
    PooledConvolutions,
    WindowsAsChannels,
)
from flautim_lab.training.stacked_steps import Elementwise, Run, View
from tests.training.test_stacked_convolutions import compare, never, of_each_client
from tests.training.test_stacked_steps import CLIENTS, ROWS, numbers

CONVOLUTIONS = {
    "as it is": {},
    "no bias": {"bias": False},
    "padding": {"padding": (2, 1)},
    "same": {"padding": "same"},
    "stride": {"stride": 2},
    "stride, padding": {"stride": (1, 2), "padding": 2, "bias": False},
}
WINDOWS = {
    "2": (2,),
    "2, some left out": (2, 3),
    "of two sizes": ((1, 2),),
    "lines": ((2, 1), (2, 3)),
    "1": (1,),
    "3": (3,),
}


def kinds(model):
    return [type(step) for step in read_layers(model).steps]


@pytest.fixture
def ways(monkeypatch):
    """Which way each step has gone."""
    gone = []
    for way in (ChannelsLast, WindowsAsChannels):

        def forward(self, *args, old=way.forward):
            gone.append(type(self))
            return old(self, *args)

        monkeypatch.setattr(way, "forward", forward)
    return lambda: gone[: len(gone) // CLIENTS]


@pytest.mark.parametrize("behind", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("settings", CONVOLUTIONS)
@pytest.mark.parametrize("channels", [3, 17])
def test_all_are_torchs(channels, settings, windows, behind):
    """The first one's inputs need no gradient, the second one's do."""

    def make():
        return nn.Sequential(
            nn.Conv2d(2, channels, 3, **CONVOLUTIONS[settings]),
            nn.MaxPool2d(*WINDOWS[windows]),
            behind(),
            nn.Conv2d(channels, 3, 2, padding=2, **{"bias": settings != "no bias"}),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )

    models = of_each_client(make)
    apart = [PooledConvolutions, Elementwise] if behind is nn.Tanh else []
    assert kinds(models[0]) == [*apart, PooledConvolutions, View]
    x = numbers(CLIENTS, ROWS, 2, 13, 15)
    compare(models, x)
    for wanted in (["0.weight"], ["3.weight"]):
        for model in models:
            model.zero_grad()
        compare(models, x, wanted)


@pytest.mark.parametrize(
    ("before", "channels", "kernel", "windows", "way"),
    [
        (1, 6, 5, 2, WindowsAsChannels),
        (3, 8, 3, 2, WindowsAsChannels),
        (1, 32, 3, 2, WindowsAsChannels),  # one channel does not become quicker by lying together
        (3, 16, 3, 2, ChannelsLast),
        (1, 6, 1, 2, ChannelsLast),  # four times the work
        (1, 6, 3, 3, ChannelsLast),
    ],
)
def test_few_channels_have_the_windows_as_more_of_them(
    ways, before, channels, kernel, windows, way
):
    def make():
        return nn.Sequential(
            nn.Conv2d(before, channels, kernel, padding=1),
            nn.MaxPool2d(windows),
            nn.Conv2d(channels, 2, 3),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )

    compare(of_each_client(make), numbers(CLIENTS, ROWS, before, 12, 12))
    assert ways() == [way, ChannelsLast]


def test_layers_below_may_be_frozen():
    def make():
        return nn.Sequential(
            *(nn.Conv2d(1, 20, 3), nn.MaxPool2d(2), nn.Conv2d(20, 3, 3), nn.MaxPool2d(2)),
            nn.Flatten(),
        )

    compare(of_each_client(make), numbers(CLIENTS, ROWS, 1, 12, 12), ["2.weight", "2.bias"])


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("channels", [4, 16])
def test_float32_is_within_rounding(channels, size, padding):
    """The library that computes these is not the one for double precision."""
    torch.manual_seed(4)
    model = nn.Sequential(
        *(nn.Conv2d(3, channels, size, padding=padding), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(channels, 8, size, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
    )
    x = numbers(ROWS, 3, 22, 20).float()
    outputs = model(x)
    gradient = numbers(*outputs.shape).float()
    outputs.backward(gradient)
    weights = {name: value.detach()[None] for name, value in model.named_parameters()}
    with torch.no_grad():
        run = Run(read_layers(model).steps, weights, weights, x[None], never)
        found = run.gradients(gradient[None])
    torch.testing.assert_close(run.outputs[0], outputs.detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name][0], parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equal_numbers_the_first_one_gets_the_gradient(channels, dtype):
    """Whole numbers, whose sums are exact, and of which many are equal: the bits are torch's."""
    draw = torch.Generator().manual_seed(3)

    def whole(*shape):
        return torch.randint(-2, 3, shape, generator=draw).to(dtype)

    first, second = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, 4, 3)
    model = nn.Sequential(
        first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    ).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(whole(*parameter.shape))
    x = whole(ROWS, 1, 12, 12)
    x[:, :, 4:] = 0.0  # an empty background
    outputs = model(x)
    gradient = whole(*outputs.shape)
    outputs.backward(gradient)
    weights = {name: value.detach()[None] for name, value in model.named_parameters()}
    with torch.no_grad():
        run = Run(read_layers(model).steps, weights, weights, x[None], never)
        found = run.gradients(gradient[None])
    assert torch.equal(run.outputs[0], outputs)
    for name, parameter in model.named_parameters():
        assert torch.equal(found[name][0], parameter.grad), name


class Twice(nn.Module):
    """The convolution's numbers are used beside the maximum, too."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3)

    def forward(self, x):
        x = self.first(x)
        F.max_pool2d(x, 2)
        return torch.relu(x).flatten(1)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(2, 4, 3, dilation=2), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.MaxPool2d(2)),
        Twice(),
    ],
    ids=["gaps", "groups", "something between", "read twice"],
)
def test_what_is_not_one_step(model):
    found = kinds(model)
    assert found[0] is Convolution
    assert PooledConvolutions not in found
    assert MaxPool2d in found


def test_functions_are_read():
    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(1, 3, 3), nn.Linear(27, 2)

        def forward(self, x):
            return self.head(F.max_pool2d(F.relu(self.first(x)), 2).flatten(1))

    models = of_each_client(Functions)
    step = read_layers(models[0]).steps[0]
    assert isinstance(step, PooledConvolutions)
    assert [layer.rectified for layer in step.layers] == [True]
    compare(models, numbers(CLIENTS, ROWS, 1, 8, 8))
