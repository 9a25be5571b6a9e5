"""Where somebody belongs: what the hub asks when they log in, and when their notebook starts.

Two say it: the list of institutions, which who runs the cluster writes, and the roles that the
catalog gives. Only the hub may ask, with the service's own token.
"""

from __future__ import annotations

from collections.abc import Mapping
from secrets import compare_digest
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from flautim_lab.catalog.local import Listed
from flautim_lab.catalog.things import Role
from flautim_lab.service.catalog_routes import Opener
from flautim_lab.service.hub import Caller
from flautim_lab.service.requests import Refused
from flautim_lab.service.settings import Settings

PATH = "/places"
USER = r"^[^\x00-\x1f]+$"  # what no database takes, nobody is called


def listed_roles(listed: Mapping[str, Mapping[str, Any]]) -> Listed:
    """Return who is what at each institution by the list: roles by user, by key.

    Its users are researchers; its owners are data owners, and researchers too.
    """
    found: dict[str, dict[str, frozenset[Role]]] = {}
    for key, told in listed.items():
        owners = {str(user) for user in told.get("owners") or ()}
        users = {str(user) for user in told.get("users") or ()} | owners
        found[key] = {
            user: frozenset({Role.RESEARCHER} | ({Role.DATA_OWNER} if user in owners else set()))
            for user in users
        }
    return found


def places_router(settings: Settings, catalogs: Opener) -> APIRouter:
    """Return the route.

    Parameters
    ----------
    settings : Settings
    catalogs : callable
        Gives the catalog as a caller may use it.
    """
    router = APIRouter(tags=["hub"])
    listed = listed_roles(settings.listed)

    def named(key: str) -> str:
        made = getattr(settings.institutions, "names", {})
        return settings.names.get(key) or str(made.get(key, key))

    def only_the_hub(request: Request) -> None:
        """Refuse everybody else: users' tokens, and those of the Hub's administrators."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("token", "bearer") or not token:
            raise Refused(401, "send the service's own token as 'Authorization: token ...'")
        same = compare_digest(token.strip().encode(), settings.token.encode())
        if not settings.token or not same:
            raise Refused(403, "only the hub itself may ask where somebody belongs")

    @router.get(f"{PATH}/institutions", dependencies=[Depends(only_the_hub)])
    def institutions() -> dict[str, Any]:
        """Return the institutions that have a place, with their names."""
        return {"institutions": [{"key": key, "name": named(key)} for key in settings.institutions]}

    @router.get(PATH, dependencies=[Depends(only_the_hub)])
    def places(
        user: Annotated[str, Query(min_length=1, max_length=255, pattern=USER)],
    ) -> dict[str, Any]:
        """Return the institutions of a user, and what they are there."""
        given = catalogs(Caller(user, False, {})).me().roles
        found = []
        for key, namespace in settings.institutions.items():
            roles = given.get(key, frozenset()) | listed.get(key, {}).get(user, frozenset())
            if roles:
                told = settings.listed.get(key, {})
                found.append(
                    {
                        "key": key,
                        "name": named(key),
                        "namespace": namespace,
                        "roles": sorted(str(role) for role in roles),
                        "data": settings.data.get(key),
                        "profiles": told.get("profiles") or [],
                    }
                )
        return {"user": user, "institutions": found}

    return router
