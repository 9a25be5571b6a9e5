"""How far a batch is, as people read it."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest

from flautim_lab.runners.rerun.batch import Entry
from flautim_lab.runners.rerun.folder import Task
from flautim_lab.runners.rerun.progress import Progress
from flautim_lab.runners.rerun.schedule import Going


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def going(number: int, label: str, **told: int) -> Going:
    each = Going(Task(Path("a.ipynb"), number, {}, label, "a.ipynb"), 1, time.time())
    each.hear({"process": 1})
    if told:
        each.hear({"cell": 3, "cells": 9, **told})
    return each


def test_bars_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(5, 1, 2, shown=True)
    first, second = going(2, "lr=1"), going(3, "lr=2" * 20)
    second.attempt = 2
    progress.watch([first, second])
    second.hear({"cell": 4, "cells": 9, "run": "r1", "round": 5, "rounds": 10})
    first.hear({"cell": 4, "cells": 9})
    progress.watch([first, second])
    progress.ended(Entry(2, {}, "lr=1", "", {"status": "failed", "error": "why", "seconds": 61}))
    progress.watch([second])
    progress.close()
    text = sys.stderr.getvalue()
    assert "1 of 5 points" in text
    assert "starts" in text
    assert "cell 4 of 9" in text
    assert "round 5 of 10, attempt 2" in text
    assert "lr=2lr=2lr=2" in text
    assert "2 of 5: lr=1: failed in 00:01:01: why" in text
    assert "2 of 5 points" in text.splitlines()[-1]
    assert second.share == 0.5
    assert second.runs == ["r1"]


def test_a_line_a_point_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = Progress(2, 0, 1, shown=True)
    progress.watch([going(1, "lr=1", round=1, rounds=2)])
    progress.ended(Entry(1, {}, "lr=1", "", {"status": "finished", "seconds": 2.2}))
    progress.close()
    assert sys.stderr.getvalue() == "1 of 2: lr=1: finished in 00:00:02\n"


def test_nothing_where_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(2, 0, 1, shown=False)
    progress.watch([going(1, "lr=1")])
    progress.ended(Entry(1, {}, "lr=1", "", {"status": "finished"}))
    progress.close()
    assert sys.stderr.getvalue() == ""
