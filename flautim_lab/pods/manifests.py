"""The Kubernetes objects of one run: pure builders, which ask no cluster anything.

::

    server's namespace                         namespace of some workers (may be the same one)
      ConfigMap  RUN          the anchor         ConfigMap  RUN-workers     the anchor
      ConfigMap  RUN-code-0   experiment         ConfigMap  RUN-workers-code-0
      Secret     RUN-server   TLS, public keys   Secret     RUN-workers     private keys, authority
      PVC        RUN-state    checkpoints        Job        RUN-workers     Indexed: one per slot
      Service    RUN          for the workers    NetworkPolicy RUN-workers
      Job        RUN-server
      NetworkPolicy RUN-server

Each anchor owns all else in its namespace (an owner in another namespace is not allowed): deleting
it removes the run. All pods pass the ``restricted`` Pod Security Standard.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubernetes import client as k8s

from flautim_lab.pods.volume import know_by_address, mount_data

ROLE_LABEL, RUN_LABEL = "flautim-lab/role", "flautim-lab/run"
SERVER, WORKER, POINT = "server", "worker", "point"
ENTRIES = {SERVER: "pod_server", WORKER: "pod_client", POINT: "rerun.pod"}
RUN_ID = "flautim-lab/run-id"
FLEET_PORT, API_PORT = 9092, 9093
CHUNK_BYTES = 700_000  # a ConfigMap holds 1 MiB, and its bytes travel as base64
USER = 1000  # of the image; any but root would do
CODE, STATE, RUN_FILES, KEYS = "/flautim/code", "/flautim/state", "/flautim/run", "/flautim/keys"
BUG_EXIT = 70  # of a worker whose experiment cannot be loaded: starting it again changes nothing
MOST_SCALED = 64  # workers that a namespace may be scaled to, unless it began with more
MOST_WORKERS = 2048  # in all: their keys must fit into a Secret, which holds 1 MiB
ANYWHERE = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Resources:
    """What a pod asks for, and may use at most (both are the same, so that nobody is surprised).

    Attributes
    ----------
    cpu, memory : str
        Kubernetes quantities, such as ``"500m"`` and ``"1Gi"``.
    gpu : int
        GPUs (``nvidia.com/gpu``).
    """

    cpu: str = "1"
    memory: str = "1Gi"
    gpu: int = 0

    def as_model(self) -> k8s.V1ResourceRequirements:
        """Return requests and limits."""
        asked = {"cpu": self.cpu, "memory": self.memory}
        if self.gpu:
            asked["nvidia.com/gpu"] = str(self.gpu)
        return k8s.V1ResourceRequirements(requests=asked, limits=dict(asked))


@dataclass(frozen=True)
class RunPods:
    """All that the objects of one run are made from.

    Attributes
    ----------
    run_id : str
    name : str
        Of the run's objects, see :func:`flautim_lab.names.object_name`.
    namespace : str
        Of the server.
    workers : mapping of str to int
        How many workers each namespace begins with, in the order of their slots.
    clients : int
    image : str
    server, worker : Resources
    storage : str
        Size of the volume of the checkpoints.
    storage_class : str, optional
        The cluster's default where it is None.
    deadline_seconds : int
        After which the run is ended, whoever forgot it.
    keep_seconds : int
        How long ended jobs stay to be looked at.
    data : mapping of str to str
        The claim of the volume that the workers of a namespace read, for rows that stay there.
    tables : mapping of str to sequence of str
        The paths on that volume that they see, and nothing beside them; all of it where a
        namespace is not named.
    fewest_rows : mapping of str to int
        How few of its rows a namespace lets be counted together, where it is not the default.
    hashes : mapping of str to mapping
        The SHA-256 of each of them, by its path: only that table was granted.
    homes : mapping of str to str
        How the experiment names a namespace, where that is another name.
    faults : sequence of mapping
        What the server is to do to itself on purpose, see ``runners/faults.py``.
    """

    run_id: str
    name: str
    namespace: str
    workers: Mapping[str, int]
    clients: int
    image: str
    server: Resources = field(default_factory=Resources)
    worker: Resources = field(default_factory=Resources)
    storage: str = "1Gi"
    storage_class: str | None = None
    deadline_seconds: int = 24 * 3600
    keep_seconds: int = 600
    image_pull_policy: str = "IfNotPresent"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    priority_class: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fewest_rows: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    homes: Mapping[str, str] = field(default_factory=dict)
    faults: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunPods:
        """Return what ``dataclasses.asdict`` made a dict of."""
        resources = {name: Resources(**values[name]) for name in ("server", "worker")}
        return cls(**{**values, **resources})

    @property
    def blocks(self) -> dict[str, int]:
        """How many slots each namespace owns: as many workers as it may ever be scaled to.

        Each slot has its key from the start, so that scaling needs no new Secret.
        """
        useful = min(self.clients, MOST_SCALED, MOST_WORKERS // len(self.workers))
        return {space: max(number, useful) for space, number in self.workers.items()}

    @property
    def slots(self) -> int:
        """How many slots there are in all, whether a worker is meant to be there or not."""
        return sum(self.blocks.values())

    @property
    def address(self) -> str:
        """Where workers find the server, whatever pod it is in now."""
        return f"{self.name}.{self.namespace}.svc"

    def first_slot(self, namespace: str) -> int:
        """Return the slot of the worker of index 0 in a namespace."""
        blocks = self.blocks
        before = list(blocks)[: list(blocks).index(namespace)]
        return sum(blocks[each] for each in before)

    def place(self, slot: int) -> tuple[str, int]:
        """Return the namespace of a worker, and its index there."""
        for space, number in self.blocks.items():
            if slot < number:
                return space, slot
            slot -= number
        raise IndexError(slot)

    def taken(self, workers: Mapping[str, int]) -> list[int]:
        """Return the slots of so many workers of each namespace."""
        firsts = {space: self.first_slot(space) for space in workers}
        return [firsts[space] + index for space in workers for index in range(workers[space])]

    def anchor(self, namespace: str, role: str) -> str:
        """Return the name of the object that owns all else of a role."""
        return f"{self.name}-workers" if role == WORKER else self.name

    def facts(self) -> dict[str, Any]:
        """Return what every process of the run is told."""
        places = [
            self.homes.get(space, space)
            for space, number in self.blocks.items()
            for _ in range(number)
        ]
        return {
            "run_id": self.run_id,
            "slots": self.slots,
            "clients": self.clients,
            "places": places if self.data else [],
            "begin": self.taken(self.workers),
            "faults": [dict(each) for each in self.faults],
        }


def labels(run: RunPods, role: str) -> dict[str, str]:
    """Return the labels by which the objects of a run are found."""
    return {"app.kubernetes.io/name": "flautim-lab", RUN_LABEL: run.name, ROLE_LABEL: role}


def make_anchor(run: RunPods, namespace: str, role: str) -> k8s.V1ConfigMap:
    """Return the object that owns all others of a role in a namespace."""
    return k8s.V1ConfigMap(
        api_version="v1",
        kind="ConfigMap",
        metadata=object_metadata(run, namespace, role, run.anchor(namespace, role)),
        data={"run.json": json.dumps(run.facts(), sort_keys=True)},
    )


def make_code(
    run: RunPods, namespace: str, role: str, archive: bytes, owner: k8s.V1OwnerReference
) -> list[k8s.V1ConfigMap]:
    """Return the experiment's files as ConfigMaps, each with a part of the archive."""
    parts = [archive[i : i + CHUNK_BYTES] for i in range(0, len(archive), CHUNK_BYTES)]
    return [
        k8s.V1ConfigMap(
            api_version="v1",
            kind="ConfigMap",
            metadata=object_metadata(
                run, namespace, role, f"{run.anchor(namespace, role)}-code-{number}", owner
            ),
            binary_data={f"part-{number:04d}": _base64(part)},
            immutable=True,
        )
        for number, part in enumerate(parts)
    ]


