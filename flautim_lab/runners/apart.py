"""Ask a module of ours that answers in a process of its own, so that the kernel stays free."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from flautim_lab.errors import FlautimError, TrainingError


def ask_apart(module: str, question: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return a module's answer; its process may go on afterwards, and is reaped when it ends.

    It reads the question as JSON from its input, and its first line of output is the answer.

    Parameters
    ----------
    module : str
    question : mapping
        As JSON holds it.
    seconds : float
        After which it is killed.

    Raises
    ------
    TrainingError
        If it does not answer in time, or dies.
    FlautimError
        What it answers as an error.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    environment.pop("FLAUTIM_LAB_BATCH", None)  # it is no notebook
    process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the kernel is not meant for it
        text=True,
        env=environment,
    )
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        if process.stdin is not None and process.stdout is not None:  # they are pipes
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(question))
                process.stdin.close()
            line = process.stdout.readline()
            process.stdout.close()
    finally:
        late.cancel()
        threading.Thread(target=process.wait, name="reaper", daemon=True).start()
    if not line:
        raise TrainingError(
            f"the process that was to do it ended without an answer within {seconds:g} s; there "
            "may not be memory enough, or the code of the model or the dataset hangs"
        )
    told: dict[str, Any] = json.loads(line)
    if "error" in told:
        raise FlautimError(told["error"])
    return told


def answer(found: Mapping[str, Any]) -> None:
    """Write the one line that :func:`ask_apart` waits for."""
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
