"""From an experiment to one of Flower's strategy objects.

Differential privacy is Flower's (its four wrappers); what its guarantee takes for granted is seen
to here. All clients weigh alike, since the noise is scaled for the clipping norm divided by their
number; what would leave a client without noise (buffers, sums for a common scale) is refused; and
a client that changed nothing is no division by zero. The measures of clients (loss, accuracy) are
recorded as they are: the guarantee is about the weights alone, as Flower's is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flwr.serverapp.strategy as flower
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.differential_privacy import KEY_NORM_BIT

from flautim_lab.errors import ExperimentError
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.strategies import STRATEGIES
from flautim_lab.training import flower as flower_inside
from flautim_lab.training import weights
from flautim_lab.training.pooling import ROWS

__all__ = ["EqualWeights", "Strategy", "client_mods", "make_strategy"]

_CLIPPING: Mapping[type[Strategy], Mod] = {
    flower.DifferentialPrivacyClientSideFixedClipping: fixedclipping_mod,
    flower.DifferentialPrivacyClientSideAdaptiveClipping: adaptiveclipping_mod,
}
_PRIVATE: tuple[type[Strategy], ...] = (
    *_CLIPPING,
    flower.DifferentialPrivacyServerSideFixedClipping,
    flower.DifferentialPrivacyServerSideAdaptiveClipping,
)


def make_strategy(experiment: Experiment) -> Strategy:
    """Return a fresh strategy for a run of ``experiment``.

    A strategy object of the researcher's own is copied, so that its state does not leak from run
    to run.

    Raises
    ------
    ExperimentError
        If the researcher's strategy is none of Flower's Message API, runs its rounds itself, or
        would wait for more clients than there are; or if it is differentially private and
        something would leave a client without noise.
    """
    flower_inside.prepare()
    if experiment.centralized:
        return _by_name("FedAvg", {}, experiment)
    chosen = experiment.strategy
    if isinstance(chosen, str):
        made = _by_name(chosen, experiment.strategy_args, experiment)
    else:
        made = copy.deepcopy(chosen) if isinstance(chosen, Strategy) else _call(chosen)
        _check_object(made, len(experiment.splits))
    private = next((one for one in _nested(made) if isinstance(one, _PRIVATE)), None)
    if private is None:
        return made
    _check_private(private, experiment)
    return EqualWeights(made)


def client_mods(strategy: Strategy) -> list[Mod]:
    """Return Flower's client modifiers that the strategy counts on (clipping of updates)."""
    return [
        _unless_nothing_changed(mod)
        for one in _nested(strategy)
        for kind, mod in _CLIPPING.items()
        if isinstance(one, kind)
    ]


class EqualWeights(Strategy):
    """Lets every client weigh alike in a differentially private strategy, whatever its rows.

    Flower's noise has the standard deviation ``noise_multiplier * clipping_norm / clients``, which
    is right for a mean in which each client weighs 1 / clients (McMahan et al., Learning
    Differentially Private Recurrent Language Models, arXiv:1710.06963, with weights of 1). Its
    FedAvg weighs clients by rows: one with most of the rows would be hidden by too little noise.

    Parameters
    ----------
    strategy : Strategy
        One of Flower's four that clip and add noise.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the strategy inside."""
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let each reply weigh 1, and the strategy inside aggregate them."""
        listed = list(replies)
        keys = {getattr(one, "weighted_by_key", ROWS) for one in _nested(self.strategy)}
        for reply in listed:
            if reply.has_content():
                for record in reply.content.metric_records.values():
                    record.update(dict.fromkeys(keys & set(record), 1))
        private: list[Any] = [one for one in _nested(self.strategy) if isinstance(one, _PRIVATE)]
        for one in private:
            one.clipping_norm = _Norm(one.clipping_norm)
        try:
            return self.strategy.aggregate_train(server_round, listed)
        finally:
            for one in private:
                one.clipping_norm = float(one.clipping_norm)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the strategy inside."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Ask the strategy inside; measures are means over rows, as everywhere."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Ask the strategy inside."""
        self.strategy.summary()


class _Norm(float):
    """A clipping norm; divided by the norm of an update of zeros it is infinite, and clips none.

    Flower divides by that norm as it is, and would raise ZeroDivisionError.
    """

    def __truediv__(self, other: float) -> float:
        return float("inf") if other == 0 else float(self) / other


def _unless_nothing_changed(clip: Mod) -> Mod:
    """Return Flower's clipping, but let an update of zeros pass; see :class:`_Norm`."""

    def guarded(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        answers: list[Message] = []

        def remember(message: Message, context: Context) -> Message:
            answers.append(call_next(message, context))
            return answers[-1]

        try:
            return clip(message, context, remember)
        except ZeroDivisionError:
            if not answers:  # it comes from the training itself
                raise
        (answer,) = answers
        if clip is adaptiveclipping_mod:
            record = next(iter(answer.content.metric_records.values()))
            record[KEY_NORM_BIT] = 0  # it was not clipped
        return answer

    return guarded


def _nested(strategy: Any) -> Iterator[Any]:
    """Yield a strategy, the one that it wraps, and so on."""
    while strategy is not None:
        yield strategy
        strategy = getattr(strategy, "strategy", None)


def _check_private(private: Any, experiment: Experiment) -> None:
    """Refuse what would make the guarantee of a differentially private strategy void."""
    name, dataset = type(private).__name__, experiment.dataset
    *_, mean = _nested(private)
    theirs = type(mean).aggregate_train
    if theirs is not flower.FedAvg.aggregate_train and theirs.__module__.startswith("flwr."):
        raise ExperimentError(
            f"{name} scales its noise for a plain mean of the clients, which "
            f"{type(mean).__name__} does not take; wrap FedAvg or FedProx"
        )
    if isinstance(dataset, CSVDataset) and dataset.standardize == "federated":
        raise ExperimentError(
            f"{name} adds no noise to the sums from which CSVDataset(standardize='federated') "
            "scales all clients alike; write standardize='client' or standardize=None"
        )
    for buffer, tensor in weights.buffers_of(experiment.build_model()).items():
        if tensor.is_floating_point() or tensor.is_complex():
            raise ExperimentError(
                f"{name} adds no noise to buffers, and {experiment.model_name} has one "
                f"({buffer!r}); replace BatchNorm by GroupNorm, and register a constant with "
                "persistent=False"
            )


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
    for inner in _nested(strategy):
        for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
            wanted = getattr(inner, name, 0)
            if wanted > clients:
                raise ExperimentError(
                    f"your {type(inner).__name__} waits for {name}={wanted} and there are "
                    f"{clients} clients; set {name}={clients} (Flower's default is 2)"
                )
