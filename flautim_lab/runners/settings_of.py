"""The settings of a run as one flat table, for people and tools that compare runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

APART = frozenset({"client_names", "client_rows", "kernel", "unbundled"})
"""What the records keep beside the settings."""
TOLD = frozenset({"format", "dataset", "model", "class", "partition", "strategy", "name"})
"""Entries of ``experiment.json`` that the records tell in shorter words."""

PLAN_VERSIONS = ("torch", "numpy", "flwr")
"""Entries of a numerics plan that are versions."""


def settings_of(run: Run) -> dict[str, Any]:
    """Return what the experiment of a run was set to.

    Returns
    -------
    dict
        Name to a plain value; ``strategy_args.proximal_mu`` for one that is inside another.
    """
    settings = {k: v for k, v in run.record.settings.items() if k not in APART}
    kept = experiment_json(run)
    settings |= {k: v for k, v in kept.items() if k not in TOLD and k not in settings}
    return dict(_flat(settings))


def client_names(run: Run) -> dict[int, str]:
    """Return the names of a run's clients by their numbers, as far as they are known."""
    return dict(enumerate(map(str, run.record.settings.get("client_names") or ())))


def experiment_json(run: Run) -> dict[str, Any]:
    """Return the settings as they lie beside the run's source; empty where they were not kept."""
    path = run.folder / "experiment" / "experiment.json"
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
