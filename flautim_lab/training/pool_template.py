"""The template of the ``local`` runner's worker processes: Python with torch loaded, to be forked.

It is a new Python, not a fork of the kernel, which holds locks that its other threads have taken,
torch's among them. A fork of it is there in milliseconds, and shares what it has loaded; no code of
a researcher's runs in it. Should the kernel go, so does it, and then its forks.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection

from flautim_lab.training.orphans import die_with_parent
from flautim_lab.training.parcel import Memory

__all__ = ["Template", "TemplateLostError", "begin"]

# Kind, process number, seconds: what the kernel asks. The answer is an exit code.
_REQUEST = struct.Struct("<cqd")
_CODE = struct.Struct("<q")
_FORK, _END = b"f", b"e"
# Bound to its kernel before it loads torch, which takes seconds.
_BEGIN = (
    "import sys; from flautim_lab.training.orphans import die_with_parent; "
    "die_with_parent(int(sys.argv[1])); "
    "from flautim_lab.training.pool_template import begin; begin()"
)
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LOOK_SECONDS = 0.005


class TemplateLostError(OSError):
    """The template is not there, or not any more."""


class Template:
    """The kernel's hold on a template.

    Parameters
    ----------
    shared : sequence of Memory
        What its forks see: the job, and the memory of a round.

    Raises
    ------
    TemplateLostError
        If no process can be started.
    """

    def __init__(self, shared: Sequence[Memory]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            numbers = [theirs.fileno(), *(memory.number for memory in shared)]
            told = [os.getpid(), *numbers, *(memory.size for memory in shared)]
            environment = dict.fromkeys(_ONE_THREAD, "1")
            # This package is found where it was found here; the job brings the rest of the path.
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - ourselves
                    [sys.executable, "-u", "-P", "-c", _BEGIN, *map(str, told)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=numbers,
                    env={**os.environ, **environment},
                    process_group=0,  # a terminal's Ctrl-C is for the kernel
                )
            except OSError as error:
                self._control.close()
                raise TemplateLostError(f"no process can be started: {error}") from error

    def fork(self) -> Connection:
        """Return the connection to a new worker, which first says its process number.

        Raises
        ------
        TemplateLostError
            If the template is gone.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [_REQUEST.pack(_FORK, 0, 0.0)], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise TemplateLostError("the process that starts them has died") from error
        return Connection(ours.detach())

    def end(self, pid: int, seconds: float) -> int:
        """Wait for a worker's end, killing it after so many seconds; return its exit code.

        Raises
        ------
        TemplateLostError
            If the template is gone, and its forks with it.
        """
        try:
            self._control.sendall(_REQUEST.pack(_END, pid, seconds))
            answer = self._control.recv(_CODE.size, socket.MSG_WAITALL)
            code: int = _CODE.unpack(answer)[0]
        except (OSError, struct.error) as error:
            raise TemplateLostError("the process that starts them has died") from error
        return code

    def close(self, seconds: float = 0.0) -> None:
        """End it and the workers that nobody has ended; kill it after so many seconds."""
        self._control.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def begin() -> None:
    """Be a template: fork workers until the kernel asks for no more, or is gone."""
    # Ctrl-C is for the kernel, which tells its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    number, job, round_, job_size, round_size = map(int, sys.argv[2:])

    from torch import _dynamo  # noqa: F401 - a second, at the first use of an optimizer

    from flautim_lab.training import pool_worker

    gc.collect()
    gc.freeze()  # a page stays shared until somebody writes to it, and the collector does
    here = os.getpid()
    forks: set[int] = set()
    with socket.socket(fileno=number) as control:
        while True:
            request, numbers, _, _ = socket.recv_fds(control, _REQUEST.size, 1)
            if len(request) < _REQUEST.size:
                for fork in forks:
                    _ended(fork, 0.0)
                return
            kind, pid, seconds = _REQUEST.unpack(request)
            if kind == _END:
                control.sendall(_CODE.pack(_ended(pid, seconds)))
                forks.discard(pid)
                continue
            if fork := os.fork():
                forks.add(fork)
                os.close(numbers[0])
                continue
            status = 1
            try:
                control.close()
                die_with_parent(here)
                status = pool_worker.main(
                    Connection(numbers[0]),
                    Memory(job_size, job, own=True),
                    Memory(round_size, round_),
                    here,
                )
            except BaseException:  # noqa: BLE001 - a fork must never return into this loop
                traceback.print_exc()
            finally:
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                os._exit(status)  # whatever threads the clients' code has left


def _ended(pid: int, seconds: float) -> int:
    """Return the exit code of a fork, which is killed after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)  # ours until it is waited for: it is no other process
        time.sleep(_LOOK_SECONDS)
