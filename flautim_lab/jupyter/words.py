"""The words behind a magic: which there are, and what was typed."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from typing import Any, TypeVar

from IPython.core.error import UsageError as IPythonUsageError
from IPython.core.magic_arguments import argument, magic_arguments

from flautim_lab.errors import UsageError
from flautim_lab.names import unknown

Method = TypeVar("Method", bound=Callable[..., object])
# IPython ships these without types.
word: Any = argument
_magic_arguments: Any = magic_arguments


def magic(register_as: Any, *arguments: Any, name: str | None = None) -> Callable[[Method], Method]:
    """Make a method a magic with arguments: IPython's three decorators in the order they need."""

    def decorate(method: Method) -> Method:
        for one in reversed(arguments):
            one(method)
        return _magic_arguments(name)(register_as(method))  # type: ignore[no-any-return]

    return decorate


def parse(magic: Any, line: str) -> argparse.Namespace:
    """Parse the words behind a magic.

    Raises
    ------
    UsageError
        In one sentence; nothing of argparse's usage lines is printed.
    """
    parser = magic.parser
    parser.allow_abbrev = False
    called = f"%{parser.prog}"
    help_hint = f"type {called}? for help"
    try:
        asked, rest = parser.parse_known_args(shlex.split(line))
    except (IPythonUsageError, argparse.ArgumentError, ValueError) as error:
        raise UsageError(f"{called}: {_reworded(str(error))}; {help_hint}") from error
    for extra in rest:
        if extra.startswith("-"):
            options = [o for action in parser._actions for o in action.option_strings]
            if not options:
                raise UsageError(f"{called} has no options, and so no {extra!r}; {help_hint}")
            raise UsageError(f"{called}: {unknown(extra.split('=')[0], options, 'option')}")
        raise UsageError(f"{called}: {extra!r} is one word too many; {help_hint}")
    return asked  # type: ignore[no-any-return]


def _reworded(message: str) -> str:
    """Return argparse's or shlex's message as the middle of a sentence."""
    missing = message.removeprefix("the following arguments are required: ")
    if missing != message:
        return f"{missing} is missing"
    message = message.removeprefix("argument ")
    return message[:1].lower() + message[1:]


def whole_number(text: str) -> int:
    """Return a number from 0 on, or raise what argparse makes a message of."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
