"""Whole runs on their way from the records of one machine to those of another.

A run travels as a folder: ``run.json`` (its row and its events) and ``files/`` (its artifacts).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flautim_lab.database import insert_new
from flautim_lab.errors import RecordsError
from flautim_lab.records.schema import events, runs
from flautim_lab.records.store import Records

RUN_FILE, FILES = "run.json", "files"


def take_out(records: Records, run_id: str, folder: Path) -> Path:
    """Write a run to ``folder`` / its id, and return that.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    """
    records.run(run_id)  # or it is not there
    with records.connected() as connection:
        row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).one()
        query = sa.select(events).where(events.c.run_id == run_id).order_by(events.c.seq)
        told = [dict(each._mapping) for each in connection.execute(query)]
    place = folder / run_id
    shutil.copytree(records.folder(run_id), place / FILES)
    (place / RUN_FILE).write_text(json.dumps({"run": dict(row._mapping), "events": told}), "utf-8")
    return place


def put_in(records: Records, place: Path) -> str:
    """Store a run that :func:`take_out` wrote, and return its id; one that is there is completed.

    Raises
    ------
    RecordsError
        If that is no run, or it cannot be stored.
    """
    try:
        content = json.loads((place / RUN_FILE).read_text(encoding="utf-8"))
        row: dict[str, Any] = {column.name: content["run"][column.name] for column in runs.columns}
        told = [{c.name: event[c.name] for c in events.columns} for event in content["events"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordsError(f"{place} holds no run") from error
    run_id = str(row["id"])
    if {event["run_id"] for event in told} - {run_id}:
        raise RecordsError(f"{place} holds events of another run")
    files = records.folder(run_id)  # refuses what is no id
    with records.connected(writing=True) as connection:
        dialect = connection.dialect.name
        connection.execute(insert_new(runs, dialect), row)
        if told:
            connection.execute(insert_new(events, dialect), told)
    if (place / FILES).is_dir():
        shutil.copytree(place / FILES, files, dirs_exist_ok=True)
    return run_id
