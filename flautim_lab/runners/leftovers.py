"""What runs on ``processes`` may leave behind when all of them are killed at once."""

from __future__ import annotations

import contextlib
from pathlib import Path

from flautim_lab.errors import RecordsError, RunNotFoundError
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners.process_files import ProcessFolder
from flautim_lab.scratch import remove_abandoned


def reap_leftovers(records: Records, runs: Path) -> list[str]:
    """End processes and remove secrets of runs that have ended without doing so themselves.

    A run whose processes were all killed at once leaves its keys behind, and one whose records
    were removed leaves processes. Each start of a run, and ``flautim-lab doctor``, looks for such
    leftovers, and for scratch folders of processes that were killed. Those of a run that may be
    resumed are its keys alone: it gets new ones then.

    Parameters
    ----------
    records : Records
    runs : Path
        The folder in which each run has one of its own.

    Returns
    -------
    list of str
        The runs of which something was left.
    """
    remove_abandoned()
    found = []
    for path in sorted(runs.glob("*/processes")):
        folder = ProcessFolder(path.parent)
        if folder.has_leftovers() and _is_over(records, folder) and _reap(folder):
            found.append(path.parent.name)
    return found


def _is_over(records: Records, folder: ProcessFolder) -> bool:
    try:
        status = records.run(folder.run_folder.name).status
    except RunNotFoundError:
        return True
    except RecordsError:
        return False
    if status is RunStatus.INTERRUPTED:  # a silence may end, as long as anybody lives
        return not folder.alive()
    return status.over


def _reap(folder: ProcessFolder) -> bool:
    with contextlib.suppress(OSError), folder.watching() as mine:
        if mine:  # else its own watch is at it
            folder.end_all()
            folder.clean()
            return True
    return False
