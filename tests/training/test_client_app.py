"""The client's half: the proximal term, clipping, optimizers, what loops return."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import nn
from torch.utils.data import Dataset

import flautim_lab as lab
from flautim_lab.errors import TrainingError
from flautim_lab.experiment import loops
from flautim_lab.training import flower, weights
from flautim_lab.training.client_app import (
    ROWS,
    ClientHost,
    add_proximal_term,
    as_measures,
    make_client_app,
    take_printed,
)
from flautim_lab.training.grid import Deadline, LocalGrid
from tests.federations import Net, experiment, iris_frame, same, tensors


def host(made: lab.Experiment) -> ClientHost:
    return ClientHost(made, torch.device("cpu"))


def message(made: lab.Experiment, kind: str = "train", **config) -> Message:
    """What the server asks of a client in round 1, with the initial weights."""
    flower.prepare()
    model = made.build_model()
    buffers = weights.buffers_to_bytes(weights.buffers_of(model))
    content = RecordDict(
        {
            "arrays": weights.to_record(model),
            "config": ConfigRecord({"server-round": 1, "buffers": buffers, **config}),
        }
    )
    return Message(content, dst_node_id=1, message_type=kind)


def trained(made: lab.Experiment, **config) -> dict[str, torch.Tensor]:
    """The weights of client 0 after it trained once."""
    answer = host(made).train(0, message(made, **config))
    return weights.decode(answer.content.array_records["arrays"])


class Talking(Net):
    def forward(self, x):
        print("a batch")
        if self.training and hasattr(self, "broken"):
            raise ValueError("no more")
        return super().forward(x)


def asked(made: lab.Experiment) -> Message:
    """The answer of client 1 to a message to train, as a grid gives it."""
    grid = LocalGrid(make_client_app(host(made), []), 2, Deadline(lambda: False), workers=1)
    return grid.send_and_receive([message(made)])[0]


def test_what_a_client_prints_comes_with_its_answer():
    answer = asked(experiment(Talking, clients=2, batch_size=1000))
    assert take_printed(answer) == "a batch"
    assert take_printed(answer) == ""
    assert take_printed(asked(experiment(Net, clients=2))) == ""


def test_what_a_client_printed_before_it_failed_is_told_with_its_traceback(monkeypatch):
    made = experiment(Talking, clients=2)
    monkeypatch.setattr(Talking, "broken", True, raising=False)
    answer = asked(made)
    assert answer.error.reason.startswith("ValueError: no more\nTraceback")
    assert answer.error.reason.endswith("It had printed:\na batch\n")


def test_what_is_printed_of_rows_that_stay_at_home_stays_there_too():
    homes = {"ufmg": "iris.csv", "ifnmg": "iris.csv"}
    data = lab.HomeDataset(iris_frame(), target="species", homes=homes)
    answer = asked(experiment(Talking, data, clients=2, batch_size=1000))
    assert take_printed(answer) == (
        "[7 characters, kept in its worker's own log: its rows stay home]"
    )


def test_the_proximal_term_is_that_of_the_paper():
    """mu/2 ||w - w_t||^2 added to the loss, arXiv:1812.06127, against autograd."""
    made = experiment()
    mu = 0.7
    start = made.build_model()
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    ours, theirs = copy.deepcopy(start), copy.deepcopy(start)
    add_proximal_term(made, ours, mu)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.5) for model in (ours, theirs)]
    for _ in range(5):
        optimizers[0].zero_grad()
        made.loss(ours, (x, y)).backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        distance = sum(
            ((w - w_t.detach()) ** 2).sum()
            for w, w_t in zip(theirs.parameters(), start.parameters(), strict=True)
        )
        (made.loss(theirs, (x, y)) + mu / 2 * distance).backward()
        optimizers[1].step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_proximal_term_needs_our_loop():
    class Mine(lab.Experiment):
        def training_loop(self, model, loader):
            return 0.0

    with pytest.raises(TrainingError, match="a training_loop of your own does not have"):
        add_proximal_term(experiment(cls=Mine), nn.Linear(2, 2), 0.1)


def test_our_loop_is_the_plain_loop_of_pytorch():
    made = experiment(optimizer="SGD", lr=0.1, local_epochs=2)
    x, y = torch.randn(30, 4), torch.randint(0, 3, (30,))
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 30, 8)]
    ours, plain = made.build_model(), made.build_model()
    result = loops.train(made, ours, batches, made.make_optimizer(ours))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        for bx, by in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(plain(bx), by)
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(bx)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True)
    )
    assert result["loss"] == pytest.approx(sum(losses) / len(losses))


def test_a_loss_that_is_no_longer_finite_says_what_to_do():
    made = experiment(optimizer="SGD", lr=1e30)
    model = made.build_model()
    batches = [(torch.linspace(-1, 1, 32).view(8, 4) * 1e20, torch.zeros(8, dtype=torch.int64))] * 5
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf); lower lr \(now 1e\+30\)"):
        loops.train(made, model, batches, made.make_optimizer(model))


@pytest.mark.parametrize("result", [{"loss": 1.0, "f1": torch.tensor(0.5)}, 1, torch.tensor([1.0])])
def test_what_a_loop_may_return(result):
    assert as_measures(result, "training_loop")["loss"] == 1.0


@pytest.mark.parametrize("result", [None, {"f1": 1.0}, True, {"loss": "low"}, {"loss": [1, 2]}])
def test_what_a_loop_may_not_return(result):
    with pytest.raises(
        TrainingError, match=r"^validation_loop (must return its loss|returned some)"
    ):
        as_measures(result, "validation_loop")


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loop_whose_loss_is_not_finite_fails(loss):
    class Mine(lab.Experiment):
        def training_loop(self, model, loader):
            return {"loss": loss, "f1": float("nan")}

    made = experiment(cls=Mine)
    with pytest.raises(TrainingError) as caught:
        host(made).train(0, message(made))
    assert str(caught.value) == (
        f"training_loop returned the loss {loss}; lower lr (now 0.01), "
        "or scale the data and the targets"
    )


def test_weights_that_are_not_finite_are_not_sent():
    class Mine(lab.Experiment):
        def training_loop(self, model, loader):
            with torch.no_grad():
                model.layers[2].bias[1] = float("inf")
            return 1.0

    made = experiment(cls=Mine)
    with pytest.raises(TrainingError) as caught:
        host(made).train(0, message(made))
    assert str(caught.value) == (
        "the weight 'layers.2.bias' became NaN or infinite while training; lower lr (now 0.01), "
        "or scale the data and the targets"
    )

    class Steep(lab.Experiment):
        def loss(self, model, batch):
            return 1e4 * super().loss(model, batch)

    # The last step of our own loop may do it too, after a loss that was finite.
    last = experiment(cls=Steep, optimizer="SGD", lr=1e38, batch_size=128, clients=1)
    with pytest.raises(TrainingError, match=r"the weight 'layers.*' became NaN or infinite"):
        host(last).train(0, message(last))


class Jittered(Dataset):
    """Rows that NumPy's global generator moves each time they are read."""

    def __init__(self):
        self.rows = tensors(48)

    def __len__(self):
        return 48

    def __getitem__(self, row):
        x, y = self.rows[row]
        return x + float(np.random.normal()), y


