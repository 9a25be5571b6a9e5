"""The lines of a ``%%chaos`` cell: one fault each, in the words of ``run.chaos``.

::

    %%chaos run
    kill server round=3 during=storing   # a comment
    pause client=2 seconds=5
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flautim_lab.errors import FlautimError, UsageError
from flautim_lab.names import choose

EXAMPLE = "kill server round=3 during=storing"


@dataclass(frozen=True)
class Line:
    """One line: ``chaos.<verb>(*targets, **settings)``."""

    number: int
    verb: str
    targets: tuple[str, ...]
    settings: dict[str, Any]

    def on(self, chaos: Any) -> str:
        """Do it, or plan it; returns what was done, in words."""
        try:
            return str(getattr(chaos, self.verb)(*self.targets, **self.settings))
        except FlautimError as error:
            raise UsageError(f"line {self.number}: {error}") from error


def read_lines(cell: str) -> list[Line]:
    """Return the faults of a cell, all of them checked as far as that needs no run.

    Raises
    ------
    UsageError
        Naming the first line that is none, what may be written there, or that there is no line.
    """
    lines = []
    for number, text in enumerate(cell.splitlines(), start=1):
        try:
            words = shlex.split(text, comments=True)
            if words:
                lines.append(_line(number, words))
        except (UsageError, ValueError) as error:
            raise UsageError(f"line {number}: {error}") from error
    if not lines:
        raise UsageError(f"the cell of %%chaos is empty; write one fault a line, such as {EXAMPLE}")
    return lines


def _line(number: int, words: list[str]) -> Line:
    verb = choose(words[0], _verbs(), "fault", UsageError)
    known = inspect.signature(_verbs()[verb]).parameters
    names = [name for name in known if known[name].kind is inspect.Parameter.KEYWORD_ONLY]
    targets, settings = [], {}
    for word in words[1:]:
        name, is_setting, value = word.partition("=")
        if is_setting:
            settings[choose(name, names, f"setting of {verb}", UsageError)] = _value(value)
        else:
            targets.append(word)
    return Line(number, verb, tuple(targets), settings)


def _verbs() -> dict[str, Callable[..., str]]:
    from flautim_lab.runners.chaos import Chaos

    return {"kill": Chaos.kill, "pause": Chaos.pause, "partition": Chaos.partition}


def _value(text: str) -> int | float | str:
    """Return a number where there is one; what it must be is for ``run.chaos`` to say."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
