"""The Kubernetes objects of a batch: one Indexed Job, a pod for each point.

::

    ConfigMap      BATCH          the anchor, which owns all else
    ConfigMap      BATCH-code-0   the notebook, its files, the points
    NetworkPolicy  BATCH-points   nobody reaches a point, and it reaches nobody
    Job            BATCH-points   Indexed: a pod for each point, so many at once

A point's pod holds no credential, of the cluster or of ours; what it made is read from its log.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubernetes import client as k8s

from flautim_lab.pods import manifests
from flautim_lab.pods.follow import INDEX_LABEL
from flautim_lab.pods.manifests import POINT, RunPods
from flautim_lab.pods.sentences import refused, trouble

if TYPE_CHECKING:
    from flautim_lab.pods.api import Api

KEEP_SECONDS = 7 * 24 * 3600
"""How long the pods of a batch that has ended stay, with its results in their logs."""


@dataclass(frozen=True)
class PointPod:
    """A pod of one point, as the cluster tells of it.

    Attributes
    ----------
    index : int
        Of the point.
    created : float
        Seconds since 1970.
    phase : str
        ``Pending``, ``Running``, ``Succeeded`` or ``Failed``.
    trouble : str
        What keeps it from working, or what ended it; "" where nothing does.
    pod : V1Pod
    """

    index: int
    created: float
    phase: str
    trouble: str
    pod: Any


@dataclass(frozen=True)
class JobState:
    """Which points of a batch have ended for good.

    Attributes
    ----------
    finished, failed : frozenset of int
        Their indexes.
    over : str
        Why no other point will be begun, "" while some may.
    missing : bool
        Whether there are fewer pods than there should be now.
    """

    finished: frozenset[int]
    failed: frozenset[int]
    over: str
    missing: bool = False


def make_points(api: Api, run: RunPods, archive: bytes, number: int, jobs: int, tries: int) -> None:
    """Make all objects of a batch; those that are there already stay as they are.

    Parameters
    ----------
    api : Api
    run : RunPods
        Of the batch: without workers.
    archive : bytes
        See :mod:`flautim_lab.runners.rerun.parcel`.
    number : int
        How many points there are.
    jobs : int
        How many at once.
    tries : int
        How often a point is tried in all.

    Raises
    ------
    ClusterError
        If the cluster refuses one of them.
    """
    owner = api.anchor(make_anchor(run, number))
    code = manifests.make_code(run, run.namespace, POINT, archive, owner)
    for part in code:
        api.create(part)
    api.create(make_policy(run, owner))
    api.create(make_job(run, len(code), number, jobs, tries, owner))


def make_anchor(run: RunPods, number: int) -> k8s.V1ConfigMap:
    """Return the object that owns all others."""
    return k8s.V1ConfigMap(
        api_version="v1",
        kind="ConfigMap",
        metadata=manifests.object_metadata(run, run.namespace, POINT, run.name),
        data={"batch.json": json.dumps({"points": number})},
    )


def make_job(
    run: RunPods, parts: int, number: int, jobs: int, tries: int, owner: k8s.V1OwnerReference
) -> k8s.V1Job:
    """Return the points: an Indexed Job, whose index is a point's number, from 0 on.

    A pod that was evicted or drained does not count as a try.
    """
    container = manifests.make_container(run, POINT, run.worker)
    container.volume_mounts = [m for m in container.volume_mounts if m.name in ("tmp", "code")]
    pod = manifests.make_pod(run, run.namespace, POINT, container, parts, "Never")
    pod.spec.volumes = [v for v in pod.spec.volumes if v.name in ("tmp", "code")]
    disrupted = k8s.V1PodFailurePolicyRule(
        action="Ignore",
        on_pod_conditions=[
            k8s.V1PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")
        ],
    )
    return k8s.V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=manifests.object_metadata(run, run.namespace, POINT, f"{run.name}-points", owner),
        spec=k8s.V1JobSpec(
            template=pod,
            completion_mode="Indexed",
            completions=number,
            parallelism=jobs,
            backoff_limit_per_index=tries - 1,
            pod_failure_policy=k8s.V1PodFailurePolicy(rules=[disrupted]),
            pod_replacement_policy="Failed",
            active_deadline_seconds=run.deadline_seconds,
            ttl_seconds_after_finished=KEEP_SECONDS,
        ),
    )


def make_policy(run: RunPods, owner: k8s.V1OwnerReference) -> k8s.V1NetworkPolicy:
    """Return whom a point may talk to: nobody, in either direction."""
    return k8s.V1NetworkPolicy(
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        metadata=manifests.object_metadata(run, run.namespace, POINT, f"{run.name}-points", owner),
        spec=k8s.V1NetworkPolicySpec(
            pod_selector=k8s.V1LabelSelector(match_labels=manifests.labels(run, POINT)),
            policy_types=["Ingress", "Egress"],
            ingress=[],
            egress=[],
        ),
    )


def find_pods(api: Api, run: RunPods) -> list[PointPod]:
    """Return the pods of a batch, the oldest first."""
    found = []
    for pod in api.pods(run, POINT):
        index = (pod.metadata.labels or {}).get(INDEX_LABEL)
        if index is None or not index.isdecimal():
            continue
        made = pod.metadata.creation_timestamp.timestamp()
        found.append(PointPod(int(index), made, pod.status.phase or "", trouble(pod), pod))
    return sorted(found, key=lambda each: (each.index, each.created))


def state_of(api: Api, run: RunPods) -> JobState:
    """Return which points of a batch have ended, as its job tells."""
    job = api.job(f"{run.name}-points", run.namespace)
    if job is None:
        return JobState(frozenset(), frozenset(), "its job is gone: somebody removed it")
    status = job.status
    over = ""
    for condition in (status and status.conditions) or ():
        if condition.type == "Complete" and condition.status == "True":
            over = "its job has ended"
        elif condition.type == "Failed" and condition.status == "True":
            over = f"its job ended: {condition.message or condition.reason}"
    finished = indexes(status and status.completed_indexes)
    failed = indexes(status and status.failed_indexes)
    left = (job.spec.completions or 0) - len(finished | failed)
    active = (status and status.active) or 0
    return JobState(
        finished, failed, over, not over and active < min(job.spec.parallelism or 0, left)
    )


def why_missing(api: Api, run: RunPods, pods: Sequence[PointPod]) -> str:
    """Return why pods of a batch are not made, "" where the cluster tells of nothing.

    Parameters
    ----------
    api : Api
    run : RunPods
        Of the batch.
    pods : sequence of PointPod
        Those that there are: what was refused before the newest was made is refused no more.

    Raises
    ------
    ClusterError
        If the cluster cannot be asked now.
    """
    told = [
        (_time_of(each), each.message) for each in api.refusals(f"{run.name}-points", run.namespace)
    ]
    last, message = max(told, default=(0.0, ""), key=lambda each: each[0])
    if not told or any(pod.created > last for pod in pods):
        return ""
    return refused(POINT, run.namespace, message)


def _time_of(event: Any) -> float:
    """Return when an event happened last, in seconds since 1970."""
    last = event.series and event.series.last_observed_time
    times = (last, event.last_timestamp, event.event_time, event.metadata.creation_timestamp)
    return float(next((each.timestamp() for each in times if each is not None), 0.0))


def indexes(text: str | None) -> frozenset[int]:
    """Return the numbers that a Job's status names.

    >>> sorted(indexes("0,3-5"))
    [0, 3, 4, 5]
    """
    found: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)
