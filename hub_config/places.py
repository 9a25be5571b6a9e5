"""Where somebody belongs: by the list, and by the catalog, of which the hub's service is asked.

The list says it always. Of the catalog nothing is known while the service does not answer; nobody
is given an institution then, or takes one away, but those of the list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest
from tornado.httputil import url_concat

from hub_config.institutions import Institutions, groups_of
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
    """

    institutions: Institutions
    url: str
    token: str = field(repr=False)

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
        return [key for key in self.institutions if key in mine]

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
        return [key for key in self.institutions if key in listed | told]

    async def _roles(self, user: str) -> dict[str, list[str]]:
        """Return what a user is, by institution, as the service tells."""
        request = HTTPRequest(
            url_concat(self.url, {"user": user}),
            headers={"Authorization": f"token {self.token}"},
            connect_timeout=SECONDS,
            request_timeout=SECONDS,
            follow_redirects=False,
        )
        try:
            answer = await AsyncHTTPClient().fetch(request)
            return _read(json.loads(answer.body), user)
        except (HTTPError, OSError, ValueError, KeyError, TypeError) as error:
            raise ServiceAwayError(f"{type(error).__name__}: {error}") from error


def _read(told: Any, user: str) -> dict[str, list[str]]:
    if told["user"] != user:
        raise ValueError(f"it answers about {told['user']!r} and was asked about {user!r}")
    found = {each["key"]: list(each["roles"]) for each in told["institutions"]}
    if not all(isinstance(key, str) and roles for key, roles in found.items()):
        raise ValueError("it names institutions without a role")
    return found
