"""What is typed into a field for arguments, such as ``hidden=16, dropout=0.1``."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from flautim_lab.errors import UsageError
from flautim_lab.experiment.strategies import Argument
from flautim_lab.jupyter.panel.text import Text


def keywords(typed: str) -> dict[str, Any]:
    """Return arguments as they are written in a call.

    >>> keywords("hidden=16, layers=[8, 4]")
    {'hidden': 16, 'layers': [8, 4]}

    Raises
    ------
    UsageError
        If that is nothing that can be written in a call, or no plain values.
    """
    example = "write names and plain values, such as hidden=16, dropout=0.1"
    try:
        tree = ast.parse(f"f({typed}\n)", mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args:
            raise ValueError
        found = {word.arg: ast.literal_eval(word.value) for word in tree.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise UsageError(f"{typed!r} are no arguments; {example}") from None
    if None in found:
        raise UsageError(f"{typed!r} are no arguments; {example}")
    return {str(name): value for name, value in found.items()}


def as_typed(arguments: Mapping[str, Any]) -> str:
    """Return arguments as they are typed."""
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def number(typed: str, what: str, *, whole: bool = False) -> float | int | None:
    """Return a number that was typed, or None for nothing.

    Raises
    ------
    UsageError
        If it is none.
    """
    words = typed.strip()
    if not words:
        return None
    try:
        return int(words) if whole else float(words)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{what} must be {kind}, not {words!r}") from None


def hint(argument: Argument, text: Text) -> str:
    """Return what an argument of a strategy may be, for an empty field."""
    what = text.sentence(argument.check[1])
    if argument.whole:
        what = text("whole, {what}", what=what)
    if argument.default is not None:
        return f"{argument.default:g} ({what})"
    return what if argument.optional else text("{what}, needed", what=what)
