"""Values as source: an expression that makes the value again, readable by a person."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import inspect
import logging
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

# A longer value is data, which has no place in source.
MAX_CHARACTERS = 20_000

Mention = Callable[[Any], str]


class CannotKeepError(Exception):
    """A value has no source; the text says what it is ("a DataFrame")."""


def expression(value: Any, mention: Mention) -> str:
    """Return an expression that makes ``value`` again.

    Parameters
    ----------
    value : object
        Numbers, text, None; lists, tuples, dicts and sets of such; dtypes, devices, paths, regular
        expressions, loggers, enum members, dataclass instances, partials, generic types, and torch
        modules without weights such as a loss function.
    mention : callable
        Gives the expression for a class, function or module, and sees that it is imported.

    Raises
    ------
    CannotKeepError
        If the value is something else (a tensor, a DataFrame, an open file), or too long.
    """
    try:
        text = _expression(value, mention)
    except RecursionError:
        raise CannotKeepError(f"{a(value)} that holds itself") from None
    if len(text) > MAX_CHARACTERS:
        raise CannotKeepError(f"{a(value)} of {len(text)} characters")
    return text


def a(value: object) -> str:
    """Return the type's name with its article: ``"a DataFrame"``, ``"an Adam"``."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def is_definable(value: object) -> bool:
    """Whether ``value`` is a class or function, which has source (or a home to import it from)."""
    if isinstance(value, types.MethodType):
        return isinstance(value.__self__, type)
    if isinstance(value, types.GenericAlias):  # list[int] calls itself a type
        return False
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return True
    return isinstance(inspect.unwrap(value), types.FunctionType) if callable(value) else False


def _expression(value: Any, mention: Mention) -> str:
    kind = type(value)
    if value is None or value is Ellipsis or kind in (bool, int, str, bytes):
        return repr(value)
    if kind in (float, complex):
        return _number(value)
    if kind in (list, tuple, dict, set, frozenset):
        return _container(value, mention)
    if isinstance(value, types.ModuleType) or is_definable(value):
        return mention(value)
    if isinstance(value, PurePath):
        made_by = Path if isinstance(value, Path) else kind
        return f"{mention(made_by)}({str(value)!r})"
    if kind is range:
        return repr(value)
    if kind in (collections.OrderedDict, collections.Counter):
        return f"{mention(kind)}({_container(dict(value), mention)})"
    if isinstance(value, enum.Enum):
        if value.name in kind.__members__:
            return f"{mention(kind)}.{value.name}"
        return f"{mention(kind)}({_expression(value.value, mention)})"  # flags together
    if isinstance(value, re.Pattern):
        return f"{mention(re)}.compile({value.pattern!r}, {int(value.flags)})"
    if kind is logging.Logger:
        return f"{mention(logging)}.getLogger({value.name!r})"
    if kind is functools.partial:
        return _call(value.func, value.args, value.keywords, mention)
    if kind is types.SimpleNamespace:
        return _call(kind, (), vars(value), mention, partial=False)
    if dataclasses.is_dataclass(value):
        return _dataclass(value, mention)
    if {"torch", "numpy"} & {base.__module__.partition(".")[0] for base in kind.__mro__}:
        return _of_torch(value, mention)
    if kind is typing.TypeVar and value.__bound__ is None and not value.__constraints__:
        return f"{mention(typing)}.TypeVar({value.__name__!r})"
    if isinstance(value, types.GenericAlias | types.UnionType) or typing.get_origin(value):
        return _generic(value, mention)
    raise CannotKeepError(a(value))


def _number(value: Any) -> str:
    if isinstance(value, complex):
        return f"complex({_number(value.real)}, {_number(value.imag)})"
    return repr(value) if math.isfinite(value) else f"float({str(value)!r})"


