"""Faults that somebody asks for: kept as files, struck at once or at a moment of a round.

::

    <run folder>/processes/chaos/
      planned/<id>.json   to be struck by the server when its round and moment come
      struck/<id>.json    was struck; goes when the records hold it
      paused/<name>.json  a process that is stopped, and until when
      cut/<name>.json     a worker that is cut off from the network, and until when

What happened is written before it is done: a server that kills itself finds it when it is back, and
a process is never left stopped because whoever stopped it died.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.event import Event
from flautim_lab.records.recorder import Recorder
from flautim_lab.runners.process_files import ProcessFolder, living

MOMENTS = ("starting", "training", "aggregating", "storing", "ended")
"""Of a round: before its clients are asked, while they train, when their answers are added up,
half-way through the checkpoint, and (of the last round) when all is done but saying so."""
ACTIONS = ("kill", "pause", "partition")
KERNEL, MACHINE, SERVER, WATCH = "kernel", "machine", "server", "watch"


@dataclass(frozen=True)
class Fault:
    """Something that is done to a run's processes.

    Attributes
    ----------
    id : str
    action : {"kill", "pause", "partition"}
    targets : tuple of str
        Names of processes, ``kernel``, or ``machine`` for all of them at once.
    seconds : float
        How long a pause or partition lasts.
    round : int
        The round in which it is to be struck, or was.
    moment : str
        One of :data:`MOMENTS`.
    time : float
        When it was struck, in seconds since 1970.
    """

    id: str
    action: str
    targets: tuple[str, ...]
    seconds: float = 0.0
    round: int = 0
    moment: str = "training"
    time: float = 0.0

    @property
    def target(self) -> str:
        """Whom it hits, in words."""
        return ", ".join(self.targets)

    @property
    def words(self) -> str:
        """What was done to them."""
        if self.action == "kill":
            return "killed"
        word = "paused" if self.action == "pause" else "cut off"
        return f"{word} for {self.seconds:g} s"


def _write(folder: Path, fault: Fault) -> None:
    write_atomic(folder / f"{fault.id}.json", json.dumps(asdict(fault)).encode())


def _read(folder: Path) -> list[Fault]:
    found = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            found.append(from_dict(json.loads(path.read_text(encoding="utf-8"))))
    return found


def from_dict(facts: Mapping[str, Any]) -> Fault:
    """Return a fault from its fields, as JSON holds them."""
    return Fault(**{**facts, "targets": tuple(facts["targets"])})


def plan(folder: ProcessFolder, fault: Fault) -> None:
    """Keep a fault until its round and moment come."""
    _write(folder.chaos / "planned", fault)


def note_struck(folder: ProcessFolder, fault: Fault) -> None:
    """Keep for the records that a fault is struck by somebody else (a pod is deleted)."""
    _write(folder.chaos / "struck", fault)


def planned(folder: ProcessFolder) -> list[Fault]:
    """Return the faults that are still to come."""
    return _read(folder.chaos / "planned")


def strike_planned(folder: ProcessFolder, moment: str, round_number: int) -> None:
    """Strike what is planned for this moment of this round."""
    for fault in planned(folder):
        if (fault.moment, fault.round) == (moment, round_number):
            strike(folder, fault, round_number)


def strike(folder: ProcessFolder, fault: Fault, round_number: int) -> None:
    """Do it, after writing that it is done; the caller's own process is hit last."""
    _write(folder.chaos / "struck", replace(fault, time=time.time(), round=round_number))
    (folder.chaos / "planned" / f"{fault.id}.json").unlink(missing_ok=True)
    names = fault.targets
    if MACHINE in names:
        # The watch first: it would start again whatever dies before it.
        names = (WATCH, *sorted(folder.alive_but(WATCH)), KERNEL)
    processes = [(name, _process(folder, name)) for name in names]
    processes.sort(key=lambda pair: pair[1] is not None and pair[1].pid == os.getpid())
    for name, process in processes:
        if fault.action == "partition":
            _until(folder.chaos / "cut" / f"{name}.json", fault.seconds)
        elif process is not None:
            if fault.action == "pause":
                _until(folder.chaos / "paused" / f"{name}.json", fault.seconds)
            sent = signal.SIGSTOP if fault.action == "pause" else signal.SIGKILL
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(sent)


def _process(folder: ProcessFolder, name: str) -> psutil.Process | None:
    return living(*folder.facts().kernel) if name == KERNEL else folder.process(name)


