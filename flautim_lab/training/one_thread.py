"""One thread of torch's for each thread of ours: the numerics plan."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["by_one_thread", "one_thread"]

T = TypeVar("T")

_threads_lock = threading.Lock()


def one_thread() -> None:
    """Let torch use one thread for what the calling thread computes (the numerics plan).

    ``torch.set_num_threads`` sets the calling thread's number, and the number that threads made
    later begin with. The second is put back, so that the researcher's own threads keep theirs.
    """
    with _threads_lock:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        restore = threading.Thread(target=torch.set_num_threads, args=(before,))
        restore.start()
        restore.join()


def by_one_thread(function: Callable[[], T]) -> T:
    """Return what a function returns that is called in a thread of its own, of one torch thread.

    For small tensors several of torch's threads wait for each other longer than they compute, and
    on a busy machine a hundred times as long.
    """
    with ThreadPoolExecutor(1, "flautim-one", initializer=one_thread) as executor:
        return executor.submit(function).result()
