"""No process outlives the one that started it, not even after ``kill -9``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, in linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def die_with_parent(parent: int = 0, how: signal.Signals = signal.SIGKILL) -> None:
    """Let the system signal this process when the thread that started it is gone (Linux).

    May be called between fork and exec: it survives the exec, and is not inherited.

    Parameters
    ----------
    parent : int
        The process number that the parent must have; where it has gone already, this process ends
        at once.
    how : signal.Signals
        Which signal.
    """
    if _LIBC is not None:
        _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, int(how), 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)
