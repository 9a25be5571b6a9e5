"""What follows a run at the hub's service: ``python -m flautim_lab.runners.service_watch FOLDER``.

A process of its own in the notebook's pod, which outlives the kernel. It listens to the service's
stream of the run (a service without one is asked again and again), stores each event under the
number that the run's server gave it, so that none is stored twice, and passes a stop on. It may
die, the pod with it: the run goes on, and ``lab.resume`` fetches what was recorded meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

from flautim_lab.connection import Away, Refusal, Service
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
        self._streams = True

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
                    self._streams = True  # another service may answer next
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
        """Store what is new, until the run has ended or a stream breaks off."""
        if self._streams:
            try:
                self._listen(service)
                return
            except Refusal:
                # An older service has no stream, and one that is asked too much opens none. Where
                # it is the run that is refused, the next question is told so.
                self._streams = False
        while not self._ask(service):
            pass

    def _listen(self, service: Service) -> None:
        """Store what the service's stream tells."""
        new: list[Event] = []
        for told in service.stream(self._run.path("/stream"), self._records.last_seq(self._id)):
            if told.event == "message":
                new.append(Event(*json.loads(told.data)))
            elif told.event in ("more", "state", "end"):
                self._records.append(self._id, new)
                new = []
                if told.event == "more":
                    continue
                state = json.loads(told.data)
                if self._note(service, RunStatus(state["status"]), state["message"]):
                    return
        time.sleep(RETRY_SECONDS)  # it ended the stream before the run has ended

    def _ask(self, service: Service) -> bool:
        """Store what is new, waiting for it for a while; returns whether the run has ended."""
        after = self._records.last_seq(self._id)
        page = json.loads(
            service.ask("GET", self._run.path(f"/events?after={after}&wait={WAIT_SECONDS:g}"))
        )
        self._records.append(self._id, [Event(*values) for values in page["events"]])
        return not page["more"] and self._note(service, RunStatus(page["status"]), page["message"])

    def _note(self, service: Service, status: RunStatus, message: str) -> bool:
        """Note how the run stands, all its events being stored; returns whether it has ended."""
        if status.over:
            self._fetch(service)
            self._records.set_status(self._id, status, message=message)
            return True
        known = self._records.run(self._id)
        if status is RunStatus.RUNNING and (known.status is not status or known.message != message):
            self._records.set_status(self._id, status, message=message)
        elif known.message != message and status is RunStatus.WAITING:
            self._records.set_status(self._id, known.status, message=message)
        return False

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
