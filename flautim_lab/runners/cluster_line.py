"""The connection to the server of a run on a cluster, and what its answers may be.

Code of users runs in the pod that answers: it may send anything, as slowly as it likes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flautim_lab.errors import ClusterError, RecordsError
from flautim_lab.pods.api import Api
from flautim_lab.pods.manifests import API_PORT
from flautim_lab.records.event import EVENT_COLUMNS, Event, RunStatus, event_row
from flautim_lab.runners.cluster import ClusterRun

TIMEOUT_SECONDS = 30.0  # of silence
MOST_ANSWER_BYTES = 64 * 2**20
MOST_CHARACTERS = 10_000  # of a message, which lists of runs show
LARGEST = {"seq": 2**63, "round": 2**31, "client": 2**31}  # what the columns of records hold


class TooLarge(http.client.HTTPException):
    """An answer of more bytes than are taken."""


class Refused(http.client.HTTPException):
    """An answer with another status than 200."""


class Line(http.client.HTTPSConnection):
    """An HTTPS connection to the run's server through the API server; the TLS is end to end."""

    def __init__(self, api: Api, run: ClusterRun) -> None:
        authority = str(run.folder.tls / "authority.pem")
        self._tls = ssl.create_default_context(cafile=authority)
        super().__init__("localhost", API_PORT, timeout=TIMEOUT_SECONDS, context=self._tls)
        self._api = api
        self._pods = run.pods()
        self._token = (run.folder.tls / "token").read_text(encoding="ascii")
        self._cut = False

    def connect(self) -> None:
        """Connect by port-forward."""
        plain = self._api.forward(self._pods, API_PORT)
        plain.settimeout(TIMEOUT_SECONDS)
        self.sock = sock = self._tls.wrap_socket(
            plain, server_hostname="localhost", do_handshake_on_connect=False
        )
        self._check_cut()  # once there is a socket: cut() looks for one after it has said so
        sock.do_handshake()

    def cut(self) -> None:
        """Let whoever asks wait no longer, now and later: from any thread."""
        self._cut = True
        if (sock := self.sock) is not None:
            with contextlib.suppress(OSError):
                # Not the TLS socket's own, after which what comes in would be taken as plain.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Cut it where what is done inside takes longer."""
        timer = threading.Timer(seconds, self.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _check_cut(self) -> None:
        if self._cut:
            self.close()
            raise OSError("the connection to the run's server was cut")

    def ask(
        self, method: str, path: str, body: Any = None, most_bytes: int = MOST_ANSWER_BYTES
    ) -> bytes:
        """Return an answer's body.

        Raises
        ------
        OSError, http.client.HTTPException
            If the server is not there, refuses, or answers with more bytes than these.
        """
        self._check_cut()
        content = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {self._token}"}
        self.request(method, path, content, headers)
        response = self.getresponse()
        answer = response.read(most_bytes + 1)
        self._check_cut()
        if len(answer) > most_bytes:
            self.close()  # the rest is not read; the next question connects again
            raise TooLarge(f"{path}: more than {most_bytes} bytes")
        if response.length:  # a read of so many bytes says nothing of those that did not come
            self.close()
            raise http.client.IncompleteRead(answer, response.length)
        if response.status != 200:
            raise Refused(f"{path}: {response.status}")
        return answer


@dataclass(frozen=True)
class Page:
    """How a run stands, as its server tells, and what is new.

    Attributes
    ----------
    events : list of Event
    status : RunStatus
    message : str
    more : bool
        Whether there is more than these events.
    """

    events: list[Event]
    status: RunStatus
    message: str
    more: bool


def read_page(answer: bytes) -> Page:
    """Return what a run's server tells, if it is what one tells and the records can hold it.

    Raises
    ------
    http.client.HTTPException
    """
    try:
        told = json.loads(answer)
        events = [Event(*values) for values in told["events"]]
        for event in events:
            row = dict(zip(EVENT_COLUMNS, event_row("", event), strict=True))
            for name, largest in LARGEST.items():
                if not -largest <= row[name] < largest:
                    raise ValueError(f"{name} is {row[name]}")
        message = str(told["message"])[:MOST_CHARACTERS]
        return Page(events, RunStatus(told["status"]), message, bool(told["more"]))
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
        RecordsError,
    ) as error:
        raise http.client.HTTPException(f"an answer that is none ({error})") from error


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
