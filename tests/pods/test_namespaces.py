"""Namespaces of institutions at a mock API server: made whole, and removed when empty."""

from __future__ import annotations

from pathlib import Path

import kmock
import pytest
from kubernetes.client import ApiException

from flautim_lab.errors import ClusterError, UsageError
from flautim_lab.pods.access import questions
from flautim_lab.pods.api import Api
from flautim_lab.pods.namespaces import (
    PERMISSIONS,
    check_claim,
    create_once,
    in_words,
    objects_of,
    read_objects,
)
from tests.pods.test_api import there

OBJECTS = Path(__file__).parents[2] / "k8s/components/namespaces/institution.yaml"
NAME = "flautim-of-usp"
WANTED = read_objects(OBJECTS)
WHOLE = [
    ("", "namespaces", NAME),
    (NAME, "limitranges", "pods"),
    (NAME, "networkpolicies", "nobody"),
    (NAME, "networkpolicies", "notebooks"),
    (NAME, "resourcequotas", "institution"),
    (NAME, "rolebindings", "flautim-lab-notebooks"),
    (NAME, "rolebindings", "flautim-lab-runs"),
]


@pytest.fixture
def namespaces(cluster):
    return Api().namespaces("flautim-hub")


def put(cluster, resource, name, space=NAME, **metadata):
    told = {"metadata": {"name": name, "namespace": space} | metadata}
    key = (kmock.resource(resource), space, name)
    cluster.call(lambda handler: handler.objects.__setitem__(key, told))


def test_one_is_made_with_all_that_it_has_and_a_second_time_changes_nothing(cluster, namespaces):
    for _ in range(2):
        namespaces.make(NAME, "usp", WANTED)
        assert there(cluster) == WHOLE
    assert namespaces.made() == {NAME: "usp"}
    labels = cluster.call(
        lambda handler: dict(
            handler.objects[(kmock.resource("v1/namespaces"), None, NAME)].raw["metadata"]["labels"]
        )
    )
    assert labels == {
        "flautim-lab/institution": "usp",
        "flautim-lab/made-by": "flautim-hub",
        "pod-security.kubernetes.io/enforce": "restricted",
    }


def test_what_a_turn_did_not_get_done_the_next_one_does(cluster, namespaces):
    pattern = f"post /apis/networking.k8s.io/v1/namespaces/{NAME}/networkpolicies"
    refuse = {"on": True}
    cluster.call(lambda handler: handler[pattern, lambda _: refuse["on"]] << 500)
    with pytest.raises(ClusterError, match=f"create NetworkPolicy nobody in {NAME}"):
        namespaces.make(NAME, "usp", WANTED)
    assert there(cluster) != WHOLE
    refuse["on"] = False
    namespaces.make(NAME, "usp", WANTED)
    assert there(cluster) == WHOLE


def spec(cluster, resource, name, space=NAME):
    key = (kmock.resource(resource), space, name)
    return cluster.call(lambda handler: dict(handler.objects[key].raw)["spec"])


def test_a_changed_quota_and_limit_reach_what_is_there_and_nothing_else_does(cluster, namespaces):
    namespaces.make(NAME, "usp", WANTED)
    less, limit, policy = (
        {"hard": {"pods": "4"}},
        {"limits": []},
        {"podSelector": {}, "policyTypes": ["Ingress"]},
    )
    changed = {"ResourceQuota": less, "LimitRange": limit, "NetworkPolicy": policy}
    wanted = [
        each | {"spec": changed[each["kind"]]} if each["kind"] in changed else each
        for each in WANTED
    ]
    namespaces.make(NAME, "usp", wanted)
    assert there(cluster) == WHOLE
    assert spec(cluster, "v1/resourcequotas", "institution") == less  # no bound of before is left
    assert spec(cluster, "v1/limitranges", "pods") == limit
    assert spec(cluster, "networking.k8s.io/v1/networkpolicies", "nobody") != policy
    wrong = [
        each | ({"spec": {"hard": 4}} if each["kind"] == "ResourceQuota" else {}) for each in WANTED
    ]
    with pytest.raises(UsageError, match="the ResourceQuota institution for flautim-of-usp is"):
        namespaces.make(NAME, "usp", wrong)
    refuse = f"patch /api/v1/namespaces/{NAME}/resourcequotas/institution"
    cluster.call(lambda handler: handler[refuse] << 403)
    with pytest.raises(ClusterError, match=f"change ResourceQuota institution in {NAME}"):
        namespaces.make(NAME, "usp", WANTED)


def test_an_institution_has_what_its_own_file_says_in_place_of_what_all_have(tmp_path):
    path = tmp_path / "institution.yaml"
    path.write_text(OBJECTS.read_text())
    quota = "{kind: ResourceQuota, metadata: {name: institution}, spec: {hard: {pods: '400'}}}"
    more = "{kind: LimitRange, metadata: {name: volumes}, spec: {limits: []}}"
    (tmp_path / "usp.yaml").write_text(f"{quota}\n---\n{more}\n")
    assert objects_of(path, "ufop") == WANTED
    mine = {each["metadata"]["name"]: each for each in objects_of(path, "usp")}
    assert mine["institution"]["spec"] == {"hard": {"pods": "400"}}
    assert set(mine) == {*(each["metadata"]["name"] for each in WANTED), "volumes"}
    (tmp_path / "usp.yaml").write_text("kind: [")
    with pytest.raises(UsageError, match=r"usp.yaml has no manifests"):
        objects_of(path, "usp")


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
}


