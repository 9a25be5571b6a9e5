"""A copy of a model, as ``copy.deepcopy`` makes it, without most of its time.

Every client of every round trains a copy. A module holds some thirty attributes, most of them empty
dicts of hooks, and ``deepcopy`` asks each of them how it wants to be copied: for a small network
that is a tenth of a client's training.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

# Nobody can change one of these, so that the copy may hold the original's.
_ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_CONTAINERS = (dict, OrderedDict, set, list)
_COPYING = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__new__")


def copy_model(model: Module) -> Module:
    """Return a deep copy of a model: tied weights stay tied, a shared module shared.

    A module that says itself how it is copied gets its way.

    Raises
    ------
    Exception
        Whatever ``copy.deepcopy`` raises for what the model holds.
    """
    return _copied(model, {})


def _copied(module: Module, memo: dict[int, Any]) -> Module:
    if id(module) in memo:
        return memo[id(module)]  # type: ignore[no-any-return]
    kind = type(module)
    if not _is_plain(kind):
        return copy.deepcopy(module, memo)
    made = memo[id(module)] = kind.__new__(kind)
    attributes: dict[str, Any] = {}
    for name, value in vars(module).items():
        if type(value) in _ATOMS:
            attributes[name] = value
        elif type(value) in _CONTAINERS and not value:
            attributes[name] = memo[id(value)] = type(value)()
        elif name == "_modules":
            attributes[name] = type(value)(
                (key, None if child is None else _copied(child, memo))
                for key, child in value.items()
            )
        else:
            attributes[name] = copy.deepcopy(value, memo)
    made.__dict__.update(attributes)
    return made


_plain: dict[type, bool] = {}


def _is_plain(kind: type) -> bool:
    """Return whether ``deepcopy`` would copy a module of this class attribute by attribute."""
    if kind not in _plain:
        own = [base for base in kind.__mro__ if base not in (object, nn.Module)]
        _plain[kind] = (
            not any(name in vars(base) for base in own for name in _COPYING)
            and not any(vars(base).get("__slots__") for base in own)
            # torch's own only give defaults to attributes that old files lack.
            and all(
                "__setstate__" not in vars(base) or base.__module__.startswith("torch.nn.")
                for base in own
            )
        )
    return _plain[kind]
