"""The way into a catalog by its database, a file or module per kind of thing."""

from __future__ import annotations

from flautim_lab.catalog.local.base import Actor, Listed
from flautim_lab.catalog.local.institutions import Institutions
from flautim_lab.catalog.local.people import People
from flautim_lab.catalog.local.projects import Projects
from flautim_lab.catalog.local.requests import Requests

__all__ = ["Actor", "Listed", "LocalCatalog"]


class LocalCatalog(Requests, Projects, People, Institutions):
    """A :class:`~flautim_lab.catalog.interface.Catalog` on a database, as somebody may use it.

    Parameters
    ----------
    database : CatalogDatabase
    actor : Actor
        Who asks.
    now : callable
        Returns the time in seconds since 1970 (UTC).
    listed : mapping
        Who is what at each institution by the hub's list: roles by user, by key.
    """
