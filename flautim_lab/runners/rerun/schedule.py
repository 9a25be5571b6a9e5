"""So many points at once, each with a time limit and so many retries, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flautim_lab.home import home
from flautim_lab.runners.rerun.folder import BatchFolder, Task
from flautim_lab.runners.stamped import DIED, FINISHED, INTERRUPTED, TIMEOUT, Outcome
from flautim_lab.training.cores import CORES_VARIABLE, usable_cores

LOOK_SECONDS = 0.2
GRACE_SECONDS = 10.0
"""How long a point that is asked to end may take, to keep its outputs and end its kernel."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Going:
    """A point that is being executed, and how far it is."""

    task: Task
    attempt: int
    since: float
    process: int = 0
    cell: int = 0
    cells: int = 0
    round: int = 0
    rounds: int = 0
    runs: list[str] = field(default_factory=list)
    asked_to_end: float = 0.0
    why: str = ""
    result: Outcome | None = None

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1, as well as can be told."""
        if self.rounds:
            return min(0.95, self.round / self.rounds)
        return 0.0

    def hear(self, told: dict[str, Any]) -> None:
        """Take in what its process tells."""
        if "process" in told:
            self.process, self.since = told["process"], time.time()
        elif "result" in told:
            self.result = Outcome(attempts=self.attempt, **told["result"])
        elif "cell" in told:
            self.cell, self.cells = told["cell"], told["cells"]
            self.round, self.rounds = told.get("round", self.round), told.get("rounds", self.rounds)
            if "run" in told and told["run"] not in self.runs:
                self.runs.append(told["run"])

    def outcome(self, timeout: float | None) -> Outcome:
        """Return what came of it, now that its process has ended."""
        seconds = time.time() - self.since
        found = self.result or Outcome(
            DIED, "its process was killed", seconds=seconds, attempts=self.attempt
        )
        if self.why == TIMEOUT and found.status != FINISHED:
            found.status, found.error = TIMEOUT, f"it took longer than {timeout:g} seconds"
        elif self.why == INTERRUPTED and found.status != FINISHED:
            found.status, found.error = INTERRUPTED, "it was interrupted"
        found.started = found.started or self.since
        found.seconds = found.seconds or seconds
        found.runs = [*found.runs, *(run for run in self.runs if run not in found.runs)]
        return found


class Hand:
    """A process that executes one point at a time.

    Parameters
    ----------
    environment : dict
        Of the process, and of the kernels that it starts.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - this Python, and a module of ours
            [sys.executable, "-m", "flautim_lab.runners.rerun.hand", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is for the batch alone
        )
        self._unread = b""
        self.going: Going | None = None
        self.closed = False

    def fileno(self) -> int:
        """Return the descriptor on which it tells how it goes."""
        assert self._process.stdout is not None  # noqa: S101 - it was asked for above
        return self._process.stdout.fileno()

    def give(self, going: Going, asked: dict[str, Any]) -> None:
        """Let it execute a point."""
        self.going = going
        with contextlib.suppress(OSError):  # it died: reading tells
            os.write(self._stdin(), json.dumps(asked).encode() + b"\n")

    def _stdin(self) -> int:
        assert self._process.stdin is not None  # noqa: S101 - it was asked for above
        return self._process.stdin.fileno()

    def read(self) -> bool:
        """Take in what it tells; return whether the point that it executes has ended."""
        chunk = os.read(self.fileno(), 1 << 16)
        if not chunk:
            self.closed = True
            return True
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        ended = False
        for line in lines:
            told = json.loads(line)
            ended = ended or "ended" in told
            if self.going is not None:
                self.going.hear(told)
        return ended

    def end_point(self, why: str) -> None:
        """Ask the point to end; kill it when it was asked long ago."""
        going = self.going
        if going is None:
            return
        if not going.process:  # what executes it is still loading
            if why == INTERRUPTED:
                going.why = why
                self._process.kill()
            return
        now = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            if not going.asked_to_end:
                going.asked_to_end, going.why = now, why
                os.kill(going.process, signal.SIGTERM)
            elif now - going.asked_to_end > GRACE_SECONDS:
                os.kill(going.process, signal.SIGKILL)

    def last_words(self) -> str:
        """Return the last line that it wrote to its error stream, if any."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-1].split()) if lines else ""

    def close(self) -> None:
        """End it, and with it what it executes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()


