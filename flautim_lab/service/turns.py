"""One after the other: what one user asks for, or what is done to one run; never all of a hub's.

What waits for a slow cluster keeps its own user waiting, and nobody else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakValueDictionary


class Turns:
    """Locks by name, each for as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._making = threading.Lock()

    @contextmanager
    def of(self, *names: str) -> Iterator[None]:
        """Hold the locks of these names while inside, taken in this order.

        A user's before a run's, everywhere: so no two wait for each other.
        """
        with ExitStack() as held:
            for name in names:
                with self._making:
                    lock = self._locks.setdefault(name, threading.Lock())
                held.enter_context(lock)
            yield
