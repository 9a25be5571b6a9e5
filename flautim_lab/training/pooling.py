"""The answers of clients as one: the mean of their weights, where a strategy takes no more.

A strategy that begins with the mean of all answers, weighted by rows, comes to the same weights
within rounding from that mean alone. So a cohort answers with the mean of its clients, and the
answers of a round, cohorts' or single clients', are added up as they come, in client order: neither
a cohort's stack of weights nor an answer's outlives its turn. Each client's own measures are
recorded as ever, and the strategy still makes the new weights.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flwr.serverapp.strategy as flower
import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from torch import Tensor

from flautim_lab.errors import TrainingError
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.home_dataset import HomeDataset
from flautim_lab.experiment.strategies import STRATEGIES
from flautim_lab.training import weights
from flautim_lab.training.content import arrays_in, metrics_in, named_config

__all__ = [
    "ARRAYS",
    "ROWS",
    "Measured",
    "RunningMean",
    "mean_weights",
    "measures_of",
    "members_of",
    "pooled_answer",
    "take_members",
    "takes_mean_measures",
    "takes_means",
]

ROWS = "num-examples"  # Flower's key for the weight of an answer
MEMBERS = "members"  # the record of who is in a cohort's answer, and of how many rows
MEASURES = "members' measures"  # that of each one's numbers, by name, in the same order
CLIENTS = "clients"
ARRAYS = "arrays"  # the record of an answer's weights


def takes_means(experiment: Experiment) -> bool:
    """Return whether the experiment's strategy looks at nothing but the mean of all answers.

    Flower's own, as they are: a subclass, or one with a weight or an average of its own, may look
    at each client's answer. Where rows stay with their institutions the server looks at each
    (``at_home.py``).
    """
    if isinstance(experiment.dataset, HomeDataset):
        return False
    chosen = experiment.strategy
    if isinstance(chosen, str):
        return STRATEGIES[chosen].of_the_mean
    return (
        any(f.of_the_mean and type(chosen) is getattr(flower, n) for n, f in STRATEGIES.items())
        and chosen.weighted_by_key == ROWS
        and chosen.train_metrics_aggr_fn is aggregate_metricrecords
        and "aggregate_train" not in vars(chosen)
    )


def takes_mean_measures(experiment: Experiment) -> bool:
    """Return whether also of what clients evaluate the strategy takes the means alone."""
    chosen = experiment.strategy
    return takes_means(experiment) and (
        isinstance(chosen, str)
        or (
            chosen.evaluate_metrics_aggr_fn is aggregate_metricrecords
            and "aggregate_evaluate" not in vars(chosen)
        )
    )


def mean_weights(
    stacks: Mapping[str, Tensor],
    rows: Sequence[int],
    sent: ArrayRecord,
    start: Mapping[str, Tensor],
) -> ArrayRecord:
    """Return the mean of the weights of a stack of clients, weighted by rows, as an answer.

    Parameters
    ----------
    stacks : mapping of str to Tensor
        What was trained, by name, each (clients, ...), on the CPU.
    rows : sequence of int
        Of each client.
    sent : ArrayRecord
        All weights as they were sent; those that nobody changed go back as they are.
    start : mapping of str to Tensor
        The same as tensors, in the model's shapes.
    """
    shares = torch.tensor(rows, dtype=torch.float64)
    shares /= shares.sum()
    record = ArrayRecord()
    for name, array in sent.items():
        if name in stacks:
            stack = stacks[name].detach()
            own = start[name].cpu()
            if not (torch.equal(stack[0], own) and bool((stack == own).all())):
                flat = stack.reshape(len(stack), -1)
                mean = (shares.to(flat.dtype) @ flat).reshape(own.shape)
                array = weights.kept(mean)
        record[name] = array
    return record


def pooled_answer(
    clients: Sequence[int],
    rows: Sequence[int],
    measures: Mapping[str, Sequence[float]],
    arrays: ArrayRecord | None = None,
    buffers: bytes = b"",
) -> RecordDict:
    """Return what a cohort answers: means, and each client's measures and rows beside them.

    Parameters
    ----------
    clients, rows : sequence of int
        Who is in the cohort, and how many rows each measure is of.
    measures : mapping of str to sequence of float
        By name, of each client.
    arrays : ArrayRecord, optional
        The mean of what was trained.
    buffers : bytes
        As they were sent.
    """
    total = sum(rows)
    shares = np.asarray(rows) / total
    means = {name: float(np.dot(values, shares)) for name, values in measures.items()}
    content = RecordDict(
        {
            "metrics": MetricRecord({**means, ROWS: total}),
            MEMBERS: ConfigRecord({CLIENTS: list(clients), ROWS: list(rows)}),
            MEASURES: ConfigRecord({name: list(values) for name, values in measures.items()}),
        }
    )
    if arrays is not None:
        content[ARRAYS] = arrays
    if buffers:
        content["buffers"] = ConfigRecord({"buffers": buffers})
    return content


def members_of(content: RecordDict) -> list[int]:
    """Return the clients whose answer a content is; none where it is one client's own."""
    record: Any = content.get(MEMBERS)
    return [] if record is None else list(record[CLIENTS])


