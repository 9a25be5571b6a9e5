"""Health, readiness, metrics and logs: a real service, a real Hub, a database that goes away."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from flautim_lab.catalog import opening
from flautim_lab.errors import UsageError
from flautim_lab.pods import follow
from flautim_lab.records.event import WORKER_LOST, Event
from flautim_lab.records.store import Records
from flautim_lab.records.totals import totals
from flautim_lab.runners import databases
from flautim_lab.service import logs, upkeep
from flautim_lab.service.settings import Settings
from tests.folders import free_port
from tests.service.conftest import PREFIX
from tests.service.test_app import RUN, Client, make

TOKEN = "a-token-of-prometheus-that-is-long-enough"


@pytest.fixture
def service(institutions, monkeypatch):
    """The service's application, with metrics for who has the token."""
    monkeypatch.setenv("FLAUTIM_LAB_METRICS_TOKEN", TOKEN)
    with TestClient(make()) as test:
        yield Client(test, None)


def numbers(service):
    """What Prometheus reads: the value by name and labels."""
    answer = service._test.get(f"{PREFIX}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


# --- metrics ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer x", f"Bearer {TOKEN}x", f"token {TOKEN}", TOKEN, "Bearer é"],
)
def test_nobody_reads_metrics_without_the_token(service, header):
    headers = {} if header is None else {"Authorization": header.encode()}
    answer = service._test.get(f"{PREFIX}/metrics", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["detail"] == (
        "send the token of the metrics as 'Authorization: Bearer ...'"
    )


def test_not_even_a_users_or_an_administrators(service, hub):
    for user in ("ana", "dora"):
        answer = Client(service._test, hub.token(user))("GET", "/metrics")
        assert answer.status_code == 401


def test_without_a_token_of_its_own_there_are_none(institutions, monkeypatch):
    with TestClient(make()) as test:
        for headers in ({}, {"Authorization": "Bearer "}):
            answer = test.get(f"{PREFIX}/metrics", headers=headers)
            assert answer.status_code == 404
            assert "FLAUTIM_LAB_METRICS_TOKEN is not set" in answer.json()["detail"]
    monkeypatch.setenv("FLAUTIM_LAB_METRICS_TOKEN", "short")
    with pytest.raises(UsageError, match="has 5 characters; it needs at least 32, or to be empty"):
        Settings.of_environment()
    monkeypatch.setenv("FLAUTIM_LAB_METRICS_TOKEN", TOKEN)
    assert TOKEN not in repr(Settings.of_environment())


def test_requests_are_counted_by_route_and_status_and_name_nobody(service, hub):
    ana = Client(service._test, hub.token("ana"))
    ana("GET", "/")
    for _ in range(2):
        ana("GET", f"/runs/{RUN}")
    ana("GET", "/nowhere/at/all")
    ana("BREW", f"/runs/{RUN}")
    service("GET", "/runs")
    ana("GET", "/catalog/institutions/ufmg")
    found = numbers(service)

    def asked(method, route, status):
        return found[
            "flautim_lab_requests_total", ("method", method), ("route", route), ("status", status)
        ]

    assert asked("GET", "/", "200") == 1
    assert asked("GET", "/runs/{run_id}", "404") == 2
    assert asked("GET", "/runs", "401") == 1
    assert asked("GET", "other", "404") == 1
    assert asked("GET", "/catalog/institutions/{institution}", "200") == 1
    measured = (("method", "GET"), ("route", "/runs/{run_id}"))
    assert found["flautim_lab_request_seconds_count", *measured] == 2
    assert 0 < found["flautim_lab_request_seconds_sum", *measured] < 20
    labels = json.dumps([key[1:] for key in found])
    for name in ("ana", RUN, "ufmg", "nowhere", "BREW"):
        assert name not in labels


def test_an_error_that_nobody_foresaw_is_counted(institutions, monkeypatch, hub):
    monkeypatch.setenv("FLAUTIM_LAB_METRICS_TOKEN", TOKEN)

    def breaks(self):
        raise OverflowError

    monkeypatch.setattr(Records, "runs", lambda self, **_: [])
    with TestClient(make(), raise_server_exceptions=False) as test:
        monkeypatch.setattr(Records, "runs", breaks)
        assert Client(test, hub.token("ana"))("GET", "/runs").status_code == 500
        found = numbers(Client(test, None))
    route = (("method", "GET"), ("route", "/runs"), ("status", "500"))
    assert found["flautim_lab_requests_total", *route] == 1


def a_run(number, status=None, rounds=0):
    run_id = f"r20261125-202140-iris-{number:08x}"
    records = Records.default()
    records.create_run(
        run_id, name="iris", runner="cluster", rounds=9, clients=2, settings={"owner": "ana"},
        plan={}, detached=True,
    )  # fmt: skip
    if status:
        records.set_status(run_id, "running")
        records.append(run_id, [Event(n, 1.0, "round", n) for n in range(1, rounds + 1)])
        records.set_status(run_id, status)
    return run_id


def test_runs_rounds_events_and_healing(service):
    a_run(1)
    going = a_run(2, "running", rounds=3)
    a_run(3, "finished", rounds=2)
    a_run(4, "failed")
    follow.replaced["worker"] += 2
    records = Records.default()
    lost = Event(9, 2.0, "log", text=f"{WORKER_LOST}; the work of 2 clients is sent again")
    records.append(going, [lost, Event(10, 2.0, "log", text="the server goes on after round 3")])
    records.append(going, [lost])  # sent again, and stored once
    found = numbers(service)
    stand = {
        dict(key[1:])["status"]: value
        for key, value in found.items()
        if key[0] == "flautim_lab_runs"
    }
    assert stand == {
        "waiting": 1, "running": 1, "finished": 1, "failed": 1, "stopped": 0, "interrupted": 0,
    }  # fmt: skip
    assert found["flautim_lab_runs_started_total",] == 3
    assert found["flautim_lab_runs_ended_total", ("status", "failed")] == 1
    assert found["flautim_lab_rounds_total",] == 5
    assert found["flautim_lab_events_total", ("kind", "round")] == 5
    assert found["flautim_lab_events_total", ("kind", "log")] == 2
    assert found["flautim_lab_workers_lost_total",] == 1
    assert found["flautim_lab_servers_resumed_total",] == 1
    assert found["flautim_lab_pods_replaced_total", ("role", "worker")] >= 2
    assert found["flautim_lab_records_up",] == 1
    with records.connected(writing=True) as connection:
        connection.exec_driver_sql("UPDATE runs SET heartbeat = 1.0")
    assert totals(records).by_status == stand | {"waiting": 0, "running": 0, "interrupted": 2}


# --- readiness ----------------------------------------------------------------------------------


def test_a_database_that_is_away_is_noticed_and_so_that_it_is_back(service, caplog, home):
    assert service("GET", "/ready").json() == {"status": "ready"}
    file = home / "records.db"
    Records.default().close()
    hidden = [
        path.rename(path.with_suffix(path.suffix + ".away")) for path in home.glob("records.db*")
    ]
    file.mkdir()
    answer = service("GET", "/ready")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "the records cannot be used now; try again in a moment"
    assert str(home) not in answer.text
    assert service("GET", "/health").json() == {"status": "well"}
    service("GET", "/ready")
    said = [each.getMessage() for each in caplog.records if "not ready" in each.getMessage()]
    assert len(said) == 1
    assert str(home) in said[0]
    found = numbers(service)
    assert found["flautim_lab_records_up",] == 0
    assert found["flautim_lab_database_errors_total", ("database", "records")] >= 2
    file.rmdir()
    for path in hidden:
        path.rename(str(path).removesuffix(".away"))
    assert service("GET", "/ready").status_code == 200
    assert numbers(service)["flautim_lab_records_up",] == 1


def test_tables_that_somebody_brought_further_are_noticed(service):
    database = opening.database()
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE catalog_version SET version_num = 'future'")
    answer = service("GET", "/ready")
    assert (answer.status_code, "the catalog cannot be used now" in answer.text) == (503, True)


def test_a_database_that_hangs_takes_one_thread_and_no_more(service, monkeypatch):
    monkeypatch.setattr(upkeep, "PATIENCE_SECONDS", 0.05)
    free, asked = threading.Event(), []

    def hangs(self):
        asked.append(1)
        free.wait(20)

    monkeypatch.setattr(Records, "check", hangs)
    with TestClient(make()) as test:
        for _ in range(5):
            answer = test.get(f"{PREFIX}/ready")
            assert answer.status_code == 503
            assert "the catalog and records cannot be used now" in answer.json()["detail"]
            assert test.get(f"{PREFIX}/health").status_code == 200
        assert asked == [1]
        free.set()
        end = time.monotonic() + 10
        while test.get(f"{PREFIX}/ready").status_code != 200:
            assert time.monotonic() < end


# --- the process: it waits for its tables, and writes lines of JSON -----------------------------


def test_it_waits_for_the_migration_and_logs_lines_of_json(
    institutions, new_database, hub, tmp_path
):
    port, url = free_port(), new_database()
    environment = os.environ | {
        "FLAUTIM_LAB_LOGS": "json",
        "FLAUTIM_LAB_MIGRATIONS": "apart",
        "FLAUTIM_LAB_CATALOG_URL": url,
        "FLAUTIM_LAB_RECORDS_URL": url,
        "FLAUTIM_LAB_SERVICE_HOST": "127.0.0.1",
        "FLAUTIM_LAB_SERVICE_PORT": str(port),
        "FLAUTIM_LAB_METRICS_TOKEN": TOKEN,
    }
    file = tmp_path / "log"
    with file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flautim_lab.service"], env=environment, stderr=log, stdout=log
        )
    try:
        wait_for(lambda: "are not there yet" in file.read_text())
        with pytest.MonkeyPatch.context() as patch:
            for name in ("FLAUTIM_LAB_CATALOG_URL", "FLAUTIM_LAB_RECORDS_URL"):
                patch.setenv(name, url)
            assert all("were made" in each for each in databases.migrate())
        base = f"http://127.0.0.1:{port}{PREFIX}"
        wait_for(lambda: answers(f"{base}/ready"))
        token = hub.token("ana")
        asked = httpx.get(f"{base}/?token={token}", headers={"Authorization": f"token {token}"})
        assert asked.json()["user"] == "ana"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    told = [json.loads(line) for line in file.read_text().splitlines()]
    for each in told:
        assert {"time", "level", "logger", "message"} <= set(each)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", each["time"])
    assert {each["logger"] for each in told} >= {"flautim_lab.service", "uvicorn.error"}
    assert sum("are not there yet" in each["message"] for each in told) == 1
    assert TOKEN not in file.read_text()
    assert token not in file.read_text()


def answers(url):
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(condition):
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("postgresql+psycopg://lab:s3cret@database/lab", "postgresql+psycopg://lab:[secret]@database/lab"),
        ("GET /x?token=abc&after=3#y", "GET /x?token=[secret]&after=3#y"),
        ("GET /oauth?code=abc&state=def", "GET /oauth?code=[secret]&state=[secret]"),
        ("Authorization: token 0123456789abcdef0123", "Authorization: token [secret]"),
        ("authorization: bearer abcdefghij.klmnop-qr", "authorization: bearer [secret]"),
        ("the Hub does not know this token; stop it", "the Hub does not know this token; stop it"),
        ("http://hub:8081/hub/api", "http://hub:8081/hub/api"),
    ],
)  # fmt: skip
def test_what_is_secret_is_struck_out(text, told):
    assert logs.struck_out(text) == told


def test_any_other_kind_of_log_is_refused(monkeypatch):
    monkeypatch.setenv("FLAUTIM_LAB_LOGS", "xml")
    with pytest.raises(UsageError, match="no FLAUTIM_LAB_LOGS named 'xml'"):
        logs.configure()
