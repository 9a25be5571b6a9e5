"""Everything internal of Flower that we lean on, in one file.

Flower's public API has no way to do these things; each name used here is held by
``tests/training/test_flower.py``, which fails loudly when Flower changes it:

- A ``Message`` reads the process-wide ``flwr.supercore.task_identity.TaskIdentity``.
- Flower draws the clients of a round from the global ``random`` module, and the noise of
  differential privacy from the global ``numpy.random``. A run must neither read nor move the
  researcher's global streams, and two runs in one kernel must not share one.
- ``ArrayRecord`` calls ``gc.collect()`` for every answer that QFedAvg or Bulyan reads, a tenth of
  a second and more each in a kernel with torch loaded.
- Its dicts of records build a type for the type checker at each item that is set, which takes three
  times as long as the checks and the setting, some twenty times per client and round.
- A strategy's messages of a round, up to one for each of thousands of clients, are alike but for
  whom they are for. Flower checks and fills in each anew, and so many objects keep Python's garbage
  collector busy, most of all in a kernel that holds many others.
- At each look at a content's arrays or metrics, some ten times per client and round, it checks them
  all and writes them back to where they are.
- Flower logs to the console from whatever thread it runs in, which would print into a notebook.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.message import arrayrecord, recorddict
from flwr.app.message.typeddict import TypedDict
from flwr.app.metadata import Metadata
from flwr.serverapp.strategy import FedAvg, Strategy, dp_adaptive_clipping, strategy_utils
from flwr.supercore import differential_privacy
from flwr.supercore.logger import FLOWER_LOGGER
from flwr.supercore.task_identity import TaskIdentity

from flautim_lab.experiment.streams import numpy_stream, stream_seed

# Any numbers do inside one process: messages never leave it. The server's node must not be a
# client's number, which count from 0.
SERVER_NODE = 2**62
RUN_NUMBER = 1

_choices: contextvars.ContextVar[random.Random | None] = contextvars.ContextVar(
    "flautim_lab_choices", default=None
)
_noise: contextvars.ContextVar[np.random.Generator | None] = contextvars.ContextVar(
    "flautim_lab_noise", default=None
)
_asking: contextvars.ContextVar[Any] = contextvars.ContextVar("flautim_lab_asking", default=None)
_log: contextvars.ContextVar[Callable[[str], None] | None] = contextvars.ContextVar(
    "flautim_lab_flower_log", default=None
)


class Alike(Sequence[Message]):
    """Messages that differ in nothing but whom they are for; each is made when it is looked at.

    Parameters
    ----------
    message : Message
        One of them.
    nodes : sequence of int
        Whom they are for.
    """

    def __init__(self, message: Message, nodes: Sequence[int]) -> None:
        self.message = message
        self.nodes = nodes

    def __len__(self) -> int:
        return len(self.nodes)

    @overload
    def __getitem__(self, place: int) -> Message: ...
    @overload
    def __getitem__(self, place: slice) -> Alike: ...
    def __getitem__(self, place: int | slice) -> Message | Alike:
        nodes = self.nodes[place]
        return self.to(nodes) if isinstance(nodes, int) else Alike(self.message, nodes)

    def to(self, node: int) -> Message:
        """Return the message to a node, as Flower would have made it at the same moment."""
        metadata, message = Metadata.__new__(Metadata), Message.__new__(Message)
        vars(metadata).update(vars(self.message.metadata), _dst_node_id=node)
        vars(message).update(vars(self.message), _metadata=metadata)
        return message


class _Redirected:
    """Stands for a module of random functions: the private stream inside a run, else itself."""

    def __init__(self, module: Any, variable: contextvars.ContextVar[Any]) -> None:
        self._module = module
        self._variable = variable

    def __getattr__(self, name: str) -> Any:
        private = self._variable.get()
        return getattr(self._module if private is None else private, name)


class _NumPy:
    """Stands for ``numpy`` where Flower draws noise; all but ``random`` is numpy's own."""

    random = _Redirected(np.random, _noise)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _Collector:
    """Stands for ``gc`` where Flower reads records: no forced collection inside a run."""

    def collect(self) -> int:
        return gc.collect() if _log.get() is None else 0


