"""A connection to the service of a hub: what a notebook pod asks, in place of a cluster or a file.

The service knows its user by the token that the Hub gave the notebook.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from httpx_sse import EventSource, ServerSentEvent

from flautim_lab.errors import ClusterError

URL_VARIABLE = "FLAUTIM_LAB_SERVICE_URL"
TOKEN_VARIABLE = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - the name of a variable, given by the Hub
TIMEOUT_SECONDS = 60.0
SILENCE_SECONDS = 45.0  # of a stream, which gives a sign of life every ten


class Away(ClusterError):  # noqa: N818 - it may be back in a moment
    """The service does not answer now."""


class Refusal(ClusterError):  # noqa: N818 - an answer
    """The service refuses, with its own sentence.

    Attributes
    ----------
    kind : str
        The ``type`` of the problem (RFC 9457), which a program can tell apart.
    status : int
        Of HTTP.
    """

    def __init__(self, sentence: str, kind: str = "about:blank", status: int = 0) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.status = status


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return whose certificates are trusted; reading them takes longer than a question."""
    return httpx.create_ssl_context(trust_env=False)


class Service:
    """A connection to the service; keep it for several questions, and close it.

    Parameters
    ----------
    url : str, optional
        ``FLAUTIM_LAB_SERVICE_URL`` by default.
    token : str, optional
        ``JUPYTERHUB_API_TOKEN`` by default.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self._url = (url or os.environ[URL_VARIABLE]).rstrip("/")
        token = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
        self._client = httpx.Client(
            headers={"Authorization": f"token {token}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            verify=_trusted(),
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def ask(
        self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> bytes:
        """Return an answer's body.

        Parameters
        ----------
        method, path : str
            The path begins with a slash and is escaped already.
        body : optional
            What is sent as JSON.
        query : mapping, optional

        Raises
        ------
        Away
            If the service cannot be reached, or is not well.
        Refusal
            If it refuses, with its own sentence.
        """
        try:
            answer = self._client.request(method, f"{self._url}{path}", json=body, params=query)
        except httpx.HTTPError as error:
            raise self._away(error) from error
        self._check(answer)
        return answer.content

    def stream(self, path: str, after: int) -> Iterator[ServerSentEvent]:
        """Yield what is told from now on, until the service ends it.

        Parameters
        ----------
        path : str
        after : int
            The number of the last event that is known already (``Last-Event-ID``).

        Raises
        ------
        Away, Refusal
            As :meth:`ask`; Away as well for one that falls silent, or breaks off.
        """
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=SILENCE_SECONDS)
        url = f"{self._url}{path}"
        try:
            with self._client.stream("GET", url, headers=headers, timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                self._check(answer)
                # A sign of life after a numbered event comes as one without data, which by the
                # standard is none.
                yield from (told for told in EventSource(answer).iter_sse() if told.data)
        except httpx.HTTPError as error:
            raise self._away(error) from error

    def _away(self, error: httpx.HTTPError) -> Away:
        return Away(
            f"the hub's service does not answer at {self._url} ({type(error).__name__}); try "
            "again in a moment, or ask who runs the hub"
        )

    def _check(self, answer: httpx.Response) -> None:
        """Raise what an answer refuses."""
        if answer.is_success:
            return
        said, kind = _problem(answer)
        if answer.status_code >= 500:
            raise Away(f"the hub's service is not well now: {said}")
        raise Refusal(said, kind, answer.status_code)


def is_in_hub() -> bool:
    """Whether this process is in a notebook of a hub."""
    return bool(os.environ.get(URL_VARIABLE))


def _problem(answer: httpx.Response) -> tuple[str, str]:
    """Return what an answer says is wrong (problem+json, RFC 9457), and of which type it is."""
    try:
        told = answer.json()
        return str(told["detail"]), str(told.get("type", "about:blank"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{answer.status_code} {answer.reason_phrase}", "about:blank"
