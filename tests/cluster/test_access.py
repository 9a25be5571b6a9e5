"""Who may run: nobody without the role, and with it a run has all that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kubernetes import client as k8s

import flautim_lab as lab
from tests.cluster.conftest import left_in
from tests.cluster.faulted import SMALL, check_it_ended_well
from tests.cluster.waiting import wait_until
from tests.federations import DropoutNet, Net, experiment

ROLE = Path(__file__).parents[2] / "k8s" / "base" / "institution" / "run-role.yaml"
ACCOUNT = "ana"
HOUR = 3600


@pytest.fixture
def ana(api, spaces, tmp_path, monkeypatch):
    """A service account of the first namespace, as which this test and its processes act."""
    core = k8s.CoreV1Api(api._client)
    account = k8s.V1ServiceAccount(metadata=k8s.V1ObjectMeta(name=ACCOUNT))
    core.create_namespaced_service_account(spaces[0], account)
    asked = k8s.AuthenticationV1TokenRequest(
        spec=k8s.V1TokenRequestSpec(audiences=[], expiration_seconds=HOUR)
    )
    token = core.create_namespaced_service_account_token(ACCOUNT, spaces[0], asked).status.token
    settings = api._client.configuration
    cluster = {"server": settings.host, "certificate-authority": settings.ssl_ca_cert}
    context = {"cluster": "here", "user": ACCOUNT, "namespace": spaces[0]}
    made = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": ACCOUNT, "user": {"token": token}}],
        "contexts": [{"name": "here", "context": context}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    path.chmod(0o600)
    monkeypatch.setenv("KUBECONFIG", str(path))
    # The client reads the variable once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


def grant(api, account_space, namespace):
    """Bind the role to the account, as k8s/base/institution/run-role.yaml has it."""
    rights = k8s.RbacAuthorizationV1Api(api._client)
    role = yaml.safe_load(ROLE.read_text(encoding="utf-8"))
    rights.create_namespaced_role(namespace, role)
    binding = {
        "metadata": {"name": "runs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role"}
        | {"name": role["metadata"]["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": account_space}],
    }
    rights.create_namespaced_role_binding(namespace, binding)


def test_without_the_role_a_run_is_refused_before_anything_is_made(api, spaces, ana):
    with pytest.raises(lab.ClusterError) as caught:
        lab.run(experiment(Net), on=lab.Cluster(workers=1))
    said = str(caught.value)
    assert said.startswith("you may not create configmaps, get configmaps, list configmaps, delete")
    assert "create secrets" in said
    assert "list events, watch events" in said
    assert said.endswith(
        f"in the namespace {spaces[0]!r}, which a run needs; ask who runs the cluster for the role "
        "flautim-lab-runs there"
    )
    assert lab.runs() == []
    assert left_in(api, spaces) == []


def test_with_the_role_in_one_of_two_namespaces_nothing_is_made_in_either(api, spaces, ana):
    grant(api, spaces[0], spaces[0])
    wait_until(lambda: not lab_denied(spaces[0]), "the role is in force", 30)
    with pytest.raises(lab.ClusterError, match=f"in the namespace {spaces[1]!r}"):
        lab.run(experiment(Net), on=lab.Cluster(workers=dict.fromkeys(spaces, 1)))
    assert left_in(api, spaces) == []


def test_with_the_role_and_nothing_else_a_run_has_all_that_it_needs(
    api, spaces, ana, started, record_property
):
    for space in spaces:
        grant(api, spaces[0], space)
        wait_until(lambda space=space: not lab_denied(space), "the role is in force", 30)
    made = experiment(DropoutNet, rounds=40)
    expected = lab.run(made).wait()
    run = started(made, workers=dict.fromkeys(spaces, 1), **SMALL)
    wait_until(lambda: run.round >= 2, "two rounds")
    run.chaos.kill("client-4")  # the first of the second namespace: each has room for 4 workers
    check_it_ended_well(run, expected, api, spaces, record_property)
    watched = (run.folder / "processes" / "watch.log").read_text(encoding="utf-8")
    assert "forbidden" not in watched.lower()


def lab_denied(namespace):
    from flautim_lab.pods.api import Api

    return Api().denied(namespace)
