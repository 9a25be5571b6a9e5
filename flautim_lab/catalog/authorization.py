"""Who may do what in the catalog: one table, tested row by row on every way in.

A right holds *anywhere*, at one's *own institution*, or in one's *own project* (as a member of it).
Whoever has no right to see a thing is told that there is none.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from flautim_lab.catalog.things import Role


class Action(StrEnum):
    """What can be done in the catalog."""

    SEE_INSTITUTIONS = "see institutions"
    MAKE_INSTITUTIONS = "make institutions"  # and remove them, and say whether they are active
    CHANGE_INSTITUTION = "change institution"
    SEE_USERS = "see users"
    GIVE_ROLES = "give roles"
    SEE_PROJECTS = "see projects"
    MAKE_PROJECTS = "make projects"
    CHANGE_PROJECT = "change project"  # name, description, members, archive, remove
    SEE_DATASETS = "see datasets"  # schema and size
    REGISTER_DATASETS = "register datasets"
    GRANT_DATASETS = "grant datasets"  # answer requests, see and stop what reads them
    SEE_AUDIT = "see audit"
    SEE_WORK = "see work"  # models, experiments and runs of a project
    DO_WORK = "do work"  # save and run them


class Scope(StrEnum):
    """Where a right holds."""

    NOWHERE = "nowhere"
    OWN_PROJECT = "own project"
    OWN_INSTITUTION = "own institution"
    ANYWHERE = "anywhere"


# What everybody may do, whatever they are.
PLATFORM_ADMIN = "platform_admin"
ANYBODY = "anybody"

_NO, _PROJECT, _INSTITUTION, _ANY = Scope

# Action: anybody, researcher, data owner, institution admin, platform admin.
_ROWS: dict[Action, tuple[Scope, Scope, Scope, Scope, Scope]] = {
    Action.SEE_INSTITUTIONS: (_ANY, _ANY, _ANY, _ANY, _ANY),
    Action.MAKE_INSTITUTIONS: (_NO, _NO, _NO, _NO, _ANY),
    Action.CHANGE_INSTITUTION: (_NO, _NO, _NO, _INSTITUTION, _ANY),
    Action.SEE_USERS: (_NO, _INSTITUTION, _INSTITUTION, _INSTITUTION, _ANY),
    Action.GIVE_ROLES: (_NO, _NO, _NO, _INSTITUTION, _ANY),
    Action.SEE_PROJECTS: (_PROJECT, _INSTITUTION, _INSTITUTION, _INSTITUTION, _ANY),
    Action.MAKE_PROJECTS: (_NO, _INSTITUTION, _INSTITUTION, _INSTITUTION, _NO),
    Action.CHANGE_PROJECT: (_NO, _PROJECT, _PROJECT, _INSTITUTION, _NO),
    Action.SEE_DATASETS: (_NO, _INSTITUTION, _INSTITUTION, _INSTITUTION, _NO),
    Action.REGISTER_DATASETS: (_NO, _NO, _INSTITUTION, _NO, _NO),
    Action.GRANT_DATASETS: (_NO, _NO, _INSTITUTION, _NO, _NO),
    Action.SEE_AUDIT: (_NO, _NO, _INSTITUTION, _INSTITUTION, _ANY),
    Action.SEE_WORK: (_PROJECT, _INSTITUTION, _INSTITUTION, _INSTITUTION, _NO),
    Action.DO_WORK: (_PROJECT, _PROJECT, _PROJECT, _NO, _NO),
}
COLUMNS = (ANYBODY, Role.RESEARCHER, Role.DATA_OWNER, Role.INSTITUTION_ADMIN, PLATFORM_ADMIN)

TABLE: dict[Action, dict[str, Scope]] = {
    action: dict(zip((str(column) for column in COLUMNS), row, strict=True))
    for action, row in _ROWS.items()
}

_WHO = {
    str(Role.RESEARCHER): "its researchers",
    str(Role.DATA_OWNER): "its data owners",
    str(Role.INSTITUTION_ADMIN): "its administrators",
    PLATFORM_ADMIN: "the platform's administrators",
}


def may(action: Action, roles: Collection[Role], *, platform_admin: bool, member: bool) -> bool:
    """Return whether somebody may do something.

    Parameters
    ----------
    action : Action
    roles : collection of Role
        Theirs at the institution in question; none where there is none in question.
    platform_admin : bool
    member : bool
        Whether they are a member of the project in question.
    """
    row = TABLE[action]
    columns = [ANYBODY, *map(str, roles), *([PLATFORM_ADMIN] if platform_admin else [])]
    for column in columns:
        scope = row[column]
        if scope is Scope.ANYWHERE or (scope is Scope.OWN_PROJECT and member):
            return True
        if scope is Scope.OWN_INSTITUTION:  # the role is one of that institution
            return True
    return False


def who_may(action: Action) -> str:
    """Return who may do something, as the end of a sentence.

    >>> who_may(Action.GRANT_DATASETS)
    'its data owners'
    """
    row = TABLE[action]
    named = [words for column, words in _WHO.items() if row[column] not in (_NO, _PROJECT)]
    if _PROJECT in row.values():
        named.append("members of the project")
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
