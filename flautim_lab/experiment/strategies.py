"""Flower's strategies by name, with their arguments: a table, so that settings are checked early.

The experiment layer does not import Flower: an experiment is checked, and a form can be drawn,
without it. ``tests/training/test_strategies.py`` compares this table with the classes of the
installed ``flwr.serverapp.strategy`` and fails when Flower changes them.

Left out are FedXgbBagging and FedXgbCyclic (they train trees, not ``nn.Module``). The number of
clients per round is the experiment's own setting, so the ``fraction_*`` and ``min_*`` arguments,
and ``num_sampled_clients`` of the differentially private ones, are filled in by us.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flautim_lab.errors import ExperimentError
from flautim_lab.names import choose

Check = tuple[Callable[[float], bool], str]

POSITIVE: Check = (lambda value: value > 0, "greater than 0")
NOT_NEGATIVE: Check = (lambda value: value >= 0, "at least 0")
BELOW_ONE: Check = (lambda value: 0 <= value < 1, "at least 0 and below 1")
BELOW_HALF: Check = (lambda value: 0 <= value < 0.5, "at least 0 and below 0.5")
SHARE: Check = (lambda value: 0 <= value <= 1, "between 0 and 1")


@dataclass(frozen=True)
class Argument:
    """One argument of a strategy: its default (None: it must be given) and what it may be."""

    default: float | None
    check: Check
    whole: bool = False
    optional: bool = False


@dataclass(frozen=True)
class StrategyFacts:
    """What the other layers must know of a strategy without importing Flower.

    Attributes
    ----------
    arguments : mapping of str to Argument
        The strategy's own arguments.
    wraps : bool
        It wraps another strategy (differential privacy).
    client_half : str
        What the client must do ("proximal", "fixed_clipping", "adaptive_clipping"), or "".
    fewest_clients : callable
        Given the arguments, how few answers the strategy can aggregate.
    plain_mean : bool
        Its new weights are the mean of the answers, and nothing more.
    of_the_mean : bool
        Its new weights are made from the mean of the answers, and from none of them by itself.
    """

    arguments: Mapping[str, Argument] = field(default_factory=dict)
    wraps: bool = False
    client_half: str = ""
    fewest_clients: Callable[[Mapping[str, Any]], int] = lambda _: 1
    plain_mean: bool = False
    of_the_mean: bool = False


_ADAPTIVE_SERVER = {
    "beta_1": Argument(0.9, BELOW_ONE),
    "beta_2": Argument(0.99, BELOW_ONE),
}


def _server_rate(eta: float, eta_l: float) -> dict[str, Argument]:
    return {
        "eta": Argument(eta, POSITIVE),
        "eta_l": Argument(eta_l, POSITIVE),
        "tau": Argument(1e-3, POSITIVE),
    }


_MALICIOUS = {"num_malicious_nodes": Argument(0, NOT_NEGATIVE, whole=True)}
_FIXED = {
    "noise_multiplier": Argument(None, NOT_NEGATIVE),
    "clipping_norm": Argument(None, POSITIVE),
}
_ADAPTIVE = {
    "noise_multiplier": Argument(None, NOT_NEGATIVE),
    "initial_clipping_norm": Argument(0.1, POSITIVE),
    "target_clipped_quantile": Argument(0.5, SHARE),
    "clip_norm_lr": Argument(0.2, POSITIVE),
    "clipped_count_stddev": Argument(None, NOT_NEGATIVE, optional=True),
}


def _krum_needs(arguments: Mapping[str, Any]) -> int:
    # A node is scored by its n - f - 2 nearest others, of which there must be one.
    return int(arguments.get("num_malicious_nodes", 0)) + 3


def _bulyan_needs(arguments: Mapping[str, Any]) -> int:
    return 4 * int(arguments.get("num_malicious_nodes", 0)) + 3


STRATEGIES: Mapping[str, StrategyFacts] = {
    "FedAvg": StrategyFacts(plain_mean=True, of_the_mean=True),
    "FedProx": StrategyFacts(
        {"proximal_mu": Argument(0.0, NOT_NEGATIVE)},
        client_half="proximal",
        plain_mean=True,
        of_the_mean=True,
    ),
    "FedAdam": StrategyFacts({**_server_rate(0.1, 0.1), **_ADAPTIVE_SERVER}, of_the_mean=True),
    "FedYogi": StrategyFacts({**_server_rate(0.01, 0.0316), **_ADAPTIVE_SERVER}, of_the_mean=True),
    "FedAdagrad": StrategyFacts(_server_rate(0.1, 0.1), of_the_mean=True),
    "FedAvgM": StrategyFacts(
        {
            "server_learning_rate": Argument(1.0, POSITIVE),
            "server_momentum": Argument(0.0, BELOW_ONE),
        },
        of_the_mean=True,
    ),
    "FedMedian": StrategyFacts(),
    "FedTrimmedAvg": StrategyFacts({"beta": Argument(0.2, BELOW_HALF)}),
    "Krum": StrategyFacts(_MALICIOUS, fewest_clients=_krum_needs),
    "MultiKrum": StrategyFacts(
        {**_MALICIOUS, "num_nodes_to_select": Argument(1, POSITIVE, whole=True)},
        fewest_clients=lambda arguments: max(
            _krum_needs(arguments), int(arguments.get("num_nodes_to_select", 1))
        ),
    ),
    "Bulyan": StrategyFacts(_MALICIOUS, fewest_clients=_bulyan_needs),
    "QFedAvg": StrategyFacts(
        {
            "client_learning_rate": Argument(None, POSITIVE, optional=True),
            "q": Argument(0.1, NOT_NEGATIVE),
        }
    ),
    "DifferentialPrivacyServerSideFixedClipping": StrategyFacts(_FIXED, wraps=True),
    "DifferentialPrivacyClientSideFixedClipping": StrategyFacts(
        _FIXED, wraps=True, client_half="fixed_clipping"
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": StrategyFacts(_ADAPTIVE, wraps=True),
    "DifferentialPrivacyClientSideAdaptiveClipping": StrategyFacts(
        _ADAPTIVE, wraps=True, client_half="adaptive_clipping"
    ),
}

INNER = ("strategy", "strategy_args")


def check_strategy(name: str, arguments: Mapping[str, Any], clients_per_round: int) -> None:
    """Check a strategy's name, its arguments and whether a round has clients enough for it.

    Parameters
    ----------
    name : str
        One of :data:`STRATEGIES`.
    arguments : mapping
        The strategy's own arguments. One that wraps another takes ``strategy`` (a name, FedAvg by
        default) and ``strategy_args`` too.
    clients_per_round : int
        How many clients answer in a round.

    Raises
    ------
    ExperimentError
        Naming the wrong argument, what it may be, and what to do.
    """
    choose(name, STRATEGIES, "strategy")
    facts = STRATEGIES[name]
    allowed = [*facts.arguments, *(INNER if facts.wraps else ())]
    for key, value in arguments.items():
        if key not in allowed:
            if not allowed:
                raise ExperimentError(f"{name} takes no arguments; remove {key!r}")
            choose(key, allowed, f"argument of {name}")
        if key in facts.arguments:
            check_argument(name, key, value)
    for key, argument in facts.arguments.items():
        if argument.default is None and not argument.optional and key not in arguments:
            raise ExperimentError(
                f"{name} needs {key!r} ({argument.check[1]}); write strategy_args={{{key!r}: ...}}"
            )
    needed = facts.fewest_clients(arguments)
    if clients_per_round < needed:
        raise ExperimentError(
            f"{name} needs at least {needed} clients in a round and this experiment has "
            f"{clients_per_round}; use more clients or another strategy"
        )
    if facts.wraps:
        inner = arguments.get("strategy", "FedAvg")
        choose(inner, [n for n, f in STRATEGIES.items() if not f.wraps], "strategy to wrap")
        if not STRATEGIES[inner].plain_mean:
            means = [n for n, f in STRATEGIES.items() if f.plain_mean]
            raise ExperimentError(
                f"{name} scales its noise for a plain mean of the clients, which {inner} does not "
                f"take; wrap one of: {', '.join(means)}"
            )
        check_strategy(inner, arguments.get("strategy_args", {}), clients_per_round)
        if "clipped_count_stddev" in facts.arguments:
            _check_noise_of_the_count(name, arguments, clients_per_round)


def client_halves(name: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the client must do for this strategy and for the one it wraps."""
    facts = STRATEGIES[name]
    own = (facts.client_half,) if facts.client_half else ()
    if not facts.wraps:
        return own
    inner = arguments.get("strategy", "FedAvg")
    return own + client_halves(inner, arguments.get("strategy_args", {}))


