"""Where the pods of a batch are made and looked at: on a cluster of one's own, here.

``hub_place.py`` is the same through the service of a hub, which in turn does it with what is here.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flautim_lab.runners.cluster import Cluster
from flautim_lab.runners.rerun import parcel

if TYPE_CHECKING:
    from flautim_lab.pods.api import Api
    from flautim_lab.pods.manifests import RunPods


@dataclass(frozen=True)
class SeenPod:
    """A pod of one point.

    Attributes
    ----------
    name : str
    index : int
        Of the point.
    created : float
        Seconds since 1970.
    phase : str
        ``Pending``, ``Running``, ``Succeeded`` or ``Failed``.
    trouble : str
        What keeps it from working, or what ended it; "" where nothing does.
    told : dict
        How far it is, where it is running; see ``parcel.read_told``.
    """

    name: str
    index: int
    created: float
    phase: str
    trouble: str
    told: dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """How a batch stands.

    Attributes
    ----------
    finished, failed : frozenset of int
        Indexes of the points that have ended for good.
    over : str
        Why no other point will be begun, "" while some may.
    pods : list of SeenPod
        The oldest first.
    waits : str
        Why fewer pods are there than there should be, "" where nothing keeps them from being made.
    """

    finished: frozenset[int]
    failed: frozenset[int]
    over: str
    pods: list[SeenPod]
    waits: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        ended = {name: sorted(getattr(self, name)) for name in ("finished", "failed")}
        return dataclasses.asdict(self) | ended

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Seen:
        """Return what :meth:`as_dict` made a dict of."""
        return cls(
            frozenset(told["finished"]),
            frozenset(told["failed"]),
            told["over"],
            [SeenPod(**each) for each in told["pods"]],
            told.get("waits", ""),
        )


Facts = dict[str, Any]
"""By what a batch is found again, as JSON can hold it."""


class Place(Protocol):
    """Where a batch's pods are."""

    def check(self) -> None:
        """Refuse, before anything is made, what would be refused halfway."""

    def plan(self, batch_id: str) -> Facts:
        """Return by what a batch will be found, before anything is made."""

    def make(self, facts: Facts, archive: bytes, number: int, jobs: int, tries: int) -> None:
        """Make it, see :func:`flautim_lab.pods.points.make_points`."""

    def is_there(self, facts: Facts) -> bool:
        """Whether its job is there."""

    def look(self, facts: Facts) -> Seen:
        """Return how it stands."""

    def result(self, facts: Facts, pod: str) -> bytes | None:
        """Return what a pod made, packed; None if it made nothing."""

    def remove(self, facts: Facts) -> list[str]:
        """Remove all of it; returns pods that do not end."""

    def follow(self, facts: Facts, say: Callable[[str, str], None], over: threading.Event) -> None:
        """Say what keeps its pods from working, as it changes, until it is over."""


class OwnPlace:
    """A cluster that is reached from here, with the user's own kubeconfig.

    Parameters
    ----------
    cluster : Cluster

    Raises
    ------
    ClusterError
        If there is none.
    """

    def __init__(self, cluster: Cluster) -> None:
        from flautim_lab.pods.api import Api

        self._cluster = cluster
        self._api: Api = Api(cluster.context)

    def check(self) -> None:
        """Refuse what the current user may not do there."""
        self._api.check_access([self._cluster.namespace or self._api.namespace])

    def plan(self, batch_id: str) -> Facts:
        """Return what the objects will be made from."""
        pods = point_pods(self._cluster, batch_id, self._api.namespace)
        return {"context": self._cluster.context, "pods": dataclasses.asdict(pods)}

    def make(self, facts: Facts, archive: bytes, number: int, jobs: int, tries: int) -> None:
        """Make the objects."""
        from flautim_lab.pods.points import make_points

        make_points(self._api, _pods(facts), archive, number, jobs, tries)

    def is_there(self, facts: Facts) -> bool:
        """Whether its job is there."""
        pods = _pods(facts)
        return self._api.job(f"{pods.name}-points", pods.namespace) is not None

    def look(self, facts: Facts) -> Seen:
        """Return how it stands."""
        return look_at(self._api, _pods(facts))

    def result(self, facts: Facts, pod: str) -> bytes | None:
        """Return what a pod made."""
        return result_of(self._api, _pods(facts), pod)

    def remove(self, facts: Facts) -> list[str]:
        """Remove the objects, and wait for the pods to end."""
        return self._api.remove(_pods(facts))

    def follow(self, facts: Facts, say: Callable[[str, str], None], over: threading.Event) -> None:
        """Say what keeps its pods from working, by watches."""
        self._api.follow(_pods(facts), say, lambda *_: None, over)


def point_pods(cluster: Cluster, batch_id: str, namespace: str) -> RunPods:
    """Return what the objects of a batch are made from; of a cluster's workers none."""
    alone = dataclasses.replace(cluster, workers=1)  # for its other settings
    return dataclasses.replace(alone.pods(batch_id, 1, namespace), workers={})


def look_at(api: Api, pods: RunPods) -> Seen:
    """Return how a batch stands on a cluster.

    Raises
    ------
    ClusterError
        If it cannot be asked now.
    """
    from flautim_lab.pods.points import find_pods, state_of, why_missing

    state = state_of(api, pods)  # before the pods: an index that ended has one
    there = find_pods(api, pods)
    found = [
        SeenPod(
            each.pod.metadata.name,
            each.index,
            each.created,
            each.phase,
            each.trouble,
            parcel.read_told(api.log(each.pod, 5)) if each.phase == "Running" else {},
        )
        for each in there
    ]
    waits = why_missing(api, pods, there) if state.missing else ""
    return Seen(state.finished, state.failed, state.over, found, waits)


def result_of(api: Api, pods: RunPods, name: str) -> bytes | None:
    """Return what a pod of a batch made, out of its log; None if it made nothing.

    Raises
    ------
    ClusterError
        If the log cannot be read now.
    """
    from flautim_lab.pods.points import find_pods

    for each in find_pods(api, pods):
        if each.pod.metadata.name == name:
            return parcel.read_result(api.whole_log(each.pod))
    return None


def _pods(facts: Facts) -> RunPods:
    from flautim_lab.pods.manifests import RunPods

    return RunPods.from_dict(facts["pods"])
