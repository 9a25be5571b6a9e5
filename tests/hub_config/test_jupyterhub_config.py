"""The configuration as JupyterHub and KubeSpawner read it: who gets in, and what pod they get."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from jupyterhub import dbutil, orm
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.spawner import SpawnException
from kubernetes_asyncio.client import ApiClient
from kubespawner import KubeSpawner
from traitlets.config import Config, PyFileConfigLoader

from hub_config.login import InstitutionLogin
from tests.k8s.pod_security import problems

FILE = Path(__file__).parents[2] / "hub_config" / "jupyterhub_config.py"
NO_CLUSTER = """\
apiVersion: v1
kind: Config
current-context: none
clusters: [{name: none, cluster: {server: "https://127.0.0.1:9"}}]
users: [{name: none, user: {token: none}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
"""


@pytest.fixture
def config(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return PyFileConfigLoader(FILE.name, path=str(FILE.parent)).load_config()


@pytest.fixture
def spawner(config, tmp_path, monkeypatch):
    """Make a KubeSpawner as the hub does, inside the loop that uses it."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(NO_CLUSTER)
    monkeypatch.setattr(
        "kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig)
    )

    def make(name, *groups):
        user = SimpleNamespace(
            id=1,
            name=name,
            escaped_name=name,
            url=f"/user/{name}/",
            groups=[SimpleNamespace(name=group) for group in groups],
        )
        hub = SimpleNamespace(
            public_host="", url="http://hub", base_url="/hub/", api_url="http://hub/hub/api"
        )
        return KubeSpawner(_mock=True, config=config, user=user, hub=hub, user_options={})

    return make


def pod_of(spawner, name, *groups, **chosen):
    async def make():
        made = spawner(name, *groups)
        made.user_options = chosen
        await made.load_user_options()
        pod = await made.get_pod_manifest()
        return made, ApiClient().sanitize_for_serialization(pod)

    return asyncio.run(make())


def log_in(config, username, password):
    login = InstitutionLogin(config=config)
    data = {"username": username, "password": password}
    return asyncio.run(login.get_authenticated_user(None, data))


# --- every assignment is one that is understood -------------------------------------------------


def test_every_assignment_names_a_setting_that_exists(config):
    known = {
        cls.__name__: cls
        for cls in (JupyterHub, ConfigurableHTTPProxy, Authenticator, InstitutionLogin, KubeSpawner)
    }
    for section, assigned in config.items():
        for name in assigned:
            assert name in known[section].class_traits(config=True), f"{section}.{name}"


# --- who may log in -----------------------------------------------------------------------------


def test_a_user_logs_in_and_is_in_the_groups_of_the_list(config, environment):
    found = log_in(config, "Bruno", environment["FLAUTIM_LAB_LOGIN_PASSWORD"])
    assert (found["name"], found["admin"]) == ("bruno", False)
    assert found["groups"] == ["ufmg", "ifnmg"]


def test_the_admin_has_no_institution(config, environment):
    found = log_in(config, "admin", environment["FLAUTIM_LAB_ADMIN_PASSWORD"])
    assert (found["name"], found["admin"], found["groups"]) == ("admin", True, [])


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ana", ""),
        ("ana", "the users' ow"),
        ("ana", "ADMIN"),
        ("mallory", "LOGIN"),  # not on the list
        ("mallory", "ADMIN"),
        ("admin", "LOGIN"),
    ],
)
def test_nobody_else_gets_in(config, environment, name, password):
    password = environment.get(f"FLAUTIM_LAB_{password}_PASSWORD", password)
    assert log_in(config, name, password) is None


def test_who_was_taken_off_the_list_is_let_in_no_longer(config, environment):
    login = InstitutionLogin(config=config)
    # What JupyterHub does for each user that its database has, at its start.
    login.add_user(SimpleNamespace(name="mallory"))

    def now(name):
        return asyncio.run(login.refresh_user(SimpleNamespace(name=name)))

    assert log_in(config, "mallory", environment["FLAUTIM_LAB_LOGIN_PASSWORD"]) is None
    assert now("mallory") is False
    assert now("ana") == {"name": "ana", "admin": False, "groups": ["ufmg"]}
    assert now("admin") == {"name": "admin", "admin": True, "groups": []}
    # Only with this do tokens end too; JupyterHub's own default is not to.
    assert login.auth_refresh_strict
    assert login.manage_groups


