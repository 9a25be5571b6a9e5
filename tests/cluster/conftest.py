"""Tests on a real cluster: whatever ``KUBECONFIG`` points at; skipped, with the reason, without.

The image in ``FLAUTIM_LAB_IMAGE`` must be there. Each test gets namespaces of its own that enforce
the ``restricted`` Pod Security Standard, and leaves nothing in them.
"""

from __future__ import annotations

import os
import secrets

import pytest
from kubernetes import client as k8s

import flautim_lab as lab
from flautim_lab.pods.api import Api
from flautim_lab.pods.manifests import RUN_LABEL
from flautim_lab.runners.cluster import IMAGE_VARIABLE


def pytest_collection_modifyitems(items):
    lacking = [name for name in ("KUBECONFIG", IMAGE_VARIABLE) if not os.environ.get(name)]
    for item in items:
        if "tests/cluster/" in str(item.path):
            item.add_marker(pytest.mark.cluster)
            if lacking:
                reason = f"needs a Kubernetes cluster: {' and '.join(lacking)} not set"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def api():
    return Api()


@pytest.fixture
def spaces(api):
    """Two new namespaces; nothing of a run may be in them at the end."""
    core = k8s.CoreV1Api(api._client)
    names = [f"fl-test-{secrets.token_hex(4)}" for _ in range(2)]
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in names:
        core.create_namespace(k8s.V1Namespace(metadata=k8s.V1ObjectMeta(name=name, labels=labels)))
    yield names
    for name in names:
        core.delete_namespace(name)


def left_in(api, names):
    """Everything of any run in these namespaces."""
    core, batch = k8s.CoreV1Api(api._client), k8s.BatchV1Api(api._client)
    network = k8s.NetworkingV1Api(api._client)
    found = []
    for name in names:
        for listing in (
            core.list_namespaced_pod,
            core.list_namespaced_config_map,
            core.list_namespaced_secret,
            core.list_namespaced_service,
            core.list_namespaced_persistent_volume_claim,
            batch.list_namespaced_job,
            network.list_namespaced_network_policy,
        ):
            made = listing(name, label_selector=RUN_LABEL).items
            found += [f"{type(one).__name__} {one.metadata.name}" for one in made]
    return found


@pytest.fixture
def started():
    """Runs that are stopped at the end, whatever happens."""
    runs = []

    def start(made, **settings):
        runs.append(lab.run(made, on=lab.Cluster(**settings)))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()
        run.wait(timeout_seconds=90) if not run.status.ended else None
