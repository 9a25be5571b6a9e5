"""An institution that is made in the panel has its place on a real cluster."""

from __future__ import annotations

import json
import secrets
import subprocess

import pytest

from tests.cluster.asking import Asking, in_a_notebook
from tests.cluster.hub import hub_on_the_cluster, kubectl, remove
from tests.cluster.waiting import PATIENCE, wait_until

KEY = "usp"
RUN = """\
import flautim_lab as lab
from torch import nn

iris = lab.CSVDataset("notebooks/iris.csv", target="species")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Linear(4, 3)
    def forward(self, x):
        return self.layers(x)
small = {"cpu": "200m", "memory": "700Mi", "server_cpu": "300m", "server_memory": "700Mi"}
experiment = lab.Experiment(iris, Net, clients=2, rounds=2, seed=7)
run = lab.run(experiment, on=lab.Cluster(**small)).wait(timeout_seconds=240)
print("ended:", run.status)
"""
WHOLE = {
    "limitrange/pods",
    "networkpolicy.networking.k8s.io/nobody",
    "networkpolicy.networking.k8s.io/notebooks",
    "resourcequota/institution",
    "rolebinding.rbac.authorization.k8s.io/notebooks",
    "rolebinding.rbac.authorization.k8s.io/runs",
}
#: What is in no namespace is named apart, not to be that of a hub which is there.
NAMED = ("namespaces", "in-namespaces", "notebooks", "runs")
CLUSTER_WIDE = (
    "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding"
)


@pytest.fixture(scope="module")
def mark():
    return secrets.token_hex(3)


@pytest.fixture(scope="module")
def space(mark):
    return f"fl-of-{mark}-{KEY}"


@pytest.fixture(scope="module")
def hub(tmp_path_factory, mark, space):
    def with_the_component(overlay):
        file = overlay / "hub/kustomization.yaml"
        file.write_text(file.read_text().replace("# - ../../../comp", "- ../../../comp"))

    names = {f"flautim-lab-{name}": f"fl-{mark}-{name}" for name in NAMED}
    names["flautim-of-"] = f"fl-of-{mark}-"
    try:
        folder = tmp_path_factory.mktemp("hub")
        with hub_on_the_cluster(folder, names, with_the_component) as made:
            yield made
    finally:
        remove(space)
        found = kubectl("get", CLUSTER_WIDE, "-o", "name").split()
        kubectl("delete", *(each for each in found if f"/fl-{mark}-" in each))


@pytest.fixture(scope="module")
def admin(hub):
    made = Asking(hub).by_password("admin")
    yield made
    made.close()


def inside(space, mark):
    """What is there of what a namespace is to have, and no policy of a run."""
    kinds = "limitrange,networkpolicy,resourcequota,rolebinding"
    found = kubectl("get", kinds, "-n", space, "-o", "name").split()
    return {each.replace(f"/fl-{mark}-", "/") for each in found}


def there(space):
    found = kubectl("get", "namespace", space, "-o", "json", "--ignore-not-found")
    return json.loads(found) if found else None


def test_it_is_made_with_all_that_it_has(hub, admin, space, mark):
    told = admin.service("POST", "/catalog/institutions", json={"name": "São Paulo", "key": KEY})
    assert told.status_code == 200, told.text
    wait_until(lambda: there(space) and inside(space, mark) == WHOLE, "the namespace is whole", 30)
    labels = there(space)["metadata"]["labels"]
    assert labels["flautim-lab/institution"] == KEY
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def kill_the_service(hub):
    """Kill it, and wait until another one is there."""
    service = ("-n", hub.namespace, "deployment/service")
    kubectl("delete", "pod", "-n", hub.namespace, "-l", "app.kubernetes.io/name=service",
            "--grace-period=0", "--force")  # fmt: skip
    kubectl("rollout", "status", *service, f"--timeout={PATIENCE}s")


def quota(space):
    return json.loads(kubectl("get", "resourcequota", "institution", "-n", space, "-o", "json"))


def test_a_changed_quota_reaches_it(hub, space):
    before = quota(space)
    names = kubectl("get", "configmap", "-n", hub.namespace, "-o", "name").split()
    (name,) = (each for each in names if "/institution-objects" in each)
    told = json.loads(kubectl("get", name, "-n", hub.namespace, "-o", "json"))
    text = told["data"]["institution.yaml"]
    assert 'pods: "40"' in text
    changed = {"institution.yaml": text.replace('pods: "40"', 'pods: "41"')}
    kubectl("patch", name, "-n", hub.namespace, "--type=merge", "-p", json.dumps({"data": changed}))
    kill_the_service(hub)  # a pod that starts reads the file at once
    wait_until(lambda: quota(space)["spec"]["hard"]["pods"] == "41", "the quota is changed", 60)
    after = quota(space)
    assert after["spec"]["hard"] == before["spec"]["hard"] | {"pods": "41"}
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_what_somebody_took_away_is_there_again_after_a_restart(hub, space, mark):
    kubectl("delete", "-n", space, "networkpolicy", "nobody")
    kill_the_service(hub)
    wait_until(lambda: inside(space, mark) == WHOLE, "the policy is there again", 60)


