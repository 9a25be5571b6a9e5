"""The code of a saved experiment, as it will be in the bundle of its run: nothing is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flautim_lab.catalog.things import ModelVersion
from flautim_lab.experiment.code import Code, guards_in

MODEL_FILE = "model.py"


def code_of(net: ModelVersion, settings: Mapping[str, Any]) -> Code:
    """Return the code of an experiment that is made of a model's version and settings.

    :func:`~flautim_lab.catalog.loading.assemble` makes the same of them, as a test compares.
    """
    return Code(
        {MODEL_FILE: net.source},
        {"model": f"{MODEL_FILE}:{net.class_name}"},
        guards_in(settings),
    )
