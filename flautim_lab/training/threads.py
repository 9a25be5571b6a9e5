"""Threads that answer clients, each with one thread of torch."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from flautim_lab.training.one_thread import one_thread

__all__ = ["Threads"]


class Threads:
    """Daemon threads that answer clients.

    Not a ``ThreadPoolExecutor``: Python joins its threads at exit, so that a client that hangs
    would keep a script from ending, and a script that ends would make its run fail.
    """

    def __init__(self, number: int) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._threads = [
            threading.Thread(target=self._work, name=f"flautim-client-{n}", daemon=True)
            for n in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function called by the next thread that is free."""
        future: Future[Any] = Future()
        self._queue.put((future, functools.partial(function, *arguments)))
        return future

    def _work(self) -> None:
        one_thread()
        while (item := self._queue.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
                    future.set_exception(error)

    def close(self, seconds: float) -> int:
        """End the threads; returns how many are still busy after so many seconds."""
        for _ in self._threads:
            self._queue.put(None)
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))
        return sum(thread.is_alive() for thread in self._threads)
