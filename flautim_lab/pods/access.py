"""What a run asks of the cluster, as a table: for the check before a run, and for the Role.

``k8s/base/institution/run-role.yaml`` grants exactly this; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Permission(NamedTuple):
    """One line of a Role."""

    group: str
    resource: str
    verbs: tuple[str, ...]


PERMISSIONS = (
    Permission("", "configmaps", ("create", "get", "list", "delete")),
    Permission("", "secrets", ("create",)),
    Permission("", "services", ("create", "get")),
    Permission("", "persistentvolumeclaims", ("create", "list")),
    Permission("", "pods", ("list", "watch", "delete")),
    Permission("", "pods/log", ("get",)),
    # "get" is what a WebSocket asks for, "create" what SPDY did.
    Permission("", "pods/portforward", ("get", "create")),
    Permission("batch", "jobs", ("create", "get", "list", "watch", "patch")),
    # A Job is accepted and its pods are refused (a quota): only its events tell.
    Permission("", "events", ("list", "watch")),
    Permission("networking.k8s.io", "networkpolicies", ("create",)),
)


def questions(permissions: Iterable[Permission] = PERMISSIONS) -> Iterator[tuple[str, str, str]]:
    """Yield (group, resource, verb) of each thing that a run does."""
    for group, resource, verbs in permissions:
        for verb in verbs:
            yield group, resource, verb
