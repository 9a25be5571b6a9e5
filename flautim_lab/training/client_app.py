"""The client's side: Flower's ``ClientApp``, the same object under each runner.

A client answers three kinds of message. ``query`` (round 0): what its rows add up to, so that all
clients scale alike. ``train``: new weights and the training loss. ``evaluate``: measures of the
global model on its validation rows. All it needs to know comes with the message, so a client that
was lost can be taken over by another worker and give the same answer, bit for bit.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from torch import Tensor, nn

from flautim_lab.errors import DatasetError, TrainingError
from flautim_lab.experiment import loops
from flautim_lab.experiment.client_data import ClientData, Scale, Sums
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.home_dataset import HomeDataset, on_a_volume
from flautim_lab.experiment.model_copy import copy_model
from flautim_lab.experiment.model_state import can_be_copied
from flautim_lab.experiment.streams import PrivateGlobals, PrivateRandom, stream, stream_seed
from flautim_lab.training import flower, weights
from flautim_lab.training.at_home import PRINTED, how_much, words_of
from flautim_lab.training.cohorts import Cohorts
from flautim_lab.training.content import arrays_in, config_in, named_config
from flautim_lab.training.pooling import ARRAYS, ROWS
from flautim_lab.training.printed import printed_here
from flautim_lab.training.stackable import choose_engine
from flautim_lab.training.usage import ClientTimes

CLIENT = "partition-id"  # Flower's key for the number of a client

Check = Callable[[], None]


def scale_to_config(config: ConfigRecord, scale: Scale | None) -> None:
    """Write a scale into the config that goes to every client."""
    if scale is not None:
        config["scale-mean"] = scale.mean.tolist()
        config["scale-std"] = scale.std.tolist()


def sums_from_reply(message: Message) -> Sums:
    """Read what a client's rows add up to from its answer to a ``query``."""
    record = arrays_in(message.content)
    return Sums(*(weights.values(record[name]) for name in ("count", "total", "squares")))


