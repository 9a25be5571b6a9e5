"""A copy of a model equals what ``copy.deepcopy`` makes of it."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from flautim_lab.experiment.model_copy import copy_model


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.again = self.first
        self.seen: list[int] = []
        self.sizes = {"in": [4], "out": (4, [1])}
        self.mask = torch.ones(4)
        self.register_buffer("scale", torch.ones(1))
        self.nothing = None
        self.me = [self]

    def forward(self, x):
        return self.second(self.first(x)) * self.scale


class Itself(nn.Linear):
    def __deepcopy__(self, memo):
        made = Itself(self.in_features, self.out_features)
        made.told = True
        return made


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
        self.body[0].weight.requires_grad_(False)
        self.eval()


MODELS = {
    "tied": Tied,
    "frozen": Frozen,
    "lenet": lambda: nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
    "norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LayerNorm(4)),
    "recurrent": lambda: nn.LSTM(4, 8, num_layers=2, bidirectional=True),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "lists": lambda: nn.ModuleDict(
        {"a": nn.ModuleList([nn.Linear(2, 2)]), "b": nn.Embedding(3, 2)}
    ),
    "parameters": lambda: nn.ParameterList([nn.Parameter(torch.ones(2))]),
    "normed": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
}


def saved(model):
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    return stream.getvalue()


@pytest.mark.parametrize("name", MODELS)
def test_it_is_what_deepcopy_makes(name):
    model = MODELS[name]()
    made, expected = copy_model(model), copy.deepcopy(model)
    assert type(made) is type(expected)
    assert repr(made) == repr(expected)
    assert saved(made) == saved(expected)
    for module, mine, theirs in zip(
        model.modules(), made.modules(), expected.modules(), strict=True
    ):
        assert list(vars(mine)) == list(vars(theirs))
        for key, value in vars(mine).items():
            other, original = vars(theirs)[key], vars(module)[key]
            assert type(value) is type(other)
            if isinstance(original, (dict, list, set, torch.Tensor)):
                assert value is not original
    trained = [(p.requires_grad, p.dtype, type(p)) for p in made.parameters()]
    assert trained == [(p.requires_grad, p.dtype, type(p)) for p in expected.parameters()]
    memory = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert not memory & {p.untyped_storage().data_ptr() for p in made.parameters()}
    assert made.training is expected.training


def test_what_is_shared_stays_shared_and_is_the_copys_own():
    model = Tied()
    made = copy_model(model)
    assert made.second.weight is made.first.weight is not model.first.weight
    assert made.again is made.first
    assert made.me == [made]
    made.seen.append(1)
    made.sizes["out"][1].append(2)
    made.mask.zero_()
    assert model.seen == []
    assert model.sizes["out"] == (4, [1])
    assert model.mask.sum() == 4


def test_a_module_that_says_how_it_is_copied_gets_its_way():
    assert copy_model(nn.Sequential(Itself(2, 2)))[0].told
