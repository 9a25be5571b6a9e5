"""The laptop's hub, as ``kubectl apply -k`` would make it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"


@pytest.fixture(scope="session")
def copy(tmp_path_factory) -> Path:
    """A copy of ``k8s/`` with secrets of its own."""
    folder = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(K8S, folder, ignore=shutil.ignore_patterns("secrets.env"))
    subprocess.run([folder / "overlays/laptop/secrets.sh"], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def objects(copy) -> list[dict[str, Any]]:
    """All objects of the laptop's overlay: by kustomize where kubectl is, else from the files."""
    if kubectl := shutil.which("kubectl"):
        made = subprocess.run(
            [kubectl, "kustomize", copy / "overlays/laptop"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        return list(yaml.safe_load_all(made))
    found = []
    for path in sorted(copy.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            found += yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="session")
def pods(objects) -> dict[str, SimpleNamespace]:
    """The pods of the Deployments, by name."""
    found = {}
    for each in objects:
        if each["kind"] == "Deployment":
            spec = each["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            env = {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
            found[each["metadata"]["name"]] = SimpleNamespace(
                spec=spec,
                labels=each["spec"]["template"]["metadata"]["labels"],
                container=container,
                env=env,
                ports={one["name"]: one["containerPort"] for one in container["ports"]},
            )
    return found
