"""Fresh processes to measure in, with nothing left of them afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARK = "measured: "
OWNER = "FLAUTIM_LAB_BENCHMARK"  # carried by every process that we started, and by its children
LIMIT_SECONDS = 300


class MeasurementError(RuntimeError):
    """A process gave no result."""


class FreshProcesses:
    """Starts processes one after another, each with a home of its own, and cleans up after each.

    Use it as a context; the scratch folder goes with it.
    """

    def __init__(self) -> None:
        # Short: Ray makes sockets in it, and their paths may have 107 characters.
        self.scratch = Path(tempfile.mkdtemp(prefix="fl-bench-"))
        self.left_behind: list[str] = []
        self._owner = secrets.token_hex(8)
        self._number = 0

    def __enter__(self) -> FreshProcesses:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._end_all()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def measure(self, module: str, function: str, work: str, *arguments: str) -> dict:
        """Return what ``module.function(work, *arguments)`` returns in a fresh process."""
        return self.python(str(HERE / "measure.py"), module, function, work, *arguments)

    def python(self, *arguments: str) -> dict:
        """Run Python with these arguments; return the JSON behind :data:`MARK` in its output.

        Raises
        ------
        MeasurementError
            If it fails, says nothing, or takes too long; with the end of what it said.
        """
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            env=self._environment(),
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output = process.communicate()[0] + f"\nno result after {LIMIT_SECONDS} s"
        finally:
            self._end_all()
        lines = [line for line in output.splitlines() if line.startswith(MARK)]
        if process.returncode != 0 or not lines:
            shown = "\n".join(output.splitlines()[-60:])
            raise MeasurementError(f"{' '.join(arguments)[:200]} failed:\n{shown}")
        return json.loads(lines[-1].removeprefix(MARK))

    def _environment(self) -> dict[str, str]:
        self._number += 1
        home = self.scratch / f"home-{self._number}"
        home.mkdir()
        # How many threads torch uses is part of what is measured: each side says it itself.
        dropped = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "FLAUTIM_LAB_RECORDS_URL"}
        dropped |= {"FLAUTIM_LAB_BATCH"}
        kept = {key: value for key, value in os.environ.items() if key not in dropped}
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return kept | {
            OWNER: self._owner,
            "PYTHONPATH": os.pathsep.join(path),
            "FLAUTIM_LAB_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self.scratch),
            "IPYTHONDIR": str(self.scratch / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(self.scratch / "jupyter"),
        }

    def _end_all(self) -> None:
        """Kill what is left of the processes we started (Ray's, a kernel), and note its name.

        Again and again: a watch or a worker may start another process while it is looked for.
        """
        grace = 5.0  # a process that is on its way out is given a moment; one born later is not
        while ours := self._ours():
            _, left = psutil.wait_procs(ours, timeout=grace)
            for process in left:
                with contextlib.suppress(psutil.Error):
                    self.left_behind.append(process.name())
                    process.kill()
            psutil.wait_procs(left, timeout=5)
            grace = 0.0

    def _ours(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mine = process.environ().get(OWNER) == self._owner
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found
