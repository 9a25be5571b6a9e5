"""Who may log in, and to which institutions they belong."""

from __future__ import annotations

from typing import Any

from jupyterhub.authenticators.shared import SharedPasswordAuthenticator
from traitlets import Dict

from hub_config.institutions import groups_of


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
