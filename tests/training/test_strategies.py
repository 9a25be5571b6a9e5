"""The table of strategies against the installed Flower, and the objects made from it."""

from __future__ import annotations

import inspect

import flwr.serverapp.strategy as flower
import pytest

from flautim_lab.experiment.strategies import STRATEGIES

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
