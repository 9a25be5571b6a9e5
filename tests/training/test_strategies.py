"""The table of strategies against the installed Flower, and the objects made from it."""

from __future__ import annotations

import inspect

import flwr.serverapp.strategy as flower
import pytest
import torch
from flwr.supercore.differential_privacy import compute_adaptive_noise_params
from torch import nn

import flautim_lab as lab
from flautim_lab.experiment.strategies import STRATEGIES, check_strategy
from flautim_lab.experiment.streams import stream
from flautim_lab.training.strategies import make_strategy
from tests.federations import Net, NormNet, experiment, final, iris, tensors

PRIVATE = {
    "DifferentialPrivacyServerSideFixedClipping": {"clipping_norm": 1e6},
    "DifferentialPrivacyClientSideFixedClipping": {"clipping_norm": 1e6},
    "DifferentialPrivacyServerSideAdaptiveClipping": {"initial_clipping_norm": 1e6},
    "DifferentialPrivacyClientSideAdaptiveClipping": {"initial_clipping_norm": 1e6},
}

OURS = {  # filled in by us, from the experiment
    "fraction_train",
    "fraction_evaluate",
    "min_train_nodes",
    "min_evaluate_nodes",
    "min_available_nodes",
    "num_sampled_clients",
}
LEFT_ALONE = {  # Flower's own plumbing, or objects
    "self",
    "weighted_by_key",
    "arrayrecord_key",
    "configrecord_key",
    "train_metrics_aggr_fn",
    "evaluate_metrics_aggr_fn",
    "train_loss_key",
    "selection_rule",
    "strategy",
    "accountant",
}


def test_every_strategy_of_flower_is_in_the_table_but_the_trees():
    classes = {
        name
        for name in dir(flower)
        if inspect.isclass(kind := getattr(flower, name))
        and issubclass(kind, flower.Strategy)
        and kind is not flower.Strategy
    }
    assert classes - set(STRATEGIES) == {"FedXgbBagging", "FedXgbCyclic"}
    assert set(STRATEGIES) <= classes


@pytest.mark.parametrize("name", STRATEGIES)
def test_arguments_and_defaults_are_flowers(name):
    parameters = inspect.signature(getattr(flower, name).__init__).parameters
    theirs = {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in OURS | LEFT_ALONE
    }
    ours = {key: argument.default for key, argument in STRATEGIES[name].arguments.items()}
    for key, default in theirs.items():
        assert ours[key] == (None if default is inspect.Parameter.empty else default), key
    assert set(ours) == set(theirs)


# --- differential privacy -----------------------------------------------------------------------


def private(name, model=Net, noise=0.0, dataset=None, cls=lab.Experiment, args=None, **settings):
    """An experiment under differential privacy that may run; its norm clips nothing."""
    arguments = {"noise_multiplier": noise, **PRIVATE[name], **(args or {})}
    data = tensors(40) if dataset is None else dataset
    return experiment(model, data, cls, strategy=name, strategy_args=arguments, **settings)


def refused(made):
    with pytest.raises(lab.ExperimentError) as caught:
        make_strategy(made)
    return str(caught.value)


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("own", [False, True])
def test_under_privacy_each_client_weighs_alike_and_measures_are_weighted_by_rows(name, own):
    settings = {"partition": lab.by_size([5, 2, 1]), "rounds": 1, "validation": 0, "clients": 3}
    made = private(name, **settings)
    if own:
        inner = flower.FedAvg(min_train_nodes=3, min_evaluate_nodes=3, min_available_nodes=3)
        strategy = getattr(flower, name)(inner, num_sampled_clients=3, **made.strategy_args)
        made = experiment(dataset=tensors(40), strategy=strategy, **settings)
    rows = [len(split.train) for split in made.splits]
    assert len(set(rows)) > 1
    run = lab.run(made).wait()
    alone = [_trained_alone(made, client) for client in range(3)]
    got = run.model().state_dict()
    for key in got:
        mean = sum(state[key] for state in alone) / 3
        assert torch.allclose(got[key], mean, atol=1e-6), key
    frame = run.metrics[run.metrics["round"] == 1]
    losses = frame[frame.client.notna()].sort_values("client").value.to_numpy()
    weighted = sum(n * loss for n, loss in zip(rows, losses, strict=True)) / sum(rows)
    assert final(run, split="train") == pytest.approx(weighted)


def _trained_alone(made, client):
    """What a client learns in a first round, in plain PyTorch."""
    model = made.build_model()
    optimizer = made.make_optimizer(model)
    x, y = made.dataset.tensors
    index = torch.from_numpy(made.splits[client].train)
    order = torch.randperm(len(index), generator=stream(made.seed, "batches", 1, client))
    for part in index[order].split(made.batch_size):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
    return model.state_dict()


