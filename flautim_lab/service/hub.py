"""Who asks: the Hub knows by the token, and tells the user's groups, which are institutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jupyterhub.services.auth import HubAuth
from tornado.web import HTTPError

from flautim_lab.service.settings import NAME

SCOPE = f"access:services!service={NAME}"
LONGEST_TOKEN = 256  # every token that is asked for is remembered for a while, wrong ones too
CACHE_SECONDS = 60  # after which a token that was taken back, or a new group, is noticed


class Unknown(Exception):  # noqa: N818 - an answer, not a fault of ours
    """The Hub does not know the token, or it may not be used here."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Caller:
    """Somebody with a valid token.

    Attributes
    ----------
    name : str
    admin : bool
        Of the Hub.
    institutions : mapping of str to str
        Namespaces of the institutions of which they are, by key.
    """

    name: str
    admin: bool
    institutions: Mapping[str, str]


class Hub:
    """The Hub, as one that is asked who somebody is.

    Parameters
    ----------
    institutions : mapping of str to str
        All there are: namespaces by key.
    """

    def __init__(self, institutions: Mapping[str, str]) -> None:
        self._institutions = institutions
        # Its address and this service's own token are in the environment.
        self._auth = HubAuth(cache_max_age=CACHE_SECONDS)

    async def caller(self, authorization: str) -> Caller:
        """Return who sent an ``Authorization`` header.

        Raises
        ------
        Unknown
            With the status and the sentence to answer.
        """
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() not in ("token", "bearer") or not 0 < len(token) <= LONGEST_TOKEN:
            raise Unknown(401, "send the Hub's token as 'Authorization: token ...'")
        try:
            user = await self._user(token)
        except HTTPError as error:
            raise Unknown(503, "the Hub does not answer; try again in a moment") from error
        if not user or user.get("kind") != "user":
            raise Unknown(
                401, "the Hub does not know this token; stop your server and start it again"
            )
        if not self._auth.check_scopes({SCOPE}, user):
            raise Unknown(403, f"this token may not be used here; it needs the scope {SCOPE}")
        mine = {key: self._institutions[key] for key in user["groups"] if key in self._institutions}
        return Caller(user["name"], bool(user.get("admin")), mine)

    async def _user(self, token: str) -> dict[str, Any] | None:
        """Return what the Hub knows of a token; None where it does not know it.

        A Hub whose database is away knows no token, this service's own neither.

        Raises
        ------
        HTTPError, Unknown
        """
        user: dict[str, Any] | None = await self._auth.user_for_token(token, sync=False)
        if user is not None:
            return user
        own = self._auth.api_token
        if await self._auth.user_for_token(own, use_cache=False, sync=False) is None:
            self._auth.cache.clear()  # what was remembered of the last minute may be wrong
            raise Unknown(503, "the Hub does not know anybody now; try again in a moment")
        # It may have been away for the first question alone.
        user = await self._auth.user_for_token(token, use_cache=False, sync=False)
        if user is not None:
            self._auth.cache.clear()
        return user
