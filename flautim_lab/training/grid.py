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
from flautim_lab.training.blocks import Asked, Blocks, Prepare, one_by_one, together_failed
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
# Threads that were on a core for this share of a round are kept at once: they did not wait for
# each other, and a round with one of them would most likely be a slow one. What they do to each
# other on the cores themselves (one that is two by name, memory) is not seen.
AT_WORK = 0.75
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
        Threads that answer at once. ``auto`` tries all cores and keeps them where they compute
        for most of it, or else if a round with one alone takes longer. The numbers do not
        depend on it.
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
        # measure with threads, and if that does not tell, one without. None: nothing to try.
        self._trial: int | None = 0 if workers == "auto" and self.workers > 1 else None
        self._with_threads = math.inf
        self._computed: list[float] = []  # seconds of each block of this round, on its core
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
        asked = Asked(messages)
        order = self._deadline.begin(asked.clients)
        training = asked.kind.startswith(MessageType.TRAIN)
        self._rounds += training
        trial = self._trial if training and timeout is None else None
        begin = time.perf_counter()
        self._computed = []
        self._missing = set(asked.clients)
        self._waiting = Waiting(self.waits, len(asked), self._enough, timeout)
        try:
            blocks = asked.in_blocks(self._blocks)
            turn = InTurn(self.taken, blocks)
            replies: list[Message] = []
            if not self._in_processes(asked, order, timeout, turn, replies):
                there = {reply.metadata.src_node_id for reply in replies}
                parts = [[c for c in block if c not in there] for block in blocks]
                parts = [part for part in parts if part]
                if timeout is None and (self.workers == 1 or trial == 2 or len(parts) == 1):
                    self.sent()
                    for part in parts:
                        answers = self._answer_block(asked, part, order)
                        turn.add(part, answers)
                        replies += answers
                else:
                    replies += self._on_threads(asked, parts, order, timeout, turn)
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
            self._judge(trial, seconds, asked[asked.clients[0]].content)
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
        """Keep several threads only if they do not wait for each other, or are faster than one."""
        self._trial = trial + 1
        if trial == 1:
            self._with_threads = seconds
            at_work = sum(self._computed) / (seconds * self.workers)
            # Whether processes pay is found from what a round takes with one thread.
            if self._processes is None and at_work >= AT_WORK:
                self._trial = None
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
        asked: Asked,
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
            list(asked.values()),
            order,
            answered,
            stopped=self._deadline.stopped,
            sent=self.sent,
            timeout=timeout,
            enough=self._enough,
        )
        if whole and len(replies) < len(asked) and not self._deadline.stopped():
            there = {reply.metadata.src_node_id for reply in replies}
            self._say_late(timeout, set(asked.clients) - there)
        return whole

    def _on_threads(
        self,
        asked: Asked,
        parts: list[list[int]],
        order: int,
        timeout: float | None,
        turn: InTurn,
    ) -> list[Message]:
        if self._pool is None:
            self._pool = Threads(self.workers)
        pending: dict[Future[list[Message]], list[int]] = {
            self._pool.submit(self._answer_block, asked, part, order): part for part in parts
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
                turn.add(part, future.result())
                replies += future.result()
            if self._deadline.stopped():
                break
        late = {client for part in pending.values() for client in part}
        for future in list(pending):
            future.cancel()
        if late and timeout is not None and not self._deadline.stopped():
            self._say_late(timeout, late)
        return replies

    def _say_late(self, timeout: float | None, late: Iterable[int]) -> None:
        first = sorted(late)
        shown = ", ".join(map(str, first[:10])) + (", ..." if len(first) > 10 else "")
        self._log(f"late after {timeout:g} s, their work is dropped: clients {shown}")

    def _answer_block(self, asked: Asked, clients: list[int], order: int) -> list[Message]:
        """Return the answers of clients that are handled together; count the time on a core."""
        computed, begin = self._computed, time.thread_time()
        try:
            return self._answers(asked, clients, order)
        finally:
            computed.append(time.thread_time() - begin)

    def _answers(self, asked: Asked, clients: list[int], order: int) -> list[Message]:
        _work.round = order
        together: RecordDict | None = None
        if self._prepare is not None and len(clients) > 1:
            first = asked[clients[0]]
            try:
                with flower.log_to(self._log):
                    together = self._prepare(first.metadata.message_type, first.content, clients)
            except Abandoned:
                pass  # each of them is told so by its own next check
            except Exception as error:  # noqa: BLE001 - whose it is shows where each is by itself
                self._log(together_failed(clients, summary(error)))
        if together is None:
            return [self._answer(asked[client], order) for client in clients]
        members = set(members_of(together))
        first = asked[next(client for client in clients if client in members)]
        if self._deadline.is_now(order):
            self._missing -= members
        return [
            Message(together, reply_to=first),
            *(self._answer(asked[client], order) for client in clients if client not in members),
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


ABANDONED = "abandoned"


def summary(error: BaseException) -> str:
    """Return an exception as one line; an error of ours speaks for itself."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    if isinstance(error, FlautimError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
