"""The Zero to JupyterHub chart, for the tests that ask it: its folder, and helm, where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

VARIABLE = "FLAUTIM_LAB_Z2JH_CHART"
#: ``jupyterhub/`` of the chart's sources, or of ``helm pull --untar``.
CHART = os.environ.get(VARIABLE, "")
RELEASE = "jhub"
NO_CHART = "" if CHART else f"{VARIABLE} names no folder of the chart"
#: Why the chart cannot be rendered or installed here; "" where it can.
NO_HELM = NO_CHART or ("" if shutil.which("helm") else "helm is not installed")


def read(name: str) -> Any:
    """Read the chart's values, or their schema, which a package has as JSON alone."""
    path = Path(CHART) / name
    if not path.exists():
        path = path.with_suffix(".json")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def helm(*arguments: str) -> str:
    """Return what helm says; what goes wrong is shown by the test."""
    done = subprocess.run(["helm", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def rendered(namespace: str, *values: Path) -> list[dict[str, Any]]:
    """All objects of a release, without installing it; those of a namespace say which."""
    options = [word for each in values for word in ("--values", str(each))]
    text = helm("template", RELEASE, CHART, "--namespace", namespace, *options)
    found = [each for each in yaml.safe_load_all(text) if each]
    for each in found:
        if not each["kind"].startswith(("Cluster", "PriorityClass")):
            each["metadata"].setdefault("namespace", namespace)
    return found