def make_secret(
    run: RunPods,
    namespace: str,
    role: str,
    files: Mapping[str, bytes],
    owner: k8s.V1OwnerReference,
) -> k8s.V1Secret:
    """Return the keys and certificates that pods of a role read, and nobody else."""
    return k8s.V1Secret(
        api_version="v1",
        kind="Secret",
        metadata=object_metadata(run, namespace, role, f"{run.name}-{role}-keys", owner),
        type="Opaque",
        data={name: _base64(content) for name, content in files.items()},
    )


def make_volume_claim(run: RunPods, owner: k8s.V1OwnerReference) -> k8s.V1PersistentVolumeClaim:
    """Return the volume of the checkpoints: it outlives the server's pod, not the run."""
    return k8s.V1PersistentVolumeClaim(
        api_version="v1",
        kind="PersistentVolumeClaim",
        metadata=object_metadata(run, run.namespace, SERVER, f"{run.name}-state", owner),
        spec=k8s.V1PersistentVolumeClaimSpec(
            access_modes=["ReadWriteOnce"],
            storage_class_name=run.storage_class,
            resources=k8s.V1VolumeResourceRequirements(requests={"storage": run.storage}),
        ),
    )


def make_service(run: RunPods, owner: k8s.V1OwnerReference) -> k8s.V1Service:
    """Return the name under which workers find the server."""
    return k8s.V1Service(
        api_version="v1",
        kind="Service",
        metadata=object_metadata(run, run.namespace, SERVER, run.name, owner),
        spec=k8s.V1ServiceSpec(
            selector=labels(run, SERVER),
            ports=[
                k8s.V1ServicePort(name="fleet", port=FLEET_PORT, target_port=FLEET_PORT),
                k8s.V1ServicePort(name="api", port=API_PORT, target_port=API_PORT),
            ],
        ),
    )