class Schedule:
    """Executes points.

    Parameters
    ----------
    folder : BatchFolder
    jobs : int
        How many at once.
    timeout : float or None
        Seconds that a point may take; the summary may take any.
    retries : int
        How often one that did not finish is tried again.
    settle : callable
        Called with each point and what came of it, when it is not tried again.
    watch : callable
        Called several times a second with those that are being executed.
    """

    def __init__(
        self,
        folder: BatchFolder,
        *,
        jobs: int,
        timeout: float | None,
        retries: int,
        settle: Callable[[Task, Outcome], None],
        watch: Callable[[Sequence[Going]], None],
    ) -> None:
        self._folder = folder
        self._jobs = jobs
        self._timeout = timeout
        self._retries = retries
        self._settle = settle
        self._watch = watch
        self._waiting: deque[tuple[Task, int]] = deque()
        self._hands: list[Hand] = []

    def run(self, tasks: Sequence[Task]) -> None:
        """Execute them, begun in their order, and return when all have ended."""
        self._waiting = deque((task, 1) for task in tasks)
        try:
            while self._waiting or any(hand.going for hand in self._hands):
                self._hand_out()
                self._step()
        except BaseException:
            self._waiting.clear()
            self._retries = 0
            while any(hand.going for hand in self._hands):
                for hand in self._hands:
                    hand.end_point(INTERRUPTED)
                self._step()
            raise

    def __enter__(self) -> Schedule:
        return self

    def __exit__(self, *_: object) -> None:
        """End whatever is left of its processes."""
        for hand in self._hands:
            hand.close()
        self._hands.clear()

    def _hand_out(self) -> None:
        idle = [hand for hand in self._hands if hand.going is None]
        while self._waiting and (idle or len(self._hands) < self._jobs):
            if not idle:
                idle.append(Hand(self._environment()))
                self._hands.append(idle[0])
            task, attempt = self._waiting.popleft()
            asked = {
                "notebook": str(task.notebook),
                "output": str(self._folder.running / task.name),
                "parameters": task.point,
            }
            idle.pop().give(Going(task, attempt, time.time()), asked)

    def _step(self) -> None:
        with selectors.DefaultSelector() as selector:
            for hand in self._hands:
                selector.register(hand, selectors.EVENT_READ, hand)
            for key, _ in selector.select(LOOK_SECONDS):
                if key.data.read():
                    self._ended(key.data)
        for hand in self._hands:
            going = hand.going
            if going is not None and (going.asked_to_end or self._is_late(going)):
                hand.end_point(TIMEOUT)
        self._watch([hand.going for hand in self._hands if hand.going])

    def _is_late(self, going: Going) -> bool:
        if self._timeout is None or not going.task.number:
            return False
        return time.time() - going.since > self._timeout

    def _ended(self, hand: Hand) -> None:
        going, hand.going = hand.going, None
        words = ""
        if hand.closed:
            words = hand.last_words()
            self._hands.remove(hand)
            hand.close()
        if going is None:
            return
        outcome = going.outcome(self._timeout)
        if words and outcome.status == DIED:
            outcome.error = f"its process ended: {words}"
        if outcome.status not in (FINISHED, INTERRUPTED) and going.attempt <= self._retries:
            self._waiting.appendleft((going.task, going.attempt + 1))
            return
        self._settle(going.task, outcome)

    def _environment(self) -> dict[str, str]:
        """Return the environment of a hand: a share of the cores, and where the records are."""
        share = str(max(1, usable_cores() // self._jobs))
        threads = {name: os.environ.get(name, share) for name in THREAD_VARIABLES}
        return {**os.environ, **threads, CORES_VARIABLE: share, "FLAUTIM_LAB_HOME": str(home())}
