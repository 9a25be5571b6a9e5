"""A Flower ``Grid`` inside this process: no Ray, no sockets.

The strategy sees clients 0 to N-1. Their messages are answered here, one after another or on
several threads, and handed back in client order, so that neither the number of threads nor their
timing reaches a strategy.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from flautim_lab.errors import FlautimError
from flautim_lab.names import count
from flautim_lab.training import flower
from flautim_lab.training.blocks import Blocks, Prepare, in_blocks, one_by_one, together_failed
from flautim_lab.training.client_app import make_context
from flautim_lab.training.client_grid import ClientGrid, InTurn, Waiting
from flautim_lab.training.cores import usable_cores
from flautim_lab.training.pooling import members_of
from flautim_lab.training.threads import Threads

if TYPE_CHECKING:
    from flautim_lab.training.process_trial import ProcessTrial

# Several threads, or processes, are kept when a round with them takes less than this share of one
# without: below it, Python's interpreter lock, or the way between processes, eats what the second
# core gives.
WORTH_IT = 0.9
LOOK_SECONDS = 0.25
GOODBYE_SECONDS = 2.0


class Abandoned(Exception):  # noqa: N818 - not an error: nobody waits for this work any more
    """The work of a client is no longer wanted (the run was stopped, the round is over)."""


class Deadline:
    """Tells clients at work whether somebody still waits for them."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._round = 0
        self._wanted: Mapping[int, int] = {}

    def stopped(self) -> bool:
        """Return whether the run was asked to stop."""
        return self._stopped()

    def begin(self, clients: Iterable[int]) -> int:
        """Begin a round of messages; earlier work of these clients is abandoned."""
        self._round += 1
        self._wanted = dict.fromkeys(clients, self._round)
        return self._round

    def end(self) -> None:
        """End the round: what is still at work is abandoned."""
        self._wanted = {}

    def is_now(self, order: int) -> bool:
        """Return whether this is the round of messages that goes on."""
        return order == self._round

    def check(self, client: int) -> None:
        """Raise :class:`Abandoned` if nobody waits for this client's work."""
        if self._stopped() or getattr(_work, "round", None) != self._wanted.get(client):
            raise Abandoned


_work = threading.local()


