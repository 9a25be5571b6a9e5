"""A worker process of the ``local`` runner: trains clients for the kernel.

A fork of :mod:`flautim_lab.training.pool_template`, asked by
:mod:`flautim_lab.training.worker_pool`.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.common.constant import ErrorCode

from flautim_lab.experiment.experiment import Experiment
from flautim_lab.training import flower
from flautim_lab.training.client_app import ClientHost, make_client_app, make_context
from flautim_lab.training.content import pack, unpack
from flautim_lab.training.grid import ABANDONED, Abandoned, summary
from flautim_lab.training.numerics import NumericsPlan, make_plan
from flautim_lab.training.parcel import Memory, unpack_objects
from flautim_lab.training.threads import one_thread
from flautim_lab.training.worker_usage import Usage

LOOK_SECONDS = 1.0  # between looks whether the kernel lives, where the system does not tell
ORDER = 8  # bytes at the beginning of a round's memory: the round of messages that is waited for


@dataclass(frozen=True)
class Job:
    """What a worker is for.

    Attributes
    ----------
    experiment : Experiment
    mods : list of Mod
        Flower's modifiers of the training answer.
    plan : NumericsPlan
        By which the kernel makes its numbers.
    """

    experiment: Experiment
    mods: list[Mod]
    plan: NumericsPlan


@dataclass(frozen=True)
class Task:
    """One client's part of a round of messages.

    Attributes
    ----------
    order : int
        Which round of messages.
    number : int
        Which content: a worker reads each once.
    kind : str
        Flower's type of the message.
    client : int
    size : int
        Bytes of the content in the round's memory.
    content : bytes, optional
        It itself, where it is not there.
    """

    order: int
    number: int
    kind: str
    client: int
    size: int
    content: bytes | None


@dataclass(frozen=True)
class Answer:
    """What a client answers, or why it does not.

    Attributes
    ----------
    order, client : int
        Of the task.
    content : bytes, optional
        See :func:`flautim_lab.training.worker.pack`.
    code : int
        Of Flower's error, where there is no content.
    reason : str
        Of the error.
    lines : tuple of str
        What Flower has logged meanwhile.
    used : dict of str to float
        See :class:`flautim_lab.training.worker.Usage`.
    """

    order: int
    client: int
    content: bytes | None
    code: int
    reason: str
    lines: tuple[str, ...]
    used: dict[str, float]


class PoolWorker:
    """Answers the tasks of one connection.

    Parameters
    ----------
    job : Job
    memory : Memory
        Of the round: whose answers are waited for, and the content of its messages.
    parent : int
        The process number of the template, which goes when the kernel does.
    """

    def __init__(self, job: Job, memory: Memory, parent: int) -> None:
        self._memory = memory
        self._parent = parent
        self._order = 0
        host = ClientHost(job.experiment, torch.device("cpu"), self._check)
        self._clients = len(job.experiment.splits)
        self._app: ClientApp = make_client_app(host, job.mods)
        self._contexts: dict[int, Context] = {}
        self._content: tuple[int, RecordDict] = (0, RecordDict())
        self._usage = Usage()

    def _check(self, _client: int) -> None:
        if os.getppid() != self._parent:
            os._exit(1)
        if int.from_bytes(self._memory.bytes[:ORDER], "little") != self._order:
            raise Abandoned

    def serve(self, connection: Connection) -> None:
        """Answer tasks until the kernel says that there are no more, or is gone."""
        while True:
            while not connection.poll(LOOK_SECONDS):
                if os.getppid() != self._parent:
                    return
            try:
                task = connection.recv()
            except EOFError:
                return
            if task is None:
                return
            connection.send(self._answer(task))

    def _answer(self, task: Task) -> Answer:
        self._order = task.order
        lines: list[str] = []
        content, code, reason = None, 0, ""
        begin = time.perf_counter()
        with flower.log_to(lines.append):
            try:
                question = Message(self._read(task), task.client, task.kind)
                reply = self._app(question, self._context(task.client))
                if reply.has_content():
                    content = pack(reply.content)
                else:
                    code, reason = reply.error.code, reply.error.reason or ""
            except Abandoned:
                code, reason = ErrorCode.NODE_UNAVAILABLE, ABANDONED
            except BaseException as error:  # noqa: BLE001 - even SystemExit is its answer
                code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
                reason = f"{summary(error)}\n{traceback.format_exc()}"
        what = "evaluating" if task.kind.startswith(MessageType.EVALUATE) else "training"
        self._usage.add(f"{what}_seconds", time.perf_counter() - begin)
        used = self._usage.take()
        return Answer(task.order, task.client, content, code, reason, tuple(lines), used)

    def _read(self, task: Task) -> RecordDict:
        if self._content[0] != task.number:
            written = task.content
            if written is None:
                written = self._memory.bytes[ORDER : ORDER + task.size]
            self._content = (task.number, unpack(written))
        return self._content[1]

    def _context(self, client: int) -> Context:
        if client not in self._contexts:
            self._contexts[client] = make_context(client, self._clients)
        return self._contexts[client]


def take_on(plan: NumericsPlan) -> None:
    """Let this process make its numbers as the process does whose plan it is."""
    torch.set_default_dtype(getattr(torch, plan.default_dtype))
    torch.set_float32_matmul_precision(plan.matmul_precision)
    torch.backends.mkldnn.enabled = plan.mkldnn  # type: ignore[assignment]
    torch.use_deterministic_algorithms(plan.deterministic_algorithms)


def main(connection: Connection, job: Memory, round_: Memory, parent: int) -> int:
    """Say who this is, then what is wrong, or "" and serve; returns the exit status."""
    connection.send(os.getpid())
    try:
        one_thread()
        flower.prepare()
        flower.quiet()
        made: Job = unpack_objects(job)
        take_on(made.plan)
        plan = make_plan(made.experiment, torch.device("cpu"))
        if plan != made.plan:
            own, theirs = plan.as_dict(), made.plan.as_dict()
            name = next(name for name in own if own[name] != theirs[name])
            raise RuntimeError(f"{name} is {own[name]!r} there and {theirs[name]!r} here")
        worker = PoolWorker(made, round_, parent)
    except Exception as error:  # noqa: BLE001 - the kernel says it
        connection.send(summary(error))
        return 1
    connection.send("")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the kernel is gone
        worker.serve(connection)
    return 0
