"""The code of a saved experiment, as it will be in the bundle of its run: nothing is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.things import ExperimentVersion, ModelVersion
from flautim_lab.experiment.code import Code, guards_in

MODEL_FILE = "model.py"


def code_of(net: ModelVersion, settings: Mapping[str, Any], datasets: int = 1) -> Code:
    """Return the code of an experiment of a model's version, settings and so many datasets.

    :func:`~flautim_lab.catalog.loading.assemble` makes the same of them, as a test compares.
    """
    if settings.get("clients") is None:  # then there is one for each
        settings = {**settings, "clients": datasets}
    return Code(
        {MODEL_FILE: net.source},
        {"model": f"{MODEL_FILE}:{net.class_name}"},
        guards_in(settings),
    )


def saved_code(version: ExperimentVersion, catalog: Catalog) -> Code:
    """Return the code of a saved experiment."""
    return code_of(catalog.model(version.model), version.settings, len(version.datasets))
