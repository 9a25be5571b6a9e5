from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from flautim_lab.database import ROWS_AT_ONCE, insert_new
from flautim_lab.errors import RecordsError, RunNotFoundError
from flautim_lab.names import make_run_id
from flautim_lab.records.event import (
    ALL_CLIENTS,
    EVENT_KINDS,
    Event,
    MetricEvents,
    RunStatus,
    event_row,
    metric_rows,
)
from flautim_lab.records.store import Records


@pytest.fixture
def records(home: Path) -> Iterator[Records]:
    records = Records()
    yield records
    records.close()


def create(records: Records, run_id: str = "r1", *, name: str = "iris", **others: Any) -> str:
    options: dict[str, Any] = {
        "runner": "local",
        "rounds": 5,
        "clients": 3,
        "settings": {"lr": 0.1},
        "plan": {"engine": "loop"},
    }
    records.create_run(run_id, name=name, **(options | others))
    return run_id


def loss(seq: int, *, round: int = 1, client: int = 0, value: float = 0.5) -> Event:  # noqa: A002
    return Event(seq, 1.5, "metric", round, client, "train", "loss", value)


def refusal(error: type[RecordsError], call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(error) as refused:
        call(*arguments, **options)
    assert refused.value.__cause__ is None
    return str(refused.value)


# --- runs -----------------------------------------------------------------------------------


def test_a_new_run_waits(records: Records) -> None:
    create(records, "r1", name="Olá 实验", settings={"lr": math.inf}, plan={"engine": "loop"})
    run = records.run("r1")
    assert run.created > 0
    assert dataclasses.replace(run, created=0.0) == type(run)(
        id="r1",
        name="Olá 实验",
        runner="local",
        status=RunStatus.WAITING,
        message="",
        rounds=5,
        round=0,
        clients=3,
        created=0.0,
        started=None,
        finished=None,
        settings={"lr": math.inf},
        plan={"engine": "loop"},
        host=socket.gethostname(),
        pid=os.getpid(),
    )
    assert run.seconds == 0.0


def test_from_waiting_to_finished(records: Records) -> None:
    create(records)
    records.set_status("r1", RunStatus.RUNNING)
    run = records.run("r1")
    assert run.status is RunStatus.RUNNING
    assert run.started is not None
    assert run.finished is None
    records.set_round("r1", 4)
    assert records.run("r1").round == 4
    records.set_status("r1", "running")
    assert records.run("r1").started == run.started  # it started once
    records.set_status("r1", RunStatus.FAILED, message="the loss is not a number")
    run = records.run("r1")
    assert (run.status, run.message) == (RunStatus.FAILED, "the loss is not a number")
    assert run.finished is not None
    assert run.seconds == pytest.approx(run.finished - (run.started or 0))


def test_a_stop_is_asked_for_once_and_stays(records: Records) -> None:
    create(records)
    assert records.stop_requested("r1") is False
    records.request_stop("r1")
    records.request_stop("r1")
    assert records.stop_requested("r1") is True


def test_two_runs_cannot_have_one_id(records: Records) -> None:
    create(records, name="first")
    assert refusal(RecordsError, create, records, name="second") == (
        "there is a run 'r1' already; give the new one its own id"
    )
    assert records.run("r1").name == "first"


def test_what_is_no_json_is_one_sentence(records: Records) -> None:
    assert refusal(RecordsError, create, records, settings={"model": object}) == (
        "the settings of run 'r1' cannot be kept as JSON: "
        "Object of type type is not JSON serializable"
    )
    assert refusal(RecordsError, create, records, plan={"threads": {1}}) == (
        "the numerics plan of run 'r1' cannot be kept as JSON: "
        "Object of type set is not JSON serializable"
    )


def test_an_unknown_status_is_one_sentence(records: Records) -> None:
    create(records)
    choices = "choose one of: waiting, running, finished, failed, stopped, interrupted"
    assert refusal(RecordsError, records.set_status, "r1", "finish") == (
        f"no status named 'finish'; did you mean 'finished'? {choices}"
    )
    assert refusal(RecordsError, records.runs, status="ended") == (
        f"no status named 'ended'; {choices}"
    )


def test_every_call_for_a_run_that_is_not_there(records: Records) -> None:
    sentence = (
        f"no run named 'r2': there is none yet in {records.where}; "
        "start one with lab.run(experiment)"
    )
    calls = [
        lambda: records.run("r2"),
        lambda: records.append("r2", [loss(1)]),
        lambda: records.events("r2"),
        lambda: records.metrics("r2"),
        lambda: records.resources("r2"),
        lambda: records.faults("r2"),
        lambda: records.last_seq("r2"),
        lambda: records.set_status("r2", RunStatus.RUNNING),
        lambda: records.set_round("r2", 1),
        lambda: records.heartbeat("r2"),
        lambda: records.request_stop("r2"),
        lambda: records.stop_requested("r2"),
        lambda: records.find("r2"),
    ]
    assert {refusal(RunNotFoundError, call) for call in calls} == {sentence}


def test_the_runs_newest_first(records: Records) -> None:
    for number in range(4):
        create(records, f"r{number}")
    records.set_status("r1", RunStatus.FINISHED)
    records.set_status("r2", RunStatus.RUNNING)
    assert [run.id for run in records.runs()] == ["r3", "r2", "r1", "r0"]
    assert [run.id for run in records.runs(limit=2)] == ["r3", "r2"]
    assert [run.id for run in records.runs(status="waiting")] == ["r3", "r0"]
    assert [run.id for run in records.runs(status="waiting", limit=1)] == ["r3"]
    assert [run.id for run in records.runs(status=RunStatus.FINISHED)] == ["r1"]
    assert records.runs(status=RunStatus.INTERRUPTED) == []


# --- events ---------------------------------------------------------------------------------


def test_events_come_back_as_they_were(records: Records) -> None:
    create(records)
    written = [
        Event(1, 10.5, "status", name="running"),
        Event(2, 11.0, "metric", 1, 0, "train", "loss", 0.1 + 0.2),
        Event(3, 11.0, "metric", 1, ALL_CLIENTS, "train", "loss", math.inf),
        Event(4, 12.0, "log", 1, 2, name="warning", text="Olá\n实验 \U0001f680"),
        Event(5, 12.0, "failure", 1, 2, text="Traceback"),
        Event(6, 12.0, "resource", 1, 2, name="cpu_seconds", value=0.0),
        Event(7, 13.0, "round", 1),
    ]
    assert records.append("r1", written) == 7
    assert records.events("r1") == written
    assert records.events("r1", after=5) == written[5:]
    assert records.events("r1", after=7) == []
    assert records.events("r1", kinds=("log", "failure")) == written[3:5]
    assert records.events("r1", kinds=["metric"], after=2) == [written[2]]
    assert records.last_seq("r1") == 7


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 5e-324, -1.7976931348623157e308])
def test_special_values_survive(records: Records, value: float) -> None:
    create(records)
    records.append("r1", [loss(1, value=value), Event(2, 0.0, "resource", name="x", value=value)])
    for event in records.events("r1"):
        assert isinstance(event.value, float)
        assert np.array_equal(event.value, value, equal_nan=True)
    assert np.array_equal(records.metrics("r1")["value"], [value], equal_nan=True)


