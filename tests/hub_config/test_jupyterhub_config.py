"""The configuration as JupyterHub and KubeSpawner read it: who gets in, and what pod they get."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from jupyterhub import dbutil, orm
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.spawner import SpawnException
from jupyterhub.utils import maybe_future
from kubernetes_asyncio.client import ApiClient
from kubespawner import KubeSpawner
from tornado.web import HTTPError
from traitlets.config import Config, PyFileConfigLoader

from flautim_lab.catalog.things import Role
from hub_config.login import InstitutionLogin
from hub_config.places import ServiceAwayError
from tests.folders import free_port
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
def config(environment, service, monkeypatch):
    environment["FLAUTIM_LAB_SERVICE_ADDRESS"] = f"http://127.0.0.1:{service.port}"
    return read(environment, monkeypatch)


def read(environment, monkeypatch):
    """What the file assigns in an environment."""
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
        await as_the_hub_starts(made)
        pod = await made.get_pod_manifest()
        return made, ApiClient().sanitize_for_serialization(pod)

    return asyncio.run(make())


async def as_the_hub_starts(spawner):
    """What comes before a pod is made."""
    await maybe_future(spawner.run_pre_spawn_hook())
    await spawner.load_user_options()


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


def refreshed(config, name):
    login = InstitutionLogin(config=config)
    return asyncio.run(login.refresh_user(SimpleNamespace(name=name)))


def test_who_was_taken_off_the_list_is_let_in_no_longer(config, environment):
    login = InstitutionLogin(config=config)
    # What JupyterHub does for each user that its database has, at its start.
    login.add_user(SimpleNamespace(name="mallory"))
    assert log_in(config, "mallory", environment["FLAUTIM_LAB_LOGIN_PASSWORD"]) is None
    assert refreshed(config, "mallory") is False
    assert refreshed(config, "ana") == {"name": "ana", "admin": False, "groups": ["ufmg"]}
    assert refreshed(config, "admin") == {"name": "admin", "admin": True, "groups": []}
    # Only with this do tokens end too; JupyterHub's own default is not to.
    assert login.auth_refresh_strict
    assert login.manage_groups


def test_who_was_added_in_the_panel_gets_in_and_out_again(config, environment, service):
    password = environment["FLAUTIM_LAB_LOGIN_PASSWORD"]
    assert log_in(config, "eva", password) is None
    service.root.set_roles("ifnmg", "eva", [Role.DATA_OWNER])
    service.root.set_roles("ifnmg", "ana", [Role.RESEARCHER])
    assert log_in(config, "eva", password)["groups"] == ["ifnmg"]
    assert refreshed(config, "ana")["groups"] == ["ufmg", "ifnmg"]
    service.root.remove_user("ifnmg", "eva")
    assert refreshed(config, "eva") is False
    assert log_in(config, "eva", password) is None


@pytest.mark.parametrize("way", ["nothing listens", "502"])
def test_while_the_service_is_away_the_list_lets_in_and_nothing_changes(
    config, environment, service, way
):
    service.root.set_roles("ifnmg", "eva", [Role.DATA_OWNER])
    service.root.set_roles("ifnmg", "ana", [Role.RESEARCHER])
    service.away = b"the proxy finds nobody"
    if way != "502":
        nowhere = f"http://127.0.0.1:{free_port()}/places"
        config.InstitutionLogin.places = replace(config.InstitutionLogin.places, url=nowhere)
    password = environment["FLAUTIM_LAB_LOGIN_PASSWORD"]
    assert log_in(config, "ana", password)["groups"] == ["ufmg"]
    assert log_in(config, "admin", environment["FLAUTIM_LAB_ADMIN_PASSWORD"])["groups"] == []
    assert log_in(config, "ana", "not the password") is None
    for name in ("eva", "mallory"):
        with pytest.raises(HTTPError, match="cannot find out now where") as raised:
            log_in(config, name, password)
        assert raised.value.status_code == 503
        assert refreshed(config, name) is True
    assert refreshed(config, "ana") is True


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        '"ana"',
        "{}",
        '{"user": "ana"}',
        '{"user": "olga", "institutions": [{"key": "ifnmg", "roles": ["data_owner"]}]}',
        '{"user": "ana", "institutions": [{"key": "ifnmg"}]}',
        '{"user": "ana", "institutions": [{"key": "ifnmg", "roles": []}]}',
        '{"user": "ana", "institutions": [{"key": ["ifnmg"], "roles": ["data_owner"]}]}',
        '{"user": "ana", "institutions": "ifnmg"}',
        "not JSON",
    ],
)
def test_an_answer_that_is_none_gives_nothing(config, environment, monkeypatch, answer):
    async def fetch(self, request):
        return SimpleNamespace(body=answer)

    monkeypatch.setattr("tornado.httpclient.AsyncHTTPClient.fetch", fetch)
    assert log_in(config, "ana", environment["FLAUTIM_LAB_LOGIN_PASSWORD"])["groups"] == ["ufmg"]
    assert asyncio.run(config.InstitutionLogin.places.owned("ana")) == []
    assert refreshed(config, "ana") is True


def test_a_wrong_token_of_the_service_gives_nothing(config, environment, service):
    service.root.set_roles("ifnmg", "ana", [Role.DATA_OWNER])
    places = replace(config.InstitutionLogin.places, token="another")
    with pytest.raises(ServiceAwayError, match="403"):
        asyncio.run(places.groups("ana"))
    assert asyncio.run(places.owned("ana")) == []
    assert "another" not in repr(places)


# --- institutions that the service gives a place -------------------------------------------------


@pytest.fixture
def usp(service):
    """An institution of the catalog alone, of which eva is."""
    service.root.add_institution("São Paulo", key="usp")
    service.root.set_roles("usp", "eva", [Role.RESEARCHER])
    service.spaces.know({"usp": "São Paulo"})


def test_one_that_was_made_lets_its_users_in(config, environment, usp, monkeypatch):
    password = environment["FLAUTIM_LAB_LOGIN_PASSWORD"]
    assert log_in(config, "eva", password) is None  # the hub knows of no made ones
    made = read(environment | {"FLAUTIM_LAB_NAMESPACES": "flautim-of-"}, monkeypatch)
    assert log_in(made, "eva", password)["groups"] == ["usp"]
    assert log_in(made, "ana", password)["groups"] == ["ufmg"]
    assert asyncio.run(made.InstitutionLogin.places.made()) == {"usp"}
    assert made.InstitutionLogin.places.of(["usp", "ufmg"])["usp"].name == "São Paulo"


def test_a_notebook_of_a_made_one_is_in_the_namespace_that_the_hub_makes_up(
    environment, service, usp, spawner, config, monkeypatch
):
    config.merge(read(environment | {"FLAUTIM_LAB_NAMESPACES": "flautim-of-"}, monkeypatch))
    made, _ = pod_of(spawner, "eva", "usp")
    assert made.namespace == "flautim-of-usp"
    with pytest.raises(SpawnException, match="no place for a notebook"):
        pod_of(spawner, "eva", "Kube_System")


def test_only_a_data_owner_of_a_made_one_has_its_data(
    environment, service, usp, spawner, config, monkeypatch
):
    service.root.set_roles("usp", "davi", [Role.DATA_OWNER])
    told = {"FLAUTIM_LAB_NAMESPACES": "flautim-of-", "FLAUTIM_LAB_NAMESPACES_DATA": "data"}
    config.merge(read(environment | told, monkeypatch))
    for user, has in (("davi", True), ("eva", False)):
        _, pod = pod_of(spawner, user, "usp")
        claims = [each.get("persistentVolumeClaim") for each in pod["spec"]["volumes"]]
        assert ({"claimName": "data"} in claims) is has
        (container,) = pod["spec"]["containers"]
        mounts = {each["name"]: each for each in container["volumeMounts"]}
        assert mounts.get("data") == ({"name": "data", "mountPath": "/data"} if has else None)


def test_no_answer_sends_a_notebook_elsewhere(config):
    places = replace(config.InstitutionLogin.places, prefix="of-")
    # One would be the namespace of the list's ufmg; the others are no names.
    for key in ("ufmg", "-", "a_b", "../x", "x" * 62, ""):
        assert set(places.of([key])) == {"ufmg", "ifnmg"}
    taken = replace(places, institutions={"x": places.institutions["ufmg"]})
    assert set(taken.of(["ufmg"])) == {"x"}
    assert places.of(["usp"])["usp"].namespace == "of-usp"


def test_while_the_service_is_away_those_that_it_told_last(config, service, usp):
    places = replace(config.InstitutionLogin.places, prefix="flautim-of-")
    service.away = b"the proxy finds nobody"
    with pytest.raises(ServiceAwayError):
        asyncio.run(places.made())
    service.away = False
    assert asyncio.run(places.made()) == {"usp"}
    service.away = b"the proxy finds nobody"
    assert asyncio.run(places.made()) == {"usp"}


# --- notebook pods ------------------------------------------------------------------------------


def test_a_notebook_is_in_the_institutions_namespace(spawner):
    made, pod = pod_of(spawner, "ana", "ufmg")
    assert made.namespace == "of-ufmg"
    told = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
    assert told["FLAUTIM_LAB_INSTITUTION"] == "ufmg"
    assert told["FLAUTIM_LAB_SERVICE_URL"].startswith("http://127.0.0.1:")
    assert told["FLAUTIM_LAB_SERVICE_URL"].endswith("/services/flautim-lab")


def test_the_service_is_where_the_manifests_put_it(environment, monkeypatch):
    told = read(environment, monkeypatch)
    address = "http://service.of-hub.svc:8080/services/flautim-lab"
    assert told.KubeSpawner.environment["FLAUTIM_LAB_SERVICE_URL"] == address
    assert told.InstitutionLogin.places.url == f"{address}/places"


def test_of_two_institutions_the_chosen_one(spawner):
    for key in ("ufmg", "ifnmg"):
        made, pod = pod_of(spawner, "bruno", "ufmg", "ifnmg", profile=key)
        assert made.namespace == f"of-{key}"
        told = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
        assert told["FLAUTIM_LAB_INSTITUTION"] == key
    with pytest.raises(SpawnException, match="'usp' is no institution of bruno; choose one") as no:
        pod_of(spawner, "bruno", "ufmg", "ifnmg", profile="usp")
    assert no.value.status_code == 400


def test_who_moved_is_not_kept_out_by_what_was_chosen_before(spawner):
    """There is nothing to choose now, and so no form to choose it in."""
    made, _ = pod_of(spawner, "ana", "ifnmg", profile="ufmg", size="Large")
    assert made.namespace == "of-ifnmg"


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
        await as_the_hub_starts(made)
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


# --- idle notebooks ------------------------------------------------------------------------------


def test_idle_notebooks_are_ended_unless_told_not_to(config, environment, monkeypatch):
    (culler,) = [each for each in config.JupyterHub.services if each["name"] == "idle-culler"]
    assert "--timeout=3600" in culler["command"]
    assert "--url=http://127.0.0.1:8081/hub/api" in culler["command"]
    (role,) = [each for each in config.JupyterHub.load_roles if each["name"] == "idle-culler"]
    assert not any("admin" in scope or "token" in scope for scope in role["scopes"])
    never = read(environment | {"FLAUTIM_LAB_IDLE_MINUTES": "0"}, monkeypatch).JupyterHub
    assert [each["name"] for each in never.services] == ["flautim-lab"]
    assert "idle-culler" not in {each["name"] for each in never.load_roles}


def test_a_notebooks_server_counts_what_computes(spawner):
    _, pod = pod_of(spawner, "ana", "ufmg")
    (container,) = pod["spec"]["containers"]
    assert "--ServerApp.jpserver_extensions=flautim_lab.jupyter.activity=True" in container["args"]


# --- the institution's data ----------------------------------------------------------------------


def environment_of(pod):
    (container,) = pod["spec"]["containers"]
    return container["env"]


def mounts(pod):
    (container,) = pod["spec"]["containers"]
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"]
        for each in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in each
    }
    return {
        each["mountPath"]: (claims.get(each["name"]), each.get("readOnly", False))
        for each in container["volumeMounts"]
    }


def test_data_are_mounted_read_write_for_their_owners_and_for_nobody_else(spawner, service):
    service.root.set_roles("ufmg", "ana", [Role.DATA_OWNER])
    service.root.set_roles("ufmg", "carla", [Role.RESEARCHER, Role.INSTITUTION_ADMIN])
    service.root.set_roles("ifnmg", "bruno", [Role.DATA_OWNER])
    for name in ("ana", "olga"):  # by the catalog, and by the list
        _, pod = pod_of(spawner, name, "ufmg")
        assert mounts(pod)["/data"] == ("telemetry", False), name
        assert {"name": "FLAUTIM_LAB_DATA_VOLUME", "value": "/data"} in environment_of(pod)
        assert problems(pod["spec"]) == []
    # Afterwards, so that nothing stays behind of an owner's pod.
    for name, *groups in (("carla", "ufmg"), ("bruno", "ufmg", "ifnmg"), ("bruno", "ifnmg")):
        _, pod = pod_of(spawner, name, *groups)
        assert set(mounts(pod)) == {"/home/flautim", "/tmp"}, name
        assert "telemetry" not in str(pod)
    # A role without the institution's group: it was just taken off.
    _, pod = pod_of(spawner, "ana", "ifnmg")
    assert set(mounts(pod)) == {"/home/flautim", "/tmp"}
    service.away = b"x"
    assert set(mounts(pod_of(spawner, "ana", "ufmg")[1])) == {"/home/flautim", "/tmp"}
    assert "/data" in mounts(pod_of(spawner, "olga", "ufmg")[1])


def test_who_is_an_owner_no_more_has_no_data_at_the_next_start(spawner, service):
    async def both():
        made, found = spawner("ana", "ufmg"), []
        for roles in ([Role.DATA_OWNER], [Role.RESEARCHER]):
            service.root.set_roles("ufmg", "ana", roles)
            await as_the_hub_starts(made)
            pod = await made.get_pod_manifest()
            found.append(mounts(ApiClient().sanitize_for_serialization(pod)))
        return found

    first, second = asyncio.run(both())
    assert "/data" in first
    assert set(second) == {"/home/flautim", "/tmp"}


# --- sizes --------------------------------------------------------------------------------------

SIZES = {
    "profiles": [
        {"name": "Small", "cpu": 0.5, "memory": "1G"},
        {"name": "GPU", "cpu": 2, "memory": "4G", "gpu": 1, "image": "cuda:1"},
    ],
    "limits": {"cpu": 3, "memory": "6G", "gpu": 2},
}


@pytest.fixture
def with_sizes(environment):
    path = Path(environment["FLAUTIM_LAB_INSTITUTIONS"])
    listed = json.loads(path.read_text())
    listed["ufmg"] |= SIZES
    path.write_text(json.dumps(listed))


def of_form(spawner, **fields):
    """The container that a form gives, as a browser sends it."""

    async def made():
        one = spawner("ana", "ufmg")
        form = {"profile": ["ufmg"]} | {
            f"profile-option-ufmg--{key.replace('own_', '')}"
            + ("--unlisted-choice" if key.startswith("own_") else ""): [value]
            for key, value in fields.items()
        }
        one.user_options = one.options_from_form(form)
        await as_the_hub_starts(one)
        pod = ApiClient().sanitize_for_serialization(await one.get_pod_manifest())
        (container,) = pod["spec"]["containers"]
        return container

    return asyncio.run(made())


def test_a_size_is_chosen_on_the_form(with_sizes, spawner):
    async def form():
        return await spawner("ana", "ufmg").get_options_form()

    shown = asyncio.run(form())
    for words in ("Small: 0.5 core, 1G", "GPU: 2 cores, 4G, 1 GPU", "Memory, at most 6G"):
        assert words in shown
    small = of_form(spawner, size="Small", cpu="as-listed", memory="as-listed", gpu="as-listed")
    assert small["resources"]["limits"] == {"cpu": 0.5, "memory": 2**30}
    large = of_form(spawner, size="GPU")
    assert large["image"] == "cuda:1"
    assert large["resources"]["limits"] == {"cpu": 2.0, "memory": 4 * 2**30, "nvidia.com/gpu": "1"}
    own = of_form(spawner, size="GPU", own_cpu="2.5", own_memory="3000M", own_gpu="2")
    assert own["image"] == "cuda:1"
    assert own["resources"]["limits"] == {
        "cpu": 2.5,
        "memory": 3000 * 2**20,
        "nvidia.com/gpu": "2",
    }
    assert own["resources"]["requests"]["cpu"] == 0.2
    none = of_form(spawner, size="GPU", own_gpu="0")
    assert "nvidia.com/gpu" not in none["resources"]["limits"]


@pytest.mark.parametrize(
    "fields", [{"own_cpu": "3.1"}, {"own_memory": "7G"}, {"own_gpu": "3"}, {"size": "Huge"}]
)
def test_a_form_that_was_sent_by_hand_gets_no_more(with_sizes, spawner, fields):
    with pytest.raises(SpawnException, match=r"asked for|offers no size") as raised:
        of_form(spawner, **fields)
    assert raised.value.status_code == 400
    # Without the profile's name KubeSpawner itself would check nothing.
    (key, value), *_ = fields.items()
    name = key.replace("own_", "") + ("--unlisted-choice" if "own_" in key else "")
    with pytest.raises(SpawnException):
        pod_of(spawner, "ana", "ufmg", **{name: value})


def test_what_was_chosen_before_does_not_keep_the_form_from_being_shown(with_sizes, spawner):
    async def form():
        made = spawner("ana", "ufmg")
        made.user_options = {"profile": "ufmg", "cpu--unlisted-choice": 5}
        return await made.get_options_form()

    assert "Small: 0.5 core" in asyncio.run(form())


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