def test_a_dataset_that_draws_from_numpy_gives_a_client_the_same_rows_again():
    made = experiment(dataset=Jittered(), clients=2)
    np.random.seed(1)
    first = trained(made)
    measured = host(made).evaluate(0, message(made, "evaluate")).content.metric_records
    np.random.seed(2)
    state = np.random.get_state()[1].tolist()
    assert same(first, trained(made))
    assert host(made).evaluate(0, message(made, "evaluate")).content.metric_records == measured
    assert np.random.get_state()[1].tolist() == state
    assert not same(first, trained(made, **{"server-round": 2}))


def test_a_frozen_mask_may_hold_infinity():
    class Masked(Net):
        def __init__(self):
            super().__init__()
            self.mask = nn.Parameter(torch.tensor([0.0, 0.0, float("-inf")]), requires_grad=False)

        def forward(self, x):
            return super().forward(x) + self.mask.exp()

    assert trained(experiment(Masked))["mask"].tolist() == [0.0, 0.0, float("-inf")]


@pytest.mark.parametrize("name", [ROWS, "norm_bit"])
def test_a_measure_may_not_have_a_name_of_flowers(name):
    sentence = f"returned a measure named '{name}', which Flower uses itself; choose another name"
    for loop in ("training_loop", "validation_loop"):
        with pytest.raises(TrainingError) as caught:
            as_measures({"loss": 1.0, name: 2.0}, loop)
        assert str(caught.value) == f"{loop} {sentence}"

    class Mine(lab.Experiment):
        def metrics(self, outputs, targets):
            return {name: 1.0}

    with pytest.raises(lab.ExperimentError) as refused:
        experiment(cls=Mine)
    assert str(refused.value) == f"metrics(outputs, targets) {sentence}"