def test_no_value_is_not_nan(records: Records) -> None:
    create(records)
    records.append("r1", [Event(1, 0.0, "log", text="x"), Event(2, 0.0, "log", value=math.nan)])
    nothing, nan = records.events("r1")
    assert nothing.value is None
    assert nan.value is not None
    assert math.isnan(nan.value)


def test_numbers_of_numpy_are_numbers(records: Records) -> None:
    create(records)
    seq: Any = np.int64(1)
    client: Any = np.int32(2)
    value: Any = np.float32(0.5)
    assert records.append("r1", [loss(seq, client=client, value=value)]) == 1
    assert records.events("r1") == [loss(1, client=2, value=0.5)]


def test_text_that_no_database_stores_is_shown_escaped(records: Records) -> None:
    create(records)
    records.append("r1", [Event(1, 0.0, "log", text="file \udcff\0 end")])
    assert records.events("r1")[0].text == "file \\udcff\\x00 end"


def test_what_is_written_twice_is_stored_once(records: Records) -> None:
    create(records)
    assert records.append("r1", [loss(1), loss(2, client=1)]) == 2
    assert records.append("r1", [loss(1), loss(2, client=1), loss(3, client=2)]) == 1
    # The same metric by another number, as from a writer that began anew.
    assert records.append("r1", [loss(9, value=7.0), Event(10, 0.0, "log", text="x")]) == 1
    assert records.append("r1", [loss(11, client=4), loss(12, client=4, value=7.0)]) == 1
    assert [event.seq for event in records.events("r1")] == [1, 2, 3, 10, 11]
    assert records.metrics("r1")["value"].tolist() == [0.5] * 4
    # Only metrics have such a key: a line of a log may come twice.
    log = Event(20, 0.0, "log", text="x")
    assert records.append("r1", [log, log._replace(seq=21)]) == 2
    assert records.append("r1", []) == 0


