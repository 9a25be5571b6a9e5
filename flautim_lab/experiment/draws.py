"""Who draws random numbers: found in the code of a model, a loss or a dataset, not by running it.

A batch need not come across a draw that depends on the data. What is found decides which streams
a run enters (``streams.py``), and what is refused since no stream can be put in its place.
"""

from __future__ import annotations

import dis
import functools
import inspect
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from flautim_lab.errors import ExperimentError
from flautim_lab.experiment.source_modules import is_installed

if TYPE_CHECKING:
    from flautim_lab.experiment.experiment import Experiment

__all__ = [
    "global_draw",
    "may_draw",
    "own_methods",
    "reads_global_random",
    "refuse_global_random",
]

_DRAWING = ("rand", "dropout", "bernoulli", "normal", "multinomial", "uniform", "exponential")

# The one generator behind the functions of each module, and those that are not its methods.
_GENERATORS: tuple[tuple[str, Any], ...] = (
    ("random", random._inst),
    ("numpy.random", np.random.mtrand._rand),
)
_FUNCTIONS: tuple[Any, ...] = (np.random.seed, np.random.ranf, np.random.sample)

_DEPTH = 4  # of objects inside a dataset: a list of transforms in a transform in a subset
_PARTS = 100  # of a list that are looked at: longer ones hold data


def may_draw(experiment: Experiment, model: nn.Module) -> bool:
    """Return whether code of the researcher's names a random function.

    A name in the code that could draw is enough to redirect all draws, which costs time and
    nothing else.
    """
    own: set[type] = {type(module) for module in model.modules()}
    own |= {type(experiment), type(experiment.dataset)}
    todo: list[Any] = [value for kind in own for value in own_methods(kind)]
    seen: set[Any] = set()
    while todo:
        function = todo.pop()
        code = getattr(function, "__code__", None)
        if code is None or code in seen:
            continue
        seen.add(code)
        names = set(code.co_names)
        if any(part in name.lower() for name in names for part in _DRAWING):
            return True
        known = getattr(function, "__globals__", {})
        todo += [inspect.unwrap(known[n]) for n in names if inspect.isfunction(known.get(n))]
    return False


def refuse_global_random(experiment: Experiment, model: nn.Module) -> None:
    """Refuse a model, a loss or a loop that names a function of ``random`` or ``numpy.random``.

    Those draw from one generator of the whole process. Clients are trained in several threads, so
    nothing could be put in its place that gives a client the same numbers twice.

    Raises
    ------
    ExperimentError
        Naming the function, what it calls, and what to use.
    """
    code: list[Any] = [] if isinstance(experiment.model, type) else [experiment.model]
    for kind in dict.fromkeys([type(experiment), *(type(module) for module in model.modules())]):
        code += own_methods(kind)
    found = global_draw(code)
    if found is not None:
        where, what = found
        raise ExperimentError(
            f"{where} uses {what}, whose numbers the whole process shares, so the run could not "
            "be repeated; use torch's own functions, such as torch.rand, torch.randn and "
            "torch.randperm, or a generator of your own from numpy.random.default_rng(seed)"
        )


def reads_global_random(dataset: Any) -> bool:
    """Return whether a dataset's code names a function of ``random`` or ``numpy.random``.

    Its transforms and the datasets inside it are looked at too, as far as they are its attributes.
    """
    return global_draw(_code_of(dataset, set(), _DEPTH)) is not None


def global_draw(code: Iterable[Any]) -> tuple[str, str] | None:
    """Return (function, what it uses) for the first that names a process-wide random function.

    Functions and classes of the researcher's own that are named are followed; those of installed
    packages are not.

    Examples
    --------
    >>> import random
    >>> global_draw([lambda: random.random()])
    ('<lambda>', 'random.random')
    >>> global_draw([lambda: random.Random(3).random()]) is None
    True
    """
    todo, seen = list(code), set()
    while todo:
        function = _unwrapped(todo.pop())
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        for value in _named(function.__code__, function.__globals__, _closure(function)):
            what = _global_name(value)
            if what is not None:
                return function.__qualname__.rpartition("<locals>.")[2], what
            if inspect.isclass(value) and _is_own(value):
                todo += own_methods(value)
            elif inspect.isfunction(value) and _is_own(value):
                todo.append(value)
    return None


def _named(code: CodeType, known: Mapping[str, Any], enclosed: Mapping[str, Any]) -> Iterator[Any]:
    """Give what the names in ``code`` stand for, attributes of modules included (``np.random.x``).

    Read from the instructions in their order, as if there were no jumps: names are what matters.
    """
    local = dict(enclosed)
    value = imported = fromlist = None
    for step in dis.get_instructions(code):
        name = step.argval
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = local.get(name, known.get(name))
        elif step.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF")):
            value = local.get(name) if isinstance(name, str) else None
        elif step.opname == "IMPORT_NAME":
            # ``import a.b`` gives a, ``from a.b import c`` gives b.
            path = name if fromlist else name.partition(".")[0]
            value = imported = sys.modules.get(path)
        elif step.opname == "IMPORT_FROM":
            value = getattr(imported, name, None)
            imported = value if isinstance(value, ModuleType) and not fromlist else imported
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            value = getattr(value, name, None) if isinstance(value, ModuleType) else None
        elif step.opname in ("STORE_FAST", "STORE_DEREF", "STORE_NAME"):
            if value is not None:
                local[name] = value
            value = None
        elif step.opname == "LOAD_CONST":
            fromlist = name
            value = None
        elif step.opname != "EXTENDED_ARG":
            value = None
        if value is not None:
            yield value
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _named(part, known, local)


def _global_name(value: Any) -> str | None:
    """Return ``numpy.random.rand`` for a function that draws from the process, else None."""
    if not callable(value):
        return None
    bound = getattr(value, "__self__", None)
    for module, generator in _GENERATORS:
        if bound is generator:
            return f"{module}.{value.__name__}"
    if any(value is function for function in _FUNCTIONS):
        return f"numpy.random.{value.__name__}"
    return None


def own_methods(kind: type) -> list[Any]:
    """Return the functions that a class of the researcher's own and its bases define."""
    own = ("torch.", "flautim_lab.")
    if kind.__module__.startswith(own):
        return []
    return [
        _unwrapped(value)
        for base in kind.__mro__
        if not base.__module__.startswith((*own, "builtins"))
        for value in vars(base).values()
        if callable(value) or isinstance(value, (property, staticmethod, classmethod))
    ]


def _unwrapped(value: Any) -> Any:
    """Return the plain function inside a method, a property, a partial or a decorator."""
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, (MethodType, staticmethod, classmethod)):
        value = value.__func__
    return inspect.unwrap(value) if callable(value) else value


def _closure(function: FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return found


def _is_own(value: Any) -> bool:
    module = sys.modules.get(value.__module__ or "")
    return module is None or not is_installed(module)


def _code_of(value: Any, seen: set[int], depth: int) -> Iterator[Any]:
    """Give the functions of an object of the researcher's own and of those it is made of."""
    if id(value) in seen or depth < 0:
        return
    seen.add(id(value))
    if isinstance(value, (FunctionType, MethodType, functools.partial)):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        parts = value.values() if isinstance(value, dict) else value
        for part, _ in zip(parts, range(_PARTS), strict=False):
            yield from _code_of(part, seen, depth)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, ModuleType)):
        if _is_own(type(value)):
            yield from own_methods(type(value))
        for part in vars(value).values():
            yield from _code_of(part, seen, depth - 1)