def _container(value: Any, mention: Mention) -> str:
    if len(value) > MAX_CHARACTERS:
        raise CannotKeepError(f"{a(value)} of {len(value)} items")
    try:
        if isinstance(value, dict):
            pairs = [
                f"{_expression(k, mention)}: {_expression(v, mention)}" for k, v in value.items()
            ]
            return "{" + ", ".join(pairs) + "}"
        parts = [_expression(item, mention) for item in value]
    except CannotKeepError as inside:
        raise CannotKeepError(f"{a(value)} that holds {inside}") from None
    if isinstance(value, list):
        return f"[{', '.join(parts)}]"
    if isinstance(value, tuple):
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    parts.sort()  # a set has no order, and the same set must give the same source
    inner = "{" + ", ".join(parts) + "}" if parts else ""
    return f"frozenset({inner})" if isinstance(value, frozenset) else inner or "set()"


def _call(
    made_by: Any,
    args: Iterable[Any],
    keywords: Mapping[str, Any],
    mention: Mention,
    *,
    partial: bool = True,
) -> str:
    try:
        parts = [_expression(value, mention) for value in args]
        for key, value in keywords.items():
            text = _expression(value, mention)
            parts.append(f"{key}={text}" if key.isidentifier() else f"**{{{key!r}: {text}}}")
    except CannotKeepError as inside:
        raise CannotKeepError(f"a {made_by.__name__} made with {inside}") from None
    if partial:
        return f"{mention(functools.partial)}({', '.join([_expression(made_by, mention), *parts])})"
    return f"{mention(made_by)}({', '.join(parts)})"


def _dataclass(value: Any, mention: Mention) -> str:
    fields = dataclasses.fields(value)
    made = {field.name: getattr(value, field.name) for field in fields if field.init}
    if len(made) != len(fields) or set(vars(value)) - set(made):
        raise CannotKeepError(f"{a(value)} with attributes that its arguments do not give")
    return _call(type(value), (), made, mention, partial=False)


def _of_torch(value: Any, mention: Mention) -> str:
    # Imported here, where such a value shows that it is loaded: reading a bundle needs neither.
    import numpy as np
    import torch

    if isinstance(value, torch.Size):
        return f"{mention(torch)}.Size({list(value)})"
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        mention(torch)
        return repr(value)
    if isinstance(value, torch.device):
        return f"{mention(torch)}.device({str(value)!r})"
    if isinstance(value, np.dtype) and value.names is None:
        name = value.name if value.kind in "biufc" and value.isnative else value.str
        return f"{mention(np)}.dtype({name!r})"
    if isinstance(value, np.number | np.bool_):
        return f"{mention(np)}.{value.dtype.name}({_expression(value.item(), mention)})"
    if isinstance(value, torch.nn.Module):
        return _module(value, mention)
    raise CannotKeepError(a(value))


def _module(value: Any, mention: Mention) -> str:
    """Return the call that makes a module without weights again (``nn.CrossEntropyLoss()``)."""
    cls = type(value)
    refused = CannotKeepError(a(value))
    if cls.__module__.partition(".")[0] != "torch" or value.state_dict():
        raise refused
    given = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and hasattr(value, name):
            now = getattr(value, name)
            if type(now) is not type(parameter.default) or now != parameter.default:
                given[name] = now
    try:
        again = cls(**given)
        same = vars(again) == vars(value)
    except Exception:  # noqa: BLE001 (whatever it is, the module cannot be made this way)
        raise refused from None
    if not same:
        raise refused
    return _call(cls, (), given, mention, partial=False)


def _generic(value: Any, mention: Mention) -> str:
    origin, args = typing.get_origin(value), typing.get_args(value)
    parts = ["None" if arg is type(None) else _expression(arg, mention) for arg in args]
    if origin is types.UnionType or origin is typing.Union:
        return " | ".join(parts)
    if not isinstance(origin, type) or origin.__module__ == "collections.abc" or not parts:
        raise CannotKeepError(f"a type {value!r}")
    return f"{mention(origin)}[{', '.join(parts)}]"