def losses(seq: int, clients: int, *, round: int = 1) -> MetricEvents:  # noqa: A002
    values = [number / 8 for number in range(clients)]
    return MetricEvents(seq, 1.5, round, range(clients), "validation", "loss", values)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_many_are_stored_once_too_whoever_listens(
    home: Path, database: str, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue("new_database")() if database == "postgresql" else None
    records = Records(address)
    create(records)
    many, rest = losses(2, ROWS_AT_ONCE), losses(2, 3 * ROWS_AT_ONCE + 7)
    told: list[Event] = []
    assert records.append("r1", [Event(1, 0.0, "log", text="x"), many]) == ROWS_AT_ONCE + 1
    # Again, with others beside them; then once more, and somebody wants to know which were new.
    assert records.append("r1", [rest, Event(400, 0.0, "round", 1)]) == 2 * ROWS_AT_ONCE + 8
    with records.listened(lambda _run, events: told.extend(events)):
        assert records.append("r1", [rest, losses(500, 5, round=2)]) == 5
    assert told == list(losses(500, 5, round=2))
    found = records.events("r1")
    assert found == [
        Event(1, 0.0, "log", text="x"), *rest, Event(400, 0.0, "round", 1), *told
    ]  # fmt: skip
    assert found[9] == Event(10, 1.5, "metric", 1, 8, "validation", "loss", 1.0)
    assert records.run("r1").round == 1
    records.close()


def test_many_are_stored_as_each_of_them_would_be() -> None:
    values: Any = [0.5, math.nan, -math.inf, np.float32(0.1), np.float64("nan"), 2]
    many = MetricEvents(7, 1.5, 3, np.arange(6), "train", "f1 Olá \0", values)
    rows = metric_rows("r1", many)
    assert rows == [event_row("r1", event) for event in many]
    assert [type(each) for each in rows[3]] == [type(each) for each in event_row("r1", loss(1))]
    assert rows[1][8:] == (None, True, "")


def test_what_each_client_measured_can_be_left_out(records: Records) -> None:
    create(records)
    mean = Event(10, 1.5, "metric", 1, ALL_CLIENTS, "validation", "loss", 0.1)
    printed = Event(11, 1.5, "log", 1, 2, "validation", "print", text="x")
    records.append("r1", [loss(1), losses(2, 3), mean, printed])
    assert records.events("r1", each_validation=False) == [loss(1), mean, printed]


def test_runs_do_not_share_events(records: Records) -> None:
    create(records, "r1")
    create(records, "r2")
    assert records.append("r1", [loss(1, value=1.0)]) == 1
    assert records.append("r2", [loss(1, value=2.0)]) == 1
    assert records.events("r1") == [loss(1, value=1.0)]
    assert records.events("r2") == [loss(1, value=2.0)]


def test_a_finished_round_moves_the_run_forward_and_never_back(records: Records) -> None:
    create(records)
    records.append("r1", [Event(1, 0.0, "round", 1), Event(2, 0.0, "round", 2)])
    assert records.run("r1").round == 2
    records.append("r1", [Event(1, 0.0, "round", 1), loss(3, round=3)])
    assert records.run("r1").round == 2


def test_an_unknown_kind_is_one_sentence_and_nothing_is_stored(records: Records) -> None:
    create(records)
    sentence = (
        "no kind of event named 'metrics'; did you mean 'metric'? "
        "choose one of: status, metric, log, failure, round, resource, "
        "fault, recovery, wait"
    )
    events = [loss(1), Event(2, 0.0, "metrics")]
    assert refusal(RecordsError, records.append, "r1", events) == sentence
    assert refusal(RecordsError, records.events, "r1", kinds=["metrics"]) == sentence
    assert records.events("r1") == []


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    events=st.lists(
        st.builds(
            Event,
            seq=st.integers(1, 2**63 - 1),
            time=st.floats(0, 1e11),
            kind=st.sampled_from([kind for kind in EVENT_KINDS if kind != "metric"]),
            round=st.integers(0, 10**6),
            client=st.integers(ALL_CLIENTS, 10**6),
            split=st.sampled_from(["", "train", "validation"]),
            name=texts,
            value=st.none() | st.floats(allow_nan=False),
            text=texts,
        ),
        unique_by=lambda event: event.seq,
        max_size=8,
    )
)
def test_any_event_comes_back_once(records: Records, events: list[Event]) -> None:
    run_id = create(records, make_run_id("any"))
    assert records.append(run_id, events) == len(events)
    assert records.append(run_id, events) == 0
    assert records.events(run_id) == sorted(events, key=lambda event: event.seq)


