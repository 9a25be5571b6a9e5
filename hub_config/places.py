"""Where somebody belongs: by the list, and by the catalog, of which the hub's service is asked.

The list says it always. Of the catalog nothing is known while the service does not answer; nobody
is given an institution then, or takes one away, but those of the list.

Where the service makes namespaces, institutions of the catalog that are not on the list have a
place, too. Its name is made here, from the key: no answer can send a notebook anywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest
from tornado.httputil import url_concat

from hub_config.institutions import NAME, Institution, Institutions, groups_of
from hub_config.profiles import DATA_OWNER

SECONDS = 5.0  # that the service is given to answer: somebody waits for the hub


class ServiceAwayError(Exception):
    """The service does not answer, or not with what it should."""


@dataclass(frozen=True)
class Places:
    """Who belongs where.

    Parameters
    ----------
    institutions : mapping of str to Institution
        All there are: where their pods are, and what their volumes are called, is said here alone.
    url : str
        The service's address of this question.
    token : str
        The service's own.
    prefix : str
        Of the namespaces that the service makes, before an institution's key; "" where it makes
        none.
    claim : str or None
        Of the volume with an institution's data in each of these, where it has one.
    """

    institutions: Institutions
    url: str
    token: str = field(repr=False)
    prefix: str = ""
    claim: str | None = None
    #: Of those that are not on the list, as far as the service told: names by key.
    _told: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def listed(self, user: str) -> list[str]:
        """Return the keys of a user's institutions by the list."""
        return groups_of(user, self.institutions)

    async def groups(self, user: str) -> list[str]:
        """Return the keys of a user's institutions, by list and catalog, in the list's order.

        Raises
        ------
        ServiceAwayError
        """
        mine = {*self.listed(user), *await self._roles(user)}
        made = sorted(key for key in mine if self._has_made(key))
        return [*(key for key in self.institutions if key in mine), *made]

    def of(self, groups: Collection[str]) -> Institutions:
        """Return the institutions of the list, and those of somebody's groups that were made."""
        made = {
            key: Institution(key, self._told.get(key, key), f"{self.prefix}{key}", data=self.claim)
            for key in sorted(groups)
            if self._has_made(key)
        }
        return {**self.institutions, **made}

    async def made(self) -> set[str]:
        """Return the keys of the institutions that have a place and are not on the list.

        While the service is away, those that it told last.

        Raises
        ------
        ServiceAwayError
            If it never told any.
        """
        if not self.prefix:
            return set()
        try:
            told = await self._ask(f"{self.url}/institutions")
            names = {each["key"]: each["name"] for each in told["institutions"]}
            made = {key: str(name) for key, name in names.items() if self._has_made(key)}
        except (ServiceAwayError, ValueError, KeyError, TypeError) as error:
            if not self._told:
                raise ServiceAwayError(f"{type(error).__name__}: {error}") from error
            return set(self._told)
        self._told.clear()
        self._told.update(made)
        return set(made)

    def _has_made(self, key: Any) -> bool:
        """Whether the service makes the namespace of an institution."""
        if not self.prefix or not isinstance(key, str) or key in self.institutions:
            return False
        name = f"{self.prefix}{key}"
        taken = {each.namespace for each in self.institutions.values()}
        return bool(NAME.fullmatch(key) and NAME.fullmatch(name)) and name not in taken

    async def owned(self, user: str) -> list[str]:
        """Return the keys of the institutions of which a user is a data owner.

        While the service is away, those of the list: nobody gets data by an error.
        """
        listed = {key for key, each in self.institutions.items() if user in each.owners}
        try:
            roles = await self._roles(user)
        except ServiceAwayError:
            roles = {}
        told = {key for key, held in roles.items() if DATA_OWNER in held}
        made = sorted(key for key in told if self._has_made(key))
        return [*(key for key in self.institutions if key in listed | told), *made]

    async def _roles(self, user: str) -> dict[str, list[str]]:
        """Return what a user is, by institution, as the service tells."""
        told = await self._ask(url_concat(self.url, {"user": user}))
        try:
            found = _read(told, user)
            names = {
                each["key"]: str(each.get("name", each["key"])) for each in told["institutions"]
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServiceAwayError(f"{type(error).__name__}: {error}") from error
        self._told.update({key: name for key, name in names.items() if self._has_made(key)})
        return found

    async def _ask(self, url: str) -> Any:
        request = HTTPRequest(
            url,
            headers={"Authorization": f"token {self.token}"},
            connect_timeout=SECONDS,
            request_timeout=SECONDS,
            follow_redirects=False,
        )
        try:
            answer = await AsyncHTTPClient().fetch(request)
            return json.loads(answer.body)
        except (HTTPError, OSError, ValueError) as error:
            raise ServiceAwayError(f"{type(error).__name__}: {error}") from error


def _read(told: Any, user: str) -> dict[str, list[str]]:
    if told["user"] != user:
        raise ValueError(f"it answers about {told['user']!r} and was asked about {user!r}")
    found = {each["key"]: list(each["roles"]) for each in told["institutions"]}
    if not all(isinstance(key, str) and roles for key, roles in found.items()):
        raise ValueError("it names institutions without a role")
    return found