def _set_item(self: Any, key: Any, value: Any) -> None:
    """Set an item of one of Flower's dicts as it does itself, with the same checks."""
    inside = self.__dict__
    inside["_check_key_fn"](key)
    inside["_check_value_fn"](value)
    inside["_data"][key] = value


def _construct_messages(
    self: Any, record: RecordDict, node_ids: list[int], message_type: str
) -> Iterable[Message]:
    """Return a message with a record to each node, as FedAvg does."""
    whole = node_ids and all(isinstance(node, int) for node in node_ids)  # else it says what is not
    if _asking.get() is not self or not whole:
        return _constructed_by_flower(self, record, node_ids, message_type)
    return Alike(Message(record, node_ids[0], message_type), node_ids)


_constructed_by_flower = FedAvg._construct_messages


def _records_of(kind: type[Any]) -> property:
    """Return a property that gives a content's records of a kind in the dict that Flower makes."""

    def records(self: Any) -> Any:
        found = recorddict._SyncedDict(self, kind)
        inside = found.__dict__["_data"]
        inside.update((k, v) for k, v in self.__dict__["_data"].items() if isinstance(v, kind))
        return found

    return property(records)


class _ToRunLog(logging.Filter):
    """Inside a run, Flower's warnings go to the run's log and nothing goes to the console."""

    def filter(self, record: logging.LogRecord) -> bool:
        write = _log.get()
        if write is None:
            return True
        if record.levelno >= logging.WARNING:
            write(f"Flower: {record.getMessage()}")
        return False


def prepare() -> None:
    """Make Flower ready to run inside this process; calling it twice changes nothing."""
    utils: Any = strategy_utils
    if not isinstance(utils.random, _Redirected):
        utils.random = _Redirected(random, _choices)
        module: Any
        for module in (differential_privacy, dp_adaptive_clipping):
            module.np = _NumPy()
        module = arrayrecord
        module.gc = _Collector()
        TypedDict.__setitem__ = _set_item  # type: ignore[method-assign]
        FedAvg._construct_messages = _construct_messages  # type: ignore[method-assign]
        whole: Any = recorddict.RecordDict
        whole.array_records = _records_of(ArrayRecord)
        whole.metric_records = _records_of(MetricRecord)
        FLOWER_LOGGER.addFilter(_ToRunLog())
    try:
        _ = TaskIdentity.task_id
    except RuntimeError:  # outside Flower's own processes nothing has set it
        TaskIdentity.task_id = RUN_NUMBER
        TaskIdentity.run_id = RUN_NUMBER
        TaskIdentity.node_id = SERVER_NODE


def quiet() -> None:
    """Keep Flower's log to warnings in this process: its SuperLink writes a line per request."""
    FLOWER_LOGGER.setLevel(logging.WARNING)


@contextlib.contextmanager
def private_random(seed: int, purpose: str, round_number: int) -> Iterator[None]:
    """Let Flower draw from streams keyed by (seed, purpose, round) inside this context."""
    choices = _choices.set(random.Random(stream_seed(seed, f"flower {purpose}", round_number)))
    noise = _noise.set(numpy_stream(seed, f"flower noise {purpose}", round_number))
    try:
        yield
    finally:
        _choices.reset(choices)
        _noise.reset(noise)


@contextlib.contextmanager
def messages_of(strategy: Strategy) -> Iterator[None]:
    """Let a strategy make its messages :class:`Alike` inside this context, where nobody would know.

    Those of Flower's own do nothing with them but hand them on. Another may change each of them.
    """
    own = type(strategy).__module__.startswith("flwr.") and not any(
        name.startswith("configure_") for name in vars(strategy)
    )
    token = _asking.set(strategy if own else None)
    try:
        yield
    finally:
        _asking.reset(token)


def say(line: str) -> None:
    """Write a line of ours to the log of the run that this is part of, or of this process."""
    write = _log.get()
    if write is None:
        FLOWER_LOGGER.warning(line)
    else:
        write(line)


@contextlib.contextmanager
def log_to(write: Callable[[str], None]) -> Iterator[None]:
    """Send what Flower logs in this thread to ``write`` (warnings and errors only)."""
    token = _log.set(write)
    try:
        yield
    finally:
        _log.reset(token)