class LocalGrid(ClientGrid):
    """Answers the messages of a ServerApp with a ClientApp in this process.

    Parameters
    ----------
    app : ClientApp
        Called once per message, in some thread.
    clients : int
        Clients 0 to ``clients - 1`` take part.
    deadline : Deadline
        Shared with the host of the clients.
    workers : int or "auto"
        Threads that answer at once. ``auto`` tries all cores and keeps them if that is faster.
        The numbers do not depend on it.
    enough : int
        How few answers end a round once its time is up.
    log : callable
        Gets one line when there is something to say.
    blocks : callable, optional
        Returns clients, sorted, as lists of those that are handled together; each one by itself by
        default.
    prepare : callable, optional
        Gets the type of a block's messages, their content, and the clients, before the app is
        called for each of them; what it returns answers for some of them together.
    processes : ProcessTrial, optional
        Answers instead where worker processes pay.
    """

    def __init__(
        self,
        app: ClientApp,
        clients: int,
        deadline: Deadline,
        *,
        workers: int | str = "auto",
        enough: int = 1,
        log: Callable[[str], None] = lambda _line: None,
        blocks: Blocks = one_by_one,
        prepare: Prepare | None = None,
        processes: ProcessTrial | None = None,
    ) -> None:
        self._app = app
        self._processes = processes
        self._rounds = 0  # of training
        self._blocks = blocks
        self._prepare = prepare
        super().__init__(clients)
        self._deadline = deadline
        self._enough = enough
        self._log = log
        limit = usable_cores() if workers == "auto" else int(workers)
        self.workers = max(1, min(limit, clients))
        # Rounds of training until it is known whether threads pay: one to warm up, one to
        # measure with threads, one without. None: there is nothing to try.
        self._trial: int | None = 0 if workers == "auto" and self.workers > 1 else None
        self._with_threads = math.inf
        self._pool: Threads | None = None
        self._waiting: Waiting | None = None
        self._missing: set[int] = set()
        self._contexts: dict[int, Context] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages to clients and return their answers in client order.

        Parameters
        ----------
        messages : iterable of Message
            At most one per client.
        timeout : float, optional
            Seconds after which the answers that are there are enough, if they are at least
            ``enough``; what comes later is dropped and logged.
        """
        asked = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        order = self._deadline.begin(message.metadata.dst_node_id for message in asked)
        training = _is_training(asked)
        self._rounds += training
        trial = self._trial if training and timeout is None else None
        begin = time.perf_counter()
        self._missing = {message.metadata.dst_node_id for message in asked}
        self._waiting = Waiting(self.waits, len(asked), self._enough, timeout)
        try:
            of_client = {message.metadata.dst_node_id: message for message in asked}
            blocks = in_blocks(of_client, self._blocks)
            turn = InTurn(self.taken, blocks)
            replies: list[Message] = []
            if not self._in_processes(asked, order, timeout, turn, replies):
                there = {reply.metadata.src_node_id for reply in replies}
                parts = [[of_client[c] for c in block if c not in there] for block in blocks]
                parts = [part for part in parts if part]
                if timeout is None and (self.workers == 1 or trial == 2 or len(parts) == 1):
                    self.sent()
                    for part in parts:
                        replies += _handed_in(turn, part, self._answer_block(part, order))
                else:
                    replies += self._on_threads(parts, order, timeout, turn)
                if trial is not None and len(parts) < self.workers:
                    trial = None
            turn.end()
            replies.sort(key=lambda reply: reply.metadata.src_node_id)
        finally:
            self._deadline.end()
            self._waiting.over()
        seconds = time.perf_counter() - begin
        if training and self._processes is not None:
            self._processes.judge(seconds)
        if trial is not None:
            self._judge(trial, seconds, asked[0].content)
        return replies

    def tell(self) -> None:
        """Say what is waited for, if that has taken long; some other thread calls this often.

        Another one, since the clients may be at work in the thread of the round.
        """
        if self._waiting is not None:
            self._waiting.look(set(self._missing))

    def close(self) -> None:
        """End the threads; abandoned work ends with its next batch."""
        self._deadline.end()
        if self._processes is not None:
            self._processes.close()
        if self._pool is not None:
            hung = self._pool.close(GOODBYE_SECONDS)
            self._pool = None
            if hung:
                self._log(f"{count(hung, 'client')} did not end when the run did, and was left")

    # --- inside ----------------------------------------------------------------------------

    def _judge(self, trial: int, seconds: float, content: RecordDict) -> None:
        """Keep several threads only if a round with them was faster than one without."""
        self._trial = trial + 1
        if trial == 1:
            self._with_threads = seconds
        elif trial == 2:
            self._trial = None
            if self._with_threads >= WORTH_IT * seconds:
                self.workers = 1
                self._log("one thread is as fast as several here; clients train in turn")
            if self._processes is not None:
                best = min(seconds, self._with_threads)
                self._processes.consider(seconds, best, self._rounds, content)

    def _in_processes(
        self,
        asked: list[Message],
        order: int,
        timeout: float | None,
        turn: InTurn,
        replies: list[Message],
    ) -> bool:
        """Put answers of worker processes to the replies.

        Returns whether that are all; where processes do not pay, or are lost, it is not.
        """
        if self._processes is None or not self._processes.at_hand():
            return False

        def answered(reply: Message) -> None:
            client = reply.metadata.src_node_id
            self._missing.discard(client)
            replies.append(reply)
            turn.add([client], [reply])

        whole = self._processes.answer(
            asked,
            order,
            answered,
            stopped=self._deadline.stopped,
            sent=self.sent,
            timeout=timeout,
            enough=self._enough,
        )
        if whole and len(replies) < len(asked) and not self._deadline.stopped():
            there = {reply.metadata.src_node_id for reply in replies}
            self._say_late(timeout, {m.metadata.dst_node_id for m in asked} - there)
        return whole

    def _on_threads(
        self, parts: list[list[Message]], order: int, timeout: float | None, turn: InTurn
    ) -> list[Message]:
        if self._pool is None:
            self._pool = Threads(self.workers)
        pending: dict[Future[list[Message]], list[Message]] = {
            self._pool.submit(self._answer_block, part, order): part for part in parts
        }
        # Not ``concurrent.futures.wait``, which looks at all that are pending whenever one is done.
        done: queue.SimpleQueue[Future[list[Message]]] = queue.SimpleQueue()
        for future in pending:
            future.add_done_callback(done.put)
        self.sent()
        replies: list[Message] = []
        answered = 0
        end = None if timeout is None else time.monotonic() + timeout
        while pending:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                if answered >= self._enough and done.empty():
                    break
                left = None  # not enough yet: wait for the next one, however long it takes
            # In slices: a client that hangs must not hide a stop.
            slice_ = LOOK_SECONDS if left is None else min(left, LOOK_SECONDS)
            with contextlib.suppress(queue.Empty):
                future = done.get(timeout=slice_)
                part = pending.pop(future)
                answered += len(part)
                replies += _handed_in(turn, part, future.result())
            if self._deadline.stopped():
                break
        late = {message.metadata.dst_node_id for part in pending.values() for message in part}
        for future in list(pending):
            future.cancel()
        if late and timeout is not None and not self._deadline.stopped():
            self._say_late(timeout, late)
        return replies

    def _say_late(self, timeout: float | None, late: Iterable[int]) -> None:
        first = sorted(late)
        shown = ", ".join(map(str, first[:10])) + (", ..." if len(first) > 10 else "")
        self._log(f"late after {timeout:g} s, their work is dropped: clients {shown}")

    def _answer_block(self, part: list[Message], order: int) -> list[Message]:
        """Return the answers of clients that are handled together."""
        _work.round = order
        together: RecordDict | None = None
        if self._prepare is not None and len(part) > 1:
            first = part[0]
            clients = [message.metadata.dst_node_id for message in part]
            try:
                with flower.log_to(self._log):
                    together = self._prepare(first.metadata.message_type, first.content, clients)
            except Abandoned:
                pass  # each of them is told so by its own next check
            except Exception as error:  # noqa: BLE001 - whose it is shows where each is by itself
                self._log(together_failed(clients, summary(error)))
        if together is None:
            return [self._answer(message, order) for message in part]
        members = set(members_of(together))
        alone = [message for message in part if message.metadata.dst_node_id not in members]
        first = next(m for m in part if m.metadata.dst_node_id in members)
        if self._deadline.is_now(order):
            self._missing -= members
        return [
            Message(together, reply_to=first),
            *(self._answer(message, order) for message in alone),
        ]

    def _context(self, client: int) -> Context:
        """Return Flower's context of a client, made when it is first asked."""
        if client not in self._contexts:
            self._contexts[client] = make_context(client, self._clients)
        return self._contexts[client]

    def _answer(self, message: Message, order: int) -> Message:
        """Return a client's answer; an error is an answer too."""
        client = message.metadata.dst_node_id
        with flower.log_to(lambda line: self._log(f"client {client}: {line}")):
            try:
                reply = self._app(message, self._context(client))
            except Abandoned:
                reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, ABANDONED), reply_to=message)
            except BaseException as error:  # noqa: BLE001 - even SystemExit is its answer
                reason = f"{summary(error)}\n{traceback.format_exc()}"
                code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
                reply = Message(Error(code, reason), reply_to=message)
        if self._deadline.is_now(order):
            self._missing.discard(client)
        return reply


def _handed_in(turn: InTurn, part: list[Message], answers: list[Message]) -> list[Message]:
    """Return the answers to a part of a round's messages, after they were handed on in turn."""
    turn.add([message.metadata.dst_node_id for message in part], answers)
    return answers


def _is_training(messages: list[Message]) -> bool:
    return bool(messages) and messages[0].metadata.message_type.startswith(MessageType.TRAIN)


ABANDONED = "abandoned"


def summary(error: BaseException) -> str:
    """Return an exception as one line; an error of ours speaks for itself."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    if isinstance(error, FlautimError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
