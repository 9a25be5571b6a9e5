"""Checks of single settings: each returns the value or raises one sentence."""

from __future__ import annotations

import inspect
import math
import numbers
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flautim_lab.errors import ExperimentError
from flautim_lab.names import MAX_NAME_LENGTH, choose

# Those of torch.optim that step without a closure and take dense gradients.
OPTIMIZERS = (
    "SGD",
    "Adam",
    "AdamW",
    "Adadelta",
    "Adagrad",
    "Adamax",
    "ASGD",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
)
DEVICES = ("auto", "cpu", "cuda")
ENGINES = ("auto", "loop", "cohort")


def whole(value: Any, name: str, at_least: int = 1, why: str = "") -> int:
    """Return ``value`` as an int of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ExperimentError(f"{name} must be a whole number, not {value!r}")
    if value < at_least:
        raise ExperimentError(f"{name} must be at least {at_least}, not {value}{why}")
    return int(value)


def positive(value: Any, name: str) -> float:
    """Return ``value`` as a finite float greater than 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ExperimentError(f"{name} must be a number, not {value!r}")
    if not math.isfinite(value):
        raise ExperimentError(f"{name} must be a finite number, not {value}")
    if value <= 0:
        raise ExperimentError(f"{name} must be greater than 0, not {value}")
    return float(value)


def share(value: Any, name: str) -> float:
    """Return ``value`` as a float of at least 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ExperimentError(f"{name} must be a number, not {value!r}")
    if not 0 <= float(value) < 1:
        raise ExperimentError(f"{name} must be at least 0 and below 1, not {value}")
    return float(value)


def arguments(value: Any, name: str) -> dict[str, Any]:
    """Return ``value`` as a dict with text keys."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ExperimentError(f"{name} must be a dict like {{'name': value}}, not {value!r}")
    return {key: _plain_number(part) for key, part in value.items()}


def _plain_number(value: Any) -> Any:
    """Return a number of NumPy as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def optimizer(given: Any, args: Mapping[str, Any], lr: float) -> str:
    """Return the name of an optimizer of ``torch.optim``, checked by making one.

    ``given`` is its name, or the class itself (``torch.optim.Adam`` is ``"Adam"``).
    """
    name = given
    if isinstance(given, type):
        name = given.__name__
        if getattr(torch.optim, name, None) is not given:
            raise ExperimentError(
                f"the optimizer {name} is a class of your own; override make_optimizer(self, "
                f"model) to use it, or choose one of: {', '.join(OPTIMIZERS)}"
            )
    choose(name, OPTIMIZERS, "optimizer")
    maker = getattr(torch.optim, name)
    allowed = [key for key in inspect.signature(maker).parameters if key not in ("params", "lr")]
    for key in args:
        choose(key, allowed, f"argument of {name}")
    try:
        maker([torch.nn.Parameter(torch.zeros(1))], lr=lr, **args)
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"{name} refuses its arguments {dict(args)!r}: {error}") from error
    return str(name)


def as_name(text: str) -> str:
    """Return ``text`` with a dash for each character that a name may not have, cut to length."""
    dashed = "".join(
        "-" if c in "/\\" or unicodedata.category(c).startswith("C") else c
        for c in unicodedata.normalize("NFC", text)
    )
    return dashed[:MAX_NAME_LENGTH]


def device(name: Any) -> str:
    """Check the name of a device; ``auto`` stays as it is until the run."""
    choose(name, DEVICES, "device")
    if name == "cuda" and not torch.cuda.is_available():
        raise ExperimentError(
            "device 'cuda' was asked for and this machine has none; use device='auto' or 'cpu'"
        )
    return str(name)
