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
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flautim_lab.errors import ClusterError, RecordsError, RunNotFoundError
from flautim_lab.pods.api import Api, Unreachable
from flautim_lab.pods.manifests import API_PORT
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.event import Event, RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners.cluster import ClusterRun
from flautim_lab.runners.pod_api import FILES

WAIT_SECONDS = 5.0  # that the server holds a question for events before it answers "none yet"
TIMEOUT_SECONDS = 30.0
MOST_BYTES = 512 * 2**20  # of what a run leaves; code of users is in the pod that answers
MOST_ANSWER_BYTES = 64 * 2**20  # of any other answer
RETRY_SECONDS = 0.5
HEARTBEAT_SECONDS = 1.0
STOP_SECONDS = 15.0  # that a server which cannot be reached is given to hear of a stop
LOOK_AT_JOB_SECONDS = 5.0
AWAY_SECONDS = 2.0  # between looks whether the cluster answers again


_log = logging.getLogger(__name__)
_fetching = threading.Lock()  # of several runs that end together: each model is in memory


class TooLarge(http.client.HTTPException):
    """An answer of more bytes than are taken."""


class Line(http.client.HTTPSConnection):
    """An HTTPS connection to the run's server through the API server; the TLS is end to end."""

    def __init__(self, api: Api, run: ClusterRun) -> None:
        authority = str(run.folder.tls / "authority.pem")
        self._tls = ssl.create_default_context(cafile=authority)
        super().__init__("localhost", API_PORT, timeout=TIMEOUT_SECONDS, context=self._tls)
        self._api = api
        self._pods = run.pods()
        self._token = (run.folder.tls / "token").read_text(encoding="ascii")

    def connect(self) -> None:
        """Connect by port-forward."""
        plain = self._api.forward(self._pods, API_PORT)
        plain.settimeout(TIMEOUT_SECONDS)
        self.sock = self._tls.wrap_socket(plain, server_hostname="localhost")

    def ask(
        self, method: str, path: str, body: Any = None, most_bytes: int = MOST_ANSWER_BYTES
    ) -> bytes:
        """Return an answer's body.

        Raises
        ------
        OSError, http.client.HTTPException
            If the server is not there, refuses, or answers with more bytes than these.
        """
        content = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {self._token}"}
        self.request(method, path, content, headers)
        response = self.getresponse()
        answer = response.read(most_bytes + 1)
        if len(answer) > most_bytes:
            self.close()  # the rest is not read; the next question connects again
            raise TooLarge(f"{path}: more than {most_bytes} bytes")
        if response.status != 200:
            raise http.client.HTTPException(f"{path}: {response.status}")
        return answer


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

    def run(self) -> None:
        """Follow the run; then fetch what it leaves, and remove its objects.

        Raises
        ------
        RecordsError
            If the records are away at its beginning or its end. Its keys stay for another watch.
        """
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()
        try:
            self._to_its_end()
            self._run.clean()
        finally:
            self._over.set()

    def _to_its_end(self) -> None:
        try:
            if self._records.run(self._id).status.over:
                # What was ended here without the cluster having heard of it.
                self._remove()
                return
            if (decided := self._decided()) is not None:
                self._remove_and_end(*decided)
                return
            if not self._make():
                self._remove_and_end(RunStatus.STOPPED, "stopped before it had begun")
                return
            self._api.follow(self._pods, self._say, self._lose, self._over)
            outcome = self._follow()
            self._remove_and_end(*outcome)
        except RunNotFoundError:
            self._remove()  # somebody removed the records while it was running
        except ClusterError as error:
            self._end(RunStatus.FAILED, str(error))

    def _follow(self) -> tuple[RunStatus, str]:
        """Fetch events until the run has ended; returns how."""
        while True:
            try:
                with contextlib.closing(Line(self._api, self._run)) as line:
                    while True:
                        outcome = self._poll(line)
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
                outcome = self._away()
                if outcome is not None:
                    return outcome
                time.sleep(RETRY_SECONDS)

    def _poll(self, line: Line) -> tuple[RunStatus, str] | None:
        """Store what is new; returns how the run has ended, if it has."""
        after = self._records.last_seq(self._id)
        self._pass_on(line)
        answer = line.ask("GET", f"/events?after={after}&wait={WAIT_SECONDS:g}")
        try:
            state = json.loads(answer)
            events = [Event(*values) for values in state["events"]]
            status = RunStatus(state["status"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise http.client.HTTPException(f"an answer that is none ({error})") from error
        self._records.append(self._id, events)
        if state["more"]:
            return None
        if status is RunStatus.STOPPED and not self._records.stop_requested(self._id):
            return RunStatus.FAILED, f"{self._hopeless()}; {state['message']}".lstrip("; ")
        if status.over:
            return status, state["message"]
        known = self._records.run(self._id)
        if known.status is not status and status is RunStatus.RUNNING:
            self._records.set_status(self._id, status, message=self._now())
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
            try:
                with _fetching:
                    content = line.ask("GET", f"/files/{name}", most_bytes=MOST_BYTES)
                    write_atomic(self._run.folder.run_folder / name, content)
            except TooLarge:
                left_out.append(
                    f"its {name} is larger than {MOST_BYTES // 2**20} MiB and was not fetched"
                )
            except http.client.HTTPException:
                continue  # the run has none
        return left_out

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
        left: list[str] = []
        with contextlib.suppress(ClusterError):
            left = self._remove()
        if left:
            message = f"{message}; pods that did not end: {', '.join(left)}".lstrip("; ")
        self._end(status, message)

    def _end(self, status: RunStatus, message: str) -> None:
        with contextlib.suppress(RunNotFoundError):
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


@contextlib.contextmanager
def line_to(run: ClusterRun) -> Iterator[Line]:
    """Yield a connection to a run's server, for those who strike it.

    Raises
    ------
    ClusterError
        If the server cannot be reached now.
    """
    try:
        with contextlib.closing(Line(run.api(), run)) as line:
            yield line
    except (OSError, http.client.HTTPException) as error:
        raise ClusterError(f"the run's server cannot be reached now ({error})") from error


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
