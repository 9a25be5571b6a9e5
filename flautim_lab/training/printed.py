"""What the clients' own code prints while it trains, kept for the run's log.

It still goes where it went: to the cell in a kernel, to its own log in a process or a pod. Only
what a client prints in its own thread is known to be its own.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

from flautim_lab.names import count

MOST_CHARACTERS = 4000  # of one answer of one client
FIRST_CHARACTERS = 1000  # of them from its beginning; the rest from its end

_own = threading.local()
_installing = threading.Lock()
_at_work = 0
#: Python 3.11's print() does not hold on to the stream that it writes to: one that is taken away
#: in the middle of another thread's print() must live on.
_kept: dict[str, _Copying] = {}


class Printed:
    """What was printed, no more than its beginning and its end."""

    def __init__(self) -> None:
        self._head = ""
        self._tail = ""
        self._left_out = 0

    def add(self, text: str) -> None:
        """Add what was written."""
        room = FIRST_CHARACTERS - len(self._head)
        self._head += text[:room]
        self._tail += text[room:] if room < len(text) else ""
        most = MOST_CHARACTERS - FIRST_CHARACTERS
        if len(self._tail) > 2 * most:  # not at every word
            self._shorten(most)

    def _shorten(self, most: int) -> None:
        self._left_out += max(0, len(self._tail) - most)
        self._tail = self._tail[-most:]

    @property
    def text(self) -> str:
        """What was printed, without the states that a progress bar has left behind."""
        self._shorten(MOST_CHARACTERS - FIRST_CHARACTERS)
        gap = f"\n[{count(self._left_out, 'character')} left out]\n" if self._left_out else ""
        lines = f"{self._head}{gap}{self._tail}".split("\n")
        return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines).strip("\n")


class _Copying:
    """A stream that also gives what a client's thread writes to that client's :class:`Printed`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write to the stream, and note it if it is a client's."""
        printed: Printed | None = getattr(_own, "printed", None)
        if printed is not None:
            printed.add(text)
        return int(self._stream.write(text) or 0)

    def writelines(self, lines: list[str]) -> None:
        """Write some lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def printed_here() -> Iterator[Printed]:
    """Note what this thread writes to ``sys.stdout`` and ``sys.stderr`` inside this context."""
    printed = Printed()
    before = getattr(_own, "printed", None)
    _install(+1)
    _own.printed = printed
    try:
        yield printed
    finally:
        _own.printed = before
        _install(-1)


def _install(change: int) -> None:
    """Put the copying streams in place while anybody needs them, and the own ones back then."""
    global _at_work
    with _installing:
        _at_work += change
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if _at_work and stream is not None and not isinstance(stream, _Copying):
                if name not in _kept or _kept[name]._stream is not stream:
                    _kept[name] = _Copying(stream)
                setattr(sys, name, _kept[name])
            elif not _at_work and isinstance(stream, _Copying):
                setattr(sys, name, stream._stream)
