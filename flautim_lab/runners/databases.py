"""The two databases of a hub, its catalog and its records, as one thing to look after."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence

from flautim_lab.catalog import opening
from flautim_lab.database import Database
from flautim_lab.errors import FlautimError
from flautim_lab.records import store

AGAIN_SECONDS = 1.0  # between two tries to reach a database


@contextlib.contextmanager
def both(*, apart: bool | None = None) -> Iterator[tuple[Database, Database]]:
    """Open catalog and records, and close them in the end.

    Parameters
    ----------
    apart : bool, optional
        See :meth:`flautim_lab.database.Database.prepare`.

    Raises
    ------
    CatalogUnavailableError, RecordsError
        If one of them cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        catalog = opening.database(apart=apart)
        stack.callback(catalog.close)
        records = store.database(apart=apart)
        stack.callback(records.close)
        yield catalog, records


def on_a_server() -> bool:
    """Whether one of them is a PostgreSQL, which may be up later than who asks it."""
    addresses = (os.environ.get(each, "") for each in (opening.URL_VARIABLE, store.URL_VARIABLE))
    return any(address.startswith("postgresql") for address in addresses)


def migrate(wait_seconds: float = 0.0, say: Callable[[str], None] = lambda _: None) -> list[str]:
    """Bring the tables of catalog and records to the form that this code needs.

    It may be done again, and by several at once.

    Parameters
    ----------
    wait_seconds : float
        How long to wait for a database that cannot be reached yet.
    say : callable
        Gets a sentence for each new reason to wait.

    Returns
    -------
    list of str
        What was done, a sentence for each.

    Raises
    ------
    CatalogUnavailableError, RecordsError
        If one of them cannot be reached, or holds tables of a newer version or another program.
    """
    return wait(wait_seconds, say, apart=False)


def wait(
    wait_seconds: float, say: Callable[[str], None], *, apart: bool | None = None
) -> list[str]:
    """Wait until both can be used; returns how their tables stand, a sentence for each.

    Raises
    ------
    CatalogUnavailableError, RecordsError
        If the time is up, or waiting is of no use.
    """
    end, said = time.monotonic() + wait_seconds, ""
    while True:
        try:
            with both(apart=apart) as opened:
                return _sentences(opened)
        except FlautimError as error:
            if error.lasting or time.monotonic() >= end:
                raise
            if str(error) != said:
                said = str(error)
                say(f"waiting: {said}")
        time.sleep(AGAIN_SECONDS)


def _sentences(opened: Sequence[Database]) -> list[str]:
    told = []
    for each in opened:
        if each.found == each.newest:
            what = f"are {each.newest} already"
        elif each.found:
            what = f"were {each.found}, and are {each.newest} now"
        else:
            what = f"were made ({each.newest})"
        told.append(f"the tables of the {each.what} in {each.where} {what}")
    return told
