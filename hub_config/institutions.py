"""The list of institutions, as who runs the cluster writes it: no hub, no cluster needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_config.sizes import (
    NO_LIMITS,
    Limits,
    Size,
    SizeError,
    check_within,
    read_limits,
    read_sizes,
)

#: What Kubernetes takes as the name of a namespace (RFC 1123), and JupyterHub as that of a group.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: What Kubernetes takes as the name of a volume's claim (RFC 1123, subdomains).
CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
#: What the namespaces begin with that the service makes; as in flautim_lab/service/spaces.py.
PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]{0,18})-")
NEEDED = ("name", "namespace")
OPTIONAL = ("users", "owners", "data", "fewest_rows", "profiles", "limits")


class InstitutionsError(ValueError):
    """The list cannot be used; its message says where, and what is wanted there."""


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
    owners : tuple of str
        Names of its first data owners, who belong to it, too.
    data : str or None
        The PersistentVolumeClaim with its data, in its namespace.
    fewest_rows : int or None
        How few rows of it may be trained on, or validated on, together; None is as by default.
    sizes : tuple of Size
        Of notebook pods, to choose from.
    limits : Limits
        How much of each may be asked for by hand.
    """

    key: str
    name: str
    namespace: str
    users: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    data: str | None = None
    fewest_rows: int | None = None
    sizes: tuple[Size, ...] = ()
    limits: Limits = NO_LIMITS


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
    if not isinstance(told, dict) or not set(NEEDED) <= set(told) <= {*NEEDED, *OPTIONAL}:
        raise InstitutionsError(
            f"{where} must have {' and '.join(NEEDED)}, may have {', '.join(OPTIONAL)}, and "
            "nothing else"
        )
    name, namespace, data = (told.get(field) for field in ("name", "namespace", "data"))
    if not isinstance(name, str) or not name.strip():
        raise InstitutionsError(f"{where} needs a name for people to read, not {name!r}")
    if not isinstance(namespace, str) or not NAME.fullmatch(namespace):
        raise InstitutionsError(
            f"{where} needs a namespace of at most 63 lowercase letters, digits and hyphens, "
            f"not {namespace!r}"
        )
    if data is not None and (not isinstance(data, str) or not CLAIM.fullmatch(data)):
        raise InstitutionsError(
            f"{where} needs the name of a PersistentVolumeClaim as its data, not {data!r}"
        )
    fewest = told.get("fewest_rows")
    if fewest is not None and (type(fewest) is not int or fewest < 1):
        raise InstitutionsError(
            f"{where} needs a whole number from 1 as its fewest_rows, not {fewest!r}"
        )
    try:
        limits = read_limits(told.get("limits", {}))
        sizes = read_sizes(told.get("profiles", []))
        for size in sizes:
            try:
                check_within(size, limits)
            except SizeError as error:
                raise SizeError(f"profile {size.name!r}: {error}") from error
    except SizeError as error:
        raise InstitutionsError(f"{where}: {error}") from error
    users, owners = (_names(where, told.get(field, [])) for field in ("users", "owners"))
    return Institution(key, name, namespace, users, owners, data, fewest, sizes, limits)


def _names(where: str, told: Any) -> tuple[str, ...]:
    if not isinstance(told, list) or not all(isinstance(each, str) and each for each in told):
        raise InstitutionsError(f"{where} needs a list of users' names, not {told!r}")
    capital = next((each for each in told if each != each.strip().lower()), None)
    if capital is not None:
        # JupyterHub knows users by their names in lowercase only.
        raise InstitutionsError(
            f"{where} has the user {capital!r}; write the name as {capital.strip().lower()!r}"
        )
    return tuple(told)


def users_of(institutions: Institutions) -> set[str]:
    """Return everybody who belongs to an institution."""
    return {user for each in institutions.values() for user in (*each.users, *each.owners)}


def groups_of(user: str, institutions: Institutions) -> list[str]:
    """Return the keys of the institutions that a user belongs to, in the order of the list."""
    return [each.key for each in institutions.values() if user in each.users or user in each.owners]
