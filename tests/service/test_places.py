"""Where somebody belongs: what the service tells the hub, and nobody else."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient

from flautim_lab.catalog import opening
from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.things import Role
from flautim_lab.records.store import Records
from flautim_lab.service.app import make_app
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.hub import Caller, Hub
from flautim_lab.service.places import listed_roles
from flautim_lab.service.settings import Settings
from tests.service.conftest import INSTITUTIONS, PREFIX

PROFILES = [{"name": "Small", "cpu": 1, "memory": "2G"}]
LISTED = {
    "ufmg": INSTITUTIONS["ufmg"]
    | {"users": ["ana"], "owners": ["davi"], "data": "telemetry", "profiles": PROFILES},
    "ifnmg": INSTITUTIONS["ifnmg"] | {"users": []},
}


@pytest.fixture
def service(institutions, hub):
    institutions.write_text(json.dumps(LISTED))
    settings = Settings.of_environment()
    catalogs = Catalogs(opening.database(), listed=listed_roles(settings.listed))
    catalogs.add_missing(settings.names)
    app = make_app(Records.default(), settings, Hub(settings.institutions), catalogs)
    with TestClient(app) as client:
        yield client


def ask(service, token, path="/places", **question):
    headers = {"Authorization": token} if token else {}
    return service.get(f"{PREFIX}{path}", params=question, headers=headers)


def told(service, hub, user):
    answer = ask(service, f"token {hub.told['service']}", user=user)
    assert answer.status_code == 200, answer.text
    assert answer.json()["user"] == user
    return {each["key"]: each for each in answer.json()["institutions"]}


def test_the_list_and_the_catalog_together(service, hub):
    root = LocalCatalog(opening.database(), Actor("root", platform_admin=True))
    root.set_roles("ifnmg", "ana", [Role.DATA_OWNER])
    root.set_roles("ifnmg", "eva", [Role.INSTITUTION_ADMIN])
    root.add_institution("Not of this hub", key="usp")
    root.set_roles("usp", "eva", [Role.RESEARCHER])
    ana = told(service, hub, "ana")
    assert ana == {
        "ufmg": {
            "key": "ufmg",
            "name": INSTITUTIONS["ufmg"]["name"],
            "namespace": "flautim-ufmg",
            "roles": ["researcher"],
            "data": "telemetry",
            "profiles": PROFILES,
        },
        "ifnmg": {
            "key": "ifnmg",
            "name": INSTITUTIONS["ifnmg"]["name"],
            "namespace": "flautim-ifnmg",
            "roles": ["data_owner"],
            "data": None,
            "profiles": [],
        },
    }
    assert told(service, hub, "davi")["ufmg"]["roles"] == ["data_owner", "researcher"]
    # An institution that is in the catalog alone has no place for a notebook.
    assert set(told(service, hub, "eva")) == {"ifnmg"}
    assert told(service, hub, "nobody") == {}
    root.remove_user("ifnmg", "ana")
    assert set(told(service, hub, "ana")) == {"ufmg"}


def test_all_institutions_that_have_a_place(service, hub):
    answer = ask(service, f"token {hub.told['service']}", "/places/institutions")
    assert answer.json()["institutions"] == [
        {"key": key, "name": each["name"]} for key, each in INSTITUTIONS.items()
    ]


@pytest.mark.parametrize("path", ["/places", "/places/institutions"])
def test_only_the_hub_may_ask(service, hub, path):
    for token in (None, "", "token", hub.told["service"], f"basic {hub.told['service']}"):
        assert ask(service, token, path, user="ana").status_code == 401, token
    wrong = ["0" * 64, hub.told["service"][:-1], hub.told["service"] + "x", hub.told["tests"], "é"]
    for other in [*wrong, hub.token("ana"), hub.token("dora")]:  # dora administrates the Hub
        answer = ask(service, f"token {other}".encode(), path, user="ana")
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "only the hub itself may ask where somebody belongs"
    # Nothing is said of what is asked before it is known who asks.
    assert ask(service, None, path).status_code == 401
    assert ask(service, f"token {hub.token('dora')}", path).status_code == 403


@pytest.mark.parametrize("question", [{}, {"user": ""}, {"user": "a\0b"}, {"user": "x" * 256}])
def test_a_question_about_nobody(service, hub, question):
    answer = ask(service, f"Bearer {hub.told['service']}", **question)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("query.user: ")


def test_a_service_without_a_token_answers_nobody():
    app = make_app(Records.default(), Settings({"ufmg": "x"}), None, Catalogs(opening.database()))
    with TestClient(app) as client:
        for token in ("token ", "token x"):
            assert ask(client, token, user="ana").status_code in (401, 403)


def test_the_token_is_not_shown(institutions, hub):
    assert hub.told["service"] not in repr(Settings.of_environment())


def test_an_owner_by_the_list_is_a_data_owner_in_the_catalog(service):
    catalogs = Catalogs(opening.database(), listed=listed_roles(LISTED))

    def roles(*institutions):
        return catalogs(Caller("davi", False, dict.fromkeys(institutions, "x"))).me().roles

    assert roles("ufmg") == {"ufmg": {Role.RESEARCHER, Role.DATA_OWNER}}
    # By claims that do not have them there any more, they are nothing there.
    assert roles() == {}
    assert roles("ifnmg") == {"ifnmg": {Role.RESEARCHER}}
