"""What tests of faults on a cluster share: small pods, patience, and how a faulted run must end."""

from __future__ import annotations

import itertools
import time

from kubernetes import client as k8s

from flautim_lab.pods.manifests import SERVER, WORKER
from flautim_lab.runners.cluster import ClusterRun
from tests.cluster.conftest import left_in
from tests.cluster.waiting import PATIENCE, wait_until
from tests.federations import same

SMALL = {"cpu": "300m", "memory": "700Mi", "server_cpu": "400m", "server_memory": "700Mi"}


def pods_of(api, run, role):
    return api.pods(ClusterRun(run.folder).pods(), role)


def evict(api, pod):
    """Ask for a pod to leave its node, as ``kubectl drain`` does."""
    metadata = k8s.V1ObjectMeta(name=pod.metadata.name, namespace=pod.metadata.namespace)
    k8s.CoreV1Api(api._client).create_namespaced_pod_eviction(
        pod.metadata.name, pod.metadata.namespace, k8s.V1Eviction(metadata=metadata)
    )


def everything(api, run):
    return [*pods_of(api, run, SERVER), *pods_of(api, run, WORKER)]


def seconds_without_a_round(run, since):
    """The longest time between two rounds that ended after a moment (seconds since 1970)."""
    ends = [event.time for event in run.events() if event.kind == "round"]
    before = max((end for end in ends if end <= since), default=since)
    later = [before, *(end for end in ends if end > since)]
    return max(b - a for a, b in itertools.pairwise(later))


def check_it_ended_well(run, expected, api, spaces, record, since=None):
    """The kernel's weights and metrics, none lost and none doubled, and nothing left."""
    run.wait(timeout_seconds=PATIENCE)
    ended = time.monotonic()
    assert (str(run.status), run.message) == ("finished", "")
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)
    if since is not None:
        record("seconds_to_recover", round(seconds_without_a_round(run, since), 1))
    wait_until(lambda: not left_in(api, spaces), f"all is removed, not {left_in(api, spaces)}", 60)
    record("seconds_to_nothing_left", round(time.monotonic() - ended, 1))
