"""Values for the Zero to JupyterHub chart: they make its hub ours, and what they name is there.

With the chart's folder (``tests/k8s/chart.py``) they are tried on its own schema and configuration
file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from jupyterhub.app import JupyterHub
from tornado.httpclient import AsyncHTTPClient
from traitlets.config import PyFileConfigLoader

from flautim_lab.service import settings as service
from hub_config import culling, roles
from hub_config.institutions import read_institutions
from hub_config.settings import NEEDED, PASSWORDS, Settings
from tests.k8s.chart import CHART, NO_CHART, read
from tests.k8s.conftest import K8S, pods_of
from tests.k8s.kustomize import build
from tests.k8s.pod_security import problems

FOLDER = K8S / "zero-to-jupyterhub"
VALUES = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
OURS = Path(__file__).parents[2] / "hub_config" / "jupyterhub_config.py"
#: As much of the chart's configuration as matters: it has names of its own, too.
CHARTS_OWN = """
c = get_config()
get_config = "the chart's, for its values"
c.JupyterHub.base_url = "/"
c.JupyterHub.hub_connect_url = "http://hub:8081"
c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.cookie_secret = b"the chart's"
c.JupyterHub.services = [{"name": "theirs", "api_token": "x"}]
c.JupyterHub.load_roles = [{"name": "theirs", "scopes": ["list:users"], "services": ["theirs"]}]
c.KubeSpawner.common_labels = {"app.kubernetes.io/name": "jupyterhub"}
c.KubeSpawner.image = "theirs"
c.KubeSpawner.profile_list = []
c.KubeSpawner.volumes = {"volume-{user_server}": {"name": "volume-{user_server}"}}
c.Spawner.cmd = "theirs"
"""
CURL = "tornado.curl_httpclient"


@pytest.fixture
def objects(beside_the_chart):
    return beside_the_chart


@pytest.fixture
def environment(monkeypatch):
    """What the hub's pod has in its environment: the values', and the chart's."""
    lists = {
        VALUES["hub"]["extraEnv"]["FLAUTIM_LAB_INSTITUTIONS"]: FOLDER / "hub/institutions.json"
    }
    for name, told in VALUES["hub"]["extraEnv"].items():
        if name == "PYTHONPATH":  # of the image
            continue
        monkeypatch.setenv(name, str(lists.get(told, told)) if isinstance(told, str) else name * 3)
    monkeypatch.setenv("POD_NAMESPACE", "jhub")
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "the chart's")
    yield
    AsyncHTTPClient.configure(None)
    sys.modules.pop(CURL, None)


def loaded(path):
    return PyFileConfigLoader(path.name, path=str(path.parent)).load_config()


def with_the_values(before, folder):
    """The configuration after the chart's file and the values' Python, as the chart runs it."""
    (source,) = VALUES["hub"]["extraConfig"].values()
    file = folder / "with_the_values.py"
    file.write_text(f"{before}\nexec({source!r})\n", encoding="utf-8")
    return loaded(file)


