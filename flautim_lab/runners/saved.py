"""``lab.run_saved``: run an experiment of the catalog, and let the catalog know with what.

``python -m flautim_lab.runners.saved REF`` does so in a process of its own, which ends with the
run: the panel uses it, so that training never takes the kernel's time and outlives its restart.
"""

from __future__ import annotations

import json
import sys

from flautim_lab.catalog import opening
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.loading import assemble
from flautim_lab.errors import CatalogError, FlautimError, NotAllowedError
from flautim_lab.runners.apart import answer, ask_apart
from flautim_lab.runners.cluster import Cluster
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
    opened = catalog or opening.open_catalog()
    version = opened.experiment(ref)
    project = "/".join(version.ref.split("/")[:2])
    if not opened.granted(version.dataset.partition("@")[0], project):
        raise NotAllowedError(
            f"dataset {version.dataset} is not granted to project {project} any more; ask one of "
            f"its institution's data owners for a grant"
        )
    data, net = opened.dataset(version.dataset).latest, opened.model(version.model)
    experiment = assemble(data, net, version.settings, version.name)
    started = run(experiment, on=on or version.settings.get("on", "local"))
    try:
        opened.add_run(started.id, version.ref)
    except CatalogError:
        started.stop()  # nobody would find it
        raise
    return started


def start_apart(ref: str, on: str | None = None) -> str:
    """Run an experiment of the catalog in a process of its own; returns the run's id.

    Raises
    ------
    FlautimError
        If it cannot be run, in the sentence that :func:`run_saved` would raise.
    """
    told = ask_apart("flautim_lab.runners.saved", {"ref": ref, "on": on}, START_SECONDS)
    return str(told["run"])


def main() -> int:
    """Run what is asked for on the input, and stay until it has ended."""
    question = json.loads(sys.stdin.read())
    try:
        started = run_saved(question["ref"], on=question["on"])
    except FlautimError as error:
        answer({"error": str(error)})
        return 1
    answer({"run": started.id})
    if started.record.runner == "local":  # others have processes of their own
        started.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
