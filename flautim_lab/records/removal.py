"""The end of a run in the records: its row, its events and its artifacts go."""

from __future__ import annotations

import os
import shutil

import sqlalchemy as sa

from flautim_lab.errors import RecordsError
from flautim_lab.home import home
from flautim_lab.records.schema import events, runs
from flautim_lab.records.store import Records

REMOVED = ".removed-"  # before the name of a folder whose run is going, or gone


def remove_run(records: Records, run_id: str) -> None:
    """Remove a run that is over.

    Cut off in the middle, the run is there without its artifacts, and can be removed again; or it
    is gone, and :func:`sweep` removes what lay beside it.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    RecordsError
        If it is under way, or the records cannot be written.
    """
    status = records.run(run_id).status
    if not status.over:
        raise RecordsError(f"run {run_id} is {status}; only a run that is over can be removed")
    folder = records.folder(run_id)
    going = folder.with_name(f"{REMOVED}{run_id}")
    shutil.rmtree(going, ignore_errors=True)
    os.replace(folder, going)
    try:
        with records.connected(writing=True) as connection:
            connection.execute(sa.delete(events).where(events.c.run_id == run_id))
            connection.execute(sa.delete(runs).where(runs.c.id == run_id))
    except RecordsError:
        os.replace(going, folder)
        raise
    shutil.rmtree(going, ignore_errors=True)


def sweep() -> None:
    """Remove the artifacts of runs whose removal was cut off."""
    for going in (home() / "runs").glob(f"{REMOVED}*"):
        shutil.rmtree(going, ignore_errors=True)