# --- metrics --------------------------------------------------------------------------------


def test_the_table_of_metrics(records: Records) -> None:
    create(records)
    rows = [
        (2, 0, "train", "loss", 0.5),
        (1, 10, "train", "loss", 0.1),
        (1, 9, "train", "loss", math.nan),
        (1, ALL_CLIENTS, "train", "loss", 0.3),
        (1, ALL_CLIENTS, "validation", "accuracy", 0.7),
        (1, ALL_CLIENTS, "train", "Zeta", 1.0),
    ]
    records.append("r1", [Event(i, 0.0, "metric", *row) for i, row in enumerate(rows, start=1)])
    records.append("r1", [Event(99, 0.0, "resource", 1, 0, name="cpu_seconds", value=3.0)])
    frame = records.metrics("r1")
    expected = pd.DataFrame(
        {
            "round": np.array([1, 1, 1, 1, 1, 2], dtype=np.int64),
            "client": pd.array([None, None, 9, 10, None, 0], dtype="Int64"),
            "split": pd.Series(["train"] * 4 + ["validation", "train"], dtype="str"),
            "metric": pd.Series(["Zeta", "loss", "loss", "loss", "accuracy", "loss"], dtype="str"),
            "value": np.array([1.0, 0.3, math.nan, 0.1, 0.7, 0.5]),
        }
    )
    pd.testing.assert_frame_equal(frame, expected)


def test_a_run_without_metrics_has_the_same_columns(records: Records) -> None:
    create(records)
    empty = records.metrics("r1")
    records.append("r1", [loss(1)])
    full = records.metrics("r1")
    assert len(empty) == 0
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)


def test_many_metrics(records: Records) -> None:
    create(records)
    events = [
        loss(1 + round * 100 + client, round=round, client=client, value=round + client / 128)
        for round in range(1, 201)  # noqa: A001
        for client in range(100)
    ]
    assert records.append("r1", events) == 20_000
    frame = records.metrics("r1")
    assert len(frame) == 20_000
    assert frame["round"].is_monotonic_increasing
    exact = frame["round"] + frame["client"].astype("int64") / 128
    assert (frame["value"] == exact).all()


