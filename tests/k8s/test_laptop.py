"""The manifests of a hub on a laptop: safe pods, no spare permission, no secret, one contract."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from kubespawner import KubeSpawner
from kubespawner.spawner import EventReflector, PodReflector

from flautim_lab.runners.cluster import IMAGE, IMAGE_VARIABLE
from flautim_lab.service import settings as service
from flautim_lab.service.places import PATH as PLACES
from hub_config import roles
from hub_config.institutions import read_institutions
from hub_config.settings import (
    NEEDED,
    PASSWORDS,
    SHORTEST_ADMIN_PASSWORD,
    SHORTEST_PASSWORD,
    Settings,
)
from tests.k8s.conftest import K8S
from tests.k8s.pod_security import problems

TOP = K8S.parent
INSTITUTIONS = K8S / "overlays/laptop/hub/institutions.json"


def of(objects, kind):
    return [each for each in objects if each["kind"] == kind]


def named(objects, kind):
    return {each["metadata"]["name"]: each for each in of(objects, kind)}


# --- pods ---------------------------------------------------------------------------------------


def test_every_pod_is_restricted_and_knows_its_limits(pods):
    assert set(pods) == {"hub", "proxy", "service"}
    for name, pod in pods.items():
        assert problems(pod.spec) == [], name
        assert pod.container["securityContext"]["readOnlyRootFilesystem"] is True, name
        for kind in ("requests", "limits"):
            assert set(pod.container["resources"][kind]) == {"cpu", "memory"}, name


def test_the_standard_of_the_tests_is_not_blind():
    open_pod = {
        "hostNetwork": True,
        "volumes": [{"name": "all", "hostPath": {"path": "/"}}],
        "containers": [{"name": "x", "securityContext": {"runAsUser": 0, "privileged": True}}],
    }
    assert len(problems(open_pod)) == 8


def test_the_namespaces_enforce_it(objects):
    spaces = named(objects, "Namespace")
    told = {each.namespace for each in read_institutions(INSTITUTIONS).values()}
    assert set(spaces) == {"flautim-hub"} | told
    for name, space in spaces.items():
        assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted", (
            name
        )


def test_only_hub_and_service_hold_a_credential_of_the_cluster(objects, pods):
    holding = {name for name, pod in pods.items() if pod.spec["automountServiceAccountToken"]}
    assert holding == {"hub", "service"}
    for name, pod in pods.items():
        assert pod.spec["serviceAccountName"] == name
        assert pod.spec["enableServiceLinks"] is False
    accounts = named(objects, "ServiceAccount")
    assert all(each["automountServiceAccountToken"] is False for each in accounts.values())
    assert set(accounts) == set(pods)


# --- permissions --------------------------------------------------------------------------------


def test_the_hub_may_do_what_kubespawner_calls_and_nothing_else(objects):
    """The names of the calls are KubeSpawner's; a part that the hub switches off is not counted."""
    reflected = {PodReflector: "pods", EventReflector: "events"}
    calls = {(kind, verb) for kind in reflected.values() for verb in ("list", "watch")}
    assert {cls.kind for cls in reflected} == set(reflected.values())
    for method, what in {
        "_make_create_pod_request": ("pods", "create"),
        "_make_delete_pod_request": ("pods", "delete"),
        "_make_create_pvc_request": ("persistentvolumeclaims", "create"),
    }.items():
        source = inspect.getsource(getattr(KubeSpawner, method))
        kind = {"pods": "pod", "persistentvolumeclaims": "persistent_volume_claim"}[what[0]]
        assert f"{what[1]}_namespaced_{kind}(" in source
        calls.add(what)
        if "read_namespaced_" in source:
            calls.add((what[0], "get"))
    role = named(objects, "Role")["flautim-lab-notebooks"]
    granted = {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == calls
    assert all(rule["apiGroups"] == [""] for rule in role["rules"])


def test_each_role_is_bound_once_to_the_one_who_needs_it(objects):
    assert not of(objects, "ClusterRole")
    assert not of(objects, "ClusterRoleBinding")
    assert set(named(objects, "Role")) == {"flautim-lab-notebooks", "flautim-lab-runs"}
    bound = {}
    for each in of(objects, "RoleBinding"):
        (subject,) = each["subjects"]
        assert each["roleRef"]["kind"] == "Role"
        assert subject["kind"] == "ServiceAccount"
        assert subject["namespace"] == "flautim-hub"
        bound[each["roleRef"]["name"]] = subject["name"]
    assert bound == {"flautim-lab-notebooks": "hub", "flautim-lab-runs": "service"}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_each_institution_has_its_own_of_everything(objects):
    for each in read_institutions(INSTITUTIONS).values():
        there = {
            (one["kind"], one["metadata"]["name"])
            for one in objects
            if one["metadata"].get("namespace") == each.namespace
        }
        assert {
            ("Role", "flautim-lab-notebooks"),
            ("Role", "flautim-lab-runs"),
            ("RoleBinding", "flautim-lab-notebooks"),
            ("RoleBinding", "flautim-lab-runs"),
            ("ResourceQuota", "institution"),
            ("LimitRange", "pods"),
            ("NetworkPolicy", "nobody"),
            ("NetworkPolicy", "notebooks"),
        } <= there
    hub = {one["kind"] for one in objects if one["metadata"].get("namespace") == "flautim-hub"}
    assert not {"Role", "RoleBinding"} & hub  # the hub may do nothing where it is itself


# --- secrets ------------------------------------------------------------------------------------


def test_no_secret_is_in_a_manifest():
    for path in [*K8S.rglob("*.yaml"), *K8S.rglob("*.json")]:
        text = path.read_text(encoding="utf-8")
        assert "kind: Secret\n" not in text, path
        assert not re.search(r"(?i)(password|token|secret)\w*\W{1,4}value:", text), path


def test_what_is_secret_comes_from_the_secret(pods, copy):
    told = (copy / "overlays/laptop/hub/secrets.env").read_text().splitlines()
    keys = {line.partition("=")[0] for line in told}
    used = set()
    for name, pod in pods.items():
        for variable, value in pod.env.items():
            if re.search("PASSWORD|TOKEN|SECRET", variable):
                assert isinstance(value, dict), f"{name} has {variable} in its manifest"
                used.add(value["secretKeyRef"]["key"])
    assert used == keys  # none is missing, and none is made that nobody reads


def test_secrets_are_made_once_and_only_the_owner_reads_them(tmp_path):
    shutil.copytree(K8S, tmp_path / "k8s", ignore=shutil.ignore_patterns("*.env"))
    script = tmp_path / "k8s/overlays/laptop/secrets.sh"
    file = tmp_path / "k8s/overlays/laptop/hub/secrets.env"

    def make():
        return subprocess.run([script], check=True, capture_output=True, text=True).stdout

    said = make()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secrets = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert len(secrets["login-password"]) >= SHORTEST_PASSWORD
    assert len(secrets["admin-password"]) >= SHORTEST_ADMIN_PASSWORD
    assert len(set(secrets.values())) == len(secrets)
    assert secrets.pop("login-password") in said
    assert not any(value in said for value in secrets.values())
    before = file.read_bytes()
    assert make() == said
    assert file.read_bytes() == before
    file.unlink()
    assert make() != said


@pytest.mark.skipif(not (TOP / ".git").exists(), reason="not a git repository")
def test_git_does_not_take_them():
    path = "k8s/overlays/laptop/hub/secrets.env"
    assert subprocess.run(["git", "check-ignore", "-q", path], cwd=TOP).returncode == 0


# --- the contract between hub, service and manifests --------------------------------------------


def test_hub_and_service_are_told_all_they_need(pods):
    assert {*NEEDED, *PASSWORDS} <= set(pods["hub"].env)
    assert set(service.NEEDED) <= set(pods["service"].env)
    for name in ("hub", "service"):
        path = Path(pods[name].env[service.INSTITUTIONS_VARIABLE])
        mounts = {each["mountPath"] for each in pods[name].container["volumeMounts"]}
        assert str(path.parent) in mounts
        assert path.name == INSTITUTIONS.name


def test_both_understand_the_list_of_institutions(monkeypatch):
    for name in service.NEEDED:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv(service.INSTITUTIONS_VARIABLE, str(INSTITUTIONS))
    assert service.Settings.of_environment().institutions == {
        key: each.namespace for key, each in read_institutions(INSTITUTIONS).items()
    }
    assert json.loads(INSTITUTIONS.read_text())["ufmg"]["users"] == ["ana", "bruno"]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_the_data_that_the_list_names_are_there(objects):
    claims = {
        (each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in of(objects, "PersistentVolumeClaim")
    }
    named_there = {
        (each.namespace, each.data)
        for each in read_institutions(INSTITUTIONS).values()
        if each.data
    }
    assert named_there == {("flautim-ufmg", "ufmg-data")}
    assert named_there <= claims


def test_addresses_and_ports(objects, pods):
    services = named(objects, "Service")
    for name, (pod, port, target) in {
        "hub": ("hub", 8081, "http"),
        "proxy": ("proxy", 80, "http"),
        "proxy-api": ("proxy", 8001, "api"),
        "service": ("service", 8080, "http"),
    }.items():
        spec = services[name]["spec"]
        (told,) = spec["ports"]
        assert (told["port"], told["targetPort"]) == (port, target)
        assert spec["selector"].items() <= pods[pod].labels.items()
        assert target in pods[pod].ports
    assert pods["service"].ports["http"] == service.Settings({}).port
    prefix = service.Settings({}).prefix
    assert pods["service"].env[service.PREFIX_VARIABLE].rstrip("/") == prefix
    assert pods["service"].container["readinessProbe"]["httpGet"]["path"] == f"{prefix}/ready"
    assert pods["service"].env["JUPYTERHUB_API_URL"] == "http://hub:8081/hub/api"
    assert roles.SERVICE == service.NAME
    assert f"{prefix}{PLACES}" == roles.PLACES
    text = (TOP / "hub_config/jupyterhub_config.py").read_text()
    for address in (
        'proxy-api.{settings.namespace}.svc:8001"',
        'hub.{settings.namespace}.svc:8081"',
        'service.{settings.namespace}.svc:8080"',
    ):
        assert address in text
    arguments = pods["proxy"].container["args"]
    assert "--default-target=http://hub:8081" in arguments
    assert f"--port={pods['proxy'].ports['http']}" in arguments
    assert f"--api-port={pods['proxy'].ports['api']}" in arguments


def test_policies_name_pods_and_ports_that_are_there(objects, pods):
    listening = {port for pod in pods.values() for port in pod.ports.values()}
    known = listening | {8888, 53, 443, 6443, 80}  # notebooks, names, the API server, the internet
    for policy in of(objects, "NetworkPolicy"):
        spec = policy["spec"]
        for rule in spec.get("ingress", []) + spec.get("egress", []):
            assert {each["port"] for each in rule["ports"]} <= known, policy["metadata"]["name"]
        selected = spec["podSelector"].get("matchLabels", {})
        if "app.kubernetes.io/name" in selected:
            assert selected["app.kubernetes.io/name"] in pods
        elif selected:
            label = KubeSpawner.component_label.default_value
            assert selected == {"component": label}


def test_one_version_of_each_image(pods):
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    images = {name: pod.container["image"] for name, pod in pods.items()}
    assert images == {
        "hub": f"flautim-lab-hub:{version}",
        "proxy": f"flautim-lab-hub:{version}",
        "service": f"flautim-lab-notebook:{version}",
    }
    assert pods["hub"].env["FLAUTIM_LAB_NOTEBOOK_IMAGE"] == images["service"]
    assert Settings.notebook_image == images["service"]
    assert pods["service"].env[IMAGE_VARIABLE] == IMAGE
    makefile = (TOP / "Makefile").read_text()
    for image in {*images.values(), IMAGE}:
        assert f"{image.partition(':')[0]}:" in makefile
    assert yaml.safe_load((K8S / "overlays/laptop/kustomization.yaml").read_text())["resources"]