def make_server_job(run: RunPods, parts: int, owner: k8s.V1OwnerReference) -> k8s.V1Job:
    """Return the server: one pod, started again in place when its process dies.

    No PodDisruptionBudget guards it: a drained node is to be empty soon, and the server goes on
    from its checkpoint elsewhere.
    """
    container = make_container(run, SERVER, run.server)
    container.ports = [
        k8s.V1ContainerPort(name="fleet", container_port=FLEET_PORT),
        k8s.V1ContainerPort(name="api", container_port=API_PORT),
    ]
    container.readiness_probe = k8s.V1Probe(
        tcp_socket=k8s.V1TCPSocketAction(port=API_PORT), period_seconds=2, failure_threshold=2
    )
    container.volume_mounts.append(k8s.V1VolumeMount(name="state", mount_path=STATE))
    state = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=f"{run.name}-state")
    pod = make_pod(run, run.namespace, SERVER, container, parts, "OnFailure")
    pod.spec.volumes.append(k8s.V1Volume(name="state", persistent_volume_claim=state))
    return k8s.V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=object_metadata(run, run.namespace, SERVER, f"{run.name}-server", owner),
        spec=k8s.V1JobSpec(
            template=pod,
            backoff_limit=50,
            active_deadline_seconds=run.deadline_seconds,
            ttl_seconds_after_finished=run.keep_seconds,
            pod_replacement_policy="TerminatingOrFailed",
        ),
    )


