"""The server's side: Flower's ``ServerApp``, which drives a strategy round by round.

The loop is ours and the steps are Flower's own, in ``Strategy.start``'s order:
``configure_train``, ``aggregate_train``, ``configure_evaluate``, ``aggregate_evaluate``. ``start``
itself cannot begin at round k, cannot stop between rounds, and gives its result only at the end.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from flautim_lab.errors import TrainingError
from flautim_lab.experiment.client_data import Scale, pooled
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.home_dataset import HomeDataset
from flautim_lab.names import count
from flautim_lab.records.event import ALL_CLIENTS
from flautim_lab.records.profile import engine_in_words
from flautim_lab.records.recorder import Recorder
from flautim_lab.training import flower, weights
from flautim_lab.training.at_home import LEFT_OUT, Screen
from flautim_lab.training.client_app import scale_to_config, sums_from_reply, take_printed
from flautim_lab.training.client_grid import ClientGrid
from flautim_lab.training.content import arrays_in, metrics_in, named_config
from flautim_lab.training.grid import ABANDONED
from flautim_lab.training.numerics import pick_device
from flautim_lab.training.pooling import (
    ROWS,
    Measured,
    RunningMean,
    measures_of,
    members_of,
    take_members,
    takes_means,
)
from flautim_lab.training.stackable import choose_engine
from flautim_lab.training.usage import RoundUsage

ALARMING = 3  # rounds running that a client has failed before it is named
MOST_PRINTED = 2**22  # characters of what clients print that go into one run's log
LONG_AGO = 30 * 24 * 3600.0  # seconds that a message stays valid: longer than any round


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was asked to stop."""


@dataclass
class GlobalModel:
    """What the server holds between rounds."""

    parameters: ArrayRecord
    buffers: bytes
    scale: Scale | None = None
    round: int = 0


