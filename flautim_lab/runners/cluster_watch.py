"""The ``watch`` of a run on a cluster: follows it, keeps its records here, cleans up after it.

``python -m flautim_lab.runners.cluster_watch RUN_FOLDER``: a process of its own on the
researcher's machine, which outlives the kernel. It may die too, and the run does not mind: the
cluster keeps the pods alive, and another watch (``lab.resume``) fetches what was recorded
meanwhile. Each event keeps the number that the server gave it, so that none is stored twice.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flautim_lab.errors import ClusterError, RecordsError, RunNotFoundError
from flautim_lab.pods.api import Unreachable
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners.cluster import ClusterRun
from flautim_lab.runners.cluster_line import Line, Refused, TooLarge, read_page
from flautim_lab.runners.pod_api import FILES

WAIT_SECONDS = 5.0  # that the server holds a question for events before it answers "none yet"
MOST_BYTES = 512 * 2**20  # of what a run leaves; code of users is in the pod that answers
FETCH_SECONDS = 300.0  # that one file of it may take: others wait for their turn
TURN_SECONDS = 1.0  # between looks whether a run that waits for its turn is to end
PAUSE_SECONDS = 0.1  # after an answer without news
RETRY_SECONDS = 0.5
HEARTBEAT_SECONDS = 1.0
STOP_SECONDS = 15.0  # that a server which cannot be reached is given to hear of a stop
LOOK_AT_JOB_SECONDS = 5.0
AWAY_SECONDS = 2.0  # between looks whether the cluster answers again


_log = logging.getLogger(__name__)
_fetching = threading.Lock()  # of several runs that end together: each model is in memory


class ClusterWatch:
    """Follows one run until it has ended.

    Parameters
    ----------
    run : ClusterRun
    """

    def __init__(self, run: ClusterRun) -> None:
        self._run = run
        self._pods = run.pods()
        self._id = self._pods.run_id
        self._records = Records.default()
        self._api = run.api()
        self._over = threading.Event()
        self._said: dict[str, str] = {}
        self._unsaid: list[str] = []
        self._saying = threading.Lock()
        self._looked = 0.0
        self._stopping: float | None = None
        self._told = False
        self._lost: dict[str, str] = {}
        self._error = ""
        self._outcome = run.folder.path / "outcome.json"
        self._line: Line | None = None
        self._ending = ""
        self._too_slow: dict[str, str] = {}

    def end(self, message: str) -> None:
        """End the run, whatever its server does or says: its objects are removed.

        From any thread; once more changes nothing.

        Parameters
        ----------
        message : str
            Why, for the run's reader.
        """
        self._ending = self._ending or message
        if (line := self._line) is not None:
            line.cut()

    def run(self) -> None:
        """Follow the run; then fetch what it leaves, and remove its objects.

        Where something else breaks (the records are away), it leaves by its error, and all that
        another watch needs stays.
        """
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()
        try:
            self._run_to_its_end()
        except RunNotFoundError:
            self._remove()  # somebody removed the records while it was running
        except FileNotFoundError:
            lost = "what it was made from is lost; run the experiment again"
            self._remove_and_end(RunStatus.FAILED, lost)
        except ClusterError as error:
            self._remove_and_end(RunStatus.FAILED, str(error))
        finally:
            self._over.set()
        self._run.clean()

    def _run_to_its_end(self) -> None:
        if self._records.run(self._id).status.over:
            # What was ended here without the cluster having heard of it.
            self._remove()
        elif (decided := self._decided()) is not None:
            self._remove_and_end(*decided)
        elif not self._make():
            self._remove_and_end(RunStatus.STOPPED, "stopped before it had begun")
        else:
            self._api.follow(self._pods, self._say, self._lose, self._over)
            self._remove_and_end(*self._follow())

    def _follow(self) -> tuple[RunStatus, str]:
        """Fetch events until the run has ended; returns how."""
        while True:
            try:
                with contextlib.closing(Line(self._api, self._run)) as line:
                    self._line = line  # before it is asked whether the run is to end
                    while True:
                        outcome = self._ended_from_here() or self._poll(line)
                        if outcome is not None and self._ending:
                            return outcome
                        if outcome is not None:
                            status, message = outcome
                            left_out = self._fetch(line)
                            line.ask("POST", "/collected")
                            return status, "; ".join(filter(None, [message, *left_out]))
            except RunNotFoundError:
                raise
            except RecordsError as error:  # a database that is away comes back
                self._note(error)
                time.sleep(AWAY_SECONDS)
            except (OSError, http.client.HTTPException, ClusterError) as error:
                self._note(error)
                outcome = self._ended_from_here() or self._away()
                if outcome is not None:
                    return outcome
                time.sleep(RETRY_SECONDS)

    def _ended_from_here(self) -> tuple[RunStatus, str] | None:
        """Return how the run ended, if it is to end whatever its server says."""
        return (RunStatus.STOPPED, self._ending) if self._ending else None

    def _poll(self, line: Line) -> tuple[RunStatus, str] | None:
        """Store what is new; returns how the run has ended, if it has."""
        after = self._records.last_seq(self._id)
        self._pass_on(line)
        page = read_page(line.ask("GET", f"/events?after={after}&wait={WAIT_SECONDS:g}"))
        self._records.append(self._id, page.events)
        if not page.events and not page.status.over:
            self._over.wait(
                PAUSE_SECONDS
            )  # one that does not hold the question is not asked on end
        if page.more:
            return None
        if page.status is RunStatus.STOPPED and not self._records.stop_requested(self._id):
            return RunStatus.FAILED, f"{self._hopeless()}; {page.message}".lstrip("; ")
        if page.status.over:
            return page.status, page.message
        known = self._records.run(self._id)
        if known.status is not page.status and page.status is RunStatus.RUNNING:
            self._records.set_status(self._id, page.status, message=self._now())
        return None

    def _pass_on(self, line: Line) -> None:
        """Tell the server what is to be in its log, and that somebody asked for a stop."""
        asked = self._records.stop_requested(self._id) or self._hopeless()
        if asked and not self._told:
            line.ask("POST", "/stop")
            self._told = True
        with self._saying:
            sentences, self._unsaid = self._unsaid, []
        for number, sentence in enumerate(sentences):
            try:
                line.ask("POST", "/log", {"text": sentence})
            except BaseException:
                with self._saying:
                    self._unsaid = sentences[number:] + self._unsaid
                raise

    def _note(self, error: Exception) -> None:
        """Write what went wrong to the watch's own log, once."""
        if str(error) != self._error:
            self._error = str(error)
            _log.warning("%s %s", time.strftime("%H:%M:%S"), error)

    def _away(self) -> tuple[RunStatus, str] | None:
        """Return how the run ended, if a server that cannot be reached is not to be waited for."""
        stopped = False
        with contextlib.suppress(RecordsError):  # as long as nobody can tell, nobody did
            stopped = self._records.stop_requested(self._id)
        if stopped:
            self._stopping = self._stopping or time.monotonic()
            if time.monotonic() - self._stopping > STOP_SECONDS:
                return RunStatus.STOPPED, "stopped while its server could not be reached"
        if time.monotonic() - self._looked > LOOK_AT_JOB_SECONDS:
            self._looked = time.monotonic()
            with contextlib.suppress(ClusterError):
                failure = self._api.failure(self._pods)
                if failure:
                    return RunStatus.FAILED, f"{failure}{self._last_words()}"
        return None

    def _last_words(self) -> str:
        """Return what the server's last pod wrote before it failed, for the run's message."""
        with contextlib.suppress(ClusterError):
            for pod in self._api.pods(self._pods, "server"):
                lines = self._api.log(pod, lines=1).strip()
                if lines:
                    return f" ({lines})"
        return ""

    def _fetch(self, line: Line) -> list[str]:
        """Fetch what the run leaves, the model and the scale of its inputs.

        Returns
        -------
        list of str
            A sentence for each that is too large.
        """
        left_out = []
        for name in FILES:
            if name in self._too_slow:
                left_out.append(self._too_slow[name])
                continue
            began = time.monotonic()
            try:
                with self._turn(), line.within(FETCH_SECONDS):
                    began = time.monotonic()
                    content = line.ask("GET", f"/files/{name}", most_bytes=MOST_BYTES)
                    write_atomic(self._run.folder.run_folder / name, content)
            except TooLarge:
                left_out.append(
                    f"its {name} is larger than {MOST_BYTES // 2**20} MiB and was not fetched"
                )
            except Refused:
                continue  # the run has none
            except (OSError, http.client.HTTPException):
                if time.monotonic() - began >= FETCH_SECONDS:
                    self._too_slow[name] = (
                        f"its {name} did not come within {FETCH_SECONDS:g} s and was not fetched"
                    )
                raise  # it is asked again, without that one
        return left_out

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the turn to fetch; an end from here is not kept waiting."""
        while not _fetching.acquire(timeout=TURN_SECONDS):
            if self._ending:
                raise OSError("the run is to end")
        try:
            yield
        finally:
            _fetching.release()

    def _make(self) -> bool:
        """Make what is not there, as soon as the cluster answers; False if a stop comes first."""
        while True:
            try:
                self._run.make(self._api)
                return True
            except Unreachable:
                if self._records.stop_requested(self._id):
                    return False
                time.sleep(AWAY_SECONDS)

    def _remove(self) -> list[str]:
        """Remove the run's objects, as soon as the cluster answers; returns pods that stay."""
        while True:
            try:
                return self._api.remove(self._pods)
            except Unreachable:
                time.sleep(AWAY_SECONDS)

    def _decided(self) -> tuple[RunStatus, str] | None:
        """Return how the run ended, if an earlier watch knew it and was killed while it removed.

        Without that this one would make the run once more: its objects are gone.
        """
        with contextlib.suppress(FileNotFoundError):
            status, message = json.loads(self._outcome.read_text(encoding="utf-8"))
            return RunStatus(status), message
        return None

    def _remove_and_end(self, status: RunStatus, message: str) -> None:
        write_atomic(self._outcome, json.dumps([status, message]).encode())
        try:
            if left := self._remove():
                message = f"{message}; pods that did not end: {', '.join(left)}".lstrip("; ")
        except ClusterError as error:
            message = f"{message}; its pods could not be removed: {error}".lstrip("; ")
        with contextlib.suppress(RunNotFoundError):
            if not self._records.run(self._id).status.over:
                self._records.set_status(self._id, status, message=message)

    # --- from other threads -------------------------------------------------------------------

    def _say(self, pod: str, sentence: str) -> None:
        """Show what keeps a pod from working, and keep it for the log."""
        with self._saying:
            self._said[pod] = sentence
            if sentence:
                self._unsaid.append(sentence)
        with contextlib.suppress(RecordsError):
            record = self._records.run(self._id)
            if not record.status.over:
                self._records.set_status(self._id, record.status, message=self._now())

    def _lose(self, namespace: str, sentence: str) -> None:
        """Note that a namespace has no worker left, and will have none."""
        with self._saying:
            self._lost[namespace] = sentence

    def _hopeless(self) -> str:
        """Return why the work cannot be done any more: no worker is left that may do it."""
        with self._saying:
            # Rows that stay somewhere are nobody else's to train on.
            if set(self._lost) >= set(self._pods.workers) or set(self._lost) & set(self._pods.data):
                return next(iter(self._lost.values()), "")
            return ""

    def _now(self) -> str:
        with self._saying:
            return next((sentence for sentence in self._said.values() if sentence), "")

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(RecordsError):
                self._records.heartbeat(self._id)


def main(run_folder: Path) -> int:
    """Watch one run; returns the exit status (0 too where another watch is at it)."""
    run = ClusterRun(run_folder)
    with run.folder.watching() as mine:
        if mine:
            run.folder.announce("watch")
            ClusterWatch(run).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
