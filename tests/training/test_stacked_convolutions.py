"""Convolutions and pooling of a stack against torch's modules and their autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flautim_lab.training.stacked_convolutions import Convolution, EachRow, MaxPool2d
from flautim_lab.training.stacked_layers import read_layers
from flautim_lab.training.stacked_steps import Run
from tests.training.test_stacked_steps import CLIENTS, ROWS, numbers


def never(share, x):
    raise AssertionError("nothing is dropped here")


def compare(models, x, wanted=None):
    """The outputs and gradients of a stack must be those of each model by itself."""
    layers = read_layers(models[0])
    assert layers.steps is not None
    weights = {
        name: torch.stack([dict(model.named_parameters())[name].detach() for model in models])
        for name, _ in models[0].named_parameters()
    }
    outputs = torch.stack([model(own) for model, own in zip(models, x, strict=True)])
    gradient = numbers(*outputs.shape)
    outputs.backward(gradient)
    with torch.no_grad():
        run = Run(layers.steps, weights, wanted or weights, x, never)
        found = run.gradients(gradient)
    torch.testing.assert_close(run.outputs, outputs.detach(), rtol=1e-12, atol=1e-12)
    assert set(found) == set(wanted or weights)
    for name, ours in found.items():
        theirs = torch.stack([dict(model.named_parameters())[name].grad for model in models])
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def of_each_client(make):
    torch.manual_seed(1)
    return [make().double() for _ in range(CLIENTS)]


def _by_itself(*sizes):
    """A convolution that is no step together with the pooling behind it."""
    return nn.Conv2d(*sizes, dilation=2)


SETTINGS = {
    "as it is": {},
    "no bias": {"bias": False},
    "padding": {"padding": (2, 1)},
    "same": {"padding": "same"},
    "valid": {"padding": "valid"},
    "stride": {"stride": 2},
    "stride, padding": {"stride": (3, 2), "padding": 2},
    "dilation": {"dilation": (1, 2)},
    "groups": {"groups": 3, "padding": 1},
    "all": {"stride": (2, 3), "padding": (3, 1), "dilation": (2, 2), "bias": False},
}


@pytest.mark.parametrize("second", SETTINGS)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 2)])
def test_convolutions(second, kernel):
    """The second one's inputs need a gradient, the first one's do not."""
    if second == "same":
        kernel = (3, 5)  # of even size it would need more on one side

    def make():
        return nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 6, kernel, **SETTINGS[second]), nn.Flatten()
        )

    models = of_each_client(make)
    compare(models, numbers(CLIENTS, ROWS, 2, 9, 11))
    for model in models:
        model.zero_grad()
    compare(models, numbers(CLIENTS, ROWS, 2, 9, 11), ["1.weight"])


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
@pytest.mark.parametrize("sizes", [(2,), (3,), ((2, 3),), (2, 3), ((1, 2), (4, 2))])
def test_pooling(pool, sizes):
    """Of 9 x 11 numbers, some are left over."""

    def make():
        return nn.Sequential(_by_itself(2, 3, 1), pool(*sizes), nn.ReLU(), nn.Flatten())

    compare(of_each_client(make), numbers(CLIENTS, ROWS, 2, 9, 11))


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 8), (6, 9), (2, 2)])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooling_has_the_bits_of_torch(height, width, sizes, dtype):
    """Whole numbers, of which many are equal."""
    if height < sizes[0] or width < sizes[1]:
        sizes = (2, 2)
    draw = torch.Generator().manual_seed(3)
    x = torch.randint(-2, 2, (CLIENTS, ROWS, 3, height, width), generator=draw).to(dtype)
    x.requires_grad_()
    theirs = F.max_pool2d(x.flatten(0, 1), sizes)
    gradient = torch.randn(theirs.shape, generator=draw, dtype=dtype)
    theirs.backward(gradient)
    step = MaxPool2d("pool", "", sizes, sizes)
    ours, kept = step.forward(x.detach(), {}, never, True)
    assert torch.equal(ours.flatten(0, 1), theirs)
    assert torch.equal(step.backward(gradient.view(ours.shape), kept), x.grad)


def test_of_equal_numbers_the_first_one_gets_the_gradient():
    """As in an image with an empty background, or after a ReLU."""

    def make():
        return nn.Sequential(_by_itself(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())

    x = numbers(CLIENTS, ROWS, 1, 6, 6)
    x[:, :, :, 2:] = 0.0
    compare(of_each_client(make), x)
    step = MaxPool2d("pool", "", (2, 2), (2, 2))
    _, kept = step.forward(torch.zeros(1, 1, 1, 2, 2), {}, never, True)
    back = step.backward(torch.full((1, 1, 1, 1, 1), 7.0), kept)
    assert back.flatten().tolist() == [7.0, 0.0, 0.0, 0.0]


class Functions(nn.Module):
    """Pooling as it is written in a forward."""

    def __init__(self):
        super().__init__()
        self.first, self.head = _by_itself(1, 3, 2), nn.Linear(3, 2)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.first(x)), 2)
        return self.head(F.avg_pool2d(x, kernel_size=(3, 3), stride=3).flatten(1))


def test_pooling_functions_are_read():
    models = of_each_client(Functions)
    kinds = [type(step) for step in read_layers(models[0]).steps]
    assert kinds[0] is Convolution
    assert kinds[1] is MaxPool2d  # before the ReLU, which has a quarter to do then
    assert kinds[3] is EachRow
    compare(models, numbers(CLIENTS, ROWS, 1, 8, 8))


class Called(nn.Module):
    def __init__(self, function, *args, **options):
        super().__init__()
        self.call = lambda x: function(x, *args, **options)

    def forward(self, x):
        return self.call(x)


@pytest.mark.parametrize(
    "model",
    [
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, stride=1, count_include_pad=False, padding=1),
        nn.AdaptiveAvgPool2d(2),
        nn.AdaptiveMaxPool2d((2, 1)),
        Called(F.max_pool2d, 2, 2, 0, 1, True),
        Called(F.max_pool2d, 3, stride=1),
        Called(F.avg_pool2d, 2, ceil_mode=True),
        Called(F.adaptive_avg_pool2d, (1, 1)),
    ],
    ids=str,
)
def test_other_pooling_is_torchs_own(model):
    def make():
        return nn.Sequential(nn.Conv2d(2, 3, 1), model, nn.Flatten())

    models = of_each_client(make)
    assert [type(step) for step in read_layers(models[0]).steps][1] is EachRow
    compare(models, numbers(CLIENTS, ROWS, 2, 7, 8))


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.Conv1d, (4, 9)), (nn.Conv3d, (4, 5, 6, 5))], ids=["1d", "3d"]
)
def test_convolutions_of_other_dimensions(kind, shape):
    def make():
        return nn.Sequential(kind(4, 4, 3, padding="same", groups=2), kind(4, 2, 2), nn.Flatten())

    compare(of_each_client(make), numbers(CLIENTS, ROWS, *shape))


def test_a_convolution_has_the_bits_of_torch():
    model = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5), nn.Flatten())
    x = numbers(32, 1, 28, 28).float()
    outputs = model(x)
    gradient = numbers(*outputs.shape).float()
    outputs.backward(gradient)
    weights = {name: value.detach()[None] for name, value in model.named_parameters()}
    with torch.no_grad():
        run = Run(read_layers(model).steps, weights, weights, x[None], never)
        found = run.gradients(gradient[None])
    assert torch.equal(run.outputs[0], outputs)
    for name, value in model.named_parameters():
        assert torch.equal(found[name][0], value.grad)


@pytest.mark.parametrize(
    "model",
    [
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 4, (2, 3), padding="same"),
    ],
    ids=["circular", "more on one side"],
)
def test_others_are_left_to_vmap(model):
    layers = read_layers(nn.Sequential(model, nn.Flatten()))
    assert layers.row_by_row
    assert layers.steps is None
    assert not layers.convolves
