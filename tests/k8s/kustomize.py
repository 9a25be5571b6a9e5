"""As much of kustomize as ``k8s/`` uses, for machines without kubectl.

Names of what is generated get no hash. ``test_production.py`` compares it with the real one.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

KNOWN = {
    "apiVersion", "kind", "namespace", "resources", "components", "patches", "labels",
    "configMapGenerator", "secretGenerator", "generatorOptions",
}  # fmt: skip
EVERYWHERE = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
NAMED_LISTS = {"containers", "initContainers", "env", "volumes", "volumeMounts", "ports"}


def build(folder: Path, given: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Return the objects of a kustomization; a component's go with those that are given."""
    told = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert set(told) <= KNOWN, set(told) - KNOWN
    objects = [*given]
    for name in told.get("resources", []):
        objects += build(folder / name) if (folder / name).is_dir() else _read(folder / name)
    objects += [
        _generated("ConfigMap", each, folder) for each in told.get("configMapGenerator", [])
    ]
    objects += [_generated("Secret", each, folder) for each in told.get("secretGenerator", [])]
    for name in told.get("components", []):
        objects = build(folder / name, objects)
    for patch in told.get("patches", []):
        for one in _read(folder / patch["path"]):
            (target,) = (each for each in objects if _key(each) == _key(one))
            _merge(target, one)
    for pairs in told.get("labels", []):
        for each in objects:
            each["metadata"].setdefault("labels", {}).update(pairs["pairs"])
    if "namespace" in told:
        for each in objects:
            if each["kind"] not in EVERYWHERE:
                each["metadata"]["namespace"] = told["namespace"]
    return objects


def _read(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def _key(one: dict[str, Any]) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def _generated(kind: str, told: dict[str, Any], folder: Path) -> dict[str, Any]:
    data = {Path(name).name: (folder / name).read_text() for name in told.get("files", [])}
    for name in told.get("envs", []):
        lines = (folder / name).read_text().splitlines()
        data |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    if kind == "Secret":
        data = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": told["name"]}, "data": data}
    return made | ({"type": "Opaque"} if kind == "Secret" else {})


def _merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        elif key in NAMED_LISTS and key in target:
            there = {each["name"]: each for each in target[key]}
            for each in value:
                if each["name"] in there:
                    _merge(there[each["name"]], each)
                else:
                    target[key].append(each)
        else:
            target[key] = value
