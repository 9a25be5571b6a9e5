"""The cluster, as a run uses it: make its objects, follow its pods, reach its server, remove it.

Every answer of the API server that is a refusal becomes a :class:`ClusterError` in one sentence.
"""

from __future__ import annotations

import contextlib
import copy
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import urllib3
from kubernetes import client as k8s
from kubernetes import config
from kubernetes import stream as k8s_stream

from flautim_lab.errors import ClusterError
from flautim_lab.pods import access, manifests
from flautim_lab.pods.follow import INDEX_LABEL, NOT_MADE, Follower
from flautim_lab.pods.found import FoundRun, find_runs
from flautim_lab.pods.kubeconfig import new_client
from flautim_lab.pods.manifests import RUN_LABEL, SERVER, WORKER, RunPods
from flautim_lab.pods.namespaces import Namespaces
from flautim_lab.pods.refusals import Unreachable, refusals

__all__ = ["Api", "Unreachable"]
MOST_LOG_BYTES = 32 * 2**20  # of one pod; a node keeps less, unless it was told otherwise


class Api:
    """A connection to a Kubernetes cluster.

    Parameters
    ----------
    context : str, optional
        Of the kubeconfig; its current one by default, and inside a pod the pod's own account.

    Raises
    ------
    ClusterError
        If there is no cluster to be found.
    """

    def __init__(self, context: str | None = None) -> None:
        self.namespace = "default"
        if context is None and self._in_pod():
            return
        try:
            contexts, active = config.list_kube_config_contexts()
            names = [each["name"] for each in contexts]
            if context is not None and context not in names:
                raise ClusterError(
                    f"no context named {context!r} in the kubeconfig; choose one of: "
                    f"{', '.join(names)}"
                )
            chosen = active if context is None else contexts[names.index(context)]
            self.namespace = chosen["context"].get("namespace", "default")
            self._client = new_client(context)
            # A port-forward changes its client while it connects; nobody else may use that one.
            self._forwarding = new_client(context)
        except config.ConfigException as error:
            raise ClusterError(
                f"no Kubernetes cluster is configured here ({error}); set KUBECONFIG to the file "
                "that its people gave you, or run on='processes'"
            ) from error
        self._use()

    def _in_pod(self) -> bool:
        """Take the account of the pod in which this runs, if there is one and no kubeconfig."""
        if os.environ.get("KUBECONFIG"):
            return False
        try:
            config.load_incluster_config(made := k8s.Configuration())
            config.load_incluster_config(forwarding := k8s.Configuration())
        except config.ConfigException:
            return False
        self._client, self._forwarding = k8s.ApiClient(made), k8s.ApiClient(forwarding)
        self._use()
        return True

    def _use(self) -> None:
        self._client.configuration.retries = urllib3.Retry(total=3, backoff_factor=0.2)
        self._connecting = threading.Lock()
        self._core = k8s.CoreV1Api(self._client)
        self._batch = k8s.BatchV1Api(self._client)
        self._network = k8s.NetworkingV1Api(self._client)

    @property
    def address(self) -> str:
        """Where the API server is."""
        return str(self._client.configuration.host)

    def version(self, seconds: float = 3.0) -> str:
        """Return which Kubernetes it is.

        Raises
        ------
        ClusterError
            If it does not answer in so many seconds.
        """
        settings = copy.copy(self._client.configuration)
        settings.retries = False  # or a cluster that never answers takes four times as long
        with refusals("ask for its version"):
            api = k8s.VersionApi(k8s.ApiClient(settings))
            return str(api.get_code(_request_timeout=seconds).git_version)

    def namespaces(self, maker: str) -> Namespaces:
        """Return the namespaces that a service makes for institutions."""
        return Namespaces(self._client, maker)

    # --- before a run -----------------------------------------------------------------------

    def denied(self, namespace: str) -> list[str]:
        """Return what the current user may not do in a namespace, of what a run needs."""
        api = k8s.AuthorizationV1Api(self._client)
        found = []
        for group, resource, verb in access.questions():
            kind, _, part = resource.partition("/")
            asked = k8s.V1ResourceAttributes(
                namespace=namespace, group=group, resource=kind, subresource=part, verb=verb
            )
            review = k8s.V1SelfSubjectAccessReview(
                spec=k8s.V1SelfSubjectAccessReviewSpec(resource_attributes=asked)
            )
            with refusals("ask what you may do"):
                if not api.create_self_subject_access_review(review).status.allowed:
                    found.append(f"{verb} {resource}")
        return found

    def check_access(self, namespaces: list[str]) -> None:
        """Refuse, before anything is made, what would be refused halfway.

        Raises
        ------
        ClusterError
            Naming what the current user may not do, and where.
        """
        for namespace in namespaces:
            lacking = self.denied(namespace)
            if lacking:
                raise ClusterError(
                    f"you may not {', '.join(lacking)} in the namespace {namespace!r}, which a run "
                    "needs; ask who runs the cluster for the role flautim-lab-runs there"
                )

    # --- making and removing ----------------------------------------------------------------

    def make(
        self,
        run: RunPods,
        archive: bytes,
        server_files: Mapping[str, bytes],
        worker_files: Mapping[str, Mapping[str, bytes]],
    ) -> None:
        """Make all objects of a run; those that are there already stay as they are.

        A job is what is made last in a namespace: where it is, all is.

        Parameters
        ----------
        run : RunPods
        archive : bytes
            The experiment, see :func:`flautim_lab.runners.pod_files.pack`.
        server_files : mapping of str to bytes
            What only the server may read.
        worker_files : mapping of str to mapping
            By namespace, what only its workers may read.

        Raises
        ------
        ClusterError
            If the cluster refuses one of them; what was made is removed again, unless the run was
            begun before: then it goes on.
        """
        begun = self._has_anchor(run)
        try:
            self._make(run, archive, server_files, worker_files)
        except ClusterError:
            if not begun:
                with contextlib.suppress(ClusterError):
                    self.remove(run)
            raise

    def _make(
        self,
        run: RunPods,
        archive: bytes,
        server_files: Mapping[str, bytes],
        worker_files: Mapping[str, Mapping[str, bytes]],
    ) -> None:
        if not self._has_job(run, run.namespace, SERVER):
            self._make_server(run, archive, server_files)
        for space, files in worker_files.items():
            if not self._has_job(run, space, WORKER):
                self._make_workers(run, space, archive, files)

    def _make_server(self, run: RunPods, archive: bytes, files: Mapping[str, bytes]) -> None:
        space = run.namespace
        owner = self.anchor(manifests.make_anchor(run, space, SERVER))
        code = manifests.make_code(run, space, SERVER, archive, owner)
        for part in code:
            self.create(part)
        secret = manifests.make_secret(run, space, SERVER, files, owner)
        self.create(secret)
        claim = manifests.make_volume_claim(run, owner)
        self.create(claim)
        self.create(manifests.make_service(run, owner))
        policy = manifests.make_server_policy(run, owner)
        self.create(policy)
        job = manifests.make_server_job(run, len(code), owner)
        self.create(job)

    def _make_workers(
        self, run: RunPods, space: str, archive: bytes, files: Mapping[str, bytes]
    ) -> None:
        owner = self.anchor(manifests.make_anchor(run, space, WORKER))
        code = manifests.make_code(run, space, WORKER, archive, owner)
        for part in code:
            self.create(part)
        secret = manifests.make_secret(run, space, WORKER, files, owner)
        self.create(secret)
        policy = manifests.make_worker_policy(run, space, owner)
        self.create(policy)
        server = self._address_of(run) if space in run.data else ""
        job = manifests.make_worker_job(run, space, len(code), owner, server)
        self.create(job)

    def _address_of(self, run: RunPods) -> str:
        """Return the cluster's address of a run's server; it is that of the Service for good."""
        with refusals(f"read Service {run.name}"):
            found = self._core.read_namespaced_service(run.name, run.namespace)
        return str(found.spec.cluster_ip)

    def _has_anchor(self, run: RunPods) -> bool:
        name = run.anchor(run.namespace, SERVER)
        with refusals(f"read ConfigMap {name}"):
            return _is_there(lambda: self._core.read_namespaced_config_map(name, run.namespace))

    def _has_job(self, run: RunPods, space: str, role: str) -> bool:
        name = f"{run.name}-{'server' if role == SERVER else 'workers'}"
        return self.job(name, space) is not None

    def anchor(self, made: k8s.V1ConfigMap) -> k8s.V1OwnerReference:
        """Make the object that is to own others, unless it is there; return the reference to it.

        Raises
        ------
        ClusterError
            If the cluster refuses.
        """
        self.create(made)
        name = made.metadata.name
        with refusals(f"read ConfigMap {name}"):
            there = self._core.read_namespaced_config_map(name, made.metadata.namespace)
        return k8s.V1OwnerReference(
            api_version="v1",
            kind="ConfigMap",
            name=there.metadata.name,
            uid=there.metadata.uid,
            block_owner_deletion=False,
        )

    def create(self, made: Any) -> None:
        """Make an object, of a kind that a run has; one that is there already stays as it is.

        Raises
        ------
        ClusterError
            If the cluster refuses.
        """
        makers: dict[str, Callable[..., Any]] = {
            "ConfigMap": self._core.create_namespaced_config_map,
            "Secret": self._core.create_namespaced_secret,
            "PersistentVolumeClaim": self._core.create_namespaced_persistent_volume_claim,
            "Service": self._core.create_namespaced_service,
            "NetworkPolicy": self._network.create_namespaced_network_policy,
            "Job": self._batch.create_namespaced_job,
        }
        space = made.metadata.namespace
        with refusals(f"create {made.kind} {made.metadata.name} in {space}"):
            try:
                makers[made.kind](space, made)
            except k8s.ApiException as error:
                if error.status != 409:  # it is there: this run was begun before
                    raise

    def remove(self, run: RunPods, seconds: float = 60.0) -> list[str]:
        """Remove all objects of a run and wait for its pods to end.

        Returns
        -------
        list of str
            Pods that are still there after so many seconds.
        """
        anchors = [(run.namespace, run.anchor(run.namespace, SERVER))]
        anchors += [(space, run.anchor(space, WORKER)) for space in run.workers]
        return self._remove(run.name, anchors, seconds)

    def remove_found(self, run: FoundRun, seconds: float = 60.0) -> list[str]:
        """Remove what was found of a run, as :meth:`remove` does."""
        return self._remove(run.name, run.anchors, seconds)

    def _remove(self, name: str, anchors: list[tuple[str, str]], seconds: float) -> list[str]:
        for space, anchor in anchors:
            with refusals(f"delete ConfigMap {anchor} in {space}"):
                try:
                    self._core.delete_namespaced_config_map(
                        anchor, space, propagation_policy="Background"
                    )
                except k8s.ApiException as error:
                    if error.status != 404:
                        raise
        spaces = list(dict.fromkeys(space for space, _ in anchors))
        end = time.monotonic() + seconds
        while left := [pod.metadata.name for pod in self._pods(name, spaces)]:
            if time.monotonic() > end:
                return left
            time.sleep(0.5)
        return []

    def found(self, namespaces: Iterable[str]) -> list[FoundRun]:
        """Return the runs of which anything is in some namespaces, the oldest first."""
        with refusals("list what there is of runs"):
            return find_runs(self._core, self._batch, namespaces)

    # --- scaling ----------------------------------------------------------------------------

    def workers(self, run: RunPods) -> dict[str, int]:
        """Return how many workers each namespace is meant to have now."""
        found = {}
        for space in run.workers:
            name = f"{run.name}-workers"
            with refusals(f"read Job {name} in {space}"):
                found[space] = int(self._batch.read_namespaced_job(name, space).spec.completions)
        return found

    def scale(self, run: RunPods, namespace: str, number: int) -> None:
        """Change how many workers a namespace has; pods that are too many are told to end."""
        name = f"{run.name}-workers"
        change = {"spec": {"completions": number, "parallelism": number}}  # together, or not at all
        with refusals(f"scale Job {name} in {namespace}"):
            self._batch.patch_namespaced_job(name, namespace, change)

    # --- following --------------------------------------------------------------------------

    def spaces(self, run: RunPods) -> list[str]:
        """Return the namespaces in which a run has pods."""
        return list(dict.fromkeys([run.namespace, *run.workers]))

    def pods(self, run: RunPods, role: str | None = None) -> list[Any]:
        """Return the pods of a run, those that are ending too."""
        return self._pods(run.name, self.spaces(run), role)

    def _pods(self, name: str, namespaces: list[str], role: str | None = None) -> list[Any]:
        wanted = f"{RUN_LABEL}={name}"
        if role is not None:
            wanted += f",{manifests.ROLE_LABEL}={role}"
        found: list[Any] = []
        for space in namespaces:
            with refusals(f"list pods in {space}"):
                found += self._core.list_namespaced_pod(space, label_selector=wanted).items
        return found

    def follow(
        self,
        run: RunPods,
        say: Callable[[str, str], None],
        lost: Callable[[str, str], None],
        stopped: threading.Event,
    ) -> list[threading.Thread]:
        """Tell what keeps the run's pods from working, as it changes, until stopped.

        Parameters
        ----------
        run : RunPods
        say : callable
            Gets the name of a pod or job and a sentence, "" when it works again; from other
            threads.
        lost : callable
            Gets a namespace and a sentence when none of its workers will ever work again.
        stopped : Event
        """
        threads: list[threading.Thread] = []
        for space in self.spaces(run):
            follower = Follower(self._core, self._batch, run, space, say, lost, stopped)
            threads += follower.start()
        return threads

    def log(self, pod: Any, lines: int = 50) -> str:
        """Return the last lines that a pod wrote; "" where there are none."""
        try:
            return str(
                self._core.read_namespaced_pod_log(
                    pod.metadata.name, pod.metadata.namespace, tail_lines=lines
                )
            )
        except (k8s.ApiException, urllib3.exceptions.HTTPError):
            return ""

    def whole_log(self, pod: Any) -> str:
        """Return all that a pod wrote and its node still keeps.

        Raises
        ------
        ClusterError
            If it cannot be read now.
        """
        name = pod.metadata.name
        with refusals(f"read the log of pod {name}"):
            return str(
                self._core.read_namespaced_pod_log(
                    name, pod.metadata.namespace, limit_bytes=MOST_LOG_BYTES
                )
            )

    def job(self, name: str, namespace: str) -> Any:
        """Return a job; None where there is none.

        Raises
        ------
        ClusterError
            If it cannot be read now.
        """
        with refusals(f"read Job {name}"):
            try:
                return self._batch.read_namespaced_job(name, namespace)
            except k8s.ApiException as error:
                if error.status == 404:
                    return None
                raise

    def refusals(self, job: str, namespace: str) -> list[Any]:
        """Return the events that tell why pods of a job were not made, in no order.

        Raises
        ------
        ClusterError
            If they cannot be read now.
        """
        kind = f"involvedObject.kind=Job,involvedObject.name={job},reason={NOT_MADE}"
        with refusals(f"read what happened to Job {job}"):
            found = self._core.list_namespaced_event(namespace, field_selector=kind).items
        return [
            each for each in found if each.reason == NOT_MADE and each.involved_object.name == job
        ]

    def failure(self, run: RunPods) -> str:
        """Return why the server's job has failed, or "" while it has not."""
        job = self.job(f"{run.name}-server", run.namespace)
        if job is None:
            return "the server's job is gone: somebody removed it"
        for condition in (job.status and job.status.conditions) or ():
            if condition.type == "Failed" and condition.status == "True":
                return f"the server's job failed: {condition.message or condition.reason}"
        return ""

    # --- acting -----------------------------------------------------------------------------

    def forward(self, run: RunPods, port: int) -> socket.socket:
        """Return a connection to a port of the run's server, through the API server.

        Raises
        ------
        ClusterError
            If no pod of the server is running now.
        """
        running = [
            pod
            for pod in self.pods(run, SERVER)
            if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None
        ]
        if not running:
            raise ClusterError("the server's pod is not running yet")
        pod = running[0]
        with self._connecting, refusals(f"reach pod {pod.metadata.name}"):
            made = k8s_stream.portforward(
                k8s.CoreV1Api(self._forwarding).connect_get_namespaced_pod_portforward,
                pod.metadata.name,
                pod.metadata.namespace,
                ports=str(port),
            )
        connection: socket.socket = made.socket(port)
        return connection

    def kill(
        self, run: RunPods, role: str, index: int | None = None, namespace: str | None = None
    ) -> list[str]:
        """Delete pods of a role at once (one worker by its index, or all); returns their names."""
        hit = []
        for pod in self.pods(run, role):
            if index is not None and _index(pod) != index:
                continue
            if namespace is not None and pod.metadata.namespace != namespace:
                continue
            with refusals(f"delete pod {pod.metadata.name}"):
                self._core.delete_namespaced_pod(
                    pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0
                )
            hit.append(pod.metadata.name)
        return hit


def _is_there(read: Callable[[], Any]) -> bool:
    try:
        read()
    except k8s.ApiException as error:
        if error.status != 404:
            raise
        return False
    return True


def _index(pod: Any) -> int:
    return int((pod.metadata.labels or {}).get(INDEX_LABEL, -1))
