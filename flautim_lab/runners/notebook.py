"""Execute a notebook in batch: other parameters, another output file, no browser.

papermill does the work; here is what it leaves open. A parameter that the notebook does not have
is refused before anything starts (papermill only warns). A value typed on a command line gets the
type of the notebook's own default. The kernel is this Python's, whatever kernels are registered,
and it never outlives the call. The kernel finds ``FLAUTIM_LAB_BATCH=1`` in its environment, so
that :func:`flautim_lab.run` waits by itself: a kernel's threads end with its notebook.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import papermill
import psutil
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError

from flautim_lab.errors import ExecutionError, NotebookError, RecordsError
from flautim_lab.home import home
from flautim_lab.records.event import RunRecord, RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners.parameters import check_parameters, find_notebook, read_notebook
from flautim_lab.scratch import scratch_folder
from flautim_lab.training.orphans import die_with_parent

BATCH_VARIABLE = "FLAUTIM_LAB_BATCH"
LOOK_SECONDS = 0.5
"""How often it is looked how far the runs of a notebook are."""


@dataclass(frozen=True)
class CellProgress:
    """Where an execution is.

    Attributes
    ----------
    number, total : int
        The cell that runs, from 1 on, and how many there are.
    line : str
        Its first line of code.
    run : RunRecord or None
        The newest run of this notebook that is going on.
    """

    number: int
    total: int
    line: str
    run: RunRecord | None = None


@dataclass(frozen=True)
class ExecutedNotebook:
    """What an execution left: the notebook with its outputs, and the ids of the runs it made."""

    path: Path
    seconds: float
    runs: tuple[str, ...]


def execute_notebook(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    parameters: Mapping[str, object] | None = None,
    *,
    timeout_seconds: float | None = None,
    tied: bool = False,
    progress: Callable[[CellProgress], None] | None = None,
) -> ExecutedNotebook:
    """Execute a notebook from top to bottom and write it, with its outputs, to ``output``.

    The notebook runs in its own folder, so that data beside it are found by their bare name.

    Parameters
    ----------
    path : path
        A Python notebook (``.ipynb``); it is not changed.
    output : path
        Where the executed notebook goes; written after each cell. A path that does not end in
        ``.ipynb`` is a folder, in which it keeps its name.
    parameters : mapping of str to object, optional
        Values that replace the defaults of the cell tagged ``parameters``. A text is read as the
        type of the default: ``"10"`` for a default of ``20`` becomes ``10``.
    timeout_seconds : float, optional
        The longest that one cell may take.
    tied : bool
        Let the system kill the kernel when this process, or the thread that calls this, ends in
        whatever way (Linux). A kernel notices it by itself otherwise, unless it is too busy.
    progress : callable, optional
        Called with a :class:`CellProgress` before each cell and, from another thread, twice a
        second while one runs.

    Raises
    ------
    NotebookError
        If the notebook cannot be read or has no such parameter.
    ExecutionError
        If one of its cells fails. The message says where the outputs up to then are.
    """
    source = find_notebook(path)
    notebook = read_notebook(source)
    values = check_parameters(notebook, parameters or {}, source.name)
    target = output_path(source, output)
    place = 0

    class Kernel(_ThisPython):
        folder = source.parent
        preexec = die_with_parent if tied else None
        started: ClassVar[list[_ThisPython]] = []

    def failed(reason: str, left: str = "the cells before it are", **how: Any) -> ExecutionError:
        runs: list[RunRecord] = []
        with contextlib.suppress(RecordsError):
            runs = _made_by(Kernel.started, started)
        ids = tuple(run.id for run in reversed(runs))
        return ExecutionError(f"{reason}; {left} in {target}", reason, runs=ids, **how)

    def cell_starts(cell: Any, cell_index: int) -> None:
        nonlocal place
        place = cell_index + 1
        told.begin(CellProgress(cell_index + 1, total, _first_line(cell.source)))

    closed = contextlib.ExitStack()
    try:
        Kernel.files = closed.enter_context(scratch_folder())
    except OSError as error:
        raise NotebookError(
            f"there is no room for temporary files: {error.strerror}; free some space, or set "
            "TMPDIR to another folder"
        ) from error
    total = len(notebook.cells) + bool(values)
    started = time.time()
    told = _Teller(progress, lambda: _made_by(Kernel.started, started, RunStatus.RUNNING))
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        # Braces in a path would be filled in by papermill as if they were parameters.
        papermill.execute_notebook(
            _no_braces(source),
            _no_braces(target),
            values,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            execution_timeout=timeout_seconds,
            kernel_manager_class=Kernel,
            on_cell_execute=cell_starts,
        )
    except papermill.PapermillExecutionError as error:
        number = f"[{error.exec_count}]" if error.exec_count else str(error.cell_index + 1)
        said = f"{error.ename}: {_one_line(error.evalue)}"
        if not error.evalue.strip():  # IPython's own complaints, of a magic that there is not
            said = _last_complaint(target) or error.ename
        raise failed(
            f"cell {number} of {source.name} failed: {said}",
            "its traceback and the cells before it are",
        ) from error
    except CellTimeoutError as error:
        raise failed(
            f"cell {place} of {source.name} took longer than {timeout_seconds:g} seconds"
        ) from error
    except RuntimeError as error:  # nbclient's word for a kernel that died or never answered
        how = Kernel.started[0].how_it_died() if Kernel.started else ""
        if not place:
            reason = how or _one_line(str(error))
            raise NotebookError(f"no kernel could be started: {reason}") from error
        raise failed(
            f"the kernel died in cell {place} of {source.name} ({how or 'is the memory enough?'})",
            died=True,
        ) from error
    except OSError as error:
        raise NotebookError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        told.close()
        for kernel in Kernel.started:
            kernel.end()
        closed.close()
    made = _made_by(Kernel.started, started)
    return ExecutedNotebook(
        path=target, seconds=time.time() - started, runs=tuple(run.id for run in reversed(made))
    )


class _Teller:
    """Tells how far an execution is: at each cell, and while a cell runs."""

    def __init__(
        self,
        progress: Callable[[CellProgress], None] | None,
        going: Callable[[], Sequence[RunRecord]],
    ) -> None:
        self._progress = progress
        self._going = going
        self._place: CellProgress | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)
        if progress is not None:
            self._thread.start()

    def begin(self, place: CellProgress) -> None:
        """Tell of a cell that begins."""
        with self._lock:
            self._place = place
            if self._progress is not None:
                self._progress(place)

    def close(self) -> None:
        """Tell nothing any more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            with contextlib.suppress(RecordsError):  # the next look may find them again
                going = self._going()
                with self._lock:
                    if going and self._place is not None and self._progress is not None:
                        self._progress(dataclasses.replace(self._place, run=going[0]))