def test_its_users_have_notebooks_and_runs_there(hub, admin, space):
    roles = {"roles": ["researcher"]}
    path = f"/catalog/institutions/{KEY}/users/eva"
    assert admin.service("PUT", path, json=roles).status_code == 200
    eva = Asking(hub).by_password("eva")
    eva.start("eva")
    said = in_a_notebook(
        space,
        "eva",
        "import os; print(os.environ['FLAUTIM_LAB_INSTITUTION'], os.path.exists('/data'))",
    )
    assert said.split() == [KEY, "False"]
    kubectl("exec", "-n", space, "jupyter-eva", "-i", "--", "sh", "-c", "cat > run.py", input=RUN)
    said = kubectl("exec", "-n", space, "jupyter-eva", "--", "python", "run.py")
    assert said.split()[-1] == "finished"
    eva.close()


def as_the_service(hub, *arguments, **options):
    """What the API server answers to the service's account: (refused, why)."""
    account = f"--as=system:serviceaccount:{hub.namespace}:service"
    done = subprocess.run(
        ["kubectl", account, *arguments], capture_output=True, text=True, **options
    )
    return done.returncode, done.stderr


def binding(space, role, of, kind="ClusterRole", account="service"):
    subject = {"kind": "ServiceAccount", "name": account, "namespace": of}
    return json.dumps(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": f"x-{secrets.token_hex(3)}", "namespace": space},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [subject],
        }
    )


def test_the_service_has_no_way_out_of_its_own_namespaces(hub, space, mark):
    def create(told):
        return as_the_service(hub, "create", "-f", "-", input=told)

    runs = f"fl-{mark}-runs"
    # What it may; else all that follows would be refused for another reason.
    assert create(binding(space, runs, hub.namespace))[0] == 0
    for elsewhere in ("kube-system", "default", hub.namespace, hub.institution):
        status, why = create(binding(elsewhere, runs, hub.namespace))
        assert status
        assert "the service may do that in namespaces that it made only" in why
    status, why = create(binding(space, runs, "default"))
    assert status
    assert "let nobody into its namespaces but the hub and itself" in why
    for role in ("cluster-admin", "edit", "admin"):
        status, why = create(binding(space, role, hub.namespace))
        assert status
        assert "attempting to grant RBAC permissions not currently held" in why
    for elsewhere in (hub.namespace, hub.institution):
        status, why = as_the_service(hub, "delete", "namespace", elsewhere, "--wait=false")
        assert status
        assert "the service may make and remove its own namespaces only" in why
        assert there(elsewhere)["metadata"].get("deletionTimestamp") is None
    for name, labels in (
        ("fl-mine", {"flautim-lab/made-by": hub.namespace}),
        (f"{space}-2", {}),
        (f"{space}-2", {"flautim-lab/made-by": hub.namespace, "flautim-lab/institution": "x"}),
    ):
        told = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        told["metadata"]["labels"] = labels
        status, why = create(json.dumps(told))
        assert status
        assert "namespace" in why
        assert there(name) is None

    def set_quota(elsewhere):
        """Try it, and leave it; kubectl's own patch would have to read it first."""
        told = quota(elsewhere)
        metadata = {"name": "institution", "namespace": elsewhere}
        body = {each: told[each] for each in ("apiVersion", "kind", "spec")} | {
            "metadata": metadata
        }
        how = ("--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
        return as_the_service(hub, "apply", *how, input=json.dumps(body))

    assert set_quota(space)[0] == 0
    status, why = set_quota(hub.institution)
    assert status
    assert "the service may do that in namespaces that it made only" in why
    for what in ("secrets", "pods", "configmaps"):
        status, why = as_the_service(hub, "get", what, "-n", "kube-system")
        assert status
        assert "forbidden" in why


def test_it_goes_when_nothing_is_in_it_and_not_before(hub, admin, space):
    def remove_it():
        return admin.service("DELETE", f"/catalog/institutions/{KEY}")

    refused = remove_it()
    assert refused.status_code == 409
    assert "pod jupyter-eva" in refused.json()["detail"]
    admin.stop("eva")
    wait_until(lambda: "pod" not in remove_it().json()["detail"], "the pods are gone", 60)
    assert "volume home-eva" in remove_it().json()["detail"]
    assert there(space)["status"]["phase"] == "Active"
    kubectl("delete", "pvc", "-n", space, "home-eva")
    wait_until(lambda: remove_it().status_code == 200, "nothing is in it", 60)
    wait_until(lambda: there(space) is None, "the namespace is gone", 120)


def test_the_log_tells_of_it_once_and_of_no_fault(hub):
    said = kubectl("logs", "-n", hub.namespace, "deployment/service")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    mine = [each for each in lines if each["logger"] == "flautim_lab.service.keeper"]
    assert {each["level"] for each in mine} == {"INFO"}, mine
    assert sum("is removed: no institution has it" in each["message"] for each in mine) == 1