def make_worker_job(
    run: RunPods, namespace: str, parts: int, owner: k8s.V1OwnerReference, server: str = ""
) -> k8s.V1Job:
    """Return the workers of a namespace: an Indexed Job, whose index is a worker's slot.

    A pod that was evicted or drained does not count as a failure. One whose experiment cannot be
    loaded is not started again. Of a node that was lost Kubernetes replaces the pods late, since
    ``podFailurePolicy`` allows no earlier replacement; the server leases their clients to other
    workers meanwhile.

    It is elastic (``completions`` and ``parallelism`` are changed together while it runs), so that
    there is no ``maxFailedIndexes``, which must never be more than either.

    ``server`` is the address of the run's Service, for workers with rows: they ask for no name.
    """
    number = run.workers[namespace]
    container = make_container(run, WORKER, run.worker)
    container.env += [
        k8s.V1EnvVar(name="FLAUTIM_LAB_SERVER", value=f"{run.address}:{FLEET_PORT}"),
        k8s.V1EnvVar(name="FLAUTIM_LAB_FIRST_SLOT", value=str(run.first_slot(namespace))),
    ]
    pod = make_pod(run, namespace, WORKER, container, parts, "Never")
    if namespace in run.data:
        tables, hashes = run.tables.get(namespace, ()), run.hashes.get(namespace, {})
        fewest = run.fewest_rows.get(namespace)
        mount_data(pod, run.data[namespace], tables, hashes, fewest)
        if server:
            know_by_address(pod, run.address, server)
    rules = [
        k8s.V1PodFailurePolicyRule(
            action="Ignore",
            on_pod_conditions=[
                k8s.V1PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")
            ],
        ),
        k8s.V1PodFailurePolicyRule(
            action="FailIndex",
            on_exit_codes=k8s.V1PodFailurePolicyOnExitCodesRequirement(
                container_name=WORKER, operator="In", values=[BUG_EXIT]
            ),
        ),
    ]
    return k8s.V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=object_metadata(run, namespace, WORKER, f"{run.name}-workers", owner),
        spec=k8s.V1JobSpec(
            template=pod,
            completion_mode="Indexed",
            completions=number,
            parallelism=number,
            backoff_limit_per_index=20,
            pod_failure_policy=k8s.V1PodFailurePolicy(rules=rules),
            pod_replacement_policy="Failed",
            active_deadline_seconds=run.deadline_seconds,
            ttl_seconds_after_finished=run.keep_seconds,
        ),
    )


def make_server_policy(run: RunPods, owner: k8s.V1OwnerReference) -> k8s.V1NetworkPolicy:
    """Return who may talk to the server: this run's workers; it talks to nobody.

    The API port is reached by port-forward, which comes from the node itself.
    """
    peers = [_peer(run, namespace, WORKER) for namespace in run.workers]
    return k8s.V1NetworkPolicy(
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        metadata=object_metadata(run, run.namespace, SERVER, f"{run.name}-server", owner),
        spec=k8s.V1NetworkPolicySpec(
            pod_selector=k8s.V1LabelSelector(match_labels=labels(run, SERVER)),
            policy_types=["Ingress", "Egress"],
            ingress=[k8s.V1NetworkPolicyIngressRule(_from=peers, ports=[_port(FLEET_PORT)])],
            egress=[],
        ),
    )


def make_worker_policy(
    run: RunPods, namespace: str, owner: k8s.V1OwnerReference
) -> k8s.V1NetworkPolicy:
    """Return whom workers may talk to: the run's server and the cluster's names, nobody else.

    Those with rows ask for no names: a question for ``maria.example.org`` would carry one out.
    """
    egress = [
        k8s.V1NetworkPolicyEgressRule(
            to=[_peer(run, run.namespace, SERVER)], ports=[_port(FLEET_PORT)]
        )
    ]
    if namespace not in run.data:
        names = k8s.V1NetworkPolicyPeer(
            namespace_selector=k8s.V1LabelSelector(match_labels={ANYWHERE: "kube-system"})
        )
        ports = [_port(53, "UDP"), _port(53, "TCP")]
        egress.append(k8s.V1NetworkPolicyEgressRule(to=[names], ports=ports))
    return k8s.V1NetworkPolicy(
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        metadata=object_metadata(run, namespace, WORKER, f"{run.name}-workers", owner),
        spec=k8s.V1NetworkPolicySpec(
            pod_selector=k8s.V1LabelSelector(match_labels=labels(run, WORKER)),
            policy_types=["Ingress", "Egress"],
            ingress=[],
            egress=egress,
        ),
    )


