"""Who may log in, and to which institutions they belong."""

from __future__ import annotations

from typing import Any

from jupyterhub.authenticators.shared import SharedPasswordAuthenticator
from traitlets import Dict

from hub_config.institutions import Institutions, groups_of, users_of

ADMIN = "admin"


class InstitutionLogin(SharedPasswordAuthenticator):  # type: ignore[misc]
    """Login by password, with groups that follow the list of institutions.

    ``JupyterHub.load_groups`` only ever adds members, so who was taken off the list would keep
    their institution. Here the list is asked at every login and again while somebody is logged in.
    """

    institutions = Dict(help="Those there are, by key.").tag(config=True)

    async def authenticate(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:
        """Return who logged in with a right password, with their groups; None otherwise."""
        found: dict[str, Any] | None = await super().authenticate(handler, data)
        if found is None:
            return None
        return found | {"groups": groups_of(found["name"], self.institutions)}

    async def refresh_user(self, user: Any, handler: Any = None) -> dict[str, Any] | bool:
        """Return a user's groups of now, or False for one who may log in no longer."""
        admin = user.name in self.admin_users
        if not admin and user.name not in self.allowed_users:
            return False
        return {
            "name": user.name,
            "admin": admin,
            "groups": groups_of(user.name, self.institutions),
        }


def configure(c: Any, institutions: Institutions, user_password: str, admin_password: str) -> None:
    """Let the users of the institutions, and an admin, log in; nobody else.

    One password for all users suits a laptop and a class, where nobody needs protection from each
    other. For anything else take one of oauthenticator's classes, which is in the image.

    Parameters
    ----------
    c : Config
        JupyterHub's.
    institutions : mapping of str to Institution
    user_password, admin_password : str
    """
    c.JupyterHub.authenticator_class = InstitutionLogin
    c.InstitutionLogin.institutions = dict(institutions)
    c.InstitutionLogin.user_password = user_password
    c.InstitutionLogin.admin_password = admin_password
    c.Authenticator.admin_users = {ADMIN}
    c.Authenticator.allowed_users = users_of(institutions) | {ADMIN}
    c.Authenticator.allow_all = False
    # By default JupyterHub lets in whoever it has ever known, though they were taken off the list.
    c.Authenticator.allow_existing_users = False
    c.Authenticator.manage_groups = True
    # Who was taken off the list loses their tokens too, not only their browser's cookie.
    c.Authenticator.auth_refresh_age = 60
    c.Authenticator.auth_refresh_strict = True
    c.Authenticator.refresh_pre_spawn = True
