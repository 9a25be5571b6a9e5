"""A request for data as somebody may send it by hand: refused in a sentence, and never a 500."""

import dataclasses
import json
import shutil

import pytest
from fastapi.testclient import TestClient

from flautim_lab.catalog.schema import CatalogDatabase
from flautim_lab.catalog.things import Role
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.code import Code
from tests.catalog.conftest import COLUMNS, NET, Clock, World, catalog_app

SETTINGS = {"rounds": 3}
CODE = dataclasses.asdict(
    Code.of_bundle(Bundle({"a.py": NET}, {"model": "a.py:Net"}), SETTINGS),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory, made_once):
    """The service, over a catalog in which ana may ask for a dataset of ifnmg."""
    path = tmp_path_factory.mktemp("sent") / "catalog.db"
    shutil.copy(made_once, path)
    world = World(CatalogDatabase(f"sqlite:///{path}", 5.0), Clock())
    root = world.of("ana", platform_admin=True)
    for key in ("ufmg", "ifnmg"):
        root.add_institution(key.upper(), key=key)
        root.set_roles(key, "ana", list(Role))
    root.add_project("ufmg", "Vision")
    root.add_dataset_version(
        "ifnmg", "Telemetry", columns=COLUMNS, target="energy", rows=9, path="a.csv"
    )
    yield TestClient(catalog_app(world), raise_server_exceptions=False)
    world.database.close()


def ask(service, content):
    headers = {"authorization": "token ana", "content-type": "application/json"}
    return service.post("/catalog/requests", content=content, headers=headers)


def body(code=CODE, settings=SETTINGS, **more):
    asked = {"dataset": "ifnmg/telemetry", "project": "ufmg/vision", "code": code}
    return json.dumps(asked | {"settings": settings} | more).encode()  # \ud800 is sent so


def with_file(text, name="a.py"):
    return CODE | {"files": CODE["files"] | {name: text}}


def test_what_is_shown_is_all_that_counts(service):
    number = ask(service, body()).json()["id"]
    read = service.get(f"/catalog/requests/{number}", headers={"authorization": "token ana"}).json()
    assert read["code"] == json.loads(json.dumps(CODE))
    assert read["code"]["references"] == {"model": "a.py:Net"}
    assert read["code"]["guards"]["validation"] == 0.2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (body(with_file("\0")), "line 1 of a.py has the character U+0000"),
        (body(with_file("# \ud800")), ""),
        (body(with_file("", "\udfff.py")), ""),
        (body(with_file(5)), ""),
        (body(with_file(None)), ""),
        (body(CODE | {"references": {"model": 5}}), ""),
        (body(CODE | {"references": {"model": "a.py:\0"}}), "a reference is a file of the bundle"),
        (body(CODE | {"references": {}}), "the code has no model"),
        (body(CODE | {"references": {"model": "os:system"}}), "is os:system, whose source is not"),
        (body(CODE | {"guards": {}}), "says other settings than those that its owner is shown"),
        (body(CODE | {"guards": 5}), ""),
        (body(CODE | {"guards": CODE["guards"] | {"seed": True}}), "(seed)"),
        (body(settings={"rounds": 3, "seed": 1}), "(seed)"),
        (body(settings={"rounds": 3, "lr": 10**400}), "(lr)"),
        (body(settings={"rounds": "\0"}), "a character that cannot be kept"),
        (body(settings={"rounds": "\ud800"}), ""),
        (body(settings={"rounds": float("nan")}), "cannot be kept as JSON"),
        (body(settings={"dataset": {"homes": [5]}}), "says other settings"),
        (body(settings={"dataset": {"homes": [[]]}}), "says other settings"),
        (body(settings=[1]), ""),
        (b'{"settings": ' + b'{"a": ' * 900 + b"1" + b"}" * 901, ""),
        (b"\xff\xfe", ""),
        (b"", ""),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(service, content, sentence):
    told = ask(service, content)
    assert told.status_code in (400, 422), told.text
    assert sentence in told.json()["detail"]
    assert "Error" not in told.json()["detail"]
