"""The catalog on the service's database, as each caller may use it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from flautim_lab.catalog.local import Actor, Listed, LocalCatalog
from flautim_lab.catalog.schema import CatalogDatabase
from flautim_lab.catalog.things import Role
from flautim_lab.errors import ConflictError
from flautim_lab.service.hub import Caller


class Catalogs:
    """Gives the catalog as a caller may use it.

    A Hub's administrator is the platform's; a Hub's group lets its users be researchers there.

    Parameters
    ----------
    database : CatalogDatabase
    now : callable
        Returns the time in seconds since 1970 (UTC).
    listed : mapping
        Who is what at each institution by the hub's list: roles by user, by key.
    """

    def __init__(
        self,
        database: CatalogDatabase,
        now: Callable[[], float] = time.time,
        listed: Listed = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._now = now
        self._listed = listed

    def __call__(self, who: Caller) -> LocalCatalog:
        """Return the catalog as somebody may use it."""
        owned = (
            key
            for key in who.institutions
            if Role.DATA_OWNER in self._listed.get(key, {}).get(who.name, ())
        )
        actor = Actor(
            who.name,
            who.admin,
            institutions=frozenset(who.institutions),
            data_owner_of=frozenset(owned),
        )
        return LocalCatalog(self._database, actor, self._now, self._listed)

    def own(self) -> LocalCatalog:
        """Return the catalog as the service itself uses it."""
        return LocalCatalog(self._database, Actor("service", platform_admin=True), self._now)

    def end_run(self, run_id: str, owner: str) -> None:
        """Note that a run that the service made for somebody has ended."""
        actor = Actor(owner, service=True)
        LocalCatalog(self._database, actor, self._now).end_run(run_id)

    def check(self) -> None:
        """Ask the database.

        Raises
        ------
        CatalogUnavailableError
            If it does not answer, or has tables of another version.
        """
        self._database.check()

    def add_missing(self, names: Mapping[str, str]) -> None:
        """Let institutions that the hub has be in the catalog; those that are there stay."""
        service = self.own()
        for key, name in names.items():
            with contextlib.suppress(ConflictError):
                service.add_institution(name, key=key)