class ClientHost:
    """Hosts clients: keeps each one's data from round to round and a pristine model to copy.

    Parameters
    ----------
    experiment : Experiment
    device : torch.device
        Where the clients train.
    check : callable
        Called with the client's number before every batch; raises to end its work.
    pools : bool
        Cohorts answer with the mean of their clients' weights, since the strategy takes no more
        (:func:`~flautim_lab.training.pooling.takes_means`).
    """

    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        check: Callable[[int], None] = lambda _client: None,
        pools: bool = False,
    ) -> None:
        self.experiment = experiment
        self.device = device
        self._check = check
        self._lock = threading.Lock()
        self._data: dict[int, ClientData] = {}
        self._unreadable: dict[int, str] = {}
        self._optimizer_state: dict[int, Any] = {}
        self._model = experiment.build_model()
        self._copied = can_be_copied(self._model)
        self._last: tuple[ArrayRecord | None, dict[str, Tensor]] = (None, {})
        #: What the clients' time goes into.
        self.times = ClientTimes()
        #: How clients are trained, and what computes several of them at once.
        self.engine = choose_engine(experiment, device)
        self.cohorts = Cohorts(self, self.engine, check, pools)

    def data(self, client: int) -> ClientData:
        """Return a client's data, loaded on first use."""
        with self._lock:
            if client not in self._data:
                device = None if self.device.type == "cpu" else self.device
                try:
                    self._data[client] = ClientData(self.experiment, client, device)
                except DatasetError as error:
                    self._unreadable[client] = str(error)
                    raise
            return self._data[client]

    def why(self, client: int, error: BaseException) -> str:
        """Return what a worker that has an institution's rows tells of a client's failure.

        Why its table could not be read: no code of the researcher had it yet, and a home's table is
        described by no value of it. Of all else only what kind of error it is.
        """
        at_home = type(self.experiment.dataset) is HomeDataset
        return (at_home and self._unreadable.get(client)) or words_of(error)

    def model(self, message: Message) -> nn.Module:
        """Return a model with the message's weights.

        A fresh copy each time: what a module keeps beside its weights (a hidden state, a counter)
        must not pass from one client to the next.
        """
        return self.model_of(arrays_in(message.content), config_in(message.content))

    def model_of(self, arrays: ArrayRecord, config: ConfigRecord) -> nn.Module:
        """Return a model with the weights and buffers that a server sends."""
        model = self._copy() if self._copied else self.experiment.build_model()
        self.load(model, arrays, config)
        return model.to(self.device)

    def load(self, model: nn.Module, arrays: ArrayRecord, config: ConfigRecord) -> None:
        """Put the weights and buffers that a server sends into a model."""
        buffers: Any = config.get("buffers", b"")
        weights.load(model, self._decoded(arrays), buffers)

    def _copy(self) -> nn.Module:
        try:
            return copy_model(self._model)
        except Exception:  # noqa: BLE001 - weight_norm and scripted modules refuse to be copied
            return self.experiment.build_model()

    def _decoded(self, record: ArrayRecord) -> dict[str, Tensor]:
        """Decode the weights of a round once: all its messages carry the same record."""
        last, tensors = self._last
        if last is not record:
            tensors = weights.decode(record)
            self._last = (record, tensors)
        return tensors

    def train(self, client: int, message: Message) -> Message:
        """Train on the client's rows; answer weights, buffers, loss and rows."""
        experiment, config = self.experiment, config_in(message.content)
        round_number = int(config["server-round"])  # type: ignore[arg-type]
        with self.times.spent_on("data"):
            data = self.scaled_data(client, config)
        model = self.model(message)
        batches = data.batches(
            "train",
            generator=stream(experiment.seed, "batches", round_number, client),
            drop_single=experiment.facts.has_batch_norm,
            check=lambda: self._check(client),
            reading=self._reading(client, round_number),
        )
        mu = float(config.get("proximal-mu", 0.0))  # type: ignore[arg-type]
        if mu:
            add_proximal_term(experiment, model, mu)
        draw = self._draws(client, round_number)
        if experiment.own_training_loop:
            with draw():
                result = as_measures(experiment.training_loop(model, batches), "training_loop")
        else:
            optimizer = experiment.make_optimizer(model)
            if experiment.centralized and client in self._optimizer_state:
                # A centralized baseline is one long training: its moments live on.
                optimizer.load_state_dict(self._optimizer_state[client])
            result = loops.train(experiment, model, batches, optimizer, draw)
            if experiment.centralized:
                self._optimizer_state[client] = optimizer.state_dict()
        self.times.of_that_on("data", batches.seconds)
        loops.check_trained(experiment, model, result["loss"])
        buffers = weights.buffers_to_bytes(weights.buffers_of(model))
        arrays = weights.to_record(model)
        return self._trained(message, result, data.rows("train"), arrays, buffers)

    def ready(self, message: Message) -> Message | None:
        """Answer with what a cohort has computed for the client; None if there is nothing.

        Raises
        ------
        TrainingError
            If the client failed in its cohort.
        """
        client = message.metadata.dst_node_id
        ready = self.cohorts.take(client, message)
        if ready is None:
            return None
        if ready.error is not None:
            raise ready.error
        if ready.arrays is None:
            metrics = MetricRecord({**ready.measures, ROWS: ready.rows})
            reply = Message(RecordDict({"metrics": metrics}), reply_to=message)
        else:
            # A cohort leaves buffers as they were sent.
            buffers: Any = config_in(message.content).get("buffers", b"")
            reply = self._trained(message, ready.measures, ready.rows, ready.arrays, buffers)
        if said := _may_be_told(self, ready.printed):
            reply.content[PRINTED] = ConfigRecord({"text": said})
        return reply

    def _trained(
        self,
        message: Message,
        result: Mapping[str, float],
        rows: int,
        arrays: ArrayRecord,
        buffers: bytes,
    ) -> Message:
        measures = {f"train_{name}": value for name, value in result.items()}
        metrics = MetricRecord({**measures, ROWS: rows})
        content = RecordDict({ARRAYS: arrays, "metrics": metrics})
        if buffers:
            content["buffers"] = ConfigRecord({"buffers": buffers})
        return Message(content, reply_to=message)

    def evaluate(self, client: int, message: Message) -> Message:
        """Measure the global model on the client's validation rows."""
        experiment, config = self.experiment, config_in(message.content)
        with self.times.spent_on("data"):
            data = self.scaled_data(client, config)
        model = self.model(message)
        round_number = int(config["server-round"])  # type: ignore[arg-type]
        batches = data.batches(
            "validation",
            check=lambda: self._check(client),
            reading=self._reading(client, round_number, "evaluation draws"),
        )
        with self._draws(client, round_number, "evaluation draws")():
            result = as_measures(experiment.validation_loop(model, batches), "validation_loop")
        self.times.of_that_on("data", batches.seconds)
        metrics = MetricRecord({**result, ROWS: data.rows("validation")})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    def query(self, client: int, message: Message) -> Message:
        """Answer what the client's training rows add up to; no row leaves it."""
        sums = self.data(client).sums()
        record = ArrayRecord([sums.count, sums.total, sums.squares])
        named = ArrayRecord(dict(zip(("count", "total", "squares"), record.values(), strict=True)))
        return Message(RecordDict({"sums": named}), reply_to=message)

    def scaled_data(self, client: int, config: ConfigRecord) -> ClientData:
        """Return a client's data, scaled as the server says, or by its own rows."""
        data = self.data(client)
        dataset = self.experiment.dataset
        if isinstance(dataset, CSVDataset) and dataset.standardize:
            if "scale-mean" in config:
                data.use_scale(
                    Scale(np.asarray(config["scale-mean"]), np.asarray(config["scale-std"]))
                )
            elif not data.has_scale:
                data.use_scale(data.sums().scale())
        return data

    def _draws(
        self, client: int, round_number: int, purpose: str = "draws"
    ) -> Callable[[], contextlib.AbstractContextManager[Any]]:
        """Return what makes the context of a client's random draws (none if it never draws)."""
        if not self.experiment.facts.draws:
            return lambda: loops.NO_CONTEXT
        mode = PrivateRandom(stream(self.experiment.seed, purpose, round_number, client))
        return lambda: mode

    def _reading(
        self, client: int, round_number: int, purpose: str = "draws"
    ) -> contextlib.AbstractContextManager[Any]:
        """Return what is entered to read rows: a dataset may draw from NumPy's global generator."""
        if not self.experiment.facts.data_draws_globally:
            return loops.NO_CONTEXT
        key = (f"global {purpose}", round_number, client)
        return PrivateGlobals(stream_seed(self.experiment.seed, *key))


