"""A worker: a process (or pod) that hosts clients and keeps torch, the app and their data loaded.

It fetches work from the run's server, answers it with the same ``ClientApp`` as every runner, and
goes on when the server is gone for a while or has begun anew.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from flautim_lab.errors import TrainingError
from flautim_lab.training.blocks import Prepare, together_failed
from flautim_lab.training.client_app import make_context
from flautim_lab.training.content import pack, unpack
from flautim_lab.training.engine import Connection, Refused
from flautim_lab.training.grid import summary
from flautim_lab.training.pooling import members_of
from flautim_lab.training.usage import ClientTimes
from flautim_lab.training.worker_usage import Usage

WORK = "query.work"  # a message of this type carries the work of several clients
UNREADABLE = "what its worker sent is no answer"
END = "end"  # the kind of work that is none: the run has ended, and so may the worker
PAUSES = (0.01, 0.02, 0.05, 0.1)  # between looks for work, the longer the less there is
RETRY_SECONDS = 0.25
PULSE_SECONDS = 1.0  # a look whether it is time for a sign of life


def make_work(
    content: bytes | None, kind: str, blocks: Sequence[Sequence[int]], number: int = 0
) -> RecordDict:
    """Return what is sent to a worker: one content, and the clients that it is for.

    Parameters
    ----------
    content : bytes, optional
        What each of the clients is sent (:func:`~flautim_lab.training.content.pack`). Without, it
        is that of the work before, whose number is the same.
    kind : str
        Flower's message type: ``train``, ``evaluate`` or ``query``.
    blocks : sequence of sequences of int
        Numbers of the clients, those that are handled together in one of them.
    number : int
        Of the content.
    """
    work = ConfigRecord(
        {
            "kind": kind,
            "clients": [client for block in blocks for client in block],
            "blocks": [len(block) for block in blocks],
            "number": number,
        }
    )
    if content is not None:
        work["content"] = content
    return RecordDict({"work": work})


def make_farewell() -> RecordDict:
    """Return what tells a worker that there is no more work."""
    return make_work(None, END, [])


def is_farewell(message: Message) -> bool:
    """Return whether a message is that of :func:`make_farewell`."""
    work: Mapping[str, Any] = message.content.config_records["work"]
    return bool(work["kind"] == END)


def read_answers(message: Message) -> dict[int, RecordDict | str]:
    """Return each client's answer, or its error, from a worker's reply.

    An answer without anything in it is part of another's, which answers for a whole cohort.

    Raises
    ------
    ValueError
        If it is no such reply.
    """
    try:
        record: Mapping[str, Any] = message.content.config_records["answers"]
        told: Any = zip(record["clients"], record["errors"], record["contents"], strict=True)
        return {client: str(error) or unpack(content) for client, error, content in told}
    except Exception as error:
        # What protobuf, Flower and NumPy say of wrong bytes is various, and may be made of them.
        raise ValueError(UNREADABLE) from error


def read_resources(message: Message) -> dict[str, float]:
    """Return what a worker used for a reply, by name (its unit at the end)."""
    record: Mapping[str, Any] = message.content.config_records.get("answers", {})
    names = record.get("resources", ())
    values = record.get("used", ())
    used = zip(names, values, strict=False)
    return {name: value for name, value in used if name in RESOURCES and isinstance(value, float)}


#: What a worker may say that it used: a name is as much text as any other.
RESOURCES = (
    "cpu_seconds",
    "memory_bytes",
    "data_seconds",
    "training_seconds",
    "evaluating_seconds",
    "waiting_seconds",
    "bytes_received",
    "bytes_sent",
    "transfer_seconds",
)


class Worker:
    """Answers work until it is told to stop.

    Parameters
    ----------
    app : ClientApp
        Called once per client.
    clients : int
        How many clients take part in all; any of them may be asked of this worker.
    stopped : callable
        Tells whether to stop.
    cut : callable
        Tells whether to behave as cut off from the network.
    prepare : callable, optional
        Gets the type of the messages of a block of clients, their content, and the clients, before
        the app is called for each of them.
    why : callable, optional
        Gets a client and what it failed with, and returns what the server is told; the worker's own
        log has the traceback then. Without it the server is told all.
    times : ClientTimes, optional
        Where those who host the clients count what goes into their data.
    """

    def __init__(
        self,
        app: ClientApp,
        clients: int,
        stopped: Callable[[], bool],
        cut: Callable[[], bool] = lambda: False,
        prepare: Prepare | None = None,
        why: Callable[[int, BaseException], str] | None = None,
        times: ClientTimes | None = None,
    ) -> None:
        self._app = app
        self._times = times
        self._prepare = prepare
        self._why = why
        self._clients = clients
        self._stopped = stopped
        self._cut = cut
        self._usage = Usage()
        self._connection: Connection | None = None
        self._contexts: dict[int, Context] = {}
        self._content = (0, RecordDict())  # of the last work, and its number

    def answer(self, message: Message) -> Message:
        """Return the answers of the clients that a message is for."""
        work: Mapping[str, Any] = message.content.config_records["work"]
        content = self._read(work)
        clients, contents, errors = [], [], []
        begin = time.perf_counter()
        left = iter(work["clients"])
        for size in work["blocks"]:
            block = list(itertools.islice(left, size))
            together = self._together(content, work["kind"], block)
            # The first of them answers for all of them; the others have nothing to add.
            answers = {} if together is None else dict.fromkeys(members_of(together), b"")
            if together is not None:
                answers[next(iter(answers))] = pack(together)
            for client in block:
                if client in answers:
                    answer, error = answers[client], ""
                else:
                    answer, error = self._one(content, work["kind"], client)
                clients.append(client)
                contents.append(answer)
                errors.append(error)
        kind = "evaluating" if work["kind"].startswith(MessageType.EVALUATE) else "training"
        seconds = time.perf_counter() - begin
        if self._times is not None:
            data = self._times.take().get("data_seconds", 0.0)
            self._usage.add("data_seconds", data)
            seconds -= data
        self._usage.add(f"{kind}_seconds", seconds)
        used = self._usage.take(self._connection)
        record = ConfigRecord(
            {
                "clients": clients,
                "contents": contents,
                "errors": errors,
                "resources": list(used),
                "used": list(used.values()),
            }
        )
        return Message(RecordDict({"answers": record}), reply_to=message)

    def _read(self, work: Mapping[str, Any]) -> RecordDict:
        """Return what the clients are sent, read once however many portions it comes with.

        Raises
        ------
        TrainingError
            If it is not there.
        """
        number = int(work["number"])
        if "content" in work:
            self._content = (number, unpack(work["content"]))
        elif self._content[0] != number:
            raise TrainingError("work came without the weights that it is about")
        return self._content[1]

    def _together(self, content: RecordDict, kind: str, block: list[int]) -> RecordDict | None:
        """Let a block be computed as one; what fails is found where each client is by itself."""
        if self._prepare is None or len(block) < 2:
            return None
        try:
            return self._prepare(kind, content, block)
        except Exception as error:  # noqa: BLE001 - a client's failure is its answer
            sys.stderr.write(f"{together_failed(block, summary(error))}\n")
            return None

    def _one(self, content: RecordDict, kind: str, client: int) -> tuple[bytes, str]:
        question = Message(content, client, kind)
        try:
            reply = self._app(question, self._context(client))
            if reply.has_error():
                raise TrainingError(reply.error.reason or "the client gave no reason")
            return pack(reply.content), ""
        except Exception as error:  # noqa: BLE001 - a client's failure is its answer
            if self._why is None:
                return b"", f"{summary(error)}\n{traceback.format_exc()}"
            sys.stderr.write(f"client {client}: {traceback.format_exc()}")
            return b"", self._why(client, error)

    def _context(self, client: int) -> Context:
        if client not in self._contexts:
            self._contexts[client] = make_context(client, self._clients)
        return self._contexts[client]

    def serve(self, connect: Callable[[], Connection], patience_seconds: float) -> None:
        """Fetch and answer work until it is told to stop.

        Parameters
        ----------
        connect : callable
            Makes a connection to where the server is now.
        patience_seconds : float
            How long no server may be found before the worker gives up: nothing may stay behind
            when a run's server never comes back.

        Raises
        ------
        TrainingError
            If no server was found for that long.
        """
        heard = time.monotonic()
        while not self._stopped():
            self._connection = connection = connect()
            reachable = True
            try:
                self._check_network()
                connection.activate()
                heard = time.monotonic()
                with self._alive(connection):
                    self._fetch(connection)
                return
            except (Refused, httpx.TransportError) as error:
                reachable = not self._cut()
                heard = max(heard, self._last_heard)
                if time.monotonic() - heard > patience_seconds:
                    raise TrainingError(
                        f"no server was found for {patience_seconds:g} s ({error})"
                    ) from error
                time.sleep(RETRY_SECONDS)
            finally:
                connection.close(goodbye=reachable)

    @contextlib.contextmanager
    def _alive(self, connection: Connection) -> Iterator[None]:
        """Show the server, from another thread, that this worker lives while its clients train.

        A client may take longer for its epochs than the silence after which a worker is lost.
        """
        done = threading.Event()

        def beat() -> None:
            while not done.wait(PULSE_SECONDS):
                # The main thread meets the same error when it sends or fetches next.
                with contextlib.suppress(Refused, httpx.HTTPError, RuntimeError):
                    if not self._cut():
                        connection.beat()

        thread = threading.Thread(target=beat, name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()

    def _check_network(self) -> None:
        if self._cut():
            raise httpx.ConnectError("cut off from the network")

    _last_heard = 0.0

    def _fetch(self, connection: Connection) -> None:
        quiet = 0
        while not self._stopped():
            begin = time.perf_counter()
            self._check_network()
            message = connection.receive()
            self._last_heard = time.monotonic()
            if message is None:
                time.sleep(PAUSES[min(quiet, len(PAUSES) - 1)])
                quiet += 1
                connection.beat()
                self._usage.add("waiting_seconds", time.perf_counter() - begin)
                continue
            quiet = 0
            if is_farewell(message):
                return
            answer = self.answer(message)
            self._check_network()
            connection.send(answer)
