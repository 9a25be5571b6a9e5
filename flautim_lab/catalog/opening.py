"""``lab.open_catalog()``: the catalog of who asks, wherever it is."""

from __future__ import annotations

import getpass
import os

import sqlalchemy as sa

from flautim_lab import connection
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.rest import rest_catalog
from flautim_lab.catalog.schema import CatalogDatabase, institutions
from flautim_lab.errors import CatalogError
from flautim_lab.home import home

URL_VARIABLE = "FLAUTIM_LAB_CATALOG_URL"
BUSY_TIMEOUT_SECONDS = 20.0
LOCAL = "local"

# By process: what was opened before a fork must not be used after it, nor closed.
_opened: dict[int, tuple[tuple[str, ...], Catalog]] = {}


def open_catalog() -> Catalog:
    """Return the catalog: of institutions, projects, datasets, models and experiments.

    In a notebook of a hub it is the hub's, as its user may use it. Without a hub it is a database
    in the home, or at ``FLAUTIM_LAB_CATALOG_URL``; its sole user may do everything, and one
    institution, ``local``, is there from the start.

    Returns
    -------
    Catalog
        See :class:`flautim_lab.catalog.interface.Catalog` for all that it can do.

    Raises
    ------
    CatalogError
        If it cannot be opened.
    """
    service = os.environ.get(connection.URL_VARIABLE, "")
    key = (service,) if service else (str(home()), os.environ.get(URL_VARIABLE, ""), user())
    known = _opened.get(os.getpid())
    if known is None or known[0] != key:
        if known is not None:
            known[1].close()
        known = _opened[os.getpid()] = (
            key,
            rest_catalog(connection.Service()) if service else _local(),
        )
    return known[1]


def database(*, apart: bool | None = None) -> CatalogDatabase:
    """Return the database of a catalog without a hub, opened anew."""
    file = sa.URL.create("sqlite", database=str(home() / "catalog.db"))
    address = os.environ.get(URL_VARIABLE) or file
    return CatalogDatabase(address, BUSY_TIMEOUT_SECONDS, apart=apart)


def user() -> str:
    """Return the name of the user of this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "user"


def _local() -> LocalCatalog:
    opened = database()
    made = LocalCatalog(opened, Actor(user(), alone=True))
    with opened.reading() as reading:
        empty = reading.scalar(sa.select(institutions.c.id).limit(1)) is None
    if empty:
        try:
            made.add_institution("Local", key=LOCAL)
        except CatalogError:  # another process was first
            made.institution(LOCAL)
    return made
