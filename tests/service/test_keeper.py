"""Namespaces of institutions that are made in the panel: by the service, at a mock API server."""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import kmock
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from flautim_lab.catalog import opening
from flautim_lab.catalog.things import Role
from flautim_lab.errors import FlautimError, UsageError
from flautim_lab.pods.api import Api
from flautim_lab.pods.namespaces import objects_of
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records
from flautim_lab.service.app import make_app
from flautim_lab.service.catalog_routes import catalog_router
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.hub import Caller
from flautim_lab.service.keeper import NONE_IS_MADE, Keeper
from flautim_lab.service.requests import refuse_in_sentences
from flautim_lab.service.settings import Settings
from flautim_lab.service.spaces import Claims, Spaces
from tests.mock_cluster import cluster
from tests.pods.test_api import there
from tests.pods.test_namespaces import CLAIM, OBJECTS, WHOLE, put, spec

__all__ = ["cluster"]
NAME = "flautim-of-usp"
ROOT = Caller("root", True, {})


@pytest.fixture
def kept(cluster, tmp_path):
    """A keeper whose thread does nothing: the tests take its turns."""
    catalogs, records = Catalogs(opening.database()), Records.default()
    catalogs.add_missing({"ufmg": "Federal University"})
    spaces = Spaces({"ufmg": "flautim-ufmg"}, "flautim-of-")
    path = tmp_path / "namespaces" / "institution.yaml"
    path.parent.mkdir()
    shutil.copy(OBJECTS, path)

    def start():
        """Return a keeper, as a service that starts has one."""
        connect = lambda: Api().namespaces("flautim-hub")  # noqa: E731
        return Keeper(spaces, catalogs, records, connect, partial(objects_of, path))

    return SimpleNamespace(
        keeper=start(), start=start, catalogs=catalogs, records=records, spaces=spaces, path=path
    )


def asked(catalogs, around, who=ROOT):
    """The catalog's routes, asked by somebody."""

    async def caller(_authorization):
        return who

    app = FastAPI()
    app.state.hub = SimpleNamespace(caller=caller)
    refuse_in_sentences(app)
    app.include_router(catalog_router(catalogs, around))
    return TestClient(app)


def test_an_institution_that_is_made_gets_its_namespace_and_one_of_the_list_does_not(cluster, kept):
    client = asked(kept.catalogs, kept.keeper.around)
    made = client.post("/catalog/institutions", json={"name": "São Paulo", "key": "usp"})
    assert made.status_code == 200, made.text
    assert kept.spaces["usp"] == NAME  # at once: its users may be told where they belong
    assert dict(kept.spaces) == {"ufmg": "flautim-ufmg", "usp": NAME}
    for _ in range(2):
        kept.keeper.turn()
        assert there(cluster) == WHOLE


