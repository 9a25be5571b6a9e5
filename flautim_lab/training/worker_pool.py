"""Worker processes of the ``local`` runner: big models train in them, free of the kernel's lock.

They are kept from round to round, with torch, the app and their clients' data loaded, one torch
thread each. A round's weights are written once, into memory that all of them see. Not an executor
of ``loky``'s or of Python's: those give up all of their processes when one of them is killed, and
here it alone is replaced, and what it was at work on is done again.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from flautim_lab.errors import TrainingError
from flautim_lab.training.content import pack, unpack
from flautim_lab.training.grid import GOODBYE_SECONDS, LOOK_SECONDS
from flautim_lab.training.parcel import Memory, pack_objects
from flautim_lab.training.pool_template import Template, TemplateLostError
from flautim_lab.training.pool_worker import ORDER, Answer, Job, Task

__all__ = ["PoolLostError", "WorkerPool"]

MOST_DEATHS = 3  # in a row, of one client's workers or of workers that begin
ROOM = 1.25  # of a round's memory, beside what the last content took


class PoolLostError(TrainingError):
    """Worker processes cannot be had; the clients train in the kernel."""


class _Worker:
    """One process and what it is at work on."""

    def __init__(self, slot: int, connection: Connection) -> None:
        self.slot = slot
        self.connection = connection
        self.pid = 0  # until it says so
        self.ready = False
        self.busy = False
        self.part: int | None = None  # of this round; None where it is idle or its work is late


class WorkerPool:
    """Processes that answer the messages of a round.

    Parameters
    ----------
    job : Job
    content : RecordDict
        Of a message as they will be sent: how much memory a round takes.
    workers : int
        How many.
    log : callable
        Gets one line when there is something to say.
    used : callable
        Gets a worker's slot and what it used for an answer.

    Raises
    ------
    PoolLostError
        If they cannot be had: the experiment cannot travel, or no process can be started.
    """

    def __init__(
        self,
        job: Job,
        content: RecordDict,
        workers: int,
        log: Callable[[str], None],
        used: Callable[[int, Mapping[str, float]], None] = lambda _slot, _used: None,
    ) -> None:
        self._log = log
        self._used = used
        try:
            memory = pack_objects(job)
        except TrainingError as error:
            raise PoolLostError(f"the experiment cannot be sent to them ({error})") from error
        self._round = Memory(ORDER + int(ROOM * len(pack(content))))
        self._shared = (memory, self._round)
        self._number = 0
        self._content: tuple[RecordDict | None, int, int] = (None, 0, 0)  # with number and size
        self._slot_of: dict[int, int] = {}  # who has a client's data loaded
        self._failed_starts = 0
        self._workers: list[_Worker] = []
        self._template: Template | None = None
        try:
            self._workers = [self._start(slot) for slot in range(workers)]
        except PoolLostError:
            self.close()
            raise

    @property
    def processes(self) -> list[int]:
        """The process numbers of the workers, by slot."""
        return [worker.pid for worker in self._workers]

    def ready(self, seconds: float = 0.0) -> bool:
        """Return whether all workers have begun, after so many seconds at most.

        Raises
        ------
        PoolLostError
            If they cannot.
        """
        end = time.monotonic() + seconds
        while not all(worker.ready for worker in self._workers):
            left = end - time.monotonic()
            if not self._hear(max(left, 0.0)) and left <= 0:
                return False
        return True

    def answer(
        self,
        messages: Sequence[Message],
        order: int,
        answered: Callable[[Message], None],
        *,
        stopped: Callable[[], bool],
        sent: Callable[[], None] = lambda: None,
        timeout: float | None = None,
        enough: int = 1,
    ) -> None:
        """Have clients answer.

        Parameters
        ----------
        messages : sequence of Message
        order : int
            The number of this round of messages, from 1.
        answered : callable
            Gets each answer when it is there.
        stopped : callable
            Tells whether nobody waits any more: then no more answers come.
        sent : callable
            Called when the first messages have left.
        timeout : float, optional
            Seconds after which ``enough`` answers are enough.
        enough : int

        Raises
        ------
        PoolLostError
            If no worker can be had any more.
        """
        self._want(order)
        self._content = (None, 0, 0)
        todo = list(range(len(messages)))
        found = 0
        deaths: Counter[int] = Counter()
        end = None if timeout is None else time.monotonic() + timeout
        told = False
        try:
            while found < len(messages):
                self._give(messages, todo, order)
                if not told:
                    told = True
                    sent()
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0 and found >= enough:
                    break
                slice_ = LOOK_SECONDS if left is None or left <= 0 else min(left, LOOK_SECONDS)
                for part, note in self._hear(slice_):
                    if part is None:
                        continue
                    message = messages[part]
                    client = message.metadata.dst_node_id
                    if isinstance(note, Answer):
                        # The next tasks first: reading the answer takes as long as it takes.
                        self._give(messages, todo, order)
                        reply = self._reply(message, note)
                    else:
                        deaths[part] += 1
                        if deaths[part] < MOST_DEATHS:
                            todo.insert(0, part)
                            self._log(
                                f"the worker process of client {client} has died ({note}); "
                                "another one takes its place, and the client begins again"
                            )
                            continue
                        code, why = ErrorCode.CLIENT_APP_CRASHED, _killed(client, note)
                        reply = Message(Error(code, why), reply_to=message)
                    found += 1
                    answered(reply)
                if stopped():
                    break
        finally:
            self._want(0)
            for worker in self._workers:
                worker.part = None

    def close(self) -> None:
        """End the processes: those that are idle at once, those at work with their next batch."""
        self._want(0)
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        if self._template is not None:
            end = time.monotonic() + GOODBYE_SECONDS
            with contextlib.suppress(TemplateLostError):
                for worker in (worker for worker in self._workers if worker.ready):
                    code = self._template.end(worker.pid, max(end - time.monotonic(), 0.0))
                    if code == -signal.SIGKILL and worker.busy:
                        self._log("a client did not end when the run did, and was ended")
            # One that still loads what it needs has no workers yet.
            self._template.close(GOODBYE_SECONDS if any(w.pid for w in self._workers) else 0.0)
        for worker in self._workers:
            worker.connection.close()
        self._workers, self._template = [], None
        for memory in self._shared:
            memory.close()

    # --- inside ----------------------------------------------------------------------------

    def _want(self, order: int) -> None:
        """Say which round of messages is waited for; work for any other ends."""
        self._round.bytes[:ORDER] = order.to_bytes(ORDER, "little")

    def _give(self, messages: Sequence[Message], todo: list[int], order: int) -> None:
        for worker in self._workers:
            if not todo or not worker.ready or worker.busy:
                continue
            # One who has the client's data loaded, if there is one.
            clients = [messages[part].metadata.dst_node_id for part in todo]
            own = (n for n, c in enumerate(clients) if self._slot_of.get(c) == worker.slot)
            place = next(own, 0)
            part = todo.pop(place)
            self._slot_of[clients[place]] = worker.slot
            worker.part, worker.busy = part, True
            # One that has just died is heard of next.
            with contextlib.suppress(OSError):
                worker.connection.send(self._task(messages[part], order))

    def _task(self, message: Message, order: int) -> Task:
        """Return a message as a task, its content written where all workers see it, if it fits."""
        about = message.metadata
        content, number, size = self._content
        inside = None
        if content is not message.content:
            written = pack(message.content)
            self._number = number = self._number + 1
            size = len(written)
            # What earlier tasks of the round refer to stays: a worker may not have read it yet.
            if content is None and size <= self._round.size - ORDER:
                self._round.bytes[ORDER : ORDER + size] = written
                self._content = (message.content, number, size)
            else:
                inside = written
        return Task(order, number, about.message_type, about.dst_node_id, size, inside)

    def _hear(self, seconds: float) -> list[tuple[int | None, Answer | str]]:
        """Return what workers say next, and of which part of this round (None: of an earlier one).

        One that has died is replaced; what it says is what it died of.

        Raises
        ------
        PoolLostError
            If a worker says that it cannot begin, or several that begin die in a row.
        """
        of = {id(worker.connection): worker for worker in self._workers}
        heard: list[tuple[int | None, Answer | str]] = []
        for connection in wait([worker.connection for worker in self._workers], seconds):
            worker = of[id(connection)]
            try:
                note = worker.connection.recv()
            except (EOFError, OSError):
                why = self._end(worker)
                self._replace(worker, why)
                heard.append((worker.part, why))
                continue
            if isinstance(note, Answer):
                part, worker.part, worker.busy = worker.part, None, False
                self._used(worker.slot, note.used)
                heard.append((part, note))
            elif isinstance(note, int):
                worker.pid = note
            elif note:
                raise PoolLostError(note)
            else:
                worker.ready = True
                self._failed_starts = 0
        return heard

    def _start(self, slot: int) -> _Worker:
        """Start a worker, and what is forked to be one, if that is not there."""
        if self._template is not None:
            try:
                return _Worker(slot, self._template.fork())
            except TemplateLostError:
                self._template.close()
        try:
            self._template = Template(self._shared)
            return _Worker(slot, self._template.fork())
        except TemplateLostError as error:
            raise PoolLostError(str(error)) from error

    def _end(self, worker: _Worker) -> str:
        """Return what a worker has died of."""
        worker.connection.close()
        try:
            if self._template is None or not worker.pid:
                return "it did not begin"
            code = self._template.end(worker.pid, GOODBYE_SECONDS)
        except TemplateLostError as error:
            return str(error)
        if code >= 0:
            return f"it ended with status {code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"

    def _replace(self, worker: _Worker, why: str) -> None:
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MOST_DEATHS:
                raise PoolLostError(
                    f"{MOST_DEATHS} worker processes in a row died before they had begun ({why})"
                )
        self._workers[self._workers.index(worker)] = self._start(worker.slot)

    def _reply(self, message: Message, answer: Answer) -> Message:
        for line in answer.lines:
            self._log(f"client {answer.client}: {line}")
        if answer.content is not None:
            return Message(unpack(answer.content), reply_to=message)
        return Message(Error(answer.code, answer.reason), reply_to=message)


def _killed(client: int, why: str) -> str:
    return (
        f"its worker process died {MOST_DEATHS} times in a row ({why}); where memory ran out, make "
        f"batches or model smaller, or train in the kernel with lab.run(..., workers=1)"
    )
