"""Who changes something while it computes: found in code, and by looking before and after."""

from __future__ import annotations

import dis
import random
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flautim_lab.experiment.draws import own_methods

__all__ = ["keeps_something", "state_beside_weights"]

_STORES = ("STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL")
_MAKING = ("__init__", "__new__", "__setstate__", "extra_repr")
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
_TENSORS = ("_parameters", "_buffers", "_modules")
_DEPTH = 3  # of lists in lists that are looked at


def keeps_something(kinds: Iterable[type]) -> str | None:
    """Return the first method of the researcher's own that sets an attribute or a global.

    Not those that make the object.
    """
    for kind in kinds:
        for function in own_methods(kind):
            if not isinstance(function, FunctionType) or function.__name__ in _MAKING:
                continue
            if _stores(function.__code__):
                return function.__qualname__.rpartition("<locals>.")[2]
    return None


def _stores(code: CodeType) -> bool:
    inside = (part for part in code.co_consts if isinstance(part, CodeType))
    return any(step.opname in _STORES for step in dis.get_instructions(code)) or any(
        _stores(part) for part in inside
    )


def state_beside_weights(model: nn.Module) -> list[Any]:
    """Return what the modules keep beside their weights, such that a change can be seen.

    A generator of random numbers is a state of its own each time: nobody may know what it draws.
    """
    return [
        (path, name, _seen(value, _DEPTH))
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in _TENSORS
    ]


def _seen(value: Any, depth: int) -> Any:
    if isinstance(value, _GENERATORS):
        return object()
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return value
    if depth and isinstance(value, dict):
        return [(id(key), _seen(part, depth - 1)) for key, part in value.items()]
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [_seen(part, depth - 1) for part in value]
    return id(value)
