"""Who may log in, and to which institutions they belong: by password, or see ``oidc.py``.

Nobody logs in who is in no institution, but administrators.
"""

from __future__ import annotations

from typing import Any

from jupyterhub.authenticators.shared import SharedPasswordAuthenticator
from tornado.web import HTTPError
from traitlets import Instance

from hub_config.oidc import Oidc, OidcLogin
from hub_config.places import Places, ServiceAwayError

ADMIN = "admin"
REFRESH_SECONDS = 60
#: A provider is asked less often: each time is a question over the internet.
OIDC_REFRESH_SECONDS = 300


class InstitutionLogin(SharedPasswordAuthenticator):  # type: ignore[misc]
    """Login by password, with groups that follow the list of institutions and the catalog.

    ``JupyterHub.load_groups`` only ever adds members, so who was taken off the list would keep
    their institution. Here both are asked at every login and again while somebody is logged in.
    """

    places = Instance(Places, help="Who belongs where.").tag(config=True)

    async def authenticate(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:
        """Return who logged in with a right password, with their groups; None otherwise."""
        found: dict[str, Any] | None = await super().authenticate(handler, data)
        if found is None:
            return None
        name = found["name"]
        groups = self.places.listed(name)
        try:
            groups = await self.places.groups(name)
        except ServiceAwayError as error:
            self.log.warning("The service does not say where %s belongs: %s", name, error)
            if not groups and not found["admin"]:
                raise HTTPError(
                    503,
                    f"the hub cannot find out now where {name} belongs; try again in a minute",
                ) from error
        return found | {"groups": groups}

    async def check_allowed(
        self, username: str, authentication: dict[str, Any] | None = None
    ) -> bool:
        """Return whether somebody with the right password may log in."""
        if authentication is None:
            return False
        return bool(authentication.get("admin") or authentication.get("groups"))

    async def refresh_user(self, user: Any, handler: Any = None) -> dict[str, Any] | bool:
        """Return a user's groups of now, or False for one who may log in no longer.

        While the service is away nothing changes.
        """
        admin = user.name in self.admin_users
        try:
            groups = await self.places.groups(user.name)
        except ServiceAwayError as error:
            self.log.warning("The service does not say where %s belongs: %s", user.name, error)
            return True
        if not admin and not groups:
            return False
        return {"name": user.name, "admin": admin, "groups": groups}


def by_password(c: Any, places: Places, user_password: str, admin_password: str) -> None:
    """Let the users of the institutions, and an admin, log in by password; nobody else.

    One password for all users suits a laptop and a class, where nobody needs protection from each
    other. For anything else there is :func:`by_provider`.

    Parameters
    ----------
    c : Config
        JupyterHub's.
    places : Places
    user_password, admin_password : str
    """
    c.JupyterHub.authenticator_class = InstitutionLogin
    c.InstitutionLogin.places = places
    c.InstitutionLogin.user_password = user_password
    c.InstitutionLogin.admin_password = admin_password
    c.Authenticator.admin_users = {ADMIN}
    _common(c, REFRESH_SECONDS)


def by_provider(c: Any, places: Places, oidc: Oidc) -> None:
    """Let in whom an identity provider (OpenID Connect) says to be in an institution.

    Its claims are the master: what the list and the catalog say of members is not asked.

    Parameters
    ----------
    c : Config
        JupyterHub's.
    places : Places
    oidc : Oidc
    """
    c.JupyterHub.authenticator_class = OidcLogin
    c.OidcLogin.institutions = list(places.institutions)
    c.OidcLogin.places = places
    c.OidcLogin.groups_claim = oidc.groups_claim
    c.OidcLogin.admin_group = oidc.admin_group
    c.OidcLogin.login_service = oidc.name
    c.OidcLogin.authorize_url = oidc.authorize_url
    c.OidcLogin.token_url = oidc.token_url
    c.OidcLogin.userdata_url = oidc.userdata_url
    c.OidcLogin.oauth_callback_url = oidc.callback_url
    c.OidcLogin.client_id = oidc.client_id
    c.OidcLogin.client_secret = oidc.client_secret
    c.OidcLogin.username_claim = oidc.username_claim
    c.OidcLogin.scope = list(oidc.scopes)
    c.OidcLogin.validate_server_cert = True  # whatever oauthenticator reads from the environment
    # The provider's tokens, with which the claims are read again; encrypted in the database.
    c.OidcLogin.enable_auth_state = True
    c.Authenticator.admin_users = set()
    _common(c, OIDC_REFRESH_SECONDS)


def _common(c: Any, refresh_seconds: int) -> None:
    c.Authenticator.allow_all = False
    c.Authenticator.allowed_users = set()
    # Who may log in is said by groups; without this JupyterHub warns that nobody may.
    c.Authenticator.any_allow_config = True
    # By default JupyterHub lets in whoever it has ever known, though they were taken off the list.
    c.Authenticator.allow_existing_users = False
    c.Authenticator.manage_groups = True
    # Who was taken off loses their tokens too, not only their browser's cookie.
    c.Authenticator.auth_refresh_age = refresh_seconds
    c.Authenticator.auth_refresh_strict = True
    c.Authenticator.refresh_pre_spawn = True