def _check_noise_of_the_count(name: str, arguments: Mapping[str, Any], clients: int) -> None:
    """Refuse what leaves no noise for the weights: part of it goes to the count of the clipped.

    Source: Andrew et al., Differentially Private Learning with Adaptive Clipping,
    arXiv:1905.03871, theorem 1; Flower refuses it too, but only when a run starts.
    """
    noise, stddev = arguments["noise_multiplier"], arguments.get("clipped_count_stddev")
    deviation = clients / 20 if stddev is None else stddev
    if noise <= 0 or noise < 2 * deviation:
        return
    default = f", which is {clients} clients / 20 by default" if stddev is None else ""
    raise ExperimentError(
        f"noise_multiplier={noise:g} of {name} must be below twice clipped_count_stddev "
        f"({deviation:g}{default}); give a clipped_count_stddev above {noise / 2:g}, "
        "or use less noise or more clients"
    )


def check_argument(strategy: str, key: str, value: Any) -> None:
    """Check one argument of a strategy, whatever the others are.

    Raises
    ------
    ExperimentError
        If it has no such argument, or that may not be its value.
    """
    arguments = STRATEGIES[choose(strategy, STRATEGIES, "strategy")].arguments
    argument = arguments[choose(key, arguments, f"argument of {strategy}")]
    if value is None and argument.optional:
        return
    test, wording = argument.check
    kind = numbers.Integral if argument.whole else numbers.Real
    right_kind = isinstance(value, kind) and not isinstance(value, bool)
    if not right_kind or not math.isfinite(value) or not test(value):
        what = "a whole number " if argument.whole else ""
        raise ExperimentError(f"{key} of {strategy} must be {what}{wording}, not {value!r}")
