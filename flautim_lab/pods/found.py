"""What there is of runs in some namespaces, whoever made it; read from the cluster alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from kubernetes import client as k8s

from flautim_lab.pods.manifests import POINT, ROLE_LABEL, RUN_ID, RUN_LABEL, SERVER, WORKER

State = Literal["running", "finished", "job failed", "gone", "elsewhere"]


@dataclass
class FoundRun:
    """What is left, or at work, of one run.

    Attributes
    ----------
    run_id : str
    name : str
        Of its objects.
    created : float
        When the first of them was made, in seconds since 1970.
    server : {"running", "finished", "job failed", "gone", "elsewhere"}
        ``gone`` where its objects are there and its job is not; ``elsewhere`` where none of its
        objects are in these namespaces.
    reason : str
        Why its job failed, or "".
    workers : int
        How many of its workers' jobs have not ended.
    anchors : list of (str, str)
        Namespace and name of the objects that own all others.
    batch : bool
        Whether it is a batch (``flautim-lab rerun``), with its points in the server's place.
    pods, volumes : list of str
        As ``namespace/name``.
    """

    run_id: str
    name: str
    created: float
    server: State = "elsewhere"
    reason: str = ""
    workers: int = 0
    batch: bool = False
    anchors: list[tuple[str, str]] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)

    @property
    def namespaces(self) -> list[str]:
        """Where something of it is."""
        return sorted({namespace for namespace, _ in self.anchors})


def find_runs(
    core: k8s.CoreV1Api, batch: k8s.BatchV1Api, namespaces: Iterable[str]
) -> list[FoundRun]:
    """Return the runs of which anything is in some namespaces, the oldest first.

    Raises
    ------
    kubernetes.client.ApiException
        If the API server refuses.
    """
    runs: dict[str, FoundRun] = {}
    for space in namespaces:
        for anchor in core.list_namespaced_config_map(space, label_selector=RUN_LABEL).items:
            if not anchor.metadata.owner_references:  # else it is owned by an anchor
                _add_anchor(runs, space, anchor)
        for job in batch.list_namespaced_job(space, label_selector=RUN_LABEL).items:
            _add_job(runs, job)
        for pod in core.list_namespaced_pod(space, label_selector=RUN_LABEL).items:
            _add(runs, pod, "pods")
        claims = core.list_namespaced_persistent_volume_claim(space, label_selector=RUN_LABEL)
        for claim in claims.items:
            _add(runs, claim, "volumes")
    return sorted(runs.values(), key=lambda run: run.created)


def _add_anchor(runs: dict[str, FoundRun], space: str, anchor: Any) -> None:
    name = anchor.metadata.labels[RUN_LABEL]
    made = anchor.metadata.creation_timestamp.timestamp()
    run_id = (anchor.metadata.annotations or {}).get(RUN_ID, name)
    run = runs.setdefault(name, FoundRun(run_id, name, made))
    run.created = min(run.created, made)
    run.anchors.append((space, anchor.metadata.name))
    role = anchor.metadata.labels.get(ROLE_LABEL)
    run.batch = run.batch or role == POINT
    if role in (SERVER, POINT):
        run.server = "gone"  # until its job is seen


def _add_job(runs: dict[str, FoundRun], job: Any) -> None:
    run = runs.get(job.metadata.labels[RUN_LABEL])
    if run is None:
        return  # its anchor is gone, and it follows
    conditions = (job.status and job.status.conditions) or ()
    ended = {each.type: each for each in conditions if each.status == "True"}
    if job.metadata.labels.get(ROLE_LABEL) == WORKER:
        run.workers += not ended.keys() & {"Complete", "Failed"}
    elif "Failed" in ended:
        run.server = "job failed"
        run.reason = ended["Failed"].message or ended["Failed"].reason or ""
    else:
        run.server = "finished" if "Complete" in ended else "running"


def _add(runs: dict[str, FoundRun], thing: Any, what: str) -> None:
    run = runs.get(thing.metadata.labels[RUN_LABEL])
    if run is not None:
        getattr(run, what).append(f"{thing.metadata.namespace}/{thing.metadata.name}")
