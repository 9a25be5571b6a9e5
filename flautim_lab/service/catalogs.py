"""The catalog on the service's database, as each caller may use it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.schema import CatalogDatabase
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
    """

    def __init__(self, database: CatalogDatabase, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    def __call__(self, who: Caller) -> Catalog:
        """Return the catalog as somebody may use it."""
        actor = Actor(who.name, who.admin, institutions=frozenset(who.institutions))
        return LocalCatalog(self._database, actor, self._now)

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
        service = LocalCatalog(self._database, Actor("service", platform_admin=True), self._now)
        for key, name in names.items():
            with contextlib.suppress(ConflictError):
                service.add_institution(name, key=key)
