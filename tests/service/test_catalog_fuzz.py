"""The catalog's OpenAPI document, and requests made from it: whatever is sent, no 500."""

import shutil
from dataclasses import asdict

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from flautim_lab.catalog.schema import CatalogDatabase
from flautim_lab.catalog.things import Role
from flautim_lab.catalog.wire import ROUTES
from tests.catalog.conftest import COLUMNS, NET, Clock, World, catalog_app, run_id

THERE = {
    "institution": "ufmg",
    "project": "vision",
    "dataset": "telemetry",
    "model": "net",
    "experiment": "first",
    "user": "ana",
    "run_id": run_id(1),
    "grant_id": 1,
}
# The same where it is in a query or a body.
SENT = THERE | {
    "project": "ufmg/vision",
    "dataset": "ufmg/telemetry",
    "model": "ufmg/vision/net",
    "experiment": "ufmg/vision/first",
    "columns": [asdict(column) for column in COLUMNS],
    "target": "energy",
    "name": "Another",
    "key": "",
    "cnpj": "",
    "sha256": "",
    "until": None,
    "per_page": 20,
    "page": 1,
}


def put_there(values, known):
    """Let half of what is sent be about what is there."""
    for key, value in (values or {}).items():
        if key in known and len(str(value)) % 2:
            values[key] = known[key]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The application over a catalog in which the user may do everything, and things are there."""
    path = tmp_path_factory.mktemp("fuzz") / "catalog.db"
    world = World(CatalogDatabase(f"sqlite:///{path}", 5.0), Clock())
    root = world.of("ana", platform_admin=True)
    root.add_institution("UFMG", key="ufmg")
    root.set_roles("ufmg", "ana", list(Role))
    root.add_project("ufmg", "Vision")
    root.add_dataset_version(
        "ufmg", "Telemetry", columns=COLUMNS, target="energy", rows=9, path="a.csv"
    )
    root.save_model("ufmg/vision", "Net", source=NET, class_name="Net")
    root.save_experiment(
        "ufmg/vision", "First", model="ufmg/vision/net", dataset="ufmg/telemetry", settings={}
    )
    root.add_run(run_id(1), "ufmg/vision/first")
    root.give_grant("ufmg/telemetry", "ufmg/vision")
    world.database.close()
    kept = path.with_suffix(".kept")
    shutil.copy(path, kept)
    app = catalog_app(world)
    yield app, world, path, kept
    world.database.close()


@pytest.fixture
def fresh(filled):
    """What was removed in another test is there again."""
    _, world, path, kept = filled
    world.database.close()
    for left in path.parent.glob("catalog.db*"):
        left.unlink()
    shutil.copy(kept, path)


@pytest.fixture(scope="module")
def document(filled):
    return schemathesis.openapi.from_asgi("/openapi.json", filled[0])


@pytest.mark.parametrize("name", ROUTES)
def test_nothing_that_is_sent_makes_it_fail(fresh, document, name):
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=document.find_operation_by_id(name).as_strategy())
    def send(case):
        put_there(case.path_parameters, THERE)
        put_there(case.query, SENT)
        if isinstance(case.body, dict):
            put_there(case.body, SENT)
        case.headers = {"Authorization": "token ana!"}
        answer = case.call_and_validate(checks=[not_a_server_error])
        if answer.status_code >= 400:
            told = answer.json()
            assert told["status"] == answer.status_code
            assert told["detail"]
            assert "Traceback" not in told["detail"]

    send()


def test_every_way_in_is_documented(filled):
    told = filled[0].openapi()
    for path, methods in told["paths"].items():
        for method, about in methods.items():
            assert about["summary"].endswith("."), (method, path)
            assert about["operationId"]
    assert "Institution" in told["components"]["schemas"]