def _until(path: Path, seconds: float) -> None:
    write_atomic(path, json.dumps(time.time() + seconds).encode())


def _is_over(path: Path) -> bool:
    try:
        return bool(time.time() >= json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return True


def wake(folder: ProcessFolder) -> None:
    """Let those go on whose pause is over; the watch calls this again and again."""
    for path in (folder.chaos / "paused").glob("*.json"):
        if _is_over(path):
            process = folder.process(path.stem)
            if process is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
            path.unlink(missing_ok=True)


def is_cut(folder: ProcessFolder, name: str) -> bool:
    """Return whether a worker is to behave as cut off from the network now."""
    path = folder.chaos / "cut" / f"{name}.json"
    return path.exists() and not _is_over(path)


@dataclass
class _Open:
    """A fault from which the run has not recovered; ``left`` are the targets still away."""

    fault: Fault
    left: set[str] = field(default_factory=set)


class FaultLog:
    """In the server: records what was struck, and when each target was at work again.

    Parameters
    ----------
    folder : ProcessFolder
    recorder : Recorder
    earlier : iterable of Event
        What is recorded of faults and recoveries, from the servers before this one.
    activated : callable
        Returns when the worker of each slot connected, in seconds since 1970.
    """

    def __init__(
        self,
        folder: ProcessFolder,
        recorder: Recorder,
        earlier: Iterable[Event],
        activated: Callable[[], Mapping[int, float]],
    ) -> None:
        self._folder = folder
        self._recorder = recorder
        self._activated = activated
        self._lock = threading.Lock()
        self._born = time.time()
        self._open: list[_Open] = []
        self._known: set[tuple[str, float]] = set()
        for event in earlier:
            if event.kind == "fault":
                self._add(_from_event(event))
            else:
                self._open = [one for one in self._open if one.fault.target != event.name]

    def drain(self) -> None:
        """Record what was struck since the last look, and who of the watching ones is back."""
        with self._lock:
            for fault in _read(self._folder.chaos / "struck"):
                if (fault.target, fault.time) not in self._known:
                    self._add(fault)
                    self._recorder.fault(
                        fault.target, fault.words, round=fault.round, time=fault.time
                    )
                    self._recorder.log(f"{fault.target} {fault.words}", round=fault.round)
                    self._recorder.flush()
                (self._folder.chaos / "struck" / f"{fault.id}.json").unlink(missing_ok=True)
            for one in self._open:
                for name in one.left & {WATCH, "template"}:
                    since = self._folder.alive_since(name)
                    if since is not None and since > one.fault.time:
                        one.left.discard(name)
            self._close()

    def heard(self, slot: int) -> None:
        """Take note that the worker of a slot is at work."""
        if not self._open:
            return
        with self._lock:
            now, name = time.time(), f"client-{slot}"
            for one in self._open:
                fault = one.fault
                if self._born > fault.time:
                    one.left -= {SERVER, MACHINE}
                if name in one.left:
                    since = self._activated().get(slot, 0.0)
                    back = now - fault.seconds if fault.action == "pause" else since
                    if back > fault.time:
                        one.left.discard(name)
                if fault.action == "pause" and now - fault.seconds > fault.time:
                    one.left.discard(SERVER)
            self._close()

    def finish(self) -> None:
        """Take note that the server has done all there was to do.

        One that was killed after the last round comes back to nothing but to say so, and hears of
        no worker.
        """
        with self._lock:
            for one in self._open:
                if self._born > one.fault.time:
                    one.left -= {SERVER, MACHINE}
            self._close()

    def _add(self, fault: Fault) -> None:
        self._known.add((fault.target, fault.time))
        left = set(fault.targets) - {KERNEL}
        if left:
            self._open.append(_Open(fault, left))

    def _close(self) -> None:
        for one in [one for one in self._open if not one.left]:
            seconds = time.time() - one.fault.time
            self._recorder.recovery(one.fault.target, seconds, round=one.fault.round)
            self._recorder.log(f"{one.fault.target} is at work again after {seconds:.1f} s")
            self._open.remove(one)


def _from_event(event: Event) -> Fault:
    """Return a recorded fault, as far as recovering from it asks."""
    pause = event.text.startswith("paused")
    facts: dict[str, Any] = {"action": "pause" if pause else "kill", "time": event.time}
    if pause:
        facts["seconds"] = float(event.text.split()[2])
    return Fault("", targets=tuple(event.name.split(", ")), round=event.round, **facts)
