"""Who may do what at the service: one table, tested row by row.

A run's ``owner`` started it. A ``stranger`` is any other user of the hub, of the same institution
too. An ``admin`` is the Hub's.
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What somebody is to a run."""

    OWNER = "owner"
    ADMIN = "admin"
    STRANGER = "stranger"


class Action(StrEnum):
    """What can be done to a run."""

    READ = "read"
    STOP = "stop"
    CHANGE = "change"  # strike it, scale it
    REMOVE = "remove"


ALLOWED: dict[Action, frozenset[Role]] = {
    Action.READ: frozenset({Role.OWNER, Role.ADMIN}),
    Action.STOP: frozenset({Role.OWNER, Role.ADMIN}),
    Action.CHANGE: frozenset({Role.OWNER}),
    Action.REMOVE: frozenset({Role.OWNER}),
}


def may(role: Role, action: Action) -> bool:
    """Return whether somebody may do something to a run."""
    return role in ALLOWED[action]
