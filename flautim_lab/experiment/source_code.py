"""Classes and functions in memory: their code, and whether a text is what they were made from."""

from __future__ import annotations
import __future__

import ast
import functools
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from types import CodeType, FunctionType
from typing import Any

FUTURE_ANNOTATIONS = __future__.annotations.compiler_flag


def own_codes(obj: Any) -> Iterator[CodeType]:
    """Yield the code objects typed in the definition of ``obj``, not generated or put in later."""
    if not isinstance(obj, type):
        function = inspect.unwrap(getattr(obj, "__func__", obj))
        if isinstance(function, FunctionType):
            yield function.__code__
        return
    for function in class_functions(obj).values():
        # Only the code's own name tells: dataclasses rename the functions that they generate.
        if function.__code__.co_qualname.startswith(obj.__qualname__ + "."):
            yield function.__code__


def class_functions(cls: type) -> dict[str, FunctionType]:
    """Return the functions among the attributes of ``cls``, those inside decorators included."""
    found = {}
    for name, value in vars(cls).items():
        for inner in ("fget", "func", "__func__"):
            value = getattr(value, inner, None) or value
        if callable(value) and not isinstance(value, type):
            function = inspect.unwrap(value)
            if isinstance(function, FunctionType):
                found[name] = function
        elif isinstance(value, type) and value.__qualname__ == f"{cls.__qualname__}.{name}":
            found |= {f"{name}.{key}": inner for key, inner in class_functions(value).items()}
    return found


def namespace_of(obj: Any) -> Mapping[str, Any]:
    """Return the globals in which ``obj`` was defined."""
    if isinstance(obj, type):
        for function in class_functions(obj).values():
            if function.__code__.co_qualname.startswith(obj.__qualname__ + "."):
                return function.__globals__
    else:
        function = inspect.unwrap(getattr(obj, "__func__", obj))
        if isinstance(function, FunctionType):
            return function.__globals__
    return vars(sys.modules.get(obj.__module__ or "", sys.modules["__main__"]))


def agrees(obj: Any, text: str) -> bool:
    """Whether ``text`` compiles to the code that ``obj`` has in memory."""
    return all(
        any(_same_code(code, other) for other in codes_in(text, code.co_flags & FUTURE_ANNOTATIONS))
        for code in own_codes(obj)
    )


def may_be_stale(code: CodeType, namespace: Mapping[str, Any]) -> bool:
    """Whether the text may have changed since: a file, as opposed to a cell.

    pytest compiles test modules in a way of its own; there the code never agrees.
    """
    loader = type(namespace.get("__loader__"))
    written = loader is SourceFileLoader or namespace.get("__name__") == "__main__"
    return written and os.path.exists(code.co_filename)


@functools.lru_cache(maxsize=64)
def codes_in(text: str, flags: int) -> Sequence[CodeType]:
    """Return all code that ``text`` compiles to, inner functions and classes included."""
    try:
        flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(text, "<source>", "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError):
        return ()
    return tuple(inner_codes(code))


def inner_codes(code: CodeType) -> Iterator[CodeType]:
    """Yield ``code`` and all code inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from inner_codes(constant)


def _same_code(one: CodeType, other: CodeType) -> bool:
    names = ("co_qualname", "co_code", "co_names", "co_varnames", "co_freevars", "co_argcount")
    return (
        all(getattr(one, name) == getattr(other, name) for name in names)
        and len(one.co_consts) == len(other.co_consts)
        and all(map(_same_constant, one.co_consts, other.co_consts))
    )


def _same_constant(one: object, other: object) -> bool:
    if isinstance(one, CodeType) and isinstance(other, CodeType):
        return _same_code(one, other)
    return one == other if isinstance(one, frozenset) else repr(one) == repr(other)


def same_constants(cls: Any, node: ast.AST) -> bool:
    """Whether the constants that ``node``, a class without methods, sets are those of ``cls``."""
    for statement in getattr(node, "body", ()):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            names = [x.id for x in statement.targets if isinstance(x, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Constant):
            names = [statement.target.id] if isinstance(statement.target, ast.Name) else []
        else:
            continue
        for name in names:
            now = vars(cls).get(name, statement.value.value)
            if type(now) is type(statement.value.value) and now != statement.value.value:
                return False
    return True