class Server:
    """Drives one run: asks clients through a grid, aggregates with a strategy, records.

    Parameters
    ----------
    experiment : Experiment
    strategy : Strategy
        One of Flower's, fresh.
    recorder : Recorder
        Gets every metric, failure and log line.
    stopped : callable
        Tells whether the run was asked to stop.
    at_home : bool
        Whether clients have rows that stay with institutions, and not a sample of them: then why
        one failed is one line.
    """

    def __init__(
        self,
        experiment: Experiment,
        strategy: Strategy,
        recorder: Recorder,
        stopped: Callable[[], bool],
        *,
        at_home: bool = False,
    ) -> None:
        self.experiment = experiment
        self.strategy = strategy
        self.recorder = recorder
        self._stopped = stopped
        self._means: dict[str, float] = {}
        self._failures: dict[int, tuple[set[int], str]] = {}
        self._streaks: dict[int, int] = {}
        self._printed = 0
        self._at_home = at_home
        self._takes_means = takes_means(experiment)
        # A rehearsal on the sample, too, shows what will be left out.
        screened = at_home or isinstance(experiment.dataset, HomeDataset)
        self._screen = Screen(experiment) if screened else None
        #: What each process uses in a round.
        self.usage = RoundUsage("kernel")
        #: Called at the moments of a round: "starting", "training", "aggregating", "ended".
        self.moment: Callable[[str, int], None] = lambda _what, _round: None
        #: Called after each round (a checkpoint, where the runner keeps any).
        self.after_round: Callable[[], None] = lambda: None
        model = experiment.build_model()
        self._model = model
        self.state = GlobalModel(
            weights.to_record(model), weights.buffers_to_bytes(weights.buffers_of(model))
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the global model's ``state_dict``."""
        return weights.state_dict(self._model, self.state.parameters, self.state.buffers)

    def run(self, grid: Grid) -> None:
        """Run all rounds that are left.

        Raises
        ------
        Stopped
            If the run was asked to stop; the state is that after the last whole round.
        TrainingError
            If too few clients answered, naming one of them and its error.
        """
        experiment = self.experiment
        if experiment.validation and not any(len(rows.validation) for rows in experiment.splits):
            self.recorder.log(
                "no client has rows enough to hold any back: there is no validation",
                level="warning",
            )
        self._say_engine()
        self._scale(grid)
        for round_number in range(self.state.round + 1, experiment.rounds + 1):
            self.moment("starting", round_number)
            self._train(grid, round_number)
            # The weights are those of this round from here on, whatever becomes of validation.
            self.state.round = round_number
            last = round_number == experiment.rounds
            if last or round_number % experiment.evaluate_every == 0:
                self._validate(grid, round_number)
            self.recorder.log(self._line(), round=round_number)
            self.usage.record(self.recorder, round_number)
            with self.usage.spent_on("storing"):  # it counts for the round that follows
                self.recorder.round_done(round_number)
                self.after_round()
            self._check_stop()
        self.moment("ended", experiment.rounds)

    def _say_engine(self) -> None:
        """Say in the log why clients are not trained together, where nobody asked for that."""
        experiment = self.experiment
        engine = choose_engine(experiment, pick_device(experiment.device))
        if engine.name == "loop" and experiment.engine == "auto" and self.state.round == 0:
            self.recorder.log(engine_in_words(engine.name, engine.rule))

    @property
    def remark(self) -> str:
        """What must be known of a run that finished: the client that failed most, in a sentence."""
        if not self._failures:
            return ""
        worst = max(self._failures, key=lambda client: len(self._failures[client][0]))
        rounds, reason = self._failures[worst]
        others = len(self._failures) - 1
        more = f" (and {count(others, 'other')} failed too)" if others else ""
        name = self.experiment.client_names[worst]
        return (
            f"{name} failed in {count(len(rounds), 'round')} of {self.state.round}: {reason}{more}"
        )

    # --- one round -----------------------------------------------------------------------

    def _train(self, grid: Grid, round_number: int) -> None:
        messages = self._messages("train", grid, round_number)
        mean = RunningMean(self.state.parameters) if self._takes_means else None
        taken = None if mean is None else mean.take
        answers = self._ask(grid, messages, round_number, "train", taken=taken)
        # Read first: some strategies empty the records while they aggregate.
        losses = measures_of(_good(answers))
        with self.usage.spent_on("aggregating"):
            self._aggregate(round_number, answers, mean)
        self._record(round_number, "train", losses, strip="train_")

    def _aggregate(
        self, round_number: int, answers: list[Message], mean: RunningMean | None
    ) -> None:
        """Let the strategy make new weights, from all answers or from the mean of them."""
        experiment, state = self.experiment, self.state
        good = _good(answers)
        buffers = [(_rows(m), _buffers(m)) for m in good]
        if mean is None:
            kept = weights.unchanged(state.parameters, [arrays_in(m.content) for m in good])
        else:
            for message in good:  # what the grid has not handed on
                mean.take(message)
            kept = mean.put_into(good[0])
            answers = [good[0], *(m for m in answers if m.has_error())]
        for message in _good(answers):
            weights.quick_to_read(arrays_in(message.content))
            take_members(message)
        _shared_measures(answers)
        with flower.private_random(experiment.seed, "aggregate", round_number):
            try:
                new, _ = self.strategy.aggregate_train(round_number, answers)
            except (AggregationError, InconsistentMessageReplies, ZeroDivisionError) as error:
                raise TrainingError(
                    f"round {round_number}: {experiment.strategy_name} could not aggregate: {error}"
                ) from error
        self.moment("aggregating", round_number)
        if new is None or not len(new):
            self.recorder.log(
                f"{experiment.strategy_name} kept the old weights (an answer was missing or wrong)",
                round=round_number,
                level="warning",
            )
        else:
            state.parameters = weights.in_own_types(new, state.parameters, kept)
            state.buffers = weights.average_buffers(buffers, state.buffers) or state.buffers

    def _validate(self, grid: Grid, round_number: int) -> None:
        """Validate; that it fails is said, and does not take the trained weights away."""
        try:
            self._evaluate(grid, round_number)
        except Stopped:
            return  # the round itself is whole: it is recorded, and then the run ends
        except TrainingError as error:
            self.recorder.log(f"no validation: {error}", round=round_number, level="warning")

    def _evaluate(self, grid: Grid, round_number: int) -> None:
        experiment, strategy = self.experiment, self.strategy
        if experiment.validation == 0:
            return
        messages = self._messages("evaluate", grid, round_number)
        if not messages:
            return
        answers = self._ask(grid, messages, round_number, "evaluate")
        measures = measures_of(_good(answers))
        for message in _good(answers):
            take_members(message)
        _shared_measures(answers)
        with (
            self.usage.spent_on("aggregating"),
            flower.private_random(experiment.seed, "aggregate evaluation", round_number),
        ):
            strategy.aggregate_evaluate(round_number, answers)
        self._record(round_number, "validation", measures)

    def _scale(self, grid: Grid) -> None:
        """Round 0: let all clients scale alike, from sums and sums of squares."""
        dataset = self.experiment.dataset
        if not isinstance(dataset, CSVDataset) or dataset.standardize != "federated":
            return
        if self.state.scale is not None:
            return
        config = ConfigRecord({"server-round": 0})
        messages = [
            Message(RecordDict({"config": config}), client, MessageType.QUERY)
            for client in grid.get_node_ids()
        ]
        answers = self._ask(grid, messages, 0, "query", everybody=True)
        sums = pooled([sums_from_reply(m) for m in answers])
        self.state.scale = sums.scale()

    # --- parts -----------------------------------------------------------------------------

    def _messages(self, what: str, grid: Grid, round_number: int) -> Sequence[Message]:
        """Return the strategy's messages to those who have rows for what they are asked."""
        strategy, splits = self.strategy, self.experiment.splits
        configure = strategy.configure_train if what == "train" else strategy.configure_evaluate
        with (
            flower.private_random(self.experiment.seed, what, round_number),
            flower.messages_of(strategy),
        ):
            messages = configure(
                round_number, self.state.parameters, self._config(round_number), grid
            )
            if not isinstance(messages, flower.Alike):
                messages = list(messages)
        if what == "train":
            return messages
        # A client of one row has none to validate on, and no weight in a mean.
        if isinstance(messages, flower.Alike):
            nodes = [node for node in messages.nodes if len(splits[node].validation)]
            return flower.Alike(messages.message, nodes)
        return [m for m in messages if len(splits[m.metadata.dst_node_id].validation)]

    def _config(self, round_number: int) -> ConfigRecord:
        config = ConfigRecord({"server-round": round_number})
        if self.state.buffers:
            config["buffers"] = self.state.buffers
        scale_to_config(config, self.state.scale)
        return config

    def _ask(
        self,
        grid: Grid,
        messages: Sequence[Message],
        round_number: int,
        what: str,
        everybody: bool = False,
        taken: Callable[[Message], None] | None = None,
    ) -> list[Message]:
        """Send messages, record failures, and return the answers in client order.

        ``taken`` gets each answer in that order before all are there, where the grid can.
        """
        self._check_stop()
        timeout = None if everybody else self.experiment.round_timeout_seconds
        for message in [messages.message] if isinstance(messages, flower.Alike) else messages:
            message.metadata.ttl = LONG_AGO
        if isinstance(grid, ClientGrid):
            grid.waits = functools.partial(self._waits, round_number, time.time())
            grid.sent = functools.partial(self._sent, what, round_number)
            grid.taken = taken or (lambda _answer: None)
        with self.usage.waits_for(_SPENT_ON[what]):
            answers = list(grid.send_and_receive(messages, timeout=timeout))
        self._check_stop()
        answers = [m for m in answers if not _is_abandoned(m)]
        answers.sort(key=_client)
        if self._screen is not None:
            answers = self._screened(self._screen, answers, messages, round_number)
        self._record_printed(answers, round_number, what)
        failed = [m for m in answers if m.has_error()]
        for message in failed:
            self.recorder.failure(round_number, _client(message), message.error.reason or "")
            rounds, _ = self._failures.get(_client(message), (set(), ""))
            self._failures[_client(message)] = (
                rounds | {round_number},
                _first_line(message.error.reason),
            )
        self._count_streaks(answers, round_number, what)
        good = sum(len(_clients(message)) for message in _good(answers))
        needed = len(messages) if everybody else min(self._enough(what), len(messages))
        if good < needed:
            why = ""
            if failed:
                first = failed[0]
                why = f"; client {_client(first)}: {_first_line(first.error.reason)}"
            raise TrainingError(
                f"round {round_number}: {good} of {count(len(messages), 'client')} answered and at "
                f"least {needed} must{why}"
            )
        return answers

    def _screened(
        self, screen: Screen, answers: list[Message], asked: Sequence[Message], round_number: int
    ) -> list[Message]:
        """Return answers as far as they may leave where rows stay."""
        questions = {message.metadata.dst_node_id: message for message in asked}
        before, found = screen.left_out, []
        for answer in answers:
            question = questions[_client(answer)]
            if answer.has_content():
                answer = screen.admit(answer, question, self.state.parameters, self.state.buffers)
            if answer.has_error() and self._at_home:
                told = screen.reason(answer.error.reason or "")
                answer = Message(Error(answer.error.code, told), reply_to=question)
            found.append(answer)
        if screen.left_out and not before:
            self.recorder.log(LEFT_OUT, round=round_number, level="warning")
        return found

    def _record_printed(self, answers: Sequence[Message], round_number: int, what: str) -> None:
        """Put what clients printed into the log, and take it out of what a strategy sees."""
        for message in _good(answers):
            text = take_printed(message)
            left = MOST_PRINTED - self._printed
            if not text or left <= 0:
                continue
            self._printed += len(text)
            self.recorder.printed(round_number, _client(message), _SPLIT[what], text)
            if self._printed >= MOST_PRINTED:
                self.recorder.log(
                    f"clients have printed {MOST_PRINTED:,} characters; what they print from here "
                    "on is not kept here",
                    round=round_number,
                    level="warning",
                )

    def _waits(self, round_number: int, since: float, sentence: str) -> None:
        self.recorder.waiting(round_number, sentence, since=since if sentence else None)

    def _sent(self, what: str, round_number: int) -> None:
        if what == "train":
            self.moment("training", round_number)

    def _count_streaks(self, answers: Sequence[Message], round_number: int, what: str) -> None:
        """Name a client that fails round after round; one that answers is forgiven."""
        for message in answers:
            if not message.has_error():
                for client in _clients(message) if what == "train" else []:
                    self._streaks.pop(client, None)
                continue
            client = _client(message)
            if what != "train":
                continue
            self._streaks[client] = self._streaks.get(client, 0) + 1
            if self._streaks[client] == ALARMING:
                name = self.experiment.client_names[client]
                named = name if name == f"client {client}" else f"client {client} ({name})"
                self.recorder.log(
                    f"{named} has failed in {ALARMING} rounds running: "
                    f"{_first_line(message.error.reason)}",
                    round=round_number,
                    client=client,
                    level="warning",
                )

    def _enough(self, what: str) -> int:
        return self.experiment.enough_answers if what == "train" else 1

    def _record(
        self,
        round_number: int,
        split: str,
        measures: Mapping[str, Measured],
        strip: str = "",
    ) -> None:
        """Record each client's measures and their means, weighted by rows."""
        names = {key: key.removeprefix(strip) for key in measures}
        for key, of_clients in measures.items():
            self.recorder.metrics(
                round_number, of_clients.clients, split, names[key], of_clients.values
            )
        for key, of_clients in measures.items():
            mean = of_clients.mean()
            self._means[f"{split} {names[key]}"] = mean
            self.recorder.metric(round_number, ALL_CLIENTS, split, names[key], mean)

    def _line(self) -> str:
        """Return the round's means as a line of the log."""
        line = ", ".join(f"{name} {mean:.4g}" for name, mean in self._means.items())
        self._means.clear()
        return line or "done"

    def _check_stop(self) -> None:
        if self._stopped():
            raise Stopped


_SPLIT = {"train": "train", "evaluate": "validation", "query": "train"}
_SPENT_ON = {"train": "training", "evaluate": "evaluating", "query": "training"}


def make_server_app(server: Server) -> ServerApp:
    """Return Flower's ``ServerApp`` around a server."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        server.run(grid)

    return app


def serve(server: Server, grid: Grid) -> None:
    """Run a server's ServerApp on a grid in this process; see :meth:`Server.run` for its errors."""
    context = Context(flower.RUN_NUMBER, flower.SERVER_NODE, {}, RecordDict(), {})
    make_server_app(server)(grid, context)


def _good(answers: Sequence[Message]) -> list[Message]:
    return [message for message in answers if message.has_content()]


def _client(message: Message) -> int:
    return message.metadata.src_node_id


def _clients(message: Message) -> list[int]:
    """Return the clients whose answer a message with content is."""
    return members_of(message.content) or [_client(message)]


def _rows(message: Message) -> int:
    return int(metrics_in(message.content)[ROWS])  # type: ignore[arg-type]


def _is_abandoned(message: Message) -> bool:
    return message.has_error() and message.error.reason == ABANDONED


def _shared_measures(answers: Sequence[Message]) -> None:
    """Leave a strategy the measures that all answers have; ours of a few are recorded already.

    Recall per class has other names where a client lacks a class, and Flower refuses that.
    """
    records = [metrics_in(message.content) for message in _good(answers)]
    if records:
        shared = set.intersection(*(set(record) for record in records))
        for record in records:
            for name in set(record) - shared:
                del record[name]


def _buffers(message: Message) -> bytes:
    record = named_config(message, "buffers")
    return b"" if record is None else bytes(record["buffers"])  # type: ignore[arg-type]


def _first_line(reason: str | None) -> str:
    return (reason or "no reason was given").splitlines()[0]
