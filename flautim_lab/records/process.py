"""The mark of a process, by which any other process tells whether it still lives.

A process number alone is not enough: it is given again after a while, starts afresh after a boot,
and means something else in another container or on another host.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from flautim_lab.names import duration

SILENCE_SECONDS = 60.0
"""How long a process that cannot be looked at may be silent before it is taken for gone."""

DETACHED = "detached"
"""Stands for the boot where a run is not of one process: several hold it, and any may die."""

DETACHED_SILENCE_SECONDS = 30.0
"""How long the processes of a detached run, each of which beats every second, may be silent."""

_SAME_START_SECONDS = 2.0  # the boot time is rounded to seconds, and read twice


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """Which process, so that it is never mistaken for another one.

    Parameters
    ----------
    host : str
        Name of the machine (or pod).
    boot : str
        Within what the process number counts: the boot and the process namespace (Linux); empty
        where the system does not tell.
    pid : int
        Process number.
    started : float
        When the process started: seconds since the boot on Linux, where the wall clock's idea of
        it moves when the clock is set; seconds since 1970 elsewhere.
    """

    host: str
    boot: str
    pid: int
    started: float

    @classmethod
    def own(cls) -> ProcessMark:
        """Return the mark of this process."""
        pid, boot = os.getpid(), _boot()
        return cls(socket.gethostname(), boot, pid, _started(pid, boot))

    def gone(self, heartbeat: float, now: float | None = None) -> str:
        """Return why the process is taken for gone, in words, or an empty text while it lives.

        Parameters
        ----------
        heartbeat : float
            Its last sign of life, in seconds since 1970. It counts only where the process cannot
            be looked at: on another host, or in another container of this one.
        now : float, optional
            The time of asking, in seconds since 1970.
        """
        if self.boot == DETACHED:
            who = f"the processes that ran it (on {self.host})"
            return _silent(who, heartbeat, now, DETACHED_SILENCE_SECONDS, "have")
        who = f"the process that ran it (pid {self.pid} on {self.host})"
        if self.host == socket.gethostname():
            if self.boot == _boot():
                return f"{who} is gone" if self._ended() else ""
            # Before this machine started: its processes cannot have outlived that. (A heartbeat
            # after it is from another machine of the same name, or another container.)
            if heartbeat < psutil.boot_time():
                return f"{who} is gone"
        return _silent(who, heartbeat, now)

    def _ended(self) -> bool:
        try:
            # A killed child stays in the process table until its parent asks for it.
            if psutil.Process(self.pid).status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
                return True
            return abs(_started(self.pid, self.boot) - self.started) > _SAME_START_SECONDS
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False  # another user's: it is there, and no more can be known


def _silent(
    who: str,
    heartbeat: float,
    now: float | None,
    bound: float = SILENCE_SECONDS,
    verb: str = "has",
) -> str:
    silence = (time.time() if now is None else now) - heartbeat
    return f"{who} {verb} been silent for {duration(silence)}" if silence > bound else ""


def _boot() -> str:
    if not sys.platform.startswith("linux"):
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int, boot: str) -> float:
    process = psutil.Process(pid)
    if not boot:
        return process.create_time()
    # psutil adds the boot time to what the kernel knows; taken off again, what is left does not
    # move when the clock is set. (The boot time is read first: psutil 6 keeps what it read.)
    booted = psutil.boot_time()
    return process.create_time() - booted
