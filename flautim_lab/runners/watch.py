"""The ``watch`` entry point: starts the server and the workers of a run, and again when they die.

``python -m flautim_lab.runners.watch RUN_FOLDER``. They are forks of its template
(``template.py``). If the watch itself dies, the server and the
workers outlive it, and each of them starts another: a lock of the operating system lets one in.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

from flautim_lab.errors import RecordsError, RunNotFoundError
from flautim_lab.names import count
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners.faults import wake
from flautim_lab.runners.process_files import ProcessFolder, end
from flautim_lab.runners.template import NAME, Template

LOOK_SECONDS = 0.1
HEARTBEAT_SECONDS = 1.0
GUARD_SECONDS = 1.0
BACKOFF = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before a start after so many deaths in a row
TOO_MANY = 12  # deaths of a process without a round done in between


def guard_watch(folder: ProcessFolder, done: threading.Event) -> None:
    """In a server or a worker: start another watch whenever there is none.

    Where the run's folder itself is gone there is nothing left to do, and the process is told to
    end.
    """

    def look() -> None:
        while not done.wait(GUARD_SECONDS):
            with contextlib.suppress(OSError):
                if not folder.path.exists():
                    os.kill(os.getpid(), signal.SIGTERM)
                elif not folder.is_watched():
                    folder.start("watch", "flautim_lab.runners.watch")
                    done.wait(GUARD_SECONDS)  # it takes a moment to say that it is there

    threading.Thread(target=look, name="guard", daemon=True).start()


class Watch:
    """Keeps the processes of one run alive until it has ended.

    Parameters
    ----------
    folder : ProcessFolder
        The files of the run's processes.
    """

    def __init__(self, folder: ProcessFolder) -> None:
        self._folder = folder
        self._facts = folder.facts()
        self._template = Template(folder)
        self._records = Records.default()
        self._deaths: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._seen: dict[str, psutil.Process] = {}
        self._round = -1

    def run(self) -> None:
        """Watch until the run has ended; then end its processes and remove its secrets."""
        beaten = 0.0
        while not self._ended():
            for name in self._wanted():
                self._keep(name)
            wake(self._folder)
            if time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                with contextlib.suppress(RecordsError):
                    self._records.heartbeat(self._facts.run_id)
                beaten = time.monotonic()
            time.sleep(LOOK_SECONDS)
        self._template.close()  # first: nothing that was asked for comes after the end
        end(list((self._seen | self._folder.alive_but("watch")).values()))
        self._folder.clean()

    def _wanted(self) -> list[str]:
        """Return what must live: workers only where the server could load the experiment."""
        if not self._folder.port():
            return ["server"]
        return ["server", *(f"client-{slot}" for slot in range(self._facts.slots))]

    def _ended(self) -> bool:
        try:
            record = self._records.run(self._facts.run_id)
        except RunNotFoundError:
            return True  # somebody removed the records while it was running
        except RecordsError:
            return False  # a full disk or a locked file passes; the run does not end by it
        if record.round > self._round:
            self._round = record.round
            self._deaths.clear()
        return record.status.over

    def _keep(self, name: str) -> None:
        process = self._folder.process(name)
        if process is not None:
            self._seen[name] = process
            self._due.pop(name, None)
            return
        if not self._template.alive:
            self._template.close()
            if not self._died(NAME):
                self._template = Template(self._folder)
            return
        if name in self._template.starting():
            return
        now = time.monotonic()
        if name not in self._due:
            if self._died(name):
                return
            self._due[name] = now + BACKOFF[min(self._deaths[name], len(BACKOFF) - 1)]
        if now < self._due[name]:
            return
        self._due.pop(name)
        if name == "server":
            self._template.start(name)
        else:
            self._start_worker(int(name.removeprefix("client-")))

    def _died(self, name: str) -> bool:
        """Count a death (the first start is none); return whether there were too many of them."""
        deaths = self._deaths[name] = self._deaths.get(name, -1) + 1
        if deaths > TOO_MANY:
            self._give_up(name, deaths)
        return deaths > TOO_MANY

    def _start_worker(self, slot: int) -> None:
        """Start a worker under a key of its own: work given to the last one is never its."""
        from flautim_lab.training.keys import make_worker_key

        generation = self._folder.newest_keys().get(slot, (0, b""))[0] + 1
        key = self._folder.key(slot, generation)
        public = make_worker_key(key)
        write_atomic(key.with_suffix(".pub"), public)
        for old in self._folder.keys.glob(f"{slot}-*"):
            if old.stem != key.stem:
                old.unlink(missing_ok=True)
        self._template.start(f"client-{slot}", slot, generation)

    def _give_up(self, name: str, deaths: int) -> None:
        log = self._folder.path / f"{name}.log"
        message = f"{name} ended {count(deaths, 'time')} in round {self._round + 1}; see {log}"
        with contextlib.suppress(RecordsError):
            self._records.set_status(self._facts.run_id, RunStatus.FAILED, message=message)


def main(run_folder: Path) -> int:
    """Watch one run; returns the exit status (0 too where another watch is at it)."""
    folder = ProcessFolder(run_folder)
    with folder.watching() as mine:
        if mine:
            folder.announce("watch")
            Watch(folder).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