def test_a_volume_for_data_keeps_its_namespace(cluster, namespaces):
    for _ in range(2):
        namespaces.make(NAME, "usp", [CLAIM, *WANTED])
        claim = (NAME, "persistentvolumeclaims", "data")
        assert set(there(cluster)) == {*WHOLE, claim}
    assert namespaces.remove(NAME) == ["volume data"]
    made = cluster.call(
        lambda handler: [
            each.resource.plural for each in handler if each.action and each.action.name == "CREATE"
        ]
    )
    assert made.index("rolebindings") < made.index("persistentvolumeclaims")


@pytest.mark.parametrize(
    ("answers", "made"),
    [([], True), ([403, 403], True), ([403, 409], False), ([409], False)],
)
def test_what_a_new_binding_allows_is_tried_again(answers, made):
    left = list(answers)

    def make():
        if left:
            raise ApiException(status=left.pop(0))

    assert create_once(make, (0.0, 0.0)) is made
    assert not left
    for pauses, refused in (((0.0,), [403, 403]), ((), [403]), ((0.0,), [500])):
        left = list(refused)
        with pytest.raises(ApiException):
            create_once(make, pauses)
        assert not left


def test_a_claim_that_no_namespace_gets_is_refused():
    check_claim(OBJECTS, WANTED, "")
    check_claim(OBJECTS, [CLAIM], "data")
    for told, there_is in ((WANTED, "no claim"), ([CLAIM], "data")):
        with pytest.raises(UsageError, match=f"the claim 'rows' of .* has {there_is}; write it"):
            check_claim(OBJECTS, told, "rows")


def test_a_namespace_that_is_somebody_elses_is_left_alone(cluster, namespaces):
    namespaces.make(NAME, "usp", WANTED)
    with pytest.raises(ClusterError, match="is there already and was not made for ufop"):
        namespaces.make(NAME, "ufop", WANTED)
    put(cluster, "v1/namespaces", "kube-system", None)
    with pytest.raises(ClusterError, match="the namespace kube-system is there already"):
        namespaces.make("kube-system", "usp", WANTED)
    with pytest.raises(ClusterError, match="kube-system was not made by the service, and stays"):
        namespaces.remove("kube-system")
    other = Api().namespaces("another-hub")
    assert other.made() == {}
    with pytest.raises(ClusterError, match="was not made by the service"):
        other.remove(NAME)
    assert ("", "namespaces", NAME) in there(cluster)


@pytest.mark.parametrize(
    ("resource", "what", "labels"),
    [
        ("v1/pods", "pod", {}),
        ("v1/persistentvolumeclaims", "volume", {}),
        ("batch/v1/jobs", "job", {}),
        ("v1/configmaps", "run", {"flautim-lab/run": "x"}),
    ],
)
def test_only_an_empty_one_is_removed(cluster, namespaces, resource, what, labels):
    namespaces.make(NAME, "usp", WANTED)
    put(cluster, resource, "x", labels=labels)
    put(cluster, "v1/configmaps", "kube-root-ca.crt")  # which every namespace has
    put(cluster, "v1/pods", "elsewhere", "other")
    assert namespaces.remove(NAME) == [f"{what} x"]
    assert ("", "namespaces", NAME) in there(cluster)
    key = (kmock.resource(resource), NAME, "x")
    cluster.call(lambda handler: handler.objects.__delitem__(key))
    assert namespaces.remove(NAME) == []
    assert ("", "namespaces", NAME) not in there(cluster)


def test_no_more_is_asked_for_than_the_roles_grant(cluster, namespaces):
    namespaces.made()
    for _ in range(2):
        namespaces.make(NAME, "usp", WANTED)
    namespaces.remove(NAME)
    verbs = {
        "FETCH": "get", "LIST": "list", "CREATE": "create", "UPDATE": "patch", "DELETE": "delete",
    }  # fmt: skip

    def look(handler):
        return {
            (each.resource.group or "", each.resource.plural, verbs[each.action.name])
            for each in handler
            if each.resource is not None and each.action is not None
        }

    asked = cluster.call(look)
    anywhere = set(questions(PERMISSIONS)) - {("rbac.authorization.k8s.io", "clusterroles", "bind")}
    assert anywhere <= asked <= anywhere | set(questions())  # the rest is the role of runs, there


def test_what_is_in_the_way_is_named_up_to_a_few():
    assert in_words(["pod a"]) == "pod a"
    assert in_words([f"pod {each}" for each in "abcde"]) == "pod a, pod b, pod c and 2 more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "has no manifests"),
        ("kind: [", "has no manifests"),
        ("- a", "has no manifests"),
        ("kind: RoleBinding", "has no manifests"),
        (
            "{kind: ClusterRole, metadata: {name: all}}",
            r"has a ClusterRole \(all\); .* may be given",
        ),
    ],
)
def test_a_file_that_has_something_else_is_refused(tmp_path, text, said):
    path = tmp_path / "institution.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_objects(path)
