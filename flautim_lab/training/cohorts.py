"""The clients of a round as cohorts: from the messages that ask them to what they answer.

A grid gives the messages of one cohort to :meth:`Cohorts.prepare` before it asks each client by
itself. What was computed for all of them lies ready then, and the ``ClientApp`` with its modifiers
handles one message per client as ever: clipping for differential privacy, what is recorded, who
failed and why are the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from torch import Tensor, nn

from flautim_lab.errors import TrainingError
from flautim_lab.experiment import loops
from flautim_lab.experiment.client_data import EVALUATION_NUMBERS, EVALUATION_ROWS, ClientData
from flautim_lab.experiment.streams import stream, stream_seeds
from flautim_lab.training import pooling, weights
from flautim_lab.training.cohort import Stack, Trained
from flautim_lab.training.content import arrays_in, config_in
from flautim_lab.training.fitting import Room, joined
from flautim_lab.training.printed import printed_here
from flautim_lab.training.stackable import Engine, make_stack
from flautim_lab.training.stacked_batches import Member

if TYPE_CHECKING:
    from flautim_lab.training.client_app import ClientHost

__all__ = ["Cohorts", "Ready"]

#: Inputs and targets, and the numbers of each client's rows in them.
Pool = tuple[tuple[Tensor, Tensor], list[Tensor]]


@dataclass(frozen=True)
class Ready:
    """What a cohort has computed for one of its clients.

    Attributes
    ----------
    content : RecordDict
        Of the message that it answers.
    measures : dict
        Names to numbers, with ``loss``.
    rows : int
        How many they are of.
    arrays : ArrayRecord, optional
        New weights, where it was trained.
    error : TrainingError, optional
        Why there is nothing of it.
    printed : str
        What its metrics have printed.
    """

    content: RecordDict
    measures: dict[str, float]
    rows: int
    arrays: ArrayRecord | None = None
    error: TrainingError | None = None
    printed: str = ""


class Cohorts:
    """Computes the answers of several clients at once and keeps them until each is asked.

    Parameters
    ----------
    host : ClientHost
        Of the clients.
    engine : Engine
    check : callable
        Called with a client's number before every step; raises to end the work.
    pools : bool
        A cohort answers once, with the mean of the weights that it trained.
    """

    def __init__(
        self, host: ClientHost, engine: Engine, check: Callable[[int], None], pools: bool
    ) -> None:
        self._host = host
        self._pools = pools
        self._engine = engine
        self._check = check
        self._lock = threading.Lock()
        self._ready: dict[int, Ready] = {}
        self._known: OrderedDict[tuple[str, tuple[int, ...]], Pool] = OrderedDict()
        self._most_known = 2 * len(host.experiment.splits)  # clients: each with its two splits
        self._own = threading.local()
        self._train_room = Room("clients", "trained")
        self._rows_room = Room("rows", "evaluated")

    def take(self, client: int, message: Message) -> Ready | None:
        """Return what lies ready for a message to a client, once; None if nothing does."""
        with self._lock:
            ready = self._ready.pop(client, None)
        return ready if ready is not None and ready.content is message.content else None

    def prepare(self, kind: str, content: RecordDict, clients: Sequence[int]) -> RecordDict | None:
        """Compute the answers of a cohort to one content.

        Parameters
        ----------
        kind : str
            Flower's type of the messages.
        content : RecordDict
            What each of the clients is sent.
        clients : sequence of int
            One of :meth:`Engine.blocks`.

        Returns
        -------
        RecordDict or None
            What answers for those clients that are its members (``pooling.py``). The others are to
            be asked one by one; all of them where it is None.
        """
        if self._engine.name != "cohort":
            return None
        pooled = None
        if kind.startswith(MessageType.TRAIN):
            with self._host.times.spent_on("training"):
                made, pooled = self._train(content, clients)
        elif kind.startswith(MessageType.EVALUATE) and self._engine.measures:
            with self._host.times.spent_on("evaluating"):
                made, pooled = self._evaluate(content, clients)
        else:
            return None
        with self._lock:
            self._ready.update(made)
        return pooled

    # --- training -----------------------------------------------------------------------------

    def _train(
        self, content: RecordDict, clients: Sequence[int]
    ) -> tuple[dict[int, Ready], RecordDict | None]:
        host = self._host
        sent, config = arrays_in(content), config_in(content)
        round_number = int(config["server-round"])  # type: ignore[arg-type]
        model, stack = self._stack()
        self._load(model, content)
        start = {name: p.detach() for name, p in model.named_parameters()}
        with host.times.spent_on("data"):
            pool, rows = self._pool(clients, config, "train")

        def train(part: slice) -> Trained:
            own = clients[part]
            with host.times.spent_on("data"):
                members = self._members(own, rows[part], round_number)
            return stack.train(
                start,
                [name for name, p in model.named_parameters() if p.requires_grad],
                pool,
                members,
                mu=float(config.get("proximal-mu", 0.0)),  # type: ignore[arg-type]
                check=lambda place: self._check(own[place]),
            )

        trained = joined(self._train_room.in_parts(len(clients), train))
        host.times.of_that_on("data", trained.data_seconds)
        counts = [len(own) for own in rows]
        if self._pools:
            buffers: Any = config.get("buffers", b"")  # a cohort leaves them as they were sent
            return self._pooled(content, clients, trained, counts, start, buffers)
        return {
            client: Ready(content, {"loss": loss}, count, arrays, trained.failures.get(place))
            for place, (client, loss, count, arrays) in enumerate(
                zip(
                    clients,
                    trained.losses,
                    counts,
                    weights.unstacked(trained.weights, sent),
                    strict=True,
                )
            )
        }, None

    def _pooled(
        self,
        content: RecordDict,
        clients: Sequence[int],
        trained: Trained,
        counts: Sequence[int],
        start: Mapping[str, Tensor],
        buffers: bytes,
    ) -> tuple[dict[int, Ready], RecordDict | None]:
        """Return the errors of those who failed, and one answer for all others."""
        failed = {
            clients[place]: Ready(content, {}, counts[place], error=error)
            for place, error in trained.failures.items()
        }
        good = [place for place in range(len(clients)) if place not in trained.failures]
        if not good:
            return failed, None
        stacks = trained.weights
        if failed:
            stacks = {name: stack[good] for name, stack in stacks.items()}
        rows = [counts[place] for place in good]
        arrays = pooling.mean_weights(stacks, rows, arrays_in(content), start)
        names, losses = [clients[place] for place in good], [trained.losses[p] for p in good]
        return failed, pooling.pooled_answer(names, rows, {"train_loss": losses}, arrays, buffers)

    def _stack(self) -> tuple[nn.Module, Stack]:
        """Return this thread's model and what trains cohorts with it."""
        if not hasattr(self._own, "stack"):
            experiment = self._host.experiment
            model = experiment.build_model().to(self._host.device).train()
            self._own.stack = model, make_stack(experiment, self._engine, model)
        found: tuple[nn.Module, Stack] = self._own.stack
        return found

    def _load(self, model: nn.Module, content: RecordDict) -> None:
        """Put what a server sends into this thread's model, unless it is there: nobody changes it.

        Whoever trains a cohort leaves the model's own weights as they are.
        """
        arrays, config = arrays_in(content), config_in(content)
        last, buffers = getattr(self._own, "loaded", (None, None))
        if last is not arrays or buffers != config.get("buffers"):
            self._own.loaded = None, None
            self._host.load(model, arrays, config)
            self._own.loaded = arrays, config.get("buffers")

    def _pool(self, clients: Sequence[int], config: ConfigRecord, split: str) -> Pool:
        """Return tensors with the rows of all clients, and which of them are whose.

        Where those are the dataset's own tensors, so that nothing but numbers is held, the answer
        is kept: of no more clients than there are, those asked for last.
        """
        key = split, tuple(clients)
        with self._lock:
            known = self._known.pop(key, None)
        if known is None:
            data = [self._host.scaled_data(client, config) for client in clients]
            known, shared = _pooled(data, split)
            if not shared:
                return known
        with self._lock:
            self._known[key] = known
            while sum(len(rows) for _, rows in self._known.values()) > self._most_known:
                self._known.popitem(last=False)
        return known

    def _members(
        self, clients: Sequence[int], rows: Sequence[Tensor], round_number: int
    ) -> list[Member]:
        """Return clients with their orders and draws, from the same streams as in the loop."""
        experiment = self._host.experiment
        seeds = stream_seeds(experiment.seed, "batches", round_number, clients)
        generator = torch.Generator()
        members = []
        for client, own, seed in zip(clients, rows, seeds, strict=True):
            generator.manual_seed(seed)
            orders = [
                torch.randperm(len(own), generator=generator)
                for _ in range(experiment.local_epochs)
            ]
            draws = None
            if experiment.facts.draws:
                draws = stream(experiment.seed, "draws", round_number, client)
            members.append(Member(own, orders, draws))
        return members

    # --- evaluation ---------------------------------------------------------------------------

    def _evaluate(
        self, content: RecordDict, clients: Sequence[int]
    ) -> tuple[dict[int, Ready], RecordDict | None]:
        experiment = self._host.experiment
        config = config_in(content)
        model, _ = self._stack()  # not a copy of its own, which would take longer than all else
        self._load(model, content)
        with self._host.times.spent_on("data"):
            pool, rows = self._pool(clients, config, "validation")
        counts = [len(own) for own in rows]
        of_rows, outputs = self._rows_measured(model, pool, torch.cat(rows), clients[0])
        columns = _means(of_rows, counts)
        found = self._own_measures(*outputs, counts) if outputs is not None else []
        own = [one for one in found if one is not None]
        if len(own) < len(found):  # the others are asked one by one, and say what went wrong
            there = [place for place, one in enumerate(found) if one is not None]
            clients, counts = [clients[p] for p in there], [counts[p] for p in there]
            columns = {name: [of_each[p] for p in there] for name, of_each in columns.items()}
        if not clients:
            return {}, None
        names = own[0][0].keys() if own else ()
        alike = all(measures.keys() == names and not text for measures, text in own)
        if alike and self._pools and pooling.takes_mean_measures(experiment):
            columns |= {name: [measures[name] for measures, _ in own] for name in names}
            return {}, pooling.pooled_answer(clients, counts, columns)
        made = {}
        for place, (client, count) in enumerate(zip(clients, counts, strict=True)):
            more, text = own[place] if own else ({}, "")
            measures = {name: of_each[place] for name, of_each in columns.items()}
            made[client] = Ready(content, measures | more, count, printed=text)
        return made, None

    def _rows_measured(
        self, model: nn.Module, pool: tuple[Tensor, Tensor], rows: Tensor, first: int
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor] | None]:
        """Return measures by name, of each row of the pool that is asked for.

        And the model's outputs for them with their targets, where the researcher's own metrics are
        to see them; else no more of them is held than is computed at once.
        """
        experiment, (x, y) = self._host.experiment, pool
        rows = rows.to(y.device)
        keeps = bool(experiment.own_metrics and experiment.measured)

        def measured(part: slice) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor] | None]:
            self._check(first)
            outputs = model(x.index_select(0, rows[part]))
            targets = y.index_select(0, rows[part])
            values = {"loss": loops.row_losses(outputs, targets, experiment.task).double()}
            if experiment.measured and not keeps:
                values |= loops.default_metrics_of_rows(outputs, targets, experiment.task)
            values = {name: of_rows.reshape(-1).cpu() for name, of_rows in values.items()}
            return values, (outputs, targets) if keeps else None

        most = max(EVALUATION_ROWS, EVALUATION_NUMBERS // max(x[:1].numel(), 1))
        model.eval()
        try:
            with torch.no_grad():
                parts = self._rows_room.in_parts(len(rows), measured, most)
        finally:
            model.train()
        columns = {name: torch.cat([values[name] for values, _ in parts]) for name in parts[0][0]}
        seen = [each for _, each in parts if each is not None]
        if not seen:
            return columns, None
        outputs, targets = zip(*seen, strict=True)
        return columns, (torch.cat(outputs), torch.cat(targets))

    def _own_measures(
        self, outputs: Tensor, targets: Tensor, counts: Sequence[int]
    ) -> list[tuple[dict[str, float], str] | None]:
        """Return what metrics of the researcher's own say of each client, and what they printed.

        Their names may be others from client to client; None where they fail.
        """
        own: list[tuple[dict[str, float], str] | None] = []
        parts = zip(
            *(torch.split(whole, list(counts)) for whole in (outputs, targets)), strict=True
        )
        for part in parts:
            with torch.no_grad(), printed_here() as printed:
                try:
                    measures = loops.measured(self._host.experiment, *part)
                except Exception:  # noqa: BLE001 - it fails again where it is told
                    measures = None
            own.append(None if measures is None else (measures, printed.text))
        return own


def _means(of_rows: Mapping[str, Tensor], counts: Sequence[int]) -> dict[str, list[float]]:
    """Return the mean of each measure over the rows of each client, by name."""
    begins = np.cumsum([0, *counts[:-1]])
    return {
        name: (np.add.reduceat(values.numpy(), begins) / counts).tolist()
        for name, values in of_rows.items()
    }


def _pooled(data: Sequence[ClientData], split: str) -> tuple[Pool, bool]:
    """Return what :meth:`Cohorts._pool` does, and whether the clients share those tensors."""
    pools = [one.pool(split) for one in data]
    x, y, _ = pools[0]
    if len(pools) > 1 and all(other[0] is x and other[1] is y for other in pools):
        return ((x, y), [torch.from_numpy(numbers) for _, _, numbers in pools]), True
    begins: Any = np.cumsum([0, *(len(part[1]) for part in pools[:-1])])
    rows = [
        torch.from_numpy(numbers + begin)
        for (_, _, numbers), begin in zip(pools, begins, strict=True)
    ]
    return ((torch.cat([p[0] for p in pools]), torch.cat([p[1] for p in pools])), rows), False