def _made_by(
    kernels: Sequence[_ThisPython], since: float, status: RunStatus | None = None
) -> list[RunRecord]:
    """Return the runs that these kernels started, newest first."""
    host = socket.gethostname()
    owners = {(host, kernel.process_id) for kernel in kernels}
    newest = Records.default().runs(status=status)
    return [run for run in newest if run.created >= since and _started_by(run) in owners]


def _started_by(run: RunRecord) -> tuple[str, int]:
    """Return host and number of the process that started a run; one on processes names it."""
    host, pid = run.settings.get("kernel") or (run.host, run.pid)
    return host, pid


class _ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs now, in batch, that ends when it is told to."""

    folder: ClassVar[Path]
    files: ClassVar[Path]
    preexec: ClassVar[Callable[[], None] | None]
    started: ClassVar[list[_ThisPython]]
    process_id: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # What the interpreter itself says, such as a crash; the cells' own output goes elsewhere.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the kernel
        self.started.append(self)
        # With its key in it: not where jupyter_client would leave it if we were killed.
        self.connection_file = str(self.files / f"kernel-{len(self.started)}.json")
        # Where jupyter_client can (8.10), what kernel and we say to each other is encrypted.
        if self.has_trait("transport_encryption") and zmq.has("curve"):
            self.transport_encryption = "auto"

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        # An absolute home, since the kernel works in the notebook's folder. (papermill's own
        # `cwd` would move this whole process there.)
        batch = {BATCH_VARIABLE: "1", "FLAUTIM_LAB_HOME": str(home())}
        options["env"] = {**os.environ, **options.get("env", {}), **batch}
        options["cwd"] = str(self.folder)
        options["stderr"] = self._errors
        if type(self).preexec is not None:
            options["preexec_fn"] = type(self).preexec
        await super().start_kernel(**options)
        self._process = getattr(self.provisioner, "process", None)
        self.process_id = getattr(self.provisioner, "pid", None) or 0

    def how_it_died(self) -> str:
        """Return which signal killed the kernel, or its last words, or nothing."""
        status = self._process.poll() if self._process is not None else None
        if status == -signal.SIGKILL:
            return (
                "it was killed by signal 9, as the system does when memory runs out; "
                "let it use less memory, or run fewer jobs at once"
            )
        said = self._last_words()
        if status is not None and status < 0 and not said:
            return f"killed by signal {-status}, {signal.strsignal(-status)}"
        return said

    def _last_words(self) -> str:
        """Return the last line that the kernel's process wrote to its error stream, if any."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return _one_line(lines[-1]) if lines else ""

    def end(self) -> None:
        """Kill what is left of the kernel, as after a Ctrl-C while it was starting."""
        family: list[psutil.Process] = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                # A Ctrl-C may come before we know its number, and never before it has its file.
                if self.connection_file in child.cmdline():
                    family += [child, *child.children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=5)


def output_path(source: Path, output: str | os.PathLike[str]) -> Path:
    """Return where an executed notebook goes, in a folder that is there."""
    target = Path(output).expanduser().resolve()
    if target.is_dir() or target.suffix != ".ipynb":
        target = target / source.name
    if target == source:
        raise NotebookError(
            f"the output would overwrite the notebook {source.name} itself; name another file"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotebookError(
            f"the folder of the output cannot be made: {error.strerror} ({target.parent})"
        ) from error
    return target


def _no_braces(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")


def _first_line(source: str) -> str:
    code = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    return code[0].strip() if code else ""


def _last_complaint(path: Path) -> str:
    """Return the last line that an executed notebook wrote to its standard error."""
    told = [
        output.text
        for cell in read_notebook(path).cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    ]
    return _one_line(told[-1].strip().splitlines()[-1]) if told and told[-1].strip() else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
