"""The hubs of ``k8s/overlays``, as ``kubectl apply -k`` would make them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.k8s.kustomize import build

K8S = Path(__file__).parents[2] / "k8s"
AT_THE_PROVIDER = os.environ | {"OIDC_CLIENT_SECRET": "what the provider gave the hub"}
WITH_PODS = ("Deployment", "StatefulSet", "Job", "CronJob")


@pytest.fixture(scope="session")
def copy(tmp_path_factory) -> Path:
    """A copy of ``k8s/`` with secrets of its own."""
    folder = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(K8S, folder, ignore=shutil.ignore_patterns("*.env"))
    for made in ("overlays/laptop", "overlays/production", "zero-to-jupyterhub"):
        script = folder / made / "secrets.sh"
        subprocess.run([script], check=True, stdout=subprocess.DEVNULL, env=AT_THE_PROVIDER)
    return folder


def by_kubectl(folder: Path) -> list[dict[str, Any]] | None:
    """All objects of an overlay as the real kustomize makes them; None where it is not."""
    if not (kubectl := shutil.which("kubectl")):
        return None
    command = [kubectl, "kustomize", str(folder)]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return list(yaml.safe_load_all(made))


@pytest.fixture(scope="session")
def objects(copy) -> list[dict[str, Any]]:
    """All objects of the laptop's overlay."""
    folder = copy / "overlays/laptop"
    return by_kubectl(folder) or build(folder)


@pytest.fixture(scope="session")
def production(copy) -> list[dict[str, Any]]:
    """All objects of the production overlay."""
    folder = copy / "overlays/production"
    return by_kubectl(folder) or build(folder)


@pytest.fixture(scope="session")
def beside_the_chart(copy) -> list[dict[str, Any]]:
    """All objects that stand beside a release of the Zero to JupyterHub chart."""
    folder = copy / "zero-to-jupyterhub"
    return by_kubectl(folder) or build(folder)


def template(each: dict[str, Any]) -> dict[str, Any]:
    """The template of the pods of an object that makes some."""
    spec = each["spec"]["jobTemplate"]["spec"] if each["kind"] == "CronJob" else each["spec"]
    return spec["template"]


def pods_of(objects: list[dict[str, Any]]) -> dict[str, SimpleNamespace]:
    """The pods that a hub has, by the name of what makes them."""
    found = {}
    for each in objects:
        if each["kind"] not in WITH_PODS:
            continue
        made = template(each)
        (container,) = made["spec"]["containers"]
        env = {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
        found[each["metadata"]["name"]] = SimpleNamespace(
            spec=made["spec"],
            labels=made["metadata"]["labels"],
            container=container,
            env=env,
            ports={one["name"]: one["containerPort"] for one in container.get("ports", [])},
        )
    return found


@pytest.fixture(scope="session")
def pods(objects) -> dict[str, SimpleNamespace]:
    """The pods of the laptop's hub, by name."""
    return pods_of(objects)
