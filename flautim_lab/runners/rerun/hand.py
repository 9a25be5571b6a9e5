"""The process that executes points, one after the other, each in a fork of its own.

``python -m flautim_lab.runners.rerun.hand PARENT``. It loads papermill once, which takes a second
and more, reads what to execute from its standard input, a line of JSON each, and tells on its
standard output how that goes. It ends with its parent, its fork with it, and the kernel with that,
however the parent ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from flautim_lab.errors import ExecutionError, FlautimError
from flautim_lab.runners.notebook import CellProgress, execute_notebook
from flautim_lab.training.orphans import die_with_parent

_telling = threading.Lock()


class Ended(KeyboardInterrupt):
    """The batch asks this point to end; asyncio lets only such an exception through at once."""


def main() -> None:
    """Execute what comes, until there is no more."""
    die_with_parent(int(sys.argv[1]))
    # A terminal's Ctrl-C is for the batch, which then asks for what it wants.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    this = os.getpid()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_in_the_fork(json.loads(line), this))
        tell(1, {"process": child})
        _, status = os.waitpid(child, 0)
        tell(1, {"ended": os.waitstatus_to_exitcode(status)})


def _in_the_fork(asked: dict[str, Any], parent: int) -> int:
    die_with_parent(parent)
    signal.signal(signal.SIGTERM, _end)
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    try:
        tell(answers, {"result": _execute(asked, answers)})
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told, and this ends
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        tell(answers, {"result": {"status": "failed", "error": reason}})
    return 0


def _execute(asked: dict[str, Any], answers: int) -> dict[str, Any]:
    def show(cell: CellProgress) -> None:
        told: dict[str, Any] = {"cell": cell.number, "cells": cell.total}
        if cell.run is not None:
            told |= {"run": cell.run.id, "round": cell.run.round, "rounds": cell.run.rounds}
        tell(answers, told)

    started = time.time()
    result: dict[str, Any] = {"status": "finished", "error": "", "runs": []}
    try:
        done = execute_notebook(
            asked["notebook"], asked["output"], asked["parameters"], tied=True, progress=show
        )
        result["runs"] = list(done.runs)
    except ExecutionError as error:
        status = "died" if error.died else "failed"
        result |= {"status": status, "error": error.reason, "runs": list(error.runs)}
    except FlautimError as error:
        result |= {"status": "failed", "error": str(error)}
    except Ended:
        result["status"] = "interrupted"
    return {**result, "seconds": time.time() - started, "started": started}


def _end(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise Ended


def tell(descriptor: int, what: dict[str, Any]) -> None:
    """Write one line of JSON, whole."""
    line = json.dumps(what).encode() + b"\n"
    with _telling:
        while line:
            line = line[os.write(descriptor, line) :]


if __name__ == "__main__":
    main()
