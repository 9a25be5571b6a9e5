from __future__ import annotations

import time

import pytest

from flautim_lab.records.event import ALL_CLIENTS, Event, RunRecord, RunStatus, log_line

NOON = time.mktime((2026, 11, 21, 21, 5, 12, 0, 0, -1))


def test_only_waiting_and_running_have_not_ended() -> None:
    assert [status for status in RunStatus if not status.ended] == ["waiting", "running"]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            Event(1, NOON, "failure", round=3, client=2, text="loss is nan"),
            "2026-11-21 21:05:12 round 3 client 2 ERROR loss is nan",
        ),
        (
            Event(1, NOON, "log", round=3, client=0, name="warning", text="Olá"),
            "2026-11-21 21:05:12 round 3 client 0 WARNING Olá",
        ),
        (
            Event(1, NOON, "log", round=3, client=ALL_CLIENTS, name="info", text="averaged"),
            "2026-11-21 21:05:12 round 3 INFO averaged",
        ),
        (Event(1, NOON, "log", text="begins"), "2026-11-21 21:05:12 INFO begins"),
        (Event(1, NOON, "log", text=""), "2026-11-21 21:05:12 INFO"),
        (
            Event(1, NOON, "failure", client=1, text="Traceback:\n  line 1\nValueError: no\n"),
            "2026-11-21 21:05:12 client 1 ERROR Traceback:\n      line 1\n    ValueError: no",
        ),
        (Event(1, NOON, "status", name="finished"), "2026-11-21 21:05:12 FINISHED"),
    ],
)
def test_a_line_for_a_person_to_read(event: Event, line: str) -> None:
    assert log_line(event) == line


def record(started: float | None, finished: float | None) -> RunRecord:
    return RunRecord(
        id="r1",
        name="iris",
        runner="local",
        status=RunStatus.RUNNING,
        message="",
        rounds=5,
        round=0,
        clients=2,
        created=90.0,
        started=started,
        finished=finished,
        settings={},
        plan={},
        host="here",
        pid=1,
    )


def test_how_long_a_run_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 130.0)
    assert record(None, None).seconds == 0.0
    assert record(100.0, None).seconds == 30.0
    assert record(100.0, 112.5).seconds == 12.5
    assert record(200.0, None).seconds == 0.0  # the clock was set back
