from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from flautim_lab.records.event import ALL_CLIENTS, Event, RunStatus
from flautim_lab.records.store import Records


@pytest.fixture
def records(home: Path) -> Records:
    made = Records()
    made.create_run("r1", name="iris", runner="local", rounds=5, clients=2, settings={}, plan={})
    return made


def used(seq: int, round_number: int, process: str, name: str, value: float, client: int) -> Event:
    return Event(seq, 0.0, "resource", round_number, client, process, name, value)


def test_the_table_of_resources_counts_a_round_that_was_done_again_once(records: Records) -> None:
    rows = [
        (2, "server", "cpu_seconds", 0.5, ALL_CLIENTS),
        (1, "server", "cpu_seconds", 0.25, ALL_CLIENTS),
        (1, "client-0", "training_seconds", 1.0, 3),
        (1, "client-0", "training_seconds", 2.0, ALL_CLIENTS),
        (2, "server", "cpu_seconds", 7.0, ALL_CLIENTS),  # round 2 was done again
    ]
    records.append("r1", [used(n, *row) for n, row in enumerate(rows, start=1)])
    records.append("r1", [Event(99, 0.0, "metric", 1, 0, "train", "loss", 3.0)])
    expected = pd.DataFrame(
        {
            "round": [1, 1, 1, 2],
            "process": pd.Series(["client-0", "client-0", "server", "server"], dtype="str"),
            "client": pd.array([None, 3, None, None], dtype="Int64"),
            "resource": pd.Series(
                ["training_seconds", "training_seconds", "cpu_seconds", "cpu_seconds"], dtype="str"
            ),
            "value": [2.0, 1.0, 0.25, 0.5],
        }
    )
    pd.testing.assert_frame_equal(records.resources("r1"), expected)


def test_a_run_without_any_has_empty_tables(records: Records) -> None:
    assert list(records.resources("r1").columns) == [
        "round",
        "process",
        "client",
        "resource",
        "value",
    ]
    assert len(records.resources("r1")) == 0
    assert list(records.faults("r1").columns) == [
        "time",
        "round",
        "target",
        "what",
        "recovery_seconds",
    ]
    assert len(records.faults("r1")) == 0


def test_the_table_of_faults_counts_from_the_start_of_the_run(records: Records) -> None:
    records.set_status("r1", RunStatus.RUNNING)
    started = records.run("r1").started
    assert started is not None
    records.append(
        "r1",
        [
            Event(1, started + 4.0, "fault", 2, name="server", text="killed"),
            Event(2, started + 8.0, "fault", 3, name="watch", text="killed"),
            Event(3, started + 5.5, "recovery", 2, name="server", value=1.5),
        ],
    )
    frame = records.faults("r1")
    assert frame["time"].tolist() == pytest.approx([4.0, 8.0])
    assert frame["round"].tolist() == [2, 3]
    assert frame["target"].tolist() == ["server", "watch"]
    assert frame["what"].tolist() == ["killed", "killed"]
    assert frame["recovery_seconds"][0] == 1.5
    assert math.isnan(frame["recovery_seconds"][1])