class Idle(lab.Experiment):
    """Clients that change nothing."""

    def training_loop(self, model, loader):
        return 0.5


@pytest.mark.parametrize("name", PRIVATE)
def test_a_client_that_changes_nothing_is_no_division_by_zero(name):
    run = lab.run(private(name, cls=Idle, rounds=2)).wait()
    assert run.record.message == ""  # no client failed
    assert run.round == 2


class Scaled(Net):
    """With a parameter of no dimensions, which learns more than all others."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return (1000 * self.scale - 999) * super().forward(x)


@pytest.mark.parametrize("name", PRIVATE)
def test_a_parameter_without_dimensions_is_clipped(name):
    norm = "clipping_norm" if "Fixed" in name else "initial_clipping_norm"
    made = private(name, Scaled, args={norm: 0.001}, rounds=1, optimizer="SGD", lr=0.1)
    before, after = made.build_model().state_dict(), lab.run(made).wait().model().state_dict()
    moved = sum(float((after[key] - before[key]).square().sum()) for key in after) ** 0.5
    assert after["scale"].shape == ()
    assert 0 < moved <= 0.00101
    assert after["scale"] != before["scale"]


def test_sums_without_noise_are_refused():
    name = "DifferentialPrivacyServerSideFixedClipping"
    assert refused(private(name, dataset=iris())) == (
        f"{name} adds no noise to the sums from which CSVDataset(standardize='federated') scales "
        "all clients alike; write standardize='client' or standardize=None"
    )
    make_strategy(private(name, dataset=iris(standardize="client")))
    make_strategy(private(name, dataset=iris()).replace(centralized=True))


def test_buffers_without_noise_are_refused():
    name = "DifferentialPrivacyClientSideAdaptiveClipping"
    assert refused(private(name, NormNet)) == (
        f"{name} adds no noise to buffers, and NormNet has one ('layers.1.running_mean'); replace "
        "BatchNorm by GroupNorm, and register a constant with persistent=False"
    )
    wrapped = flower.DifferentialPrivacyServerSideFixedClipping(
        flower.FedAvg(), noise_multiplier=1.0, clipping_norm=1.0, num_sampled_clients=4
    )
    assert "adds no noise to buffers" in refused(experiment(NormNet, tensors(40), strategy=wrapped))


def test_a_strategy_that_takes_no_plain_mean_is_refused_under_privacy():
    name = "DifferentialPrivacyServerSideFixedClipping"
    with pytest.raises(lab.ExperimentError) as caught:
        private(name, args={"strategy": "FedAdam"})
    assert str(caught.value) == (
        f"{name} scales its noise for a plain mean of the clients, which FedAdam does not take; "
        "wrap one of: FedAvg, FedProx"
    )
    wrapped = flower.DifferentialPrivacyServerSideFixedClipping(
        flower.FedMedian(), noise_multiplier=1.0, clipping_norm=1.0, num_sampled_clients=4
    )
    assert refused(experiment(dataset=tensors(40), strategy=wrapped)) == (
        f"{name} scales its noise for a plain mean of the clients, which FedMedian does not take; "
        "wrap FedAvg or FedProx"
    )
    plain = [n for n, facts in STRATEGIES.items() if facts.plain_mean]
    means = [
        n for n in STRATEGIES if getattr(flower, n).aggregate_train is flower.FedAvg.aggregate_train
    ]
    assert plain == means


@pytest.mark.parametrize("clients", [2, 8, 40])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2, 0.8, 1.0, 4.0])
@pytest.mark.parametrize("stddev", [None, 0.0, 0.05, 0.5, 2.1])
def test_noise_that_flower_would_refuse_later_is_refused_when_the_experiment_is_made(
    clients, noise, stddev
):
    args = {"noise_multiplier": noise, "clipped_count_stddev": stddev}
    try:
        compute_adaptive_noise_params(noise, clients, stddev)
        theirs = True
    except ValueError:
        theirs = False
    try:
        check_strategy("DifferentialPrivacyServerSideAdaptiveClipping", args, clients)
        ours = True
    except lab.ExperimentError:
        ours = False
    assert ours == theirs


def test_the_noise_of_the_count_in_a_sentence():
    name = "DifferentialPrivacyClientSideAdaptiveClipping"
    with pytest.raises(lab.ExperimentError) as caught:
        check_strategy(name, {"noise_multiplier": 1.0}, 8)
    assert str(caught.value) == (
        f"noise_multiplier=1 of {name} must be below twice clipped_count_stddev (0.4, which is 8 "
        "clients / 20 by default); give a clipped_count_stddev above 0.5, or use less noise or "
        "more clients"
    )