# --- notebook pods ------------------------------------------------------------------------------


def test_a_notebook_is_in_the_institutions_namespace(spawner):
    made, pod = pod_of(spawner, "ana", "ufmg")
    assert made.namespace == "of-ufmg"
    told = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
    assert told["FLAUTIM_LAB_INSTITUTION"] == "ufmg"
    assert told["FLAUTIM_LAB_SERVICE_URL"] == "http://service.of-hub.svc:8080/services/flautim-lab"


def test_of_two_institutions_the_chosen_one(spawner):
    for key in ("ufmg", "ifnmg"):
        made, pod = pod_of(spawner, "bruno", "ufmg", "ifnmg", profile=key)
        assert made.namespace == f"of-{key}"
        told = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
        assert told["FLAUTIM_LAB_INSTITUTION"] == key
    with pytest.raises(ValueError, match="No such profile: usp"):
        pod_of(spawner, "bruno", "ufmg", profile="usp")
    with pytest.raises(ValueError, match="No such profile: ifnmg"):
        pod_of(spawner, "ana", "ufmg", profile="ifnmg")


def test_the_form_is_shown_where_there_is_a_choice(spawner):
    async def form(name, *groups):
        return await spawner(name, *groups).get_options_form()

    assert not asyncio.run(form("ana", "ufmg"))
    shown = asyncio.run(form("bruno", "ufmg", "ifnmg"))
    assert "Federal University" in shown
    assert "Institute" in shown


def test_without_an_institution_nothing_starts(spawner):
    """Neither by the form nor by the API; KubeSpawner would take the hub's own namespace."""

    async def form():
        return await spawner("dora").get_options_form()

    for attempt in (lambda: asyncio.run(form()), lambda: pod_of(spawner, "dora")):
        with pytest.raises(SpawnException, match="no place for a notebook") as raised:
            attempt()
        assert raised.value.status_code == 403
        assert raised.value.message.startswith("dora belongs to no institution of this hub (")


def test_a_home_is_looked_for_in_the_namespace_of_now(spawner, config):
    async def seen():
        made = spawner("ana", "ufmg")
        made.load_state({"namespace": "of-ifnmg", "pvc_name": "home-ana"})
        assert made._pvc_exists  # KubeSpawner remembers so much, and not where
        made.run_pre_spawn_hook()
        await made.load_user_options()
        return made._pvc_exists, made.namespace, made.pvc_name

    assert asyncio.run(seen()) == (False, "of-ufmg", "home-ana")


def test_a_notebook_pod_is_restricted_and_holds_no_credential(spawner):
    _, pod = pod_of(spawner, "ana", "ufmg")
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert "serviceAccountName" not in spec
    assert problems(spec) == []
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert set(container["resources"]) == {"requests", "limits"}
    assert {each["mountPath"] for each in container["volumeMounts"]} == {"/home/flautim", "/tmp"}


def test_two_users_have_two_pods_and_two_homes(spawner):
    pods = [pod_of(spawner, name, "ufmg")[1] for name in ("ana", "bruno")]
    homes = {pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] for pod in pods}
    assert homes == {"home-ana", "home-bruno"}
    assert len({pod["metadata"]["name"] for pod in pods}) == 2


def test_a_hub_that_restarts_leaves_everything_running(config: Config):
    hub = config.JupyterHub
    assert hub.cleanup_servers is False
    assert hub.cleanup_proxy is False
    assert config.ConfigurableHTTPProxy.should_start is False
    assert hub.db_url.startswith("sqlite:////flautim/hub/")
    assert hub.cookie_secret_file.startswith("/flautim/hub/")


def test_jupyterhub_keeps_what_it_knows_in_postgresql(environment, monkeypatch, new_database):
    """With JupyterHub's own code for its tables, of a new database and of one that is there."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLAUTIM_LAB_HUB_DATABASE_URL", new_database())
    hub = PyFileConfigLoader(FILE.name, path=str(FILE.parent)).load_config().JupyterHub
    assert hub.db_url.startswith("postgresql+psycopg://")
    for _ in range(2):
        dbutil.upgrade_if_needed(hub.db_url)
        session = orm.new_session_factory(hub.db_url)()
        if session.query(orm.User).count() == 0:
            session.add(orm.User(name="ana"))
            session.commit()
        session.close()
        session.get_bind().dispose()
    assert session.query(orm.User).one().name == "ana"
    session.close()
    session.get_bind().dispose()
