"""The ``template`` of a run's processes: Python with torch and Flower loaded, ready to be forked.

A server and a worker that start from nothing load torch and Flower for seconds each, and each keeps
a copy of them in memory. A fork of the template is there in milliseconds, and shares what all of
them have loaded. No code of a researcher's ever runs in the template, so that a fork is as clean as
a new interpreter: an experiment that cannot be loaded in it is named before anything trains.

``python -m flautim_lab.runners.template RUN_FOLDER``: started by the watch. It reads what to start
from its standard input, a line of JSON each, and ends with it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, cast

from flautim_lab.runners.process_files import ProcessFolder

NAME = "template"


class Template:
    """The watch's hold on a template.

    Parameters
    ----------
    folder : ProcessFolder
        Of the run whose processes it starts.
    """

    def __init__(self, folder: ProcessFolder) -> None:
        self._process: Popen[bytes] = folder.start(
            NAME, "flautim_lab.runners.template", stdin=PIPE, stdout=PIPE
        )
        folder.write_pid(NAME, self._process.pid)
        self._to = cast(IO[bytes], self._process.stdin)
        self._from = cast(IO[bytes], self._process.stdout)
        os.set_blocking(self._from.fileno(), False)
        self._asked: set[str] = set()
        self._read = b""

    def start(self, name: str, *arguments: int) -> None:
        """Ask for a process; :meth:`starting` tells when it is there."""
        self._asked.add(name)
        with contextlib.suppress(BrokenPipeError):  # it died: `alive` says so
            self._to.write(json.dumps([name, *arguments]).encode() + b"\n")
            self._to.flush()

    def starting(self) -> set[str]:
        """Return the names of the processes that were asked for and are not there yet."""
        while chunk := self._from.read(4096):
            self._read += chunk
        *lines, self._read = self._read.split(b"\n")
        self._asked -= {line.decode() for line in lines}
        return self._asked

    @property
    def alive(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it; what it has started lives on."""
        for pipe in (self._to, self._from):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()


def main(run_folder: Path) -> int:
    """Fork what is asked for until nobody asks any more; returns the exit status of a fork."""
    from torch import _dynamo  # noqa: F401 - another second, at the first use of an optimizer

    from flautim_lab.runners import client, server  # seconds: torch, Flower

    folder = ProcessFolder(run_folder)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever ends is no zombie
    gc.collect()
    gc.freeze()  # a page stays shared until somebody writes to it, and the collector does
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            entry = server.main if name == "server" else client.main
            os._exit(_forked(folder, name, functools.partial(entry, run_folder, *arguments)))
        folder.write_pid(name, pid)
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
    return 0


def _forked(folder: ProcessFolder, name: str, entry: Callable[[], int]) -> int:
    """Be the process of that name, in a session and with a log of its own."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(folder.path / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number, source in enumerate((nothing, log, log)):
            os.dup2(source, number)
        return entry()
    except BaseException:  # noqa: BLE001 - a fork must never return into its parent's code
        traceback.print_exc()
        return 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
