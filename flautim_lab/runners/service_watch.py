"""What follows a run at the hub's service: ``python -m flautim_lab.runners.service_watch FOLDER``.

A process of its own in the notebook's pod, which outlives the kernel. It stores each event under
the number that the run's server gave it, so that none is stored twice, and passes a stop on. It
may die, the pod with it: the run goes on, and ``lab.resume`` fetches what was recorded meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

from flautim_lab.connection import Away, Service
from flautim_lab.errors import ClusterError, RecordsError, RunNotFoundError
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.event import Event, RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners.pod_api import FILES
from flautim_lab.runners.service import ServiceRun

WAIT_SECONDS = 10.0  # that the service holds a question for events before it answers "none yet"
RETRY_SECONDS = 1.0
HEARTBEAT_SECONDS = 1.0


class ServiceWatch:
    """Follows one run until it has ended.

    Parameters
    ----------
    run : ServiceRun
    """

    def __init__(self, run: ServiceRun) -> None:
        self._run = run
        self._id = run.folder.run_folder.name
        self._records = Records.default()
        self._over = threading.Event()

    def run(self) -> None:
        """Follow the run, then fetch what it leaves."""
        pulse = threading.Thread(target=self._beat, name="pulse", daemon=True)
        pulse.start()
        try:
            while not self._records.run(self._id).status.over:
                try:
                    with self._run.service() as service:
                        self._follow(service)
                except Away as error:
                    self._records.set_status(
                        self._id, self._records.run(self._id).status, message=str(error)
                    )
                    time.sleep(RETRY_SECONDS)
        except RunNotFoundError:  # somebody removed the records while it was running
            with contextlib.suppress(ClusterError), self._run.service() as service:
                service.ask("POST", self._run.path("/stop"))
        except ClusterError as error:
            with contextlib.suppress(RecordsError):
                self._records.set_status(self._id, RunStatus.FAILED, message=str(error))
        finally:
            self._over.set()
            self._run.clean()

    def _follow(self, service: Service) -> None:
        """Store what is new until the run has ended."""
        while True:
            after = self._records.last_seq(self._id)
            page = json.loads(
                service.ask("GET", self._run.path(f"/events?after={after}&wait={WAIT_SECONDS:g}"))
            )
            self._records.append(self._id, [Event(*values) for values in page["events"]])
            status = RunStatus(page["status"])
            if page["more"]:
                continue
            if status.over:
                self._fetch(service)
                self._records.set_status(self._id, status, message=page["message"])
                return
            known = self._records.run(self._id)
            if status is RunStatus.RUNNING and (
                known.status is not status or known.message != page["message"]
            ):
                self._records.set_status(self._id, status, message=page["message"])
            elif known.message != page["message"] and status is RunStatus.WAITING:
                self._records.set_status(self._id, known.status, message=page["message"])

    def _fetch(self, service: Service) -> None:
        """Fetch what the run leaves: the model, and the scale of its inputs."""
        for name in FILES:
            try:
                content = service.ask("GET", self._run.path(f"/files/{quote(name)}"))
            except Away:
                raise
            except ClusterError:
                continue  # the run has none
            write_atomic(self._run.folder.run_folder / name, content)

    def _beat(self) -> None:
        """Give signs of life, and pass a stop on as soon as somebody asks for it."""
        told = False
        while not self._over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(RecordsError, ClusterError):
                self._records.heartbeat(self._id)
                if not told and self._records.stop_requested(self._id):
                    with self._run.service() as service:
                        service.ask("POST", self._run.path("/stop"))
                    told = True


def main(run_folder: Path) -> int:
    """Follow one run; returns the exit status (0 too where another process is at it)."""
    run = ServiceRun(run_folder)
    with run.folder.watching() as mine:
        if mine:
            run.folder.announce("watch")
            ServiceWatch(run).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
