"""The last and the best values of a point."""

from __future__ import annotations

import math

import pytest

from flautim_lab.records.event import RunStatus
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
from flautim_lab.runners.measures import (
    bundle_of,
    end_detached,
    lower_is_better,
    measure,
    number,
    run_that_counts,
)


def make_run(run_id: str, values: list[float], *, centralized: bool = False, **more) -> Records:
    records = Records.default()
    records.create_run(
        run_id, name="x", runner=more.pop("runner", "local"), rounds=len(values), clients=1,
        settings={"centralized": centralized}, plan={}, **more,
    )  # fmt: skip
    recorder = Recorder(records, run_id)
    for place, value in enumerate(values, start=1):
        recorder.metric(place, 0, "validation", "loss", -5.0)
        recorder.metric(place, -1, "validation", "loss", value)
        recorder.metric(place, -1, "validation", "accuracy", value)
        recorder.metric(place, -1, "train", "loss", math.nan)
    recorder.close()
    return records


@pytest.mark.parametrize(
    ("name", "lower"),
    [("loss", True), ("val_mae", True), ("accuracy", False), ("template", False), ("rmse", True)],
)
def test_which_way_is_better(name: str, lower: bool) -> None:
    assert lower_is_better(name) is lower


def test_the_last_and_the_best_of_all_clients() -> None:
    records = make_run("r1", [0.5, math.nan, 0.2, 0.4])
    found = measure(records, "r1")
    assert list(found) == ["validation_loss", "validation_accuracy", "train_loss"]
    assert found["validation_loss"] == {"final": 0.4, "best": 0.2, "best_round": 3}
    assert found["validation_accuracy"] == {"final": 0.4, "best": 0.5, "best_round": 1}
    assert math.isnan(found["train_loss"]["best"])
    assert bundle_of(records, "r1") == ""


def test_the_run_that_counts_is_no_baseline() -> None:
    make_run("r1", [1.0])
    make_run("r2", [1.0])
    records = make_run("r3", [1.0], centralized=True)
    assert run_that_counts(records, ["r1", "r2", "r3"]).id == "r2"
    assert run_that_counts(records, ["r3"]).id == "r3"
    assert run_that_counts(records, ["gone"]) is None


def test_a_run_that_would_go_on_by_itself_is_asked_to_stop() -> None:
    make_run("r1", [1.0])
    make_run("r2", [1.0], runner="processes", detached=True)
    records = make_run("r3", [1.0], runner="processes", detached=True)
    records.set_status("r3", RunStatus.FINISHED)
    end_detached(records, ["r1", "r2", "r3", "gone"])
    assert [records.stop_requested(run) for run in ("r1", "r2", "r3")] == [False, True, False]


def test_what_json_cannot_hold_is_nan() -> None:
    assert math.isnan(number(None))
    assert number(3) == 3.0
