"""From a request to pods: what the ``cluster`` runner does for one researcher, for all of a hub."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from flautim_lab.errors import ClusterError, ExperimentError, FlautimError, RunNotFoundError
from flautim_lab.names import object_name
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records, RunRecord
from flautim_lab.runners.cluster import Cluster, ClusterRun
from flautim_lab.runners.cluster_watch import ClusterWatch
from flautim_lab.runners.scale import scale
from flautim_lab.service.hub import Caller
from flautim_lab.service.settings import Settings

RUN_ID = re.compile(r"r\d{8}-\d{6}-[a-z0-9-]{1,30}-[0-9a-f]{8}")
AGAIN_SECONDS = 5.0  # until a watch that broke is begun again
ARCHIVE_START = b"\x1f\x8b"  # gzip's


class Wishes(BaseModel):
    """What a user may choose of where a run goes, as in :class:`Cluster`."""

    model_config = ConfigDict(extra="forbid")

    institution: str | None = None
    workers: int | dict[str, int] = 2
    cpu: str = "1"
    memory: str = "1Gi"
    gpu: int = 0
    server_cpu: str = "1"
    server_memory: str = "1Gi"
    storage: str = "1Gi"
    hours: float = 24.0


class Request(BaseModel):
    """One run that is asked for.

    ``archive`` is the experiment in base64 (``runners/pod_files.py``). The service hands it to the
    pods and never opens it: code of users runs in their pods alone.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    rounds: int = Field(ge=1)
    clients: int = Field(ge=1)
    settings: dict[str, Any]
    plan: dict[str, Any]
    cluster: Wishes
    archive: str


class Scaling(BaseModel):
    """How many workers a run is to have: in all, or of each institution that is named."""

    model_config = ConfigDict(extra="forbid")

    workers: StrictInt | dict[str, StrictInt]


