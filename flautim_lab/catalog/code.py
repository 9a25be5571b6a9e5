"""The code of a saved experiment, as it will be in the bundle of its run: nothing is imported."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.things import DatasetVersion, ExperimentVersion, ModelVersion
from flautim_lab.errors import ExperimentError
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.code import Code

MODEL_FILE = "model.py"


def code_of(net: ModelVersion, settings: Mapping[str, Any], data: Sequence[DatasetVersion]) -> Code:
    """Return the code of an experiment of a model's version, settings and datasets' versions.

    :func:`~flautim_lab.catalog.loading.assemble` makes the same of them, as a test compares.
    """
    values = {name: value for name, value in settings.items() if name != "on"}
    values["dataset"] = dataset = _dataset(data, values.pop("dataset_args", None) or {})
    if values.get("clients") is None:  # then there is one for each
        values["clients"] = len(data)
    values["task"] = values.get("task") or dataset["task"]
    bundle = Bundle({MODEL_FILE: net.source}, {"model": f"{MODEL_FILE}:{net.class_name}"})
    return Code.of_bundle(bundle, values)


def _dataset(data: Sequence[DatasetVersion], options: Any) -> dict[str, Any]:
    """Return datasets as the settings of their run say them."""
    from flautim_lab.catalog.at_home import at_home, is_on_volume  # it imports torch

    if len(data) > 1 or is_on_volume(data[0]):
        # Those that cannot be used so are refused when the experiment is made, and no run's code
        # is like theirs.
        with contextlib.suppress(ExperimentError, TypeError, ValueError):
            return {"kind": "csv", **at_home(data, options).settings()}
    return {
        "kind": "file",  # of this machine, whose path is no part of the code either
        "datasets": [each.ref.partition("@")[0] for each in data],
        "task": None,
        "dataset_args": options,
    }


def saved_code(version: ExperimentVersion, catalog: Catalog) -> Code:
    """Return the code of a saved experiment."""
    data = [catalog.dataset(each).latest for each in version.datasets]
    return code_of(catalog.model(version.model), version.settings, data)
