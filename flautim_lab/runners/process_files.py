"""The files by which the processes of one run know each other, and how one is started and found.

::

    <run folder>/processes/
      run.json            which run, how many workers
      workers.json        which slots are meant to have a worker now, once that has changed
      port                where the server listens; there once it has loaded the experiment
      tls/                certificates of this run
      keys/0-2.key, .pub  the key of the second worker that held slot 0
      server.pid, ...     who is alive (process number and when it started)
      watch.lock          held by the watch that lives
      chaos/              faults that were asked for (see chaos.py)
      *.log               what each of them wrote
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from flautim_lab.records.artifacts import write_atomic

_KEY = re.compile(r"(\d+)-(\d+)\.pub")


@dataclass(frozen=True)
class RunFacts:
    """What each process of a run is told.

    Attributes
    ----------
    run_id : str
    slots : int
        How many workers there may be.
    clients : int
    places : tuple of str
        Where the worker of each slot is; empty where any of them may host any client.
    begin : tuple of int
        The slots that have a worker at the beginning; empty where all have.
    kernel : tuple of (int, float)
        Process number and start of the process that started the run.
    """

    run_id: str
    slots: int
    clients: int
    kernel: tuple[int, float] = (0, 0.0)
    places: tuple[str, ...] = ()
    begin: tuple[int, ...] = ()


class ProcessFolder:
    """The files of one run's processes.

    Parameters
    ----------
    run_folder : Path
        The run's folder of artifacts.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.path = run_folder / "processes"
        self.tls = self.path / "tls"
        self.keys = self.path / "keys"
        self.chaos = self.path / "chaos"
        self.checkpoints = run_folder / "checkpoints"

    # --- facts ------------------------------------------------------------------------------

    def write_facts(self, facts: RunFacts) -> None:
        """Write what the processes are told."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self.path / "run.json", json.dumps(asdict(facts)).encode())

    def facts(self) -> RunFacts:
        """Read what the processes are told."""
        facts = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        return RunFacts(
            **facts | {name: tuple(facts.get(name, ())) for name in ("kernel", "places", "begin")}
        )

    def write_workers(self, slots: Iterable[int]) -> None:
        """Write which slots are meant to have a worker from now on."""
        write_atomic(self.path / "workers.json", json.dumps(sorted(slots)).encode())

    def workers(self) -> tuple[int, ...]:
        """Return which slots are meant to have a worker now, in their order."""
        try:
            return tuple(json.loads((self.path / "workers.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            facts = self.facts()
            return facts.begin or tuple(range(facts.slots))

    def write_port(self, port: int) -> None:
        """Write where the server listens."""
        write_atomic(self.path / "port", str(port).encode())

    def port(self) -> int:
        """Return where the server listens, or listened; 0 before the first one."""
        try:
            return int((self.path / "port").read_text())
        except (OSError, ValueError):
            return 0

    # --- keys -------------------------------------------------------------------------------

    def key(self, slot: int, generation: int) -> Path:
        """Return where the private key of a worker lies."""
        return self.keys / f"{slot}-{generation}.key"

    def newest_keys(self) -> dict[int, tuple[int, bytes]]:
        """Return the newest worker of each slot: its generation and public key."""
        newest: dict[int, tuple[int, Path]] = {}
        with contextlib.suppress(OSError):
            for path in self.keys.iterdir():
                if match := _KEY.fullmatch(path.name):
                    slot, generation = int(match[1]), int(match[2])
                    if generation > newest.get(slot, (0, path))[0]:
                        newest[slot] = (generation, path)
        found = {}
        for slot, (generation, path) in newest.items():
            with contextlib.suppress(OSError):
                found[slot] = (generation, path.read_bytes())
        return found

    # --- processes ---------------------------------------------------------------------------

    def start(
        self, name: str, module: str, *, stdin: int = subprocess.DEVNULL, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a module as one of the run's processes, detached from this one.

        Parameters
        ----------
        name : str
            Under which it is found; what it says goes to ``<name>.log``.
        module : str
            Run with the run's folder as its argument.
        stdin, stdout : int
            As in :class:`subprocess.Popen`; nothing, and the log, by default.
        """
        environment = os.environ | {
            "FLAUTIM_LAB_HOME": str(self.run_folder.parent.parent),
            "FLWR_TELEMETRY_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("FLAUTIM_LAB_BATCH", None)
        with open(self.path / f"{name}.log", "ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                [sys.executable, "-m", module, str(self.run_folder)],
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=environment,
            )

    def write_pid(self, name: str, pid: int) -> None:
        """Write which process has that name from now on."""
        with contextlib.suppress(psutil.NoSuchProcess):
            # `started` tells two processes of one number apart, but may be a second off the clock
            # that faults are timed by: `since` is by that clock.
            started = psutil.Process(pid).create_time()
            mark = {"pid": pid, "started": started, "since": time.time()}
            write_atomic(self.path / f"{name}.pid", json.dumps(mark).encode())

    def announce(self, name: str) -> None:
        """Write that this process is the one of that name."""
        self.write_pid(name, os.getpid())

    def process(self, name: str) -> psutil.Process | None:
        """Return the process of that name, if it lives."""
        return self._found(name)[0]

    def alive_since(self, name: str) -> float | None:
        """Return since when (seconds since 1970) the process of that name lives, if it does."""
        process, since = self._found(name)
        return None if process is None else since

    def _found(self, name: str) -> tuple[psutil.Process | None, float]:
        try:
            mark: dict[str, Any] = json.loads((self.path / f"{name}.pid").read_text())
            return living(mark["pid"], mark["started"]), mark["since"]
        except (OSError, ValueError, KeyError):
            return None, 0.0

    def names(self) -> list[str]:
        """Return the names of the processes that were started (server, client-0, ..., watch)."""
        return sorted(path.stem for path in self.path.glob("*.pid"))

    def alive(self) -> dict[str, psutil.Process]:
        """Return the processes that live, by name."""
        found = {name: self.process(name) for name in self.names()}
        return {name: process for name, process in found.items() if process is not None}

    def alive_but(self, *names: str) -> dict[str, psutil.Process]:
        """Return the processes that live, but for those of these names."""
        return {name: process for name, process in self.alive().items() if name not in names}

    def kill(self, name: str) -> bool:
        """Kill a process (SIGKILL); returns whether it lived."""
        process = self.process(name)
        if process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
        return True

    def end_all(self, seconds: float = 5.0) -> None:
        """End all but the watch, gently and then by force."""
        end(list(self.alive_but("watch").values()), seconds)

    def has_leftovers(self) -> bool:
        """Return whether anything is here that :meth:`clean` would remove."""
        return self.tls.exists() or self.keys.exists() or any(self.path.glob("*.pid"))

    def clean(self) -> None:
        """Remove keys, certificates and all else but the logs; nothing secret outlives a run."""
        for folder in (self.tls, self.keys, self.chaos):
            shutil.rmtree(folder, ignore_errors=True)
        files = [self.path / "port", self.path / "outcome.json"]
        for path in [*self.path.glob("*.pid"), *self.path.glob(".*.tmp"), *files]:
            path.unlink(missing_ok=True)

    # --- the watch's lock ---------------------------------------------------------------------

    @contextlib.contextmanager
    def watching(self) -> Iterator[bool]:
        """Hold the watch's lock while inside; yields False where another process holds it.

        The lock is the kernel's: it goes with its process, however that ends.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self.path / "watch.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(file)

    def is_watched(self) -> bool:
        """Return whether a watch lives."""
        return self.process("watch") is not None


def living(pid: int, started: float) -> psutil.Process | None:
    """Return the process of that number that started then (seconds since 1970), if it lives."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started) > 1.0:
            return None  # the number was given to another process
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)  # a child of ours that ended is reaped here
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if alive else None


def end(processes: Sequence[psutil.Process], seconds: float = 5.0) -> None:
    """End processes: gently, and after so many seconds by force; a stopped one by force."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            stopped = process.status() == psutil.STATUS_STOPPED
            process.send_signal(signal.SIGKILL if stopped else signal.SIGTERM)
    _, left = psutil.wait_procs(processes, timeout=seconds)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=seconds)
