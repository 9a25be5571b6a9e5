"""From an experiment to one of Flower's strategy objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import flwr.serverapp.strategy as flower
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.serverapp.strategy import Strategy

from flautim_lab.errors import ExperimentError
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.strategies import STRATEGIES
from flautim_lab.training import flower as flower_inside

__all__ = ["Strategy", "client_mods", "make_strategy"]

_CLIPPING: Mapping[type[Strategy], Mod] = {
    flower.DifferentialPrivacyClientSideFixedClipping: fixedclipping_mod,
    flower.DifferentialPrivacyClientSideAdaptiveClipping: adaptiveclipping_mod,
}


def make_strategy(experiment: Experiment) -> Strategy:
    """Return a fresh strategy for a run of ``experiment``.

    A strategy object of the researcher's own is copied, so that its state does not leak from run
    to run.

    Raises
    ------
    ExperimentError
        If the researcher's strategy is none of Flower's Message API, runs its rounds itself, or
        would wait for more clients than there are.
    """
    flower_inside.prepare()
    if experiment.centralized:
        return _by_name("FedAvg", {}, experiment)
    chosen = experiment.strategy
    if isinstance(chosen, str):
        return _by_name(chosen, experiment.strategy_args, experiment)
    made = copy.deepcopy(chosen) if isinstance(chosen, Strategy) else _call(chosen)
    _check_object(made, len(experiment.splits))
    return made


def client_mods(strategy: Strategy) -> list[Mod]:
    """Return Flower's client modifiers that the strategy counts on (clipping of updates)."""
    mods: list[Mod] = []
    inner: Any = strategy
    while inner is not None:
        mods += [mod for kind, mod in _CLIPPING.items() if isinstance(inner, kind)]
        inner = getattr(inner, "strategy", None)
    return mods


def _by_name(name: str, arguments: Mapping[str, Any], experiment: Experiment) -> Strategy:
    facts = STRATEGIES[name]
    maker: Callable[..., Strategy] = getattr(flower, name)
    values = dict(arguments)
    asked, clients = experiment.asked_per_round, len(experiment.splits)
    if facts.wraps:
        inner = values.pop("strategy", "FedAvg")
        inner_args = values.pop("strategy_args", {})
        values["strategy"] = _by_name(inner, inner_args, experiment)
        values["num_sampled_clients"] = asked
    else:
        values |= {
            # The sample is max(share x clients, minimum): the minimum decides, exactly.
            "fraction_train": asked / clients if asked < clients else 1.0,
            "min_train_nodes": asked,
            "min_evaluate_nodes": clients,
            "min_available_nodes": clients,
        }
        if name == "QFedAvg" and values.get("client_learning_rate") is None:
            values["client_learning_rate"] = experiment.lr
    try:
        return maker(**values)
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"{name} refuses its arguments: {error}") from error


def _call(maker: Any) -> Strategy:
    try:
        made = maker()
    except Exception as error:
        raise ExperimentError(
            f"the function that makes the strategy failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, Strategy):
        raise ExperimentError(
            f"the strategy must be a flwr.serverapp.strategy.Strategy, not {type(made).__name__}"
        )
    return made


def _check_object(strategy: Strategy, clients: int) -> None:
    if not isinstance(strategy, Strategy):
        raise ExperimentError(
            f"the strategy must be a flwr.serverapp.strategy.Strategy, not "
            f"{type(strategy).__name__}; the classes of flwr.server.strategy are an older API"
        )
    if type(strategy).start is not Strategy.start:
        raise ExperimentError(
            f"{type(strategy).__name__} runs its rounds itself (it overrides start), so they "
            "could not be followed or stopped; override configure_train and aggregate_train"
        )
    if isinstance(strategy, (flower.FedXgbBagging, flower.FedXgbCyclic)):
        raise ExperimentError("FedXgb trains trees, not an nn.Module; choose another strategy")
    inner: Any = strategy
    while inner is not None:
        for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
            wanted = getattr(inner, name, 0)
            if wanted > clients:
                raise ExperimentError(
                    f"your {type(inner).__name__} waits for {name}={wanted} and there are "
                    f"{clients} clients; set {name}={clients} (Flower's default is 2)"
                )
        inner = getattr(inner, "strategy", None)
