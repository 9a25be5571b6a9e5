"""The component by which the service makes namespaces: what it may, and what each of them has."""

from __future__ import annotations

import re

import yaml

from flautim_lab.pods.access import questions
from flautim_lab.pods.namespaces import (
    CLAIM,
    INSTITUTION_LABEL,
    MADE_LABEL,
    PERMISSIONS,
    STANDARD,
    read_objects,
)
from flautim_lab.service import settings as service
from hub_config import institutions
from tests.k8s.conftest import K8S, pods_of
from tests.k8s.kustomize import build

COMPONENT = K8S / "components/namespaces"
PREFIX = "flautim-of-"


def documents(path):
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def by_name(objects):
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def triples(role):
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


ROLES = by_name(documents(COMPONENT / "roles.yaml"))
OBJECTS = by_name(documents(COMPONENT / "institution.yaml"))
BASE = by_name(build(K8S / "base/institution"))


def test_the_service_may_what_its_code_asks_for_and_bind_two_roles():
    role = ROLES["ClusterRole", "flautim-lab-namespaces"]
    assert triples(role) == set(questions(PERMISSIONS))
    (bind,) = (rule for rule in role["rules"] if "bind" in rule["verbs"])
    assert bind["resourceNames"] == ["flautim-lab-notebooks", "flautim-lab-runs"]
    assert bind["verbs"] == ["bind"]
    (binding,) = (each for (kind, _), each in ROLES.items() if kind == "ClusterRoleBinding")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "service", "namespace": "flautim-hub"}
    ]


def test_what_is_bound_is_what_is_bound_in_an_institution_of_the_list():
    for name in ("flautim-lab-notebooks", "flautim-lab-runs"):
        assert triples(ROLES["ClusterRole", name]) == triples(BASE["Role", name])
        listed, made = BASE["RoleBinding", name], OBJECTS["RoleBinding", name]
        assert made["subjects"] == listed["subjects"]
        assert made["roleRef"] == listed["roleRef"] | {"kind": "ClusterRole"}


def test_a_namespace_that_is_made_has_what_one_of_the_list_has():
    policies = {key: each["spec"] for key, each in BASE.items() if key[0] == "NetworkPolicy"}
    assert policies == {
        key: each["spec"] for key, each in OBJECTS.items() if key[0] == "NetworkPolicy"
    }
    quota = by_name(documents(K8S / "overlays/laptop/ufmg/quota.yaml"))
    assert {key: each["spec"] for key, each in quota.items()} == {
        key: each["spec"] for key, each in OBJECTS.items() if key in quota
    }
    assert set(OBJECTS) == {*policies, *quota, *((k, n) for k, n in BASE if k == "RoleBinding")}


def test_hub_service_and_guard_mean_the_same_namespaces(copy):
    file = copy / "overlays/laptop/hub/kustomization.yaml"
    told = file.read_text()
    file.write_text(told.replace("# - ../../../components", "- ../../../components"))
    try:
        objects = build(copy / "overlays/laptop")
    finally:
        file.write_text(told)
    pods = pods_of(objects)
    for name in ("hub", "service"):
        assert pods[name].env[service.NAMESPACES_VARIABLE] == PREFIX
    assert service.PREFIX.pattern == institutions.PREFIX.pattern
    assert service.PREFIX.fullmatch(PREFIX)
    env, (mount,) = (
        pods["service"].env,
        [
            each
            for each in pods["service"].container["volumeMounts"]
            if "namesp" in each["mountPath"]
        ],
    )
    assert env[service.OBJECTS_VARIABLE] == f"{mount['mountPath']}/institution.yaml"
    assert env[service.OWN_VARIABLE] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    guard = (COMPONENT / "guard.yaml").read_text(encoding="utf-8")
    assert f'startsWith("{PREFIX}")' in guard
    assert guard.count(f'"{MADE_LABEL}"] == "flautim-hub"') == 2
    assert f'"{INSTITUTION_LABEL}" in variables.labels' in guard
    for label, value in STANDARD.items():
        assert f'variables.labels["{label}"] == "{value}"' in guard
    # Each policy is in force, and each kind that the ClusterRole lets be made is looked at.
    policies = documents(COMPONENT / "guard.yaml")
    bound = {each["spec"]["policyName"] for each in policies if each["kind"].endswith("Binding")}
    assert bound == {each["metadata"]["name"] for each in policies if "validations" in each["spec"]}
    guarded = {
        (resource, operation.lower())
        for each in policies
        for rule in each["spec"].get("matchConstraints", {}).get("resourceRules", [])
        for resource in rule["resources"]
        for operation in rule["operations"]
    }
    # A patch is an update to whoever admits it.
    operations = {"create": "create", "patch": "update", "update": "update", "delete": "delete"}
    writes = {
        (each.resource, operations[verb]) for each in PERMISSIONS for verb in each.verbs
        if verb in operations
    }  # fmt: skip
    assert writes <= guarded


def test_with_the_marks_away_hub_and_service_know_the_volume_for_data(copy):
    overlay = copy / "overlays/laptop/hub/kustomization.yaml"
    changed = {
        overlay: overlay.read_text().replace("# - ../../../components", "- ../../../components")
    }
    for name in ("hub-and-service.yaml", "institution.yaml"):
        path = copy / "components/namespaces" / name
        head, mark, rest = path.read_text().partition("# - name" if "hub" in name else "# apiV")
        changed[path] = head + re.sub(r"(?m)^( *)# ", r"\1", mark + rest)
    before = {path: path.read_text() for path in changed}
    try:
        for path, text in changed.items():
            path.write_text(text)
        objects = build(copy / "overlays/laptop")
        told = read_objects(copy / "components/namespaces/institution.yaml")
    finally:
        for path, text in before.items():
            path.write_text(text)
    pods = pods_of(objects)
    names = {pods[name].env[service.DATA_VARIABLE] for name in ("hub", "service")}
    assert names == {each["metadata"]["name"] for each in told if each["kind"] == CLAIM}
    assert len(names) == 1


def test_without_the_component_the_service_may_nothing_of_it(objects, production):
    for each in (objects, production):
        assert not {one["kind"] for one in each} & {
            "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy",
        }  # fmt: skip
        assert service.NAMESPACES_VARIABLE not in pods_of(each)["service"].env
