"""Do worker processes pay? Asked once in a run, after threads have been measured.

A process starts for seconds and holds torch and its clients' data once more. So it is tried only
where what it can save in the rounds that are left is more, and kept only where it does save time.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

from flwr.app import Message, RecordDict

from flautim_lab.experiment.draws import own_methods
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.side_effects import keeps_something
from flautim_lab.training.cores import usable_cores
from flautim_lab.training.grid import WORTH_IT
from flautim_lab.training.pool_worker import Job
from flautim_lab.training.worker_pool import PoolLostError, WorkerPool

__all__ = ["ProcessTrial", "why_not"]

TRIAL = (True, True, False, True, False)  # which rounds of it are in processes
START_SECONDS = 4.0  # of all cores, until processes are there and warm
_GATHERS = (list, dict, set, bytearray)  # what code may write into without setting a name


class ProcessTrial:
    """Starts worker processes when they promise to pay, and keeps them if they do.

    Parameters
    ----------
    job : Job
        What they are for.
    rounds : int
        Of the whole run.
    log : callable
        Gets one line when there is something to say.
    used : callable
        Gets a worker's slot and what it used for an answer.
    """

    def __init__(
        self,
        job: Job,
        rounds: int,
        log: Callable[[str], None],
        used: Callable[[int, Mapping[str, float]], None] = lambda _slot, _used: None,
    ) -> None:
        self._job = job
        self._rounds = rounds
        self._log = log
        self._used = used
        self._pool: WorkerPool | None = None
        self._ready = False
        # Seconds of the rounds of the trial, one after another; None when it is over.
        self._trial: list[float] | None = []

    def consider(self, alone: float, best: float, done: int, content: RecordDict) -> None:
        """Start processes if they promise to pay.

        Parameters
        ----------
        alone, best : float
            Seconds of a round with one thread, and with as many as are faster.
        done : int
            Rounds so far.
        content : RecordDict
            Of a message of training.
        """
        workers = min(usable_cores(), self._job.experiment.asked_per_round)
        if workers < 2:
            return
        gain = best - alone / workers
        left = self._rounds - done - len(TRIAL)
        if gain < (1 - WORTH_IT) * best or gain * left < START_SECONDS:
            return
        reason = why_not(self._job.experiment)
        if reason:
            self._log(f"clients stay in the kernel's process: {reason}")
            return
        try:
            self._pool = WorkerPool(self._job, content, workers, self._log, self._used)
        except PoolLostError as error:
            self._lost(error)

    def at_hand(self) -> bool:
        """Return whether the next messages go to processes."""
        if self._pool is None:
            return False
        try:
            self._ready = self._pool.ready()
        except PoolLostError as error:
            self._lost(error)
            return False
        return self._ready and (self._trial is None or TRIAL[len(self._trial)])

    def answer(
        self,
        messages: Sequence[Message],
        order: int,
        answered: Callable[[Message], None],
        **how: Any,
    ) -> bool:
        """Let worker processes answer (:meth:`WorkerPool.answer`); returns whether they did."""
        if self._pool is None:
            return False
        try:
            self._pool.answer(messages, order, answered, **how)
        except PoolLostError as error:
            self._lost(error)
            return False
        return True

    def judge(self, seconds: float) -> None:
        """Count a round of training; after the last of the trial, keep what was faster.

        The two take turns, so that what else the machine does slows both.
        """
        if self._pool is None or not self._ready or self._trial is None:
            return
        self._trial.append(seconds)
        if len(self._trial) < len(TRIAL):
            return
        of = {True: 0.0, False: 0.0}
        for apart, taken in list(zip(TRIAL, self._trial, strict=True))[1:]:  # the first warms up
            of[apart] += taken / TRIAL[1:].count(apart)
        self._trial = None
        compared = f"{of[True]:.2g} s a round, {of[False]:.2g} s without"
        if of[True] < WORTH_IT * of[False]:
            number = len(self._pool.processes)
            self._log(f"clients train in {number} worker processes from here on: {compared}")
        else:
            self._log(f"worker processes do not pay here: {compared}")
            self.close()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _lost(self, error: PoolLostError) -> None:
        self._log(f"clients train in the kernel's process, without worker processes: {error}")
        self.close()


def why_not(experiment: Experiment) -> str:
    """Return why clients cannot be in other processes, "" if they can.

    What their code writes anywhere but into the model would be lost with its process, while the
    kernel could look at it before.
    """
    if os.name != "posix":
        return "worker processes need a POSIX system"
    modules = experiment.build_model().modules()
    kinds = dict.fromkeys([*map(type, modules), type(experiment), type(experiment.dataset)])
    where = keeps_something(kinds)
    if where is not None:
        return f"{where} keeps something beside the weights"
    for kind in kinds:
        for function in own_methods(kind):
            if isinstance(function, FunctionType):
                for name, value in _from_outside(function):
                    if isinstance(value, _GATHERS):
                        return (
                            f"{function.__qualname__.rpartition('<locals>.')[2]} refers to "
                            f"{name!r}, a {type(value).__name__} outside of it, and might write "
                            "there (a tuple could not be written to)"
                        )
    return ""


def _from_outside(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield names and values of the globals and the closure that a function refers to."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for name in _names(function.__code__):
        if name in function.__globals__ and not hasattr(builtins, name):
            yield name, function.__globals__[name]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)
