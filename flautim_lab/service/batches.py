"""Batches of points (``flautim-lab rerun --on cluster``) as pods, for users of the hub.

::

    <home>/batches/ID/batch.json    whose it is, and what its objects are made from

That file is there before the first object is, and until the last is gone. How a batch stands is
asked of the cluster each time, and its results are in its pods' logs: a service that is killed and
comes back lacks nothing. What a batch holds, its archive and its results, is never opened here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from flautim_lab.errors import ClusterError, ExperimentError, FlautimError
from flautim_lab.home import home, private_folder
from flautim_lab.names import RUN_ID, count
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.runners.cluster import Cluster
from flautim_lab.runners.rerun.place import Seen, look_at, point_pods, result_of
from flautim_lab.service.dispatch import ARCHIVE_START
from flautim_lab.service.hub import Caller
from flautim_lab.service.membership import home_of
from flautim_lab.service.settings import Settings
from flautim_lab.service.turns import Turns

if TYPE_CHECKING:
    from flautim_lab.pods.api import Api
    from flautim_lab.pods.manifests import RunPods

MOST_POINTS = 1000
MOST_AT_ONCE = 50  # pods of one batch; the institution's quota may let in fewer
MOST_TRIES = 20
MOST_BATCHES = 5  # of one user
REMOVE_SECONDS = 20.0  # that pods are waited for in one question
UNMADE_SECONDS = 600.0  # after which a batch that was not made whole is removed
SWEEP_SECONDS = 300.0  # between looks for batches that nobody comes for

_log = logging.getLogger(__name__)


class Wishes(BaseModel):
    """What a user may choose of where a batch goes, as in :class:`Cluster`."""

    model_config = ConfigDict(extra="forbid")

    institution: str | None = None
    cpu: str = "1"
    memory: str = "1Gi"
    gpu: int = 0
    hours: float = 24.0


class AskedBatch(BaseModel):
    """One batch that is asked for.

    ``archive`` is what travels into its pods, in base64 (``runners/rerun/parcel.py``).
    """

    model_config = ConfigDict(extra="forbid")

    cluster: Wishes
    points: int = Field(ge=1, le=MOST_POINTS)
    jobs: int = Field(ge=1)
    tries: int = Field(ge=1, le=MOST_TRIES)
    archive: str


@dataclass(frozen=True)
class KnownBatch:
    """A batch, as the service remembers it.

    Attributes
    ----------
    id, owner, institution : str
    points, jobs, tries : int
    created : float
        Seconds since 1970.
    pods : dict
        What its objects are made from.
    made : bool
        Whether all of them were made.
    """

    id: str
    owner: str
    institution: str
    points: int
    jobs: int
    tries: int
    created: float
    pods: dict[str, Any]
    made: bool = False

    def shown(self) -> dict[str, Any]:
        """Return what is told of it."""
        names = ("id", "owner", "institution", "points", "created")
        return {name: getattr(self, name) for name in names}

    def run_pods(self) -> RunPods:
        """Return what its objects are made from."""
        from flautim_lab.pods.manifests import RunPods

        return RunPods.from_dict(self.pods)

    def forsaken(self, now: float) -> bool:
        """Whether nobody will come for it: it was left half made, or its results are too old."""
        from flautim_lab.pods.points import KEEP_SECONDS

        if not self.made:
            return now - self.created > UNMADE_SECONDS
        return now - self.created > self.run_pods().deadline_seconds + KEEP_SECONDS


class Batches:
    """Makes batches, looks at them, and removes them.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turns = Turns()
        self._connection: Api | None = None
        self._closed = threading.Event()

    def go_on(self) -> None:
        """Remove from now on what nobody comes for."""
        threading.Thread(target=self._sweep, name="sweep batches", daemon=True).start()

    def close(self) -> None:
        """Begin nothing any more; what is under way goes on in the pods."""
        self._closed.set()

    def start(self, batch_id: str, caller: Caller, asked: AskedBatch, archive: bytes) -> KnownBatch:
        """Make a batch; asked again, it makes what is missing of it.

        Raises
        ------
        ExperimentError
            For what cannot be made.
        ClusterError
            If the user is not of that institution, or the cluster refuses.
        """
        if not RUN_ID.fullmatch(batch_id):
            raise ExperimentError(
                f"{batch_id!r} is no batch id, such as r20261125-202140-batch-iris-7d1947b4"
            )
        if not archive.startswith(ARCHIVE_START):
            raise ExperimentError("the archive is no compressed batch")
        institution = home_of(caller, asked.cluster.institution)
        cluster = Cluster(
            namespace=caller.institutions[institution],
            image=self._settings.image,
            **asked.cluster.model_dump(exclude={"institution"}),
        )
        with self._turns.of(f"user {caller.name}", f"batch {batch_id}"):
            known = self.find(batch_id)
            if known is not None and known.owner != caller.name:
                raise ClusterError(f"the batch id {batch_id} is taken; begin the batch again")
            if known is None:
                self._check_number(caller)
                known = self._note(batch_id, caller, institution, cluster, asked)
            return known if known.made else self._make(known, archive)

    def find(self, batch_id: str) -> KnownBatch | None:
        """Return a batch; None where there is none of that id."""
        if not RUN_ID.fullmatch(batch_id):
            return None
        with contextlib.suppress(FileNotFoundError):
            return KnownBatch(**json.loads(_file(batch_id).read_text(encoding="utf-8")))
        return None

    def all(self) -> list[KnownBatch]:
        """Return all there are, the newest first."""
        names = [path.name for path in (home() / "batches").glob("r*")]
        found = [each for each in map(self.find, names) if each is not None]
        return sorted(found, key=lambda each: each.created, reverse=True)

    def look(self, known: KnownBatch) -> Seen:
        """Return how a batch stands.

        Raises
        ------
        ClusterError
            If the cluster cannot be asked now.
        """
        return look_at(self._api(), known.run_pods())

    def result(self, known: KnownBatch, pod: str) -> bytes | None:
        """Return what a pod of a batch made, packed as it is; None if it made nothing.

        Raises
        ------
        ClusterError
            If the cluster cannot be asked now.
        """
        return result_of(self._api(), known.run_pods(), pod)

    def remove(self, batch_id: str) -> list[str]:
        """Remove a batch, whatever there is of it.

        Returns
        -------
        list of str
            Pods that have not ended yet: ask again.

        Raises
        ------
        ClusterError
            If the cluster cannot be asked now.
        """
        with self._turns.of(f"batch {batch_id}"):
            known = self.find(batch_id)
            return [] if known is None else self._remove(known)

    # --- inside -------------------------------------------------------------------------------

    def _api(self) -> Api:
        from flautim_lab.pods.api import Api

        if self._connection is None:
            self._connection = Api(None)
        return self._connection

    def _remove(self, known: KnownBatch) -> list[str]:
        left = self._api().remove(known.run_pods(), REMOVE_SECONDS)
        if not left:
            shutil.rmtree(_file(known.id).parent, ignore_errors=True)
        return left

    def _note(
        self, batch_id: str, caller: Caller, institution: str, cluster: Cluster, asked: AskedBatch
    ) -> KnownBatch:
        """Write down what will be made, once it is known that it may be."""
        pods = point_pods(cluster, batch_id, caller.institutions[institution])
        # Names that no run has, and no other user's batch: an id is what its user says it is.
        digest = hashlib.sha256(f"{caller.name}/{batch_id}".encode()).hexdigest()
        pods = dataclasses.replace(pods, name=f"b{digest[:20]}")
        self._api().check_access([pods.namespace])
        known = KnownBatch(
            id=batch_id,
            owner=caller.name,
            institution=institution,
            points=asked.points,
            jobs=min(asked.jobs, asked.points, MOST_AT_ONCE),
            tries=asked.tries,
            created=time.time(),
            pods=dataclasses.asdict(pods),
        )
        _write(known)
        return known

    def _make(self, known: KnownBatch, archive: bytes) -> KnownBatch:
        from flautim_lab.pods.api import Unreachable
        from flautim_lab.pods.points import make_points

        pods, api = known.run_pods(), self._api()
        try:
            make_points(api, pods, archive, known.points, known.jobs, known.tries)
        except Unreachable:
            raise  # it may be asked for again, and else is swept away
        except ClusterError:
            with contextlib.suppress(ClusterError):
                self._remove(known)
            raise
        made = dataclasses.replace(known, made=True)
        _write(made)
        return made

    def _check_number(self, caller: Caller) -> None:
        """Refuse one batch too many of a user.

        Raises
        ------
        ClusterError
        """
        mine = [each for each in self.all() if each.owner == caller.name]
        if len(mine) >= MOST_BATCHES:
            raise ClusterError(
                f"{caller.name} has {count(len(mine), 'batch', 'batches')} under way, and no more "
                "are let in; wait for one to end, or call it again in its folder and interrupt it"
            )

    def _sweep(self) -> None:
        """Remove what nobody comes for, until the service ends."""
        while not self._closed.is_set():
            for each in self.all():
                try:
                    self._remove_if_forsaken(each.id)
                except FlautimError as error:
                    _log.warning("batch %s cannot be removed now: %s", each.id, error)
            self._closed.wait(SWEEP_SECONDS)

    def _remove_if_forsaken(self, batch_id: str) -> None:
        with self._turns.of(f"batch {batch_id}"):
            known = self.find(batch_id)
            if known is not None and known.forsaken(time.time()):
                self._remove(known)


def _file(batch_id: str) -> Path:
    return home() / "batches" / batch_id / "batch.json"


def _write(known: KnownBatch) -> None:
    path = _file(known.id)
    private_folder(path.parent)
    write_atomic(path, json.dumps(dataclasses.asdict(known)).encode())
