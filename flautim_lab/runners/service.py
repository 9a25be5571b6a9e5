"""The service of a hub, as a notebook's kernel uses it: its pods are made there, not here.

A notebook pod holds no credential of the cluster. ``lab.run(experiment, on="cluster")`` in it asks
the service (``flautim_lab/service/``), which knows its user by the token that the Hub gave the
notebook.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flautim_lab.connection import URL_VARIABLE, Away, Service, is_in_hub
from flautim_lab.errors import ClusterError, ExperimentError
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.runners import faults
from flautim_lab.runners.cluster import BEGUN, Cluster
from flautim_lab.runners.process_files import ProcessFolder, RunFacts

INSTITUTION_VARIABLE = "FLAUTIM_LAB_INSTITUTION"
ASKS = 3  # for a run whose first answer did not come: it may have been started
AGAIN_SECONDS = 2.0
#: What a user of a hub may choose; all else is the institution's to say.
CHOSEN = ("cpu", "memory", "gpu", "server_cpu", "server_memory", "storage", "hours")


class ServiceRun:
    """One run whose pods the service makes, as the kernel and the follower handle it.

    Parameters
    ----------
    run_folder : Path
        The run's folder of artifacts.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = ProcessFolder(run_folder)
        self._facts = self.folder.path / "service.json"
        self._request = self.folder.path / "request.json"

    def prepare(self, run_id: str, archive: bytes, clients: int, cluster: Cluster) -> None:
        """Write what the service is to be asked for, after a look whether it knows this user.

        Parameters are those of :meth:`flautim_lab.runners.cluster.ClusterRun.prepare`.

        Raises
        ------
        ExperimentError
            For a setting that a hub decides.
        ClusterError
            If the service cannot be reached, or does not know this user.
        """
        chosen = _chosen(cluster)
        with Service() as service:
            service.ask("GET", "/")
        self.folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        workers = cluster.workers
        number = sum(workers.values()) if isinstance(workers, Mapping) else workers
        self.folder.write_facts(RunFacts(run_id, min(number, clients), clients))
        request = {
            "clients": clients,
            "cluster": chosen,
            "archive": base64.b64encode(archive).decode("ascii"),
        }
        write_atomic(self._request, json.dumps(request).encode())
        write_atomic(self._facts, json.dumps({"url": os.environ[URL_VARIABLE]}).encode())

    def start(self, about: Mapping[str, Any]) -> None:
        """Ask for the run, and start what follows it.

        Parameters
        ----------
        about : mapping
            ``name``, ``rounds``, ``settings`` and ``plan``, as they are recorded.

        Raises
        ------
        ClusterError
            If the service refuses, with the reason.
        """
        request = json.loads(self._request.read_text(encoding="utf-8")) | dict(about)
        request["faults"] = [dataclasses.asdict(fault) for fault in faults.planned(self.folder)]
        write_atomic(self.folder.path / BEGUN, b"")
        with self.service() as service:
            self._put(service, request)
        self.clean()  # the service has it
        self.watch()

    def _put(self, service: Service, request: Mapping[str, Any]) -> None:
        """Ask for the run; the same once more is no second run."""
        for left in reversed(range(ASKS)):
            try:
                service.ask("PUT", self.path(), request)
                return
            except Away:
                if not left:
                    with contextlib.suppress(ClusterError):
                        service.ask("POST", self.path("/stop"))  # nobody here would follow it
                    raise
                time.sleep(AGAIN_SECONDS)

    def watch(self) -> None:
        """Start what follows the run at the service, a process that outlives the kernel."""
        self.folder.start("watch", "flautim_lab.runners.service_watch")

    def scale(self, workers: int | Mapping[str, int]) -> str:
        """Ask for more or fewer workers; returns what was done.

        Raises
        ------
        ClusterError
            If the service cannot be reached, or refuses.
        """
        asked = dict(workers) if isinstance(workers, Mapping) else workers
        with self.service() as service:
            answer = service.ask("POST", self.path("/scale"), {"workers": asked})
        return str(json.loads(answer)["done"])

    def service(self) -> Service:
        """Return a connection to the service that has the run."""
        return Service(json.loads(self._facts.read_text(encoding="utf-8"))["url"])

    def path(self, rest: str = "") -> str:
        """Return where something of the run is found at the service."""
        return f"/runs/{self.folder.run_folder.name}{rest}"

    def clean(self) -> None:
        """Remove what was to be sent."""
        self._request.unlink(missing_ok=True)

    @classmethod
    def is_one(cls, run_folder: Path) -> bool:
        """Whether a run's pods were made by a service."""
        return (run_folder / "processes" / "service.json").exists()


def _chosen(cluster: Cluster) -> dict[str, Any]:
    """Return what a user may choose of where a run goes.

    Raises
    ------
    ExperimentError
        Naming a setting that is not the user's.
    """
    default = Cluster()
    for field in dataclasses.fields(Cluster):
        name = field.name
        if name in (*CHOSEN, "workers", "context", "project"):
            continue
        value = getattr(cluster, name)
        if name == "namespace" and value is not None:
            raise ExperimentError(
                f"namespace={value!r} is the hub's to choose; name institutions instead, as in "
                'lab.Cluster(workers={"ufmg": 2})'
            )
        if name == "data" and value:
            raise ExperimentError(
                f"data={dict(value)!r} is the hub's to know; name the project that was granted the "
                'rows instead, as in lab.Cluster(project="ufmg/vision")'
            )
        if value != getattr(default, name):
            raise ExperimentError(
                f"{name}={value!r} is the hub's to choose; leave it out, or ask who runs the hub"
            )
    chosen = {name: getattr(cluster, name) for name in CHOSEN}
    workers = cluster.workers
    chosen["workers"] = dict(workers) if isinstance(workers, Mapping) else workers
    chosen["institution"] = os.environ.get(INSTITUTION_VARIABLE)
    chosen["project"] = cluster.project
    return chosen


def at_homes(cluster: Cluster, homes: Iterable[str], clients: int) -> Cluster:
    """Return where a run goes whose rows stay with institutions: workers at each of them.

    Parameters
    ----------
    cluster : Cluster
        As it was asked for; a number of workers is that of each institution.
    homes : iterable of str
    clients : int

    Raises
    ------
    ExperimentError
        If no project is named, or an institution has no worker.
    """
    places = list(homes)
    if cluster.project is None:
        raise ExperimentError(
            "the rows stay with their institutions, who grant them to a project; say which, as in "
            'on=lab.Cluster(project="ufmg/vision")'
        )
    workers = cluster.workers
    if not isinstance(workers, Mapping):
        workers = dict.fromkeys(places, min(workers, clients // len(places)))
    for place in places:
        if place not in workers:
            raise ExperimentError(
                f"the rows of {place!r} stay there; give it workers, as in "
                f'workers={{"{place}": 1}}, or leave workers out'
            )
    return dataclasses.replace(cluster, workers=workers)


def is_at_hand(cluster: Cluster) -> bool:
    """Whether this kernel is in a hub, and the run is not meant for a cluster of one's own."""
    return is_in_hub() and cluster.context is None