def comparable(value):
    """A configuration in which functions, made anew each time it is read, go by their names."""
    if isinstance(value, dict):
        return {key: comparable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [comparable(each) for each in value]
    return value.__qualname__ if callable(value) else value


def test_the_charts_hub_is_configured_as_ours(environment, tmp_path):
    ours, theirs = loaded(OURS), with_the_values(CHARTS_OWN, tmp_path)
    for name in ("services", "load_roles"):
        (first, *rest) = theirs.JupyterHub[name]
        assert first["name"] == "theirs"  # and last those of ours, which so are in force
        assert rest == ours.JupyterHub[name]
    assert theirs.JupyterHub.db_url == "sqlite:///jupyterhub.sqlite"
    assert theirs.JupyterHub.cookie_secret == b"the chart's"
    for section, assigned in ours.items():
        for name, value in assigned.items():
            if name not in ("services", "load_roles", "db_url"):
                told = theirs[section][name]
                assert comparable(told) == comparable(value), f"{section}.{name}"
    kept = {
        f"{section}.{name}" for section in theirs for name in theirs[section]
        if name not in ours.get(section, {})
    }  # fmt: skip
    assert kept == {
        "JupyterHub.base_url",
        "JupyterHub.cookie_secret",
        "KubeSpawner.common_labels",
        "Spawner.cmd",
    }


def test_the_hub_asks_without_curl(environment, tmp_path):
    """JupyterHub chooses it, after it read its configuration, where it finds it."""
    with_the_values(CHARTS_OWN, tmp_path)
    with pytest.raises(ImportError):
        AsyncHTTPClient.configure(f"{CURL}.CurlAsyncHTTPClient")
    dockerfile = (K8S.parent / "Dockerfile").read_text(encoding="utf-8")
    path = VALUES["hub"]["extraEnv"]["PYTHONPATH"].split(":")
    assert path == ["/opt/config", "/opt/pycurl"]
    assert "PYTHONPATH=/opt/config\n" in dockerfile  # in our own hub it is not found
    assert "--target /opt/pycurl pycurl" in dockerfile


def test_without_hub_config_the_hub_does_not_start(environment, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hub_config", None)
    with pytest.raises(ImportError, match="hub_config"):
        with_the_values(CHARTS_OWN, tmp_path)


@pytest.mark.parametrize(
    ("is_so", "is_other", "said"),
    [
        (
            '"http://hub:8081"',
            '"http://jhub-hub:8081"',
            'fullnameOverride must be "": hub_connect_',
        ),
        (
            'base_url = "/"',
            'base_url = "/jupyter/"',
            "hub.baseUrl must be /: base_url is /jupyter/",
        ),
    ],
)
def test_a_release_of_other_names_is_refused(environment, tmp_path, is_so, is_other, said):
    """Helm would remove the hub's volume of the name before."""
    assert "fullnameOverride" not in VALUES
    assert is_so in CHARTS_OWN
    with pytest.raises(SystemExit, match=said):
        with_the_values(CHARTS_OWN.replace(is_so, is_other), tmp_path)


def test_the_hub_is_told_all_it_needs_and_what_it_is_told_is_there(objects, environment, copy):
    hub, singleuser = VALUES["hub"], VALUES["singleuser"]
    by_the_chart = {"POD_NAMESPACE", "CONFIGPROXY_AUTH_TOKEN"}
    assert {*NEEDED, *PASSWORDS} - by_the_chart <= set(hub["extraEnv"])
    named = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    secrets = named["Secret", "flautim-hub"]["data"]
    references = [
        each["valueFrom"]["secretKeyRef"] for each in hub["extraEnv"].values() if type(each) is dict
    ]
    assert {(each["name"], each["key"]) for each in references} == {
        ("flautim-hub", key) for key in secrets
    }
    (volume,), (mount,) = hub["extraVolumes"], hub["extraVolumeMounts"]
    assert volume["name"] == mount["name"]
    content = named["ConfigMap", volume["configMap"]["name"]]["data"]
    told = Path(hub["extraEnv"][service.INSTITUTIONS_VARIABLE])
    assert str(told.parent) == mount["mountPath"]
    assert set(content) == {told.name}
    institutions = read_institutions(FOLDER / "hub/institutions.json")
    assert {("Namespace", each.namespace) for each in institutions.values()} == {
        key for key in named if key[0] == "Namespace"
    }
    # The versions that go together.
    pod = pods_of(objects)["service"]
    image = f"{singleuser['image']['name']}:{singleuser['image']['tag']}"
    assert image == hub["extraEnv"]["FLAUTIM_LAB_NOTEBOOK_IMAGE"] == Settings.notebook_image
    assert pod.container["image"] == image
    assert problems(pod.spec) == []
    ours = pods_of(build(copy / "overlays/laptop"))["hub"].container["image"]
    assert f"{hub['image']['name']}:{hub['image']['tag']}" == ours


def test_who_does_what_in_an_institutions_namespace(objects):
    bound = {
        each["roleRef"]["name"]: each["subjects"]
        for each in objects
        if each["kind"] == "RoleBinding"
    }
    assert bound == {
        f"flautim-lab-{what}": [{"kind": "ServiceAccount", "name": who, "namespace": "jhub"}]
        for what, who in (("notebooks", "hub"), ("runs", "service"))
    }
    # Neither the release's namespace nor anything cluster-wide is touched.
    assert {each["kind"] for each in objects if each["metadata"].get("namespace") == "jhub"} == {
        "ConfigMap", "Secret", "ServiceAccount", "Service", "Deployment", "NetworkPolicy",
        "PersistentVolumeClaim",
    }  # fmt: skip


def test_no_more_than_one_ends_idle_notebooks(environment, tmp_path):
    assert VALUES["cull"] == {"enabled": False}
    names = [each["name"] for each in with_the_values(CHARTS_OWN, tmp_path).JupyterHub.services]
    assert names == ["theirs", roles.SERVICE, culling.SERVICE]


def merged(values, more):
    """Values as helm merges them: objects into each other, and nothing else."""
    found = dict(values)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(values.get(key), dict)
        found[key] = merged(values[key], value) if both else value
    return found


@pytest.mark.skipif(bool(NO_CHART), reason=NO_CHART)
def test_every_value_is_one_of_the_charts_schema():
    import jsonschema

    check = jsonschema.Draft7Validator(read("values.schema.yaml"))
    values = merged(read("values.yaml"), VALUES)  # it is these that helm looks at
    check.validate(values)
    with pytest.raises(jsonschema.ValidationError, match="extraConfigs"):
        check.validate(merged(values, {"hub": {"extraConfigs": {}}}))


@pytest.mark.skipif(bool(NO_CHART), reason=NO_CHART)
def test_the_charts_own_configuration_with_the_values(environment, monkeypatch, tmp_path):
    files = Path(CHART) / "files/hub"
    monkeypatch.syspath_prepend(str(files))
    z2jh = pytest.importorskip("z2jh")
    values = merged(read("values.yaml"), VALUES)
    monkeypatch.setattr(z2jh, "_load_config", lambda: values)
    monkeypatch.setattr(z2jh, "_get_config_value", lambda name: name)
    monkeypatch.setattr(z2jh, "get_secret_value", lambda name, default="": f"secret of {name}")
    monkeypatch.setenv("PROXY_API_SERVICE_PORT", "8001")
    monkeypatch.setenv("HUB_SERVICE_PORT", "8081")
    if "pycurl" not in sys.modules:  # it is in the hub's image; here the choice alone is undone
        monkeypatch.setattr(AsyncHTTPClient, "configure", lambda *_: None)
    told = loaded(files / "jupyterhub_config.py")
    ours = loaded(OURS)
    for section, assigned in ours.items():
        for name, value in assigned.items():
            if f"{section}.{name}" != "JupyterHub.db_url":
                assert comparable(told[section][name]) == comparable(value), f"{section}.{name}"
    assert told.JupyterHub.db_url == "sqlite:///jupyterhub.sqlite"
    assert not told.KubeSpawner.init_containers
    left = [name for name in told.JupyterHub if name not in JupyterHub.class_traits(config=True)]
    assert left == []
