"""What the API server refuses, and its absence, as one sentence."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import urllib3
from kubernetes import client as k8s

from flautim_lab.errors import ClusterError
from flautim_lab.pods.sentences import refusal


class Unreachable(ClusterError):  # noqa: N818 - it may be back in a moment
    """The API server does not answer now, or is not well."""


@contextlib.contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn what the API server refuses, and its absence, into one sentence."""
    try:
        yield
    except k8s.ApiException as error:
        message = _message(error)
        kind = Unreachable if (error.status or 0) >= 500 else ClusterError
        raise kind(refusal(error.status or 0, error.reason or "", message, what)) from error
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(
            f"the cluster does not answer, cannot {what}; check that it runs and is reached from "
            f"here ({type(error).__name__})"
        ) from error


def _message(error: k8s.ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or "")