class Dispatch:
    """Starts runs, and follows each until it has ended, in a thread of its own.

    Parameters
    ----------
    records : Records
        Those of all runs of the hub.
    settings : Settings
    """

    def __init__(self, records: Records, settings: Settings) -> None:
        self._records = records
        self._settings = settings
        self._following: dict[str, threading.Thread] = {}
        self._starting = threading.Lock()
        self._scaling = threading.Lock()
        self._closed = threading.Event()

    def go_on(self) -> list[str]:
        """Follow all runs that had not ended when the last service did; returns their ids."""
        unfinished = [
            record.id
            for record in self._records.runs()
            if not record.status.ended or record.status is RunStatus.INTERRUPTED
        ]
        for run_id in unfinished:
            self._follow(run_id)
        return unfinished

    def close(self) -> None:
        """Begin nothing any more; what is under way goes on in the pods."""
        self._closed.set()

    def start(self, run_id: str, caller: Caller, asked: Request, archive: bytes) -> RunRecord:
        """Make a run's pods, and follow it; asked again, it returns the run that is there.

        Raises
        ------
        ExperimentError
            For what cannot be run.
        ClusterError
            If the user is not of that institution, or the cluster refuses.
        """
        if not RUN_ID.fullmatch(run_id):
            raise ExperimentError(
                f"{run_id!r} is no run id, such as r20261125-202140-iris-7d1947b4"
            )
        if not archive.startswith(ARCHIVE_START):
            raise ExperimentError("the archive is no compressed experiment")
        institution, cluster = self._cluster(caller, asked.cluster)
        with self._starting:
            known = self._known(run_id, caller)
            if known is not None:
                return known
            run = ClusterRun(self._records.folder(run_id))
            try:
                run.prepare(run_id, archive, asked.clients, cluster)
                self._records.create_run(
                    run_id,
                    name=asked.name,
                    runner="cluster",
                    rounds=asked.rounds,
                    clients=asked.clients,
                    settings=asked.settings | {"owner": caller.name, "institution": institution},
                    plan=asked.plan,
                    detached=True,
                )
            except FlautimError:
                shutil.rmtree(run.folder.run_folder, ignore_errors=True)
                raise
        try:
            run.make(run.api())
        except ClusterError as error:
            self._records.set_status(run_id, RunStatus.FAILED, message=str(error))
            run.clean()
            raise
        self._follow(run_id)
        return self._records.run(run_id)

    def scale(self, record: RunRecord, caller: Caller, workers: int | dict[str, int]) -> str:
        """Change how many workers a run has; returns what was done.

        Raises
        ------
        ExperimentError
            For a number that cannot be, or a run that has ended.
        ClusterError
            If the user is not of an institution that is named, or the cluster refuses.
        """
        if isinstance(workers, dict):
            _check_member(caller, workers)
            workers = {caller.institutions[each]: number for each, number in workers.items()}
        with self._scaling:
            return scale(record, self._records.folder(record.id), workers)

    def _known(self, run_id: str, caller: Caller) -> RunRecord | None:
        """Return the caller's own run of that id, if there is one.

        Raises
        ------
        ClusterError
            If the id, or the name of its objects, is somebody else's.
        """
        with contextlib.suppress(RunNotFoundError):
            record = self._records.run(run_id)
            if record.settings.get("owner") == caller.name:
                return record
            raise ClusterError(f"the run id {run_id} is taken; run the experiment again")
        if any(object_name(record.id) == object_name(run_id) for record in self._records.runs()):
            raise ClusterError(f"the run id {run_id} is taken; run the experiment again")
        return None

    def _cluster(self, caller: Caller, wishes: Wishes) -> tuple[str, Cluster]:
        """Return the institution of the server, and where the pods go.

        Raises
        ------
        ClusterError
            If the user is not of an institution that is named, or of none.
        """
        mine = caller.institutions
        if not mine:
            raise ClusterError(
                f"{caller.name} belongs to no institution; ask who runs the hub to put you in one"
            )
        workers = wishes.workers
        named = list(workers) if isinstance(workers, dict) else []
        institution = wishes.institution or next(iter(named or mine))
        _check_member(caller, [institution, *named])
        if isinstance(workers, dict):
            workers = {mine[each]: number for each, number in workers.items()}
        chosen = wishes.model_dump(exclude={"institution", "workers"})
        return institution, Cluster(
            workers=workers, namespace=mine[institution], image=self._settings.image, **chosen
        )

    def _follow(self, run_id: str) -> None:
        running = self._following.get(run_id)
        if running is not None and running.is_alive():
            return
        name = f"follow {run_id}"
        thread = threading.Thread(
            target=self._keep_following, args=(run_id,), name=name, daemon=True
        )
        self._following[run_id] = thread
        thread.start()

    def _keep_following(self, run_id: str) -> None:
        """Follow a run to its end; what breaks on the way is begun again."""
        run = ClusterRun(self._records.folder(run_id))
        while not self._closed.is_set():
            try:
                with run.folder.watching() as mine:
                    if mine:
                        ClusterWatch(run).run()
                        return
            except FlautimError as error:
                with contextlib.suppress(FlautimError):
                    status = self._records.run(run_id).status
                    self._records.set_status(run_id, status, message=str(error))
            except OSError:  # what the run was made from is gone: nothing can be followed
                with contextlib.suppress(FlautimError):
                    self._records.set_status(
                        run_id, RunStatus.FAILED, message="the service lost what it was made from"
                    )
                return
            self._closed.wait(AGAIN_SECONDS)


def _check_member(caller: Caller, institutions: Iterable[str]) -> None:
    """Refuse institutions that a user is not of.

    Raises
    ------
    ClusterError
        Naming the first.
    """
    for each in institutions:
        if each not in caller.institutions:
            raise ClusterError(
                f"{caller.name} is not of the institution {each!r}; choose one of: "
                f"{', '.join(sorted(caller.institutions)) or 'none'}"
            )