def test_reading_the_records_loads_neither_pandas_nor_torch() -> None:
    code = (
        "import sys\n"
        "from flautim_lab.records import artifacts, event, process, recorder, schema, store\n"
        "store.Records.default().runs()\n"
        "heavy = ('pandas', 'torch', 'safetensors', 'flwr')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


# --- folders --------------------------------------------------------------------------------


def test_the_folder_of_a_run_is_for_its_owner_alone(records: Records, home: Path) -> None:
    create(records, "实验-1")
    folder = records.folder("实验-1")
    assert folder == home / "runs" / "实验-1"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert records.folder("实验-1") == folder


@pytest.mark.parametrize(
    ("run_id", "sentence"),
    [
        (
            "../home",
            "the name '../home' of the run holds a slash; "
            "use letters, digits, spaces, '-', '_' and '.'",
        ),
        ("..", "the name '..' of the run is a folder; choose another"),
        ("", "the name of the run is empty; give it at least one letter"),
    ],
)
def test_an_id_never_leads_out_of_the_home(records: Records, run_id: str, sentence: str) -> None:
    assert refusal(RecordsError, records.folder, run_id) == sentence
    assert refusal(RecordsError, create, records, run_id) == sentence


# --- where the records are ------------------------------------------------------------------


def test_the_default_is_one_per_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Records.default()
    assert Records.default() is first
    assert first.where == str(tmp_path / "home" / "records.db")
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(tmp_path / "other"))
    second = Records.default()
    assert second.where == str(tmp_path / "other" / "records.db")
    create(first, "r1")  # it was closed, and opens again
    assert [run.id for run in first.runs()] == ["r1"]
    assert second.runs() == []


def test_the_address_of_the_environment_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAUTIM_LAB_RECORDS_URL", f"sqlite:///{tmp_path / 'mine.db'}")
    assert Records.default().where == str(tmp_path / "mine.db")
    assert Records().where == str(tmp_path / "mine.db")
    assert Records(f"sqlite:///{tmp_path / 'given.db'}").where == str(tmp_path / "given.db")
    assert Records().folder("r1") == tmp_path / "home" / "runs" / "r1"


def test_trouble_with_the_file_is_said_when_it_is_opened(home: Path) -> None:
    home.mkdir()
    (home / "records.db").write_text("notes " * 1000)
    assert refusal(RecordsError, Records.default) == (
        f"{home / 'records.db'} is damaged, or is not a database; move it away "
        "(a new one is made), or set FLAUTIM_LAB_HOME to a folder of its own"
    )


# --- PostgreSQL -----------------------------------------------------------------------------


def test_every_statement_is_one_of_postgresql_too(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[sa.ClauseElement] = []
    engine = records._database()._engine
    sa.event.listen(
        engine, "before_execute", lambda _c, statement, *_rest: statements.append(statement)
    )
    # SQLite understands PostgreSQL's ON CONFLICT DO NOTHING: what runs here would run there.
    monkeypatch.setattr(
        "flautim_lab.records.store.insert_new",
        lambda table, _dialect: insert_new(table, "postgresql"),
    )
    create(records)
    with records.listened(lambda *_told: None):
        assert records.append("r1", [loss(1), Event(2, 0.0, "round", 3)]) == 2
        assert records.append("r1", [loss(1)]) == 0
    records.set_status("r1", "running")
    records.set_round("r1", 2)
    records.heartbeat("r1")
    records.request_stop("r1")
    records.events("r1", after=1, kinds=["log"])
    records.last_seq("r1")
    records.metrics("r1")
    records.runs(status="interrupted", limit=3)
    records.run(records.find("last"))
    dialect = postgresql.dialect()
    written = [" ".join(str(each.compile(dialect=dialect)).split()) for each in statements]
    assert len(written) >= 14
    assert {line.split()[0] for line in written} == {"INSERT", "UPDATE", "SELECT"}
    assert sum("ON CONFLICT DO NOTHING RETURNING" in line for line in written) == 3
    started = next(line for line in written if line.startswith("UPDATE") and "started=" in line)
    assert "started=coalesce(runs.started, %(coalesce_1)s" in started


def test_settings_are_text_that_any_database_holds(records: Records) -> None:
    create(records, settings={"name": "Olá 实验", "half": "\udcff"})
    with closing(sqlite3.connect(records.where)) as other:
        (text,) = other.execute("SELECT settings FROM runs").fetchone()
    assert text.isascii()
    assert json.loads(text) == records.run("r1").settings == {"name": "Olá 实验", "half": "\udcff"}
