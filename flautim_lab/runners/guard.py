"""Ends a run whose data's owner asks for its end, where no service of a hub does."""

from __future__ import annotations

import contextlib
import threading
import time

from flautim_lab.catalog.interface import Catalog
from flautim_lab.errors import CatalogError
from flautim_lab.runners.run import Run

LOOK_SECONDS = 3.0  # between questions whether it is to end
END_SECONDS = 0.5  # after which its end is noticed


def guard(run: Run, catalog: Catalog) -> threading.Thread:
    """Look after a run until it has ended, in a thread; then its data are in use no longer.

    Parameters
    ----------
    run : Run
        In the catalog already (``add_run``).
    catalog : Catalog
    """
    thread = threading.Thread(
        target=_look_after, args=(run, catalog), name=f"guard {run.id}", daemon=True
    )
    thread.start()
    return thread


def _look_after(run: Run, catalog: Catalog) -> None:
    asked = 0.0
    while not run.status.ended:
        if time.monotonic() - asked > LOOK_SECONDS:
            asked = time.monotonic()
            with contextlib.suppress(CatalogError):  # it may be back in a moment
                if catalog.run(run.id).stop_asked_by:
                    run.stop()
        time.sleep(END_SECONDS)
    with contextlib.suppress(CatalogError):
        catalog.end_run(run.id)
