"""How many cores this process may use."""

from __future__ import annotations

import os

CORES_VARIABLE = "FLAUTIM_LAB_CORES"
"""How many cores of the machine are this process's share, where several jobs share it."""


def usable_cores() -> int:
    """Return how many cores this process may use: its share of them, if it was given one."""
    if hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    else:
        there = os.cpu_count() or 1
    share = os.environ.get(CORES_VARIABLE, "")
    return max(1, min(there, int(share))) if share.isdecimal() else there
