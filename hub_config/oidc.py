"""Login by an institutional identity provider: OpenID Connect, by oauthenticator's own class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.oauth2 import OAuthCallbackHandler
from tornado.httpclient import HTTPClientError
from tornado.web import HTTPError
from traitlets import Instance, List, Unicode

from hub_config.places import Places, ServiceAwayError

PREFIX = "FLAUTIM_LAB_OIDC_"
NEEDED = {
    f"{PREFIX}AUTHORIZE_URL": "where the provider asks who somebody is (authorization_endpoint)",
    f"{PREFIX}TOKEN_URL": "where it gives tokens (token_endpoint)",
    f"{PREFIX}USERDATA_URL": "where it tells claims (userinfo_endpoint)",
    f"{PREFIX}CALLBACK_URL": "the hub's own, as the provider knows it: https://.../hub/oauth_callback",
    f"{PREFIX}CLIENT_ID": "the hub's name at the provider",
    f"{PREFIX}CLIENT_SECRET": "the hub's secret at the provider",
    # JupyterHub reads this one itself.
    "JUPYTERHUB_CRYPT_KEY": "with which the provider's tokens are kept (openssl rand -hex 32)",
}
#: A provider that is away, or whose answer is none.
AWAY = (HTTPClientError, OSError, ValueError, TypeError, AttributeError)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class OidcError(ValueError):
    """What the environment says of the provider will not do; its message names the variable."""


@dataclass(frozen=True)
class Oidc:
    """The provider, and what its claims are called.

    Attributes
    ----------
    authorize_url, token_url, userdata_url, callback_url : str
    client_id, client_secret : str
    name : str
        Of the provider, on the button.
    username_claim : str
        What names a user; one that nobody can change for themselves.
    groups_claim : str
        The list of a user's groups.
    admin_group : str
        Whose users are the hub's administrators; nobody is where it is empty.
    scopes : tuple of str
        That are asked for. Without ``offline_access`` most providers let the hub read claims for
        minutes only, and then everybody must log in again.
    """

    authorize_url: str
    token_url: str
    userdata_url: str
    callback_url: str
    client_id: str
    client_secret: str = field(repr=False)
    name: str = "your institution"
    username_claim: str = "preferred_username"
    groups_claim: str = "groups"
    admin_group: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "offline_access")

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Oidc:
        """Read the environment, in which all of ``NEEDED`` is.

        Raises
        ------
        OidcError
        """
        told = {
            key: environment[f"{PREFIX}{key.upper()}"].strip()
            for key in cls.__dataclass_fields__
            if environment.get(f"{PREFIX}{key.upper()}", "").strip()
        }
        for key, value in told.items():
            if key.endswith("_url"):
                address = urlsplit(value)
                local = address.scheme == "http" and address.hostname in LOOPBACK
                if not address.hostname or not (address.scheme == "https" or local):
                    raise OidcError(
                        f"{PREFIX}{key.upper()} must be an address with https, not {value!r}"
                    )
        given: dict[str, Any] = dict(told)
        if "scopes" in given:
            given["scopes"] = tuple(given["scopes"].split())
            if "openid" not in given["scopes"]:
                raise OidcError(
                    f"{PREFIX}SCOPES must have openid among them, not {told['scopes']!r}"
                )
        return cls(**given)


class Callback(OAuthCallbackHandler):  # type: ignore[misc]
    """The way back from the provider, of whose address the log gets no code."""

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what went wrong; tornado would write the whole address."""
        if isinstance(value, HTTPError):
            self.log.warning("%s %s: %s", value.status_code, self.request.path, value.log_message)
        else:
            self.log.error("%s broke", self.request.path, exc_info=(typ, value, tb))