def test_a_turn_mends_what_is_missing(cluster, kept, caplog):
    kept.catalogs.own().add_institution("São Paulo", key="usp")  # and the service was killed
    pattern = f"get /api/v1/namespaces/{NAME}"
    refuse = {"on": True}
    cluster.call(lambda handler: handler[pattern, lambda _: refuse["on"]] << 500)
    for _ in range(2):
        kept.keeper.turn()
    (said,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert said.startswith(f"cannot create Namespace {NAME} (500")  # once, not each turn
    assert there(cluster) == WHOLE[:1]
    refuse["on"] = False
    kept.keeper.turn()
    assert there(cluster) == WHOLE
    # Somebody removed it by hand.
    key = (kmock.resource("v1/namespaces"), None, NAME)
    cluster.call(lambda handler: handler.objects.__delitem__(key))
    kept.keeper.turn()
    assert there(cluster) == WHOLE


def test_a_changed_quota_reaches_the_namespaces_that_are_there(cluster, kept, caplog):
    for key in ("usp", "ufop"):
        kept.catalogs.own().add_institution(key.upper(), key=key)

    def pods():
        spaces = ("flautim-of-usp", "flautim-of-ufop")
        return [spec(cluster, "v1/resourcequotas", "institution", each)["hard"] for each in spaces]

    kept.keeper.turn()
    first = pods()
    assert first[0] == first[1] == {**first[0], "pods": "40"}
    kept.path.write_text(kept.path.read_text().replace('pods: "40"', 'pods: "41"'))
    own = "{kind: ResourceQuota, metadata: {name: institution}, spec: {hard: {pods: '400'}}}"
    (kept.path.parent / "usp.yaml").write_text(own)
    kept.keeper.turn()
    assert pods() == [{"pods": "400"}, first[0] | {"pods": "41"}]
    # What somebody else changed since is as it is to be once the service starts.
    patched = (kmock.resource("v1/resourcequotas"), NAME, "institution")
    told = {"spec": {"hard": {"pods": "1"}}}
    cluster.call(lambda handler: handler.objects[patched].patch(told))
    kept.keeper.turn()
    assert pods()[0] == {"pods": "1"}
    kept.start().turn()
    assert pods()[0] == {"pods": "400"}
    # A file that cannot be read keeps its own institution waiting, and no other; it is said once.
    (kept.path.parent / "usp.yaml").write_text("kind: [")
    kept.path.write_text(kept.path.read_text().replace('pods: "41"', 'pods: "42"'))
    caplog.clear()
    for _ in range(2):
        kept.keeper.turn()
    assert pods() == [{"pods": "400"}, first[0] | {"pods": "42"}]
    (said,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert "usp.yaml has no manifests for an institution's namespace" in said


def test_it_is_removed_when_nothing_is_in_it_and_not_before(cluster, kept):
    client = asked(kept.catalogs, kept.keeper.around)
    kept.catalogs.own().add_institution("São Paulo", key="usp")
    kept.keeper.turn()
    put(cluster, "v1/persistentvolumeclaims", "home-ana")
    refused = client.delete("/catalog/institutions/usp")
    assert refused.status_code == 409
    assert refused.json()["detail"] == (
        f"institution usp still has something in its namespace {NAME} (volume home-ana); remove "
        "it first, or make the institution inactive"
    )
    assert kept.catalogs.own().institution("usp").key == "usp"
    key = (kmock.resource("v1/persistentvolumeclaims"), NAME, "home-ana")
    cluster.call(lambda handler: handler.objects.__delitem__(key))
    assert client.delete("/catalog/institutions/usp").status_code == 200
    assert "usp" not in kept.spaces
    kept.keeper.turn()
    assert ("", "namespaces", NAME) not in there(cluster)


def test_what_came_in_between_keeps_it(cluster, kept, caplog):
    kept.catalogs.own().add_institution("São Paulo", key="usp")
    kept.keeper.turn()
    kept.catalogs.own().remove_institution("usp")
    put(cluster, "v1/pods", "jupyter-ana")
    for _ in range(2):
        kept.keeper.turn()
    assert ("", "namespaces", NAME) in there(cluster)
    said = f"no institution has the namespace {NAME}; it stays: pod jupyter-ana"
    assert [each.getMessage() for each in caplog.records].count(said) == 1


def test_with_a_run_or_a_dataset_it_stays(cluster, kept):
    client = asked(kept.catalogs, kept.keeper.around)
    own = kept.catalogs.own()
    own.add_institution("São Paulo", key="usp")
    kept.keeper.turn()
    run_id = "r20261125-202140-iris-7d1947b4"
    kept.records.create_run(
        run_id, name="iris", runner="cluster", rounds=1, clients=1,
        settings={"owner": "ana", "institution": "usp"}, plan={}, detached=True,
    )  # fmt: skip
    refused = client.delete("/catalog/institutions/usp").json()["detail"]
    assert refused.startswith(f"institution usp has runs, such as {run_id}; stop them first")
    kept.records.set_status(run_id, RunStatus.FAILED, message="over")
    kept.catalogs(Caller("eva", False, {"usp": NAME})).add_project("usp", "Vision")
    assert "has projects" in client.delete("/catalog/institutions/usp").json()["detail"]
    kept.keeper.turn()
    assert ("", "namespaces", NAME) in there(cluster)


def test_who_may_not_remove_it_learns_nothing_of_what_is_in_it(cluster, kept):
    kept.catalogs.own().add_institution("São Paulo", key="usp")
    kept.keeper.turn()
    put(cluster, "v1/persistentvolumeclaims", "home-ana")
    client = asked(kept.catalogs, kept.keeper.around, Caller("eva", False, {"usp": NAME}))
    refused = client.delete("/catalog/institutions/usp")
    assert refused.status_code == 403
    assert "home-ana" not in refused.text


def test_without_a_cluster_an_institution_is_made_all_the_same(kept, monkeypatch):
    def away():
        raise FlautimError("no Kubernetes cluster is configured here")

    kept.keeper._connect = away
    client = asked(kept.catalogs, kept.keeper.around)
    assert client.post("/catalog/institutions", json={"name": "USP"}).status_code == 200
    with pytest.raises(FlautimError, match="no Kubernetes cluster"):
        kept.keeper.turn()


def test_where_none_is_made_the_log_says_so_in_one_sentence(kept, caplog):
    client = asked(kept.catalogs, NONE_IS_MADE)
    assert client.post("/catalog/institutions", json={"name": "USP"}).status_code == 200
    (said,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert said == (
        "institution 'USP' has no namespace, since the service makes none here "
        "(FLAUTIM_LAB_NAMESPACES is not set); put it on the hub's list of institutions, or let the "
        "service make namespaces (k8s/components/namespaces)"
    )


def test_names_that_cannot_be_are_not_taken():
    spaces = Spaces({"ufmg": "flautim-of-usp"}, "flautim-of-")
    spaces.know(dict.fromkeys(["ufmg", "usp", "x" * 60, "ends-", "ok"], "Name"))
    assert dict(spaces) == {"ufmg": "flautim-of-usp", "ok": "flautim-of-ok"}
    nothing = Spaces({"ufmg": "flautim-ufmg"})
    nothing.know({"usp": "Name"})
    assert dict(nothing) == {"ufmg": "flautim-ufmg"}


def test_data_of_the_list_and_of_what_is_made():
    spaces = Spaces({"ufmg": "flautim-ufmg", "ifnmg": "flautim-ifnmg"}, "flautim-of-")
    claims = Claims(spaces, {"ufmg": "telemetry"}, "data")
    assert dict(claims) == {"ufmg": "telemetry"}
    spaces.know(dict.fromkeys(["ufmg", "ifnmg", "usp"], "Name"))
    assert dict(claims) == {"ufmg": "telemetry", "usp": "data"}
    assert (len(claims), claims.get("ifnmg")) == (2, None)
    assert dict(Claims(spaces, {"ufmg": "telemetry"})) == {"ufmg": "telemetry"}


# --- from the environment to a thread -----------------------------------------------------------


@pytest.fixture
def environment(tmp_path, monkeypatch):
    path = tmp_path / "institutions.json"
    path.write_text(json.dumps({"ufmg": {"name": "University", "namespace": "flautim-ufmg"}}))
    for name, value in {
        "FLAUTIM_LAB_INSTITUTIONS": str(path),
        "FLAUTIM_LAB_NAMESPACES": "flautim-of-",
        "FLAUTIM_LAB_NAMESPACE_OBJECTS": str(OBJECTS),
        "POD_NAMESPACE": "flautim-hub",
        "JUPYTERHUB_API_TOKEN": "x",
        "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
    }.items():
        monkeypatch.setenv(name, value)


def test_the_service_makes_them_from_its_start_to_its_end(cluster, environment):
    settings, catalogs = Settings.of_environment(), Catalogs(opening.database())
    catalogs.own().add_institution("São Paulo", key="usp")
    app = make_app(Records.default(), settings, SimpleNamespace(), catalogs)
    with TestClient(app):
        assert settings.institutions["usp"] == NAME
    assert there(cluster) == WHOLE


def test_each_has_a_volume_for_its_data_where_one_is_configured(
    cluster, environment, tmp_path, monkeypatch
):
    path = tmp_path / "institution.yaml"
    path.write_text(OBJECTS.read_text() + "---\n" + json.dumps(CLAIM))
    monkeypatch.setenv("FLAUTIM_LAB_NAMESPACE_OBJECTS", str(path))
    monkeypatch.setenv("FLAUTIM_LAB_NAMESPACES_DATA", "data")
    settings, catalogs = Settings.of_environment(), Catalogs(opening.database())
    root = catalogs.own()
    root.add_institution("São Paulo", key="usp")
    root.set_roles("usp", "eva", [Role.DATA_OWNER])
    with TestClient(make_app(Records.default(), settings, SimpleNamespace(), catalogs)) as app:
        told = app.get(
            "/services/flautim-lab/places?user=eva", headers={"Authorization": "token x"}
        )
        assert [(each["key"], each["data"]) for each in told.json()["institutions"]] == [
            ("usp", "data")
        ]
        assert settings.data["usp"] == "data"  # which the workers of granted runs mount
    assert set(there(cluster)) == {*WHOLE, (NAME, "persistentvolumeclaims", "data")}
    monkeypatch.setenv("FLAUTIM_LAB_NAMESPACES_DATA", "rows")
    with pytest.raises(UsageError, match=r"the claim 'rows' of their namespaces, and .* has data"):
        make_app(Records.default(), Settings.of_environment(), SimpleNamespace(), catalogs)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("FLAUTIM_LAB_NAMESPACES", "Flautim", "must be at most 20 lower-case letters"),
        ("FLAUTIM_LAB_NAMESPACES", "flautim", "end with a dash"),
        ("POD_NAMESPACE", "", "needs POD_NAMESPACE in its environment"),
        ("FLAUTIM_LAB_NAMESPACE_OBJECTS", "", "needs FLAUTIM_LAB_NAMESPACE_OBJECTS"),
    ],
)
def test_settings_that_will_not_do_are_refused(environment, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=said):
        Settings.of_environment()


def test_objects_that_cannot_be_read_end_the_start(environment, monkeypatch):
    monkeypatch.setenv("FLAUTIM_LAB_NAMESPACE_OBJECTS", str(Path(__file__).parent))
    settings, catalogs = Settings.of_environment(), Catalogs(opening.database())
    with pytest.raises(UsageError, match="has no manifests for an institution's namespace"):
        make_app(Records.default(), settings, SimpleNamespace(), catalogs)
