"""The list of institutions, and which notebook pods a user may have: no hub, no cluster needed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What Kubernetes takes as the name of a namespace (RFC 1123), and JupyterHub as that of a group.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
FIELDS = ("name", "namespace", "users")


class InstitutionsError(ValueError):
    """The list cannot be used; its message says where, and what is wanted there."""


class NoInstitutionError(LookupError):
    """A user may have no notebook pod; its message is shown to them."""


@dataclass(frozen=True)
class Institution:
    """An institution.

    Attributes
    ----------
    key : str
        Its short name, which is that of its Hub group: ``ufmg``.
    name : str
        As people read it.
    namespace : str
        Where its pods are.
    users : tuple of str
        Names at the Hub of those who belong to it.
    """

    key: str
    name: str
    namespace: str
    users: tuple[str, ...]


Institutions = Mapping[str, Institution]


def read_institutions(path: Path) -> Institutions:
    """Read the list: a JSON object of institutions by key.

    Parameters
    ----------
    path : Path

    Returns
    -------
    mapping of str to Institution

    Raises
    ------
    InstitutionsError
        If there is no such file, or something in it is missing or of the wrong kind.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InstitutionsError(f"{path} is no list of institutions in JSON: {error}") from error
    if not isinstance(told, dict) or not told:
        raise InstitutionsError(
            f"{path} must be a JSON object of institutions by their short names, such as "
            '{"ufmg": {"name": ..., "namespace": ..., "users": [...]}}'
        )
    found = {key: _institution(path, key, each) for key, each in told.items()}
    owners: dict[str, str] = {}
    for each in found.values():
        other = owners.setdefault(each.namespace, each.key)
        if other != each.key:
            # Each would see the other's pods, and share its quota.
            raise InstitutionsError(
                f"{path}: {other!r} and {each.key!r} have the same namespace "
                f"{each.namespace!r}; give each its own"
            )
    return found


def _institution(path: Path, key: str, told: Any) -> Institution:
    where = f"{path}: institution {key!r}"
    if not NAME.fullmatch(key):
        raise InstitutionsError(
            f"{where} must be named by at most 63 lowercase letters, digits and hyphens"
        )
    if not isinstance(told, dict) or set(told) != set(FIELDS):
        raise InstitutionsError(f"{where} must have {', '.join(FIELDS)}, and nothing else")
    name, namespace, users = (told[field] for field in FIELDS)
    if not isinstance(name, str) or not name.strip():
        raise InstitutionsError(f"{where} needs a name for people to read, not {name!r}")
    if not isinstance(namespace, str) or not NAME.fullmatch(namespace):
        raise InstitutionsError(
            f"{where} needs a namespace of at most 63 lowercase letters, digits and hyphens, "
            f"not {namespace!r}"
        )
    if not isinstance(users, list) or not all(isinstance(each, str) and each for each in users):
        raise InstitutionsError(f"{where} needs a list of users' names, not {users!r}")
    capital = next((each for each in users if each != each.strip().lower()), None)
    if capital is not None:
        # JupyterHub knows users by their names in lowercase only.
        raise InstitutionsError(
            f"{where} has the user {capital!r}; write the name as {capital.strip().lower()!r}"
        )
    return Institution(key, name, namespace, tuple(users))


def users_of(institutions: Institutions) -> set[str]:
    """Return everybody who belongs to an institution."""
    return {user for each in institutions.values() for user in each.users}


def groups_of(user: str, institutions: Institutions) -> list[str]:
    """Return the keys of the institutions that a user belongs to, in the order of the list."""
    return [each.key for each in institutions.values() if user in each.users]


def profiles(
    user: str, groups: Collection[str], institutions: Institutions
) -> list[dict[str, Any]]:
    """Return the notebook pods that a user may choose from: one for each of their institutions.

    Parameters
    ----------
    user : str
        Their name, for the sentence.
    groups : collection of str
        Their groups at the Hub.
    institutions : mapping of str to Institution

    Returns
    -------
    list of dict
        KubeSpawner's profiles, of which each sets the institution's namespace.

    Raises
    ------
    NoInstitutionError
        If no institution is theirs. An empty list would start the pod in the hub's namespace.
    """
    mine = [each for each in institutions.values() if each.key in groups]
    if not mine:
        raise NoInstitutionError(
            f"{user} belongs to no institution of this hub ({', '.join(institutions)}), so there "
            "is no place for a notebook; ask who runs the hub to add you to yours"
        )
    return [
        {
            "display_name": each.name,
            "slug": each.key,
            "kubespawner_override": {
                "namespace": each.namespace,
                "environment": {"FLAUTIM_LAB_INSTITUTION": each.key},
            },
        }
        for each in mine
    ]
