"""``lab.run_saved``: run an experiment of the catalog, and let the catalog know with what.

``python -m flautim_lab.runners.saved REF`` does so in a process of its own, which ends with the
run: the panel uses it, so that training never takes the kernel's time and outlives its restart.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading

from flautim_lab.catalog import opening
from flautim_lab.catalog.code import code_of
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.loading import assemble
from flautim_lab.catalog.things import DatasetVersion, ExperimentVersion, ModelVersion
from flautim_lab.connection import is_in_hub
from flautim_lab.errors import CatalogError, ExperimentError, FlautimError, NotAllowedError
from flautim_lab.experiment.home_dataset import HomeDataset
from flautim_lab.runners.apart import answer, ask_apart
from flautim_lab.runners.cluster import Cluster
from flautim_lab.runners.guard import guard
from flautim_lab.runners.launch import run
from flautim_lab.runners.run import Run

START_SECONDS = 180.0  # torch may be cold, and a cluster slow


def run_saved(ref: str, *, on: str | Cluster | None = None, catalog: Catalog | None = None) -> Run:
    """Run an experiment of the catalog; which versions it is run with is kept there.

    Parameters
    ----------
    ref : str
        Such as ``"ufmg/vision/first"``, or with a version ``"ufmg/vision/first@2"``.
    on : {"local", "processes", "cluster"} or Cluster, optional
        Where; by default where the experiment says, else ``"local"``.
    catalog : Catalog, optional
        ``lab.open_catalog()`` by default.

    Returns
    -------
    Run
        As of :func:`lab.run`.

    Raises
    ------
    NotFoundError, NotAllowedError
        If there is no such experiment, or its dataset is not granted to its project any more.
    ExperimentError
        If it cannot be made, or not run there.
    """
    return _run_saved(ref, on, catalog or opening.open_catalog())[0]


def _run_saved(
    ref: str, on: str | Cluster | None, catalog: Catalog
) -> tuple[Run, threading.Thread | None]:
    """Return the run, and what looks after it here, if something must."""
    version, net, data = _granted(ref, catalog)
    project = "/".join(version.ref.split("/")[:2])
    experiment = assemble(data, net, version.settings, version.name)
    where = on or version.settings.get("on", "local")
    if isinstance(experiment.dataset, HomeDataset) and experiment.dataset.root is None:
        where = _at_home(where, project, version.ref)
    started = run(experiment, on=where)
    try:
        catalog.add_run(started.id, version.ref)
    except CatalogError:
        started.stop()  # nobody would find it
        raise
    by_service = started.record.runner == "cluster" and is_in_hub()
    return started, None if by_service else guard(started, catalog)


def _granted(
    ref: str, catalog: Catalog
) -> tuple[ExperimentVersion, ModelVersion, list[DatasetVersion]]:
    """Return what an experiment is made of; refuse one whose data are not granted to it."""
    version = catalog.experiment(ref)
    project = "/".join(version.ref.split("/")[:2])
    net = catalog.model(version.model)
    data = [catalog.dataset(each).latest for each in version.datasets]
    code = code_of(net, version.settings, data).hash
    for each in version.datasets:
        if not catalog.granted(each.partition("@")[0], project, code=code):
            raise NotAllowedError(
                f"dataset {each} is not granted to project {project} for this code; ask its "
                "owners for it (lab.ask_for_data, or Datasets in the panel) and wait for their yes"
            )
    return version, net, data


def _at_home(where: str | Cluster, project: str, ref: str) -> Cluster:
    """Return where a run goes whose rows are on their institutions' volumes."""
    if isinstance(where, Cluster):
        return dataclasses.replace(where, project=project)
    if where != "cluster":
        raise ExperimentError(
            f"the rows of {ref} are on their institutions' volumes, and {where!r} is this machine; "
            "run it there, with on='cluster'"
        )
    return Cluster(project=project)


def start_apart(ref: str, on: str | None = None) -> str:
    """Run an experiment of the catalog in a process of its own; returns the run's id.

    Raises
    ------
    FlautimError
        If it cannot be run, in the sentence that :func:`run_saved` would raise.
    """
    _granted(ref, opening.open_catalog())  # told at once, and not after a process has started
    told = ask_apart("flautim_lab.runners.saved", {"ref": ref, "on": on}, START_SECONDS)
    return str(told["run"])


def main() -> int:
    """Run what is asked for on the input, and stay until it has ended."""
    question = json.loads(sys.stdin.read())
    try:
        catalog = opening.open_catalog()
        started, guarding = _run_saved(question["ref"], question["on"], catalog)
    except FlautimError as error:
        answer({"error": str(error)})
        return 1
    answer({"run": started.id})
    if started.record.runner == "local":  # others have processes of their own
        started.wait()
    if guarding is not None:
        guarding.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
