"""A process's share of the cores."""

from __future__ import annotations

import os

import pytest

from flautim_lab.training.cores import CORES_VARIABLE, usable_cores


def test_all_cores_unless_it_was_given_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CORES_VARIABLE, raising=False)
    there = len(os.sched_getaffinity(0))
    assert usable_cores() == there
    for share, used in (("1", 1), ("0", 1), ("9999", there), ("many", there)):
        monkeypatch.setenv(CORES_VARIABLE, share)
        assert usable_cores() == used
