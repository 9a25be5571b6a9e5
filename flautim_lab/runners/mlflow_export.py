"""Runs in MLflow, by its own client: params, every metric by round, and the files of the run.

A run is found again by its tag ``flautim_lab.run``: exported twice it is there once, and one that
was still going gets what is new. Rows of data are never sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import FlautimError, RecordsError
from flautim_lab.names import slug
from flautim_lab.records.artifacts import (
    METRICS_FILE,
    MODEL_FILE,
    metrics_csv,
    write_atomic,
)
from flautim_lab.records.event import ALL_CLIENTS, Event, RunStatus
from flautim_lab.runners.measures import bundle_of
from flautim_lab.runners.mlflow_store import check_store, quiet, said, try_once, without_password
from flautim_lab.runners.settings_of import client_names, settings_of

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

RUN_TAG, SEEN_TAG = "flautim_lab.run", "flautim_lab.events"
MOST_METRICS, MOST_PARAMS, MOST_CHARACTERS = 1000, 100, 500  # of one call, and of one value
ENDED = {RunStatus.FINISHED: "FINISHED", RunStatus.STOPPED: "KILLED"}
ENVIRONMENT = {
    # MLflow reports usage, and prints addresses, unless it is told not to.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # it would try for minutes what does not answer
}
_REFUSED = re.compile(r"[^\w\-. :/]")  # in a name of MLflow's


def to_mlflow(runs: Sequence[Run], uri: str) -> tuple[str, int]:
    """Write runs to an MLflow tracking store.

    Parameters
    ----------
    runs : sequence of Run
    uri : str
        ``sqlite:///mlflow.db``, ``http://...``, or another of MLflow's; the runs of an
        experiment's name are one experiment there.

    Returns
    -------
    (str, int)
        Where they are, without a password, and how many points of metrics are new there.

    Raises
    ------
    UsageError
        If it is no address of a store, or one of a folder, which MLflow 3 does not take any more.
    RecordsError
        If MLflow is not installed, cannot be reached, or refuses.
    """
    check_store(uri)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise RecordsError(
            "this needs MLflow, which is not installed; pip install 'flautim-lab[export]'"
        ) from error
    shown = without_password(uri)
    with quiet():
        try:
            try_once(uri)
            client = MlflowClient(tracking_uri=uri)
            return shown, sum(_export(client, run, uri) for run in runs)
        except FlautimError:
            raise
        except Exception as error:  # MLflow lets those of its database and its requests through
            raise RecordsError(
                f"MLflow at {shown} did not take the runs: {said(error, uri)}; give "
                "sqlite:///FILE or the address of a tracking server"
            ) from error


def _export(client: Any, run: Run, uri: str) -> int:
    """Write what is new of a run, and return how many points of metrics that was."""
    record = run.record
    experiment = _experiment(client, record.name, uri)
    found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{record.id}'", max_results=1)
    there = (
        found[0]
        if found
        else client.create_run(
            experiment,
            start_time=round(record.created * 1000),
            run_name=record.id,
            tags={RUN_TAG: record.id},
        )
    )
    number, seen = there.info.run_id, int(there.data.tags.get(SEEN_TAG, 0))
    # Read before the events: what is written in between is sent next time.
    ended = record.status.ended
    events = run.events(after=seen)
    for params in _batches(list(settings_of(run).items()), MOST_PARAMS):
        client.log_batch(number, params=[_param(name, value) for name, value in params])
    points = [event for event in events if event.kind == "metric"]
    for metrics in _batches(points, MOST_METRICS):
        client.log_batch(number, metrics=[_metric(event) for event in metrics])
    for name, value in _tags(run).items():
        client.set_tag(number, name, value)
    if ended:
        if events or there.info.status == "RUNNING":
            for path, place in _files(run):
                client.log_artifact(number, str(path), place)
        status = ENDED.get(record.status, "FAILED")
        client.set_terminated(number, status, round((record.created + record.seconds) * 1000))
    # Last: whatever was cut off before is sent again, and MLflow keeps equal points once.
    client.set_tag(number, SEEN_TAG, str(max((e.seq for e in events), default=seen)))
    return len(points)


def _experiment(client: Any, name: str, uri: str) -> str:
    """Return the id of the experiment of that name, made if needed."""
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    place = None
    if uri.startswith("sqlite:///"):
        # Beside the database; MLflow would take the folder that one happens to work in.
        database = Path(uri.removeprefix("sqlite:///")).absolute()
        place = (database.parent / "mlartifacts" / slug(name)).as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def _param(name: str, value: object) -> Any:
    from mlflow.entities import Param

    return Param(_REFUSED.sub("_", name), str(value)[:MOST_CHARACTERS])


def _metric(event: Event) -> Any:
    from mlflow.entities import Metric

    name = f"{event.split}_{event.name}"
    if event.client != ALL_CLIENTS:
        name = f"{name}/client {event.client}"
    value = float("nan") if event.value is None else event.value
    return Metric(_REFUSED.sub("_", name), value, round(event.time * 1000), event.round)


def _tags(run: Run) -> dict[str, str]:
    record = run.record
    tags = {"runner": record.runner, "status": str(record.status), "message": record.message}
    tags["bundle"] = bundle_of(run._records, run.id)
    # Which is "client 1" in a metric's name.
    named = ", ".join(f"{number}: {name}" for number, name in client_names(run).items())
    tags["client_names"] = named[:MOST_CHARACTERS]
    tags |= {f"plan.{name}": str(value) for name, value in record.plan.items()}
    return {f"flautim_lab.{name}": value for name, value in tags.items() if value}


def _files(run: Run) -> Iterator[tuple[Path, str | None]]:
    """Return the files of a run, and in which folder they go; never rows of data."""
    folder = run.folder
    metrics_csv(folder, run.metrics)
    log = write_atomic(folder / "run.log", f"{run.logs()}\n".encode("utf-8", "backslashreplace"))
    for path in (folder / MODEL_FILE, folder / METRICS_FILE, log):
        if path.is_file():
            yield path, None
    settings = folder / "experiment" / "experiment.json"
    if settings.is_file():
        yield settings, "experiment"
    bundle = folder / "experiment" / "bundle"
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            yield path, str(path.parent.relative_to(folder))


def _batches(things: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(things), size):
        yield things[start : start + size]