class Measured(NamedTuple):
    """A measure of several clients, in client order.

    Attributes
    ----------
    clients, rows : list of int
        Whose it is, and of how many rows.
    values : list of float
    """

    clients: list[int]
    rows: list[int]
    values: list[float]

    def mean(self) -> float:
        """Return the mean, weighted by rows; NaN where there are none. Added up in client order."""
        total = functools.reduce(operator.add, map(operator.mul, self.values, self.rows), 0.0)
        rows = sum(self.rows)
        return total / rows if rows else math.nan


def measures_of(answers: Iterable[Message]) -> dict[str, Measured]:
    """Return what the clients that messages with content are the answers of measured, by name."""
    found: dict[str, Measured] = {}
    for message in answers:
        members: Any = named_config(message, MEMBERS)
        of_each: Any = named_config(message, MEASURES)
        if members is None:
            record: Any = metrics_in(message.content)
            members = {CLIENTS: [message.metadata.src_node_id], ROWS: [int(record[ROWS])]}
            of_each = {
                name: [float(value)]
                for name, value in record.items()
                # "norm_bit" is adaptive clipping's own message to its strategy
                if name not in (ROWS, "norm_bit") and not isinstance(value, list)
            }
        for name, values in of_each.items():
            measured = found.setdefault(name, Measured([], [], []))
            measured.clients.extend(members[CLIENTS])
            measured.rows.extend(members[ROWS])
            measured.values.extend(values)
    return {name: _in_client_order(measured) for name, measured in found.items()}


def _in_client_order(measured: Measured) -> Measured:
    clients = measured.clients
    if all(map(operator.lt, clients, clients[1:])):
        return measured
    order = sorted(range(len(clients)), key=clients.__getitem__)
    rows, values = measured.rows, measured.values
    return Measured(
        [clients[place] for place in order],
        [rows[place] for place in order],
        [values[place] for place in order],
    )


def take_members(message: Message) -> None:
    """Take what tells of single clients out of a cohort's answer, before a strategy sees it."""
    for name in (MEMBERS, MEASURES):
        if name in message.content:
            del message.content[name]


class RunningMean:
    """The mean of the weights that clients answer, weighted by rows; holds one model, in double.

    Parameters
    ----------
    sent : ArrayRecord
        The weights that the clients were sent. Those that all of them send back as they were stay
        so, to the bit.
    """

    def __init__(self, sent: ArrayRecord) -> None:
        self._sent = sent
        self._rows = 0
        self._only: ArrayRecord | None = None  # until there is another: it is the mean then
        self._sums: dict[str, Any] = {}  # of the weights that somebody has changed
        self._wrong = ""

    def take(self, answer: Message) -> None:
        """Add the weights of an answer, and take them out of it; one without any changes nothing.

        Parameters
        ----------
        answer : Message
            Of a client, or of a cohort.
        """
        if answer.has_error() or ARRAYS not in answer.content:
            return
        arrays = arrays_in(answer.content)
        del answer.content[ARRAYS]
        self._wrong = self._wrong or self._difference(arrays, answer.metadata.src_node_id)
        if self._wrong:
            return
        rows: Any = metrics_in(answer.content)[ROWS]
        if not self._rows:
            self._only, self._rows = arrays, rows
            return
        if self._only is not None:
            first, self._rows, before = self._only, 0, self._rows
            self._only = None
            self._add(first, before)
        self._add(arrays, rows)

    def put_into(self, answer: Message) -> set[str]:
        """Let an answer stand for all; returns the names of the weights that nobody has changed.

        Raises
        ------
        TrainingError
            If an answer was of another model.
        """
        if self._wrong:
            raise TrainingError(self._wrong)
        if self._only is not None:
            mean = self._only
        else:
            mean = ArrayRecord(dict(self._sent))
            for name, total in self._sums.items():
                mean[name] = weights.in_type_of(total / self._rows, self._sent[name])
        answer.content[ARRAYS] = mean
        answer.content["metrics"] = MetricRecord({ROWS: self._rows})
        if self._only is not None:
            return weights.unchanged(self._sent, [mean])
        return set(self._sent) - set(self._sums)

    def _add(self, arrays: ArrayRecord, rows: int) -> None:
        for name, array in arrays.items():
            if name not in self._sums:
                if weights.equal(array, self._sent[name]):
                    continue
                self._sums[name] = weights.weighted(self._sent[name], self._rows)
            self._sums[name] += weights.weighted(array, rows)
        self._rows += rows

    def _difference(self, arrays: ArrayRecord, client: int) -> str:
        """Return what is wrong with the names or shapes of an answer, "" if nothing is."""
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        for name, array in self._sent.items():
            if shapes.pop(name, None) != tuple(array.shape):
                return f"client {client} answered with another {name!r} than it was sent"
        if shapes:
            return f"client {client} answered with a weight {next(iter(shapes))!r} of its own"
        return ""