def make_client_app(host: ClientHost, mods: list[Mod]) -> ClientApp:
    """Return Flower's ``ClientApp`` over a host of clients.

    Parameters
    ----------
    host : ClientHost
        Keeps data and models of the clients.
    mods : list of Mod
        Flower's modifiers of the training answer (clipping for differential privacy).
    """
    app = ClientApp()

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        ready = host.ready(message)
        if ready is not None:
            return ready
        with host.times.spent_on("training"):
            return _noted(host, host.train, message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        ready = host.ready(message)
        if ready is not None:
            return ready
        with host.times.spent_on("evaluating"):
            return _noted(host, host.evaluate, message, context)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        with host.times.spent_on("data"):
            return _noted(host, host.query, message, context)

    return app


def make_context(client: int, clients: int) -> Context:
    """Return the context in which one of so many clients is asked."""
    return Context(
        run_id=flower.RUN_NUMBER,
        node_id=client,
        node_config={CLIENT: client, "num-partitions": clients},
        state=RecordDict(),
        run_config={},
    )


def _noted(
    host: ClientHost,
    answer: Callable[[int, Message], Message],
    message: Message,
    context: Context,
) -> Message:
    """Answer a message, and put what the client printed meanwhile into the answer."""
    with printed_here() as printed:
        try:
            reply = answer(int(context.node_config[CLIENT]), message)
        except Exception as error:
            if said := _may_be_told(host, printed.text):
                error.add_note(f"It had printed:\n{said}")
            raise
    if said := _may_be_told(host, printed.text):
        reply.content[PRINTED] = ConfigRecord({"text": said})
    return reply


def _may_be_told(host: ClientHost, text: str) -> str:
    """Return what a client printed, or how much: rows that stay at home are not to be printed."""
    if text and (isinstance(host.experiment.dataset, HomeDataset) or on_a_volume()):
        return how_much(text)
    return text


def take_printed(message: Message) -> str:
    """Take what a client printed out of its answer; "" if it printed nothing."""
    record = named_config(message, PRINTED)
    if record is None:
        return ""
    del message.content[PRINTED]
    return str(record["text"])


def add_proximal_term(experiment: Experiment, model: nn.Module, mu: float) -> None:
    r"""Add the gradient of FedProx's term, :math:`\mu (w - w^t)`, to every gradient of ``model``.

    Source: Li et al., Federated Optimization in Heterogeneous Networks, arXiv:1812.06127. The loss
    that is reported stays that of the data.

    Raises
    ------
    TrainingError
        If the training loop is the researcher's own, which may never read these gradients.
    """
    if experiment.own_training_loop:
        raise TrainingError(
            "FedProx adds its proximal term to the local loss, which a training_loop of your own "
            "does not have; override loss instead of training_loop, or use FedAvg"
        )
    for parameter in model.parameters():
        if parameter.requires_grad:
            start = parameter.detach().clone()

            def hook(gradient: Tensor, now: Tensor = parameter, start: Tensor = start) -> Tensor:
                if gradient.is_sparse:
                    raise TrainingError(
                        "FedProx adds a dense term to a gradient that is sparse; leave "
                        "sparse=True out of the model, or use FedAvg"
                    )
                return gradient + mu * (now.detach() - start)

            parameter.register_hook(hook)  # type: ignore[no-untyped-call]


def as_measures(result: Any, loop: str) -> dict[str, float]:
    """Return what a loop returned as a dict with ``loss`` in it.

    Raises
    ------
    TrainingError
        If there is no loss, something in it is no number, or a name is taken.
    """
    if isinstance(result, dict) and "loss" in result:
        pairs = result
    elif isinstance(result, (int, float, Tensor)) and not isinstance(result, bool):
        pairs = {"loss": result}
    else:
        raise TrainingError(
            f"{loop} must return its loss, or a dict with 'loss' in it, not {result!r}"
        )
    taken = loops.taken_name(pairs)
    if taken is not None:
        raise TrainingError(f"{loop} {loops.rename(taken)}")
    try:
        return {
            str(name): float(value.detach() if isinstance(value, Tensor) else value)
            for name, value in pairs.items()
        }
    except (TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{loop} returned something that is no number: {error}") from error
