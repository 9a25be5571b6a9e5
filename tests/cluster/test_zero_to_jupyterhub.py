"""A release of the Zero to JupyterHub chart with our values, by helm, as its users meet it.

It needs helm, the chart (``tests/k8s/chart.py`` says how it is given), and the images of ``make
laptop-images``. Of them the chart's proxy is made too: a cluster without the internet will do.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess

import httpx
import pytest

from tests.cluster.asking import Asking, in_a_notebook
from tests.cluster.conftest import left_in
from tests.cluster.hub import Hub, copied, forwarded, kubectl, remove
from tests.cluster.test_production import RUN
from tests.cluster.waiting import PATIENCE, wait_until
from tests.k8s.chart import CHART, NO_HELM, RELEASE, helm
from tests.k8s.pod_security import problems

LACKING = NO_HELM or ("" if shutil.which("kubectl") else "kubectl is not installed")
pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)
TOKEN = secrets.token_hex(32)  # of a service that the release has already
YOURS = {
    "hub": {
        "services": {"theirs": {"apiToken": TOKEN}},
        "loadRoles": {"theirs": {"scopes": ["list:users"], "services": ["theirs"]}},
    },
    "proxy": {
        "service": {"type": "ClusterIP"},
        "chp": {"image": {"name": "flautim-lab-hub", "tag": "0.1.0"}},
    },
    # They are made of further images of the chart's.
    "prePuller": {"hook": {"enabled": False}, "continuous": {"enabled": False}},
    "scheduling": {"userScheduler": {"enabled": False}},
}


class Release(Hub):
    """Its hub."""

    def apply(self) -> None:
        """Bring the cluster to what the files say, in the words of docs/administration.md."""
        kubectl("apply", "-k", str(self.overlay))
        values = [self.overlay / "yours.yaml", self.overlay / "values.yaml"]
        helm("upgrade", "--install", RELEASE, CHART, "--namespace", self.namespace,
             *(f"--values={each}" for each in values))  # fmt: skip
        super().apply()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    mark = secrets.token_hex(3)
    namespace, space = f"z2jh-{mark}", f"z2jh-ufmg-{mark}"
    names = {"jhub": namespace, "flautim-ufmg": space}
    overlay = copied(tmp_path_factory.mktemp("chart"), names) / "zero-to-jupyterhub"
    (overlay / "yours.yaml").write_text(json.dumps(YOURS))
    subprocess.run([overlay / "secrets.sh"], check=True, stdout=subprocess.DEVNULL)
    told = dict(line.split("=", 1) for line in (overlay / "hub/secrets.env").read_text().split())
    passwords = {"admin": told["admin-password"], "": told["login-password"]}
    made = Release("", namespace, {"ufmg": space}, passwords, overlay)
    try:
        kubectl("create", "namespace", namespace)
        made.apply()
        with forwarded(namespace, "proxy-public") as made.url:
            yield made
    finally:
        remove(namespace, space)


@pytest.fixture(scope="module")
def ana(hub):
    made = Asking(hub).by_password("ana")
    yield made
    made.close()


def test_the_login_is_ours_and_a_group_is_an_institution(hub, ana):
    told = ana.api("GET", "/user").json()
    assert (told["name"], told["groups"], told["admin"]) == ("ana", ["ufmg"], False)
    mallory = Asking(hub)
    with pytest.raises(AssertionError, match="Invalid username or password"):
        mallory.by_password("mallory")
    mallory.close()


def test_services_and_roles_of_the_release_stay(hub, ana):
    token = {"Authorization": f"token {TOKEN}"}
    found = httpx.get(f"{hub.url}/hub/api/users", headers=token, trust_env=False)
    assert "ana" in [each["name"] for each in found.json()]


def test_a_notebook_starts_in_the_institutions_namespace(hub, ana, record_property):
    record_property("seconds_to_notebook", ana.start("ana"))
    pod = hub.notebook("ana")
    assert pod["metadata"]["namespace"] == hub.institution
    assert pod["status"]["phase"] == "Running"
    assert problems(pod["spec"]) == []
    said = in_a_notebook(
        hub.institution, "ana",
        "from pathlib import Path; print(Path('/var/run/secrets/kubernetes.io').exists())",
    )  # fmt: skip
    assert said.strip() == "False"


def test_an_experiment_runs_through_the_service(api, hub, ana):
    pod = ("-n", hub.institution, "jupyter-ana")
    kubectl("exec", *pod, "-i", "--", "sh", "-c", "cat > run.py", input=RUN)
    run_id, *said = kubectl("exec", *pod, "--", "python", "run.py", "3").split()
    assert said == ["finished", "3"]
    assert [each["id"] for each in ana.service("GET", "/runs").json()] == [run_id]
    wait_until(lambda: not left_in(api, [hub.institution]), "nothing of the run is left", 60)


def test_a_list_that_is_changed_is_in_force_after_a_restart(hub, ana):
    before = hub.notebook("ana")["metadata"]["uid"]
    bruno = Asking(hub).by_password("bruno")
    listed = hub.overlay / "hub/institutions.json"
    listed.write_text(listed.read_text().replace('["ana", "bruno"]', '["ana"]'))
    kubectl("apply", "-k", str(hub.overlay))
    kubectl("--namespace", hub.namespace, "rollout", "restart", "deployment", "hub", "service")
    for name in ("hub", "service"):
        limit = f"--timeout={PATIENCE}s"
        kubectl("rollout", "status", "-n", hub.namespace, f"deployment/{name}", limit)
    assert bruno.api("GET", "/user").status_code == 403
    bruno.close()
    # Of the others nobody is logged out, and no notebook ends.
    assert ana.api("GET", "/user").json()["groups"] == ["ufmg"]
    assert hub.notebook("ana")["metadata"]["uid"] == before


def test_an_upgrade_leaves_notebooks_alone(hub, ana):
    before = hub.notebook("ana")["metadata"]["uid"]
    more = YOURS | {"hub": YOURS["hub"] | {"annotations": {"changed": "true"}}}
    (hub.overlay / "yours.yaml").write_text(json.dumps(more))
    hub.apply()
    # The first upgrade of a release makes the chart's proxy anew, and with it went the port.
    with forwarded(hub.namespace, "proxy-public") as ana.client.base_url:

        def ready():
            with contextlib.suppress(httpx.HTTPError, ValueError):
                return ana.api("GET", "/users/ana").json()["servers"][""]["ready"]

        wait_until(ready, "the hub knows ana and her server")
        assert hub.notebook("ana")["metadata"]["uid"] == before
        ana.stop("ana")
