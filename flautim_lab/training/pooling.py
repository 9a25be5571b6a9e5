"""A cohort's answers as one: the mean of its clients' weights, where a strategy takes no more.

A strategy that begins with the mean of all answers, weighted by rows, comes to the same weights
within rounding from the means of cohorts, weighted by the rows of each. So a cohort's stack of
weights need not outlive its training: what a round holds grows with its cohorts, not its clients.
Each client's own measures go with the answer, and are recorded as ever; the strategy still makes
the new weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from torch import Tensor

from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.home_dataset import HomeDataset
from flautim_lab.experiment.strategies import STRATEGIES
from flautim_lab.training import weights
from flautim_lab.training.content import metrics_in, named_config

__all__ = [
    "ROWS",
    "mean_weights",
    "measures_of",
    "members_of",
    "pooled_answer",
    "take_members",
    "takes_means",
]

ROWS = "num-examples"  # Flower's key for the weight of an answer
MEMBERS = "members"  # the record of who is in a cohort's answer, and of each one's measures
CLIENTS = "clients"


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
    arrays: ArrayRecord,
    clients: Sequence[int],
    rows: Sequence[int],
    losses: Sequence[float],
    buffers: bytes,
) -> RecordDict:
    """Return what a cohort answers: one mean, and each client's loss and rows beside it."""
    total = sum(rows)
    mean = float(np.dot(losses, np.asarray(rows) / total))
    content = RecordDict(
        {
            "arrays": arrays,
            "metrics": MetricRecord({"train_loss": mean, ROWS: total}),
            MEMBERS: ConfigRecord(
                {CLIENTS: list(clients), ROWS: list(rows), "train_loss": list(losses)}
            ),
        }
    )
    if buffers:
        content["buffers"] = ConfigRecord({"buffers": buffers})
    return content


def members_of(content: RecordDict) -> list[int]:
    """Return the clients whose answer a content is; none where it is one client's own."""
    record: Any = content.get(MEMBERS)
    return [] if record is None else list(record[CLIENTS])


def measures_of(message: Message) -> list[tuple[int, int, dict[str, float]]]:
    """Return client, rows and measures of each client that a message is the answer of."""
    members: Any = named_config(message, MEMBERS)
    if members is None:
        record: Any = metrics_in(message.content)
        numbers = {
            name: float(value)
            for name, value in record.items()
            # "norm_bit" is adaptive clipping's own message to its strategy
            if name not in (ROWS, "norm_bit") and not isinstance(value, list)
        }
        return [(message.metadata.src_node_id, int(record[ROWS]), numbers)]
    clients, rows, losses = members[CLIENTS], members[ROWS], members["train_loss"]
    return [
        (client, count, {"train_loss": loss})
        for client, count, loss in zip(clients, rows, losses, strict=True)
    ]


def take_members(message: Message) -> None:
    """Take what tells of single clients out of a cohort's answer, before a strategy sees it."""
    if MEMBERS in message.content:
        del message.content[MEMBERS]
