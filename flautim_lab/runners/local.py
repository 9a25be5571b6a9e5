"""The ``local`` runner: a federation inside the kernel, in threads of its own.

No Ray, no servers: it starts in well under a second and keeps each client's data loaded between
rounds. In a long run of a big model, processes of the kernel's own help. It survives an exception
in a client and a keyboard interrupt; it does not survive its kernel, and is then recorded as
interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import time
import traceback
import weakref

from flautim_lab.errors import FlautimError, RecordsError
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.records.event import RunStatus
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
from flautim_lab.runners.keep import keep_model
from flautim_lab.training import flower
from flautim_lab.training.client_app import ClientHost, make_client_app
from flautim_lab.training.grid import Deadline, LocalGrid, summary
from flautim_lab.training.numerics import make_plan, pick_device
from flautim_lab.training.pool_worker import Job
from flautim_lab.training.pooling import takes_means
from flautim_lab.training.process_trial import ProcessTrial
from flautim_lab.training.server_app import Server, Stopped, serve
from flautim_lab.training.strategies import Strategy, client_mods
from flautim_lab.training.threads import one_thread
from flautim_lab.training.usage import RoundUsage

LOOK_SECONDS = 0.25  # how often a stop that comes from another process is looked for
HEARTBEAT_SECONDS = 5.0
GOODBYE_SECONDS = 5.0  # how long a kernel that ends waits for its runs to write their last line

_going: weakref.WeakSet[LocalExecution] = weakref.WeakSet()


class LocalExecution:
    """One run in threads of this process.

    Parameters
    ----------
    experiment : Experiment
    strategy : Strategy
        Made for this run alone.
    records : Records
    run_id : str
        A run that ``records`` already holds.
    workers : int or "auto"
        Threads that train clients at once; the numbers do not depend on it. ``auto`` measures
        what is faster: one, as many as there are cores, or as many processes.
    """

    def __init__(
        self,
        experiment: Experiment,
        strategy: Strategy,
        records: Records,
        run_id: str,
        workers: int | str,
    ) -> None:
        self._experiment = experiment
        self._records = records
        self._run_id = run_id
        self._workers = workers
        self._stop = threading.Event()
        self._grid: LocalGrid | None = None
        self._abandoned = ""  # why, when the kernel ends before the run
        self.done = threading.Event()
        self.outcome: tuple[RunStatus, str] | None = None
        self._strategy = strategy
        self._recorder = Recorder(records, run_id)
        self._thread = threading.Thread(target=self._execute, name=f"flautim-{run_id}", daemon=True)
        self._pulse = threading.Thread(target=self._beat, name=f"pulse-{run_id}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        _going.add(self)
        self._thread.start()
        self._pulse.start()

    def stop(self) -> None:
        """Ask the run to end with its next batch."""
        self._stop.set()

    def abandon(self, reason: str) -> None:
        """Be asked to end because the kernel ends; what is recorded stays."""
        self._abandoned = reason
        self._stop.set()

    # --- in the run's own threads ---------------------------------------------------------

    def _execute(self) -> None:
        status, message = RunStatus.FAILED, "the run ended without a reason"
        try:
            one_thread()
            with flower.log_to(lambda line: self._log(line, level="warning")):
                status, message = self._federate()
        except RecordsError as error:
            message = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has failed by it
            message = summary(error)
            if not isinstance(error, FlautimError):
                self._log(traceback.format_exc(), level="error")
        finally:
            self._end(status, message)

    def _federate(self) -> tuple[RunStatus, str]:
        experiment = self._experiment
        self._recorder.status(RunStatus.RUNNING)
        device = pick_device(experiment.device)
        deadline = Deadline(self._stop.is_set)
        host = ClientHost(experiment, device, deadline.check, takes_means(experiment))
        mods = client_mods(self._strategy)
        app = make_client_app(host, mods)
        server = Server(experiment, self._strategy, self._recorder, self._stop.is_set)
        server.usage = RoundUsage("kernel", host.times)
        processes = None
        if self._workers == "auto" and device.type == "cpu" and host.engine.name == "loop":
            # For models that are big enough; what a cohort computes is too small for a process.
            processes = ProcessTrial(
                Job(experiment, mods, make_plan(experiment, device)),
                experiment.rounds,
                self._log,
                lambda slot, used: server.usage.add(f"client-{slot}", used),
            )
        grid = self._grid = LocalGrid(
            app,
            len(experiment.splits),
            deadline,
            workers=1 if device.type != "cpu" else self._workers,
            enough=experiment.enough_answers,
            log=self._log,
            blocks=functools.partial(host.engine.blocks, experiment),
            prepare=host.cohorts.prepare,
            processes=processes,
        )
        try:
            serve(server, grid)
        except Stopped:
            status, message = RunStatus.STOPPED, f"stopped after round {server.state.round}"
            if self._abandoned:
                status, message = RunStatus.INTERRUPTED, self._abandoned
        else:
            status, message = RunStatus.FINISHED, server.remark
        finally:
            grid.close()
            if server.state.round > 0:
                keep_model(self._records.folder(self._run_id), experiment, server)
        return status, message

    def _log(self, line: str, level: str = "info") -> None:
        self._recorder.log(line, level=level)

    def _end(self, status: RunStatus, message: str) -> None:
        try:
            self._recorder.status(status, message)
            self._recorder.close()
        except RecordsError as error:
            # The records are where the run would have said it; its kernel is told all the same.
            message = message or str(error)
            status = RunStatus.FAILED
        finally:
            self.outcome = (status, message)
            self.done.set()
            _going.discard(self)

    def _beat(self) -> None:
        """Show that the run is alive, and look for a stop that another process asked for."""
        last = 0.0
        while not self.done.wait(LOOK_SECONDS):
            with contextlib.suppress(RecordsError):  # the next look may find them again
                if self._grid is not None:
                    self._grid.tell()
                self._recorder.tick()
                if time.monotonic() - last >= HEARTBEAT_SECONDS:
                    self._records.heartbeat(self._run_id)
                    last = time.monotonic()
                if self._records.stop_requested(self._run_id):
                    self._stop.set()


def _goodbye() -> None:
    if os.getpid() != _PROCESS:  # a fork of the kernel ends: its runs are not there
        return
    going = list(_going)
    for execution in going:
        execution.abandon(
            "its process ended before it did; a script waits for its run with run.wait()"
        )

    end = time.monotonic() + GOODBYE_SECONDS
    for execution in going:
        execution.done.wait(max(end - time.monotonic(), 0.0))


_PROCESS = os.getpid()
atexit.register(_goodbye)