class OidcLogin(GenericOAuthenticator):  # type: ignore[misc]
    """Lets in who is in an institution by the provider's claims, and nobody else.

    Of somebody's groups those are kept that are institutions. The claims are read again while they
    are logged in: who is in no institution any more is logged out, and their tokens end.
    """

    callback_handler = Callback
    institutions = List(Unicode(), help="Those there are, by key.").tag(config=True)
    places = Instance(Places, allow_none=True, help="Who knows those that were made.").tag(
        config=True
    )
    groups_claim = Unicode("groups", help="The list of a user's groups.").tag(config=True)
    admin_group = Unicode("", help="Whose users administrate the hub.").tag(config=True)

    def user_info_to_username(self, user_info: dict[str, Any]) -> str:
        """Return what names a user; without a traceback, and nothing of them in a log."""
        name = user_info.get(self.username_claim)
        if not isinstance(name, str) or not name.strip():
            raise HTTPError(
                403,
                f"your identity provider does not tell the hub your name ({self.username_claim}); "
                "tell who runs the hub",
            )
        return name.strip()

    async def authenticate(
        self, handler: Any, data: Any = None, **kwargs: Any
    ) -> dict[str, Any] | None:
        """Return who comes back from the provider; without a traceback, which would tell codes."""
        try:
            found: dict[str, Any] | None = await super().authenticate(handler, data, **kwargs)
        except ServiceAwayError as error:
            self.log.error("The service does not say which institutions there are: %s", error)
            raise HTTPError(
                503,
                "the hub cannot find out now which institutions there are; try again in a minute",
            ) from None
        except AWAY as error:
            self.log.error("The provider does not answer as it should: %s", type(error).__name__)
            raise HTTPError(
                503,
                f"{self.login_service} does not answer the hub as it should; try again in a "
                "minute, and tell who runs the hub if it stays so",
            ) from None
        return found

    async def update_auth_model(self, auth_model: dict[str, Any]) -> dict[str, Any]:
        """Say whether somebody administrates the hub, by the claims of now."""
        claims = self._claims(auth_model["auth_state"])
        return auth_model | {"admin": bool(self.admin_group) and self.admin_group in claims}

    async def get_user_groups(self, auth_state: dict[str, Any]) -> set[str]:
        """Return those of somebody's groups that are institutions."""
        claims = self._claims(auth_state)
        listed = claims & set(self.institutions)
        try:
            made = await self.places.made() if self.places else set()
        except ServiceAwayError:
            if not listed:  # it may be that one of the others is theirs
                raise
            return listed
        return listed | claims & made

    async def check_allowed(self, username: str, auth_model: dict[str, Any] | None) -> bool:
        """Refuse, with a sentence, who is in no institution."""
        if auth_model is None:
            return False
        if not _belongs(auth_model):
            raise HTTPError(
                403,
                f"{username} is in no institution of this hub ({', '.join(self.institutions)}) by "
                f"{self.login_service}; ask who looks after your account there to add you to yours",
            )
        return True

    async def refresh_user(
        self, user: Any, handler: Any = None, **kwargs: Any
    ) -> dict[str, Any] | bool:
        """Read somebody's claims again; False for one who must log in again, or may no longer.

        While the provider is away nothing changes.
        """
        try:
            found: dict[str, Any] | bool = await super().refresh_user(user, handler, **kwargs)
        except HTTPError:  # it names nobody any more
            return False
        except ServiceAwayError as error:
            self.log.warning("The service does not say which institutions there are: %s", error)
            return True
        except AWAY as error:
            kind = type(error).__name__  # what it says may be somebody's claims
            self.log.warning("The provider does not say where %s belongs: %s", user.name, kind)
            return True
        if isinstance(found, dict) and (found["name"] != user.name or not _belongs(found)):
            return False
        return found

    def _claims(self, auth_state: dict[str, Any]) -> set[str]:
        told = auth_state[self.user_auth_state_key].get(self.groups_claim)
        if isinstance(told, list):
            return {each for each in told if isinstance(each, str)}
        # A text would be taken apart into letters, of which each may be the name of a group.
        self.log.warning("The claim %s is no list of groups; nobody is in any", self.groups_claim)
        return set()


def _belongs(auth_model: dict[str, Any]) -> bool:
    return bool(auth_model.get("admin") or auth_model.get("groups"))