def test_a_metric_may_not_stand_for_the_loss():
    class Mine(lab.Experiment):
        def metrics(self, outputs, targets):
            return {"loss": 1.0}

    class Later(lab.Experiment):
        def metrics(self, outputs, targets):
            return {"loss" if len(outputs) > 8 else "other": 1.0}

    sentence = "metrics(outputs, targets) returned 'loss', which stands for another measure already"
    with pytest.raises(lab.ExperimentError) as refused:
        experiment(cls=Mine)
    assert str(refused.value) == f"{sentence}; choose another name"
    made = experiment(cls=Later, clients=1)
    with pytest.raises(TrainingError) as caught:
        host(made).evaluate(0, message(made, "evaluate"))
    assert str(caught.value) == f"{sentence}; choose another name"
    with pytest.raises(TrainingError, match=r"^training_loop returned '1', which stands for"):
        as_measures({"loss": 1.0, 1: 2.0, "1": 3.0}, "training_loop")


def test_a_hook_that_closes_over_the_model_trains_that_model():
    """Copied, the hook would go on with the original's gain: never trained, shared by all."""

    class Gated(Net):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))
            self.layers.register_forward_hook(lambda module, x, outputs: outputs * self.gain)

    made = experiment(Gated)
    assert not torch.equal(trained(made)["gain"], torch.ones(3))


def test_the_hook_of_a_weight_is_kept():
    class Half(Net):
        def __init__(self):
            super().__init__()
            self.layers[0].weight.register_hook(torch.zeros_like)

    made = experiment(Half, optimizer="SGD")
    before, after = dict(made.build_model().named_parameters()), trained(made)
    assert torch.equal(before["layers.0.weight"], after["layers.0.weight"])
    assert not torch.equal(before["layers.2.weight"], after["layers.2.weight"])


def test_noise_on_gradients_is_the_clients_own():
    class Noisy(Net):
        def __init__(self):
            super().__init__()
            self.layers[0].weight.register_hook(lambda g: g + torch.randn_like(g))

    made = experiment(Noisy)
    assert made.facts.draws_in_backward
    before = torch.get_rng_state()
    first = trained(made)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert same(first, trained(made))
    plain = experiment()
    assert not plain.facts.draws_in_backward
    assert not same(first, trained(plain))


def test_the_proximal_term_has_no_place_in_a_sparse_gradient():
    words = nn.Embedding(5, 2, sparse=True)
    add_proximal_term(experiment(), words, 0.1)
    with pytest.raises(TrainingError, match=r"^FedProx adds a dense term to a gradient that is s"):
        words(torch.tensor([1, 2])).sum().backward()
