"""Models that would go wrong silently or far too late: each is one sentence, when it is made."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, TensorDataset

import flautim_lab as lab
from flautim_lab.experiment.model_state import can_be_copied
from tests.federations import DropoutNet, Net, NormNet, experiment, tensors


def refusal(model, error=lab.ModelError, **settings) -> str:
    with pytest.raises(error) as caught:
        experiment(model, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- state --------------------------------------------------------------------------------------


def test_a_lazy_layer_has_no_shape_yet():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.LazyLinear(3))

        def forward(self, x):
            return self.layers(x)

    assert refusal(Lazy) == (
        "Lazy has the lazy layer 'layers.1' (LazyLinear), whose shape is not known before it sees "
        "data; use Linear and give its sizes"
    )


@pytest.mark.parametrize("state", [{"seen": 3}, torch.zeros(2)])
def test_extra_state_cannot_be_averaged(state):
    class Counter(Net):
        def get_extra_state(self):
            return state

        def set_extra_state(self, state):
            pass

    assert refusal(Counter) == (
        "Counter keeps state of its own in get_extra_state of Counter, which cannot be averaged "
        "over clients; keep it as a tensor with register_buffer"
    )


def test_a_sparse_buffer_cannot_be_sent():
    class Graph(Net):
        def __init__(self, persistent=True):
            super().__init__()
            self.register_buffer("edges", torch.eye(3).to_sparse(), persistent=persistent)

        def forward(self, x):
            return torch.sparse.mm(self.edges, super().forward(x).T).T

    assert refusal(Graph) == (
        "Graph keeps 'edges' as a sparse tensor, which cannot be sent; make it dense with "
        "to_dense(), or give register_buffer persistent=False if it never changes"
    )
    assert experiment(Graph, model_args={"persistent": False}).facts.parameters


def test_a_function_must_make_a_model_each_time():
    shared, backbone = Net(), nn.Linear(4, 4)

    def same():
        return shared

    def around_the_same():
        return nn.Sequential(backbone, nn.Linear(4, 3))

    for model in (same, around_the_same):
        assert refusal(model) == (
            f"{model.__name__} gives the same weights each time it is called, and every client "
            "must train its own; make the layers inside it"
        )
    backbone.requires_grad_(False)
    assert experiment(around_the_same).facts.parameters == 4 * 3 + 3


# --- gradients ----------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """Dropout in the part that is computed again, or after it, or nowhere."""

    def __init__(self, inside=0.0, after=0.0, reentrant=False, again=True):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(inside))
        self.last = nn.Sequential(nn.Dropout(after), nn.Linear(8, 3))
        self.reentrant, self.again = reentrant, again

    def forward(self, x):
        if self.again:
            x = x.clone().requires_grad_()  # as the reentrant kind wants it
            return self.last(checkpoint(self.first, x, use_reentrant=self.reentrant))
        return self.last(self.first(x))


class OwnLoop(lab.Experiment):
    def training_loop(self, model, loader):
        return 1.0


@pytest.mark.parametrize("cls", [lab.Experiment, OwnLoop])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_dropout_that_would_be_drawn_twice_is_refused(reentrant, cls):
    settings = {"model_args": {"inside": 0.5, "reentrant": reentrant}, "cls": cls}
    assert refusal(Checkpointed, **settings) == (
        "Checkpointed draws random numbers (dropout) in a part that activation checkpointing "
        "computes again for its gradients, which would then be of other numbers; leave "
        "torch.utils.checkpoint out, or take the dropout out of that part"
    )


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_computed_again_without_a_draw_has_the_same_gradients(reentrant):
    from flautim_lab.experiment.streams import PrivateRandom, stream

    made = experiment(Checkpointed, model_args={"after": 0.5, "reentrant": reentrant})
    assert made.facts.draws
    assert not made.facts.draws_in_backward
    model = made.build_model()
    plain = copy.deepcopy(model)
    plain.again = False
    x, y = tensors().tensors
    for each in (model, plain):
        with PrivateRandom(stream(1, "draws")):
            loss = made.loss(each, (x, y))
        loss.backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
        assert a.grad.any()


class Words(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, row):
        return torch.tensor([row % 5, row % 7]), row % 3


class Sparse(nn.Module):
    def __init__(self, sparse=True):
        super().__init__()
        self.words, self.last = nn.Embedding(7, 4, sparse=sparse), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.words(x).mean(dim=1))


def test_sparse_gradients_need_an_optimizer_and_a_strategy_that_take_them():
    settings = {"dataset": Words()}
    assert refusal(Sparse, optimizer="Adam", **settings) == (
        "Adam cannot train Sparse: Adam does not support sparse gradients, please consider "
        "SparseAdam instead; the gradient of 'words.weight' is sparse: leave sparse=True out, or "
        "use 'SGD'"
    )
    weighted = {"optimizer": "SGD", "optimizer_args": {"weight_decay": 0.1}}
    assert refusal(Sparse, **weighted, **settings).startswith("SGD cannot train Sparse: ")
    prox = {"strategy": "FedProx", "strategy_args": {"proximal_mu": 0.1}}
    assert refusal(Sparse, optimizer="SGD", **prox, **settings) == (
        "the gradient of 'words.weight' in Sparse is sparse, and FedProx adds a dense term to it; "
        "leave sparse=True out, or use strategy='FedAvg'"
    )
    assert experiment(Sparse, optimizer="SGD", **settings).facts.parameters
    dense = {"model_args": {"sparse": False}}
    assert experiment(Sparse, **prox, **dense, **settings).facts.parameters


def test_an_optimizer_of_ones_own_is_tried():
    class Closure(lab.Experiment):
        def make_optimizer(self, model):
            return torch.optim.LBFGS(model.parameters())

    sentence = refusal(Net, cls=Closure)
    assert sentence.startswith("LBFGS cannot train Net: ")
    assert "closure" in sentence


def test_gradients_that_fail_are_said():
    class Detour(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no way back")

    class Broken(Net):
        def forward(self, x):
            return Detour.apply(super().forward(x))

    assert refusal(Broken) == (
        "the gradients of Broken fail on a first batch: RuntimeError: no way back"
    )


# --- text ---------------------------------------------------------------------------------------


def test_a_model_that_fails_on_text_is_one_sentence_too():
    class Texts(Dataset):
        def __len__(self):
            return 24

        def __getitem__(self, row):
            return "a rose", row % 3

    assert refusal(Net, dataset=Texts()).startswith("Net fails on a batch of 5 texts: ")


# --- copies -------------------------------------------------------------------------------------


def closing_hook(model):
    model.register_forward_hook(lambda module, x, y: y * model.layers[0].weight.sum())


def tensor_hook(model):
    model.layers[0].weight.register_hook(lambda gradient: gradient.clamp(-1, 1))


def own_function(model):
    layer = model.layers[0]
    model.first = lambda x: layer(x)


def own_function_in_a_list(model):
    model.steps = [functools.partial(lambda x, layer=model.layers[0]: layer(x))]


@pytest.mark.parametrize("add", [closing_hook, tensor_hook, own_function, own_function_in_a_list])
def test_what_a_copy_would_share_with_its_original_is_seen(add):
    model = Net()
    assert can_be_copied(model)
    add(model)
    assert not can_be_copied(model)


@pytest.mark.parametrize("model", [Net, DropoutNet, NormNet, lambda: nn.LSTM(2, 2)])
def test_plain_models_are_copied(model):
    assert can_be_copied(model())
    with_function = model()
    with_function.activation = F.relu
    with_function.scale = lambda x: 2 * x
    assert can_be_copied(with_function)


def test_a_table_of_doubles_trains():
    x, y = tensors().tensors

    class Double(Net):
        def __init__(self):
            super().__init__()
            self.double()

    assert experiment(Double, TensorDataset(x.double(), y)).facts.measured