# --- parts --------------------------------------------------------------------------------------


def object_metadata(
    run: RunPods,
    namespace: str,
    role: str,
    name: str,
    owner: k8s.V1OwnerReference | None = None,
) -> k8s.V1ObjectMeta:
    """Return name, place, labels and owner of an object of a run."""
    return k8s.V1ObjectMeta(
        name=name,
        namespace=namespace,
        labels=labels(run, role),
        annotations={RUN_ID: run.run_id},
        owner_references=None if owner is None else [owner],
    )


def make_container(run: RunPods, role: str, resources: Resources) -> k8s.V1Container:
    """Return a pod's only container, as ``restricted`` wants it."""
    return k8s.V1Container(
        name=role,
        image=run.image,
        image_pull_policy=run.image_pull_policy,
        command=["tini", "--", "python", "-m", f"flautim_lab.runners.{ENTRIES[role]}"],
        env=[
            k8s.V1EnvVar(name="OMP_NUM_THREADS", value="1"),
            k8s.V1EnvVar(name="FLWR_TELEMETRY_ENABLED", value="0"),
            k8s.V1EnvVar(name="HOME", value="/tmp"),  # noqa: S108 - the pod's own, an emptyDir
        ],
        resources=resources.as_model(),
        termination_message_policy="FallbackToLogsOnError",  # its last words, for the run's log
        security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        volume_mounts=[
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108
            k8s.V1VolumeMount(name="run", mount_path=RUN_FILES, read_only=True),
            k8s.V1VolumeMount(name="code", mount_path=CODE, read_only=True),
            k8s.V1VolumeMount(name="keys", mount_path=KEYS, read_only=True),
        ],
    )


def make_pod(
    run: RunPods,
    namespace: str,
    role: str,
    container: k8s.V1Container,
    parts: int,
    restart: str,
) -> k8s.V1PodTemplateSpec:
    """Return a pod with the run's files, as ``restricted`` wants it."""
    anchor = run.anchor(namespace, role)
    sources = [
        k8s.V1VolumeProjection(config_map=k8s.V1ConfigMapProjection(name=f"{anchor}-code-{number}"))
        for number in range(parts)
    ]
    keys = k8s.V1SecretVolumeSource(secret_name=f"{run.name}-{role}-keys", default_mode=0o440)
    return k8s.V1PodTemplateSpec(
        metadata=k8s.V1ObjectMeta(labels=labels(run, role), annotations={RUN_ID: run.run_id}),
        spec=k8s.V1PodSpec(
            containers=[container],
            restart_policy=restart,
            automount_service_account_token=False,
            enable_service_links=False,
            termination_grace_period_seconds=10,
            node_selector=dict(run.node_selector) or None,
            tolerations=[k8s.V1Toleration(**each) for each in run.tolerations] or None,
            priority_class_name=run.priority_class,
            security_context=k8s.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=USER,
                run_as_group=USER,
                fs_group=USER,
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
            volumes=[
                k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="1Gi")),
                k8s.V1Volume(name="run", config_map=k8s.V1ConfigMapVolumeSource(name=anchor)),
                k8s.V1Volume(name="code", projected=k8s.V1ProjectedVolumeSource(sources=sources)),
                k8s.V1Volume(name="keys", secret=keys),
            ],
        ),
    )


def _peer(run: RunPods, namespace: str, role: str) -> k8s.V1NetworkPolicyPeer:
    return k8s.V1NetworkPolicyPeer(
        namespace_selector=k8s.V1LabelSelector(match_labels={ANYWHERE: namespace}),
        pod_selector=k8s.V1LabelSelector(match_labels=labels(run, role)),
    )


def _port(number: int, protocol: str = "TCP") -> k8s.V1NetworkPolicyPort:
    return k8s.V1NetworkPolicyPort(port=number, protocol=protocol)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
