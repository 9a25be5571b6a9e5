"""How tests on a cluster wait: until something is so, and for how long at most."""

from __future__ import annotations

import time
from typing import Any

PATIENCE = 300  # seconds that a pod may take on a busy machine


def wait_until(condition: Any, what: str, seconds: float = PATIENCE) -> float:
    """Wait until something is so; returns how many seconds it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds, f"{what}: it did not happen in {seconds} s"
        time.sleep(0.2)
    return time.monotonic() - begin
