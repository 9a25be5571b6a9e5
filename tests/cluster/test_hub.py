"""A hub on a real cluster, as its users meet it: a browser, a notebook pod, a run.

The three images of ``make laptop-images`` must be there. Screenshots are left in the folder that
``FLAUTIM_LAB_SHOTS`` names, or else in the test's own.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from pathlib import Path

import pytest

from tests.cluster.conftest import left_in
from tests.cluster.hub import Visitor, forwarded, hub_on_the_cluster, kubectl
from tests.cluster.waiting import PATIENCE
from tests.jupyter.in_browser import CHROMIUM, CHROMIUM_ARGS, MISSING
from tests.k8s.pod_security import problems

LACKING = [*MISSING, *(["kubectl"] if not shutil.which("kubectl") else [])]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]

LOOK = """\
import os
from pathlib import Path

def writable(path):
    try:
        Path(path, "x").touch()
        Path(path, "x").unlink()
        return True
    except OSError:
        return False

print("token:", Path("/var/run/secrets/kubernetes.io").exists(), "user:", os.getuid(),
      "root:", writable("/opt"), writable("/usr"), "home:", writable(Path.home()),
      "here:", Path("notebooks/iris.csv").exists())
"""
IRIS = """\
import flautim_lab as lab
from torch import nn

iris = lab.CSVDataset("notebooks/iris.csv", target="species")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.layers(x)

experiment = lab.Experiment(iris, Net, clients=4, strategy="FedAvg", rounds=60, local_epochs=2,
                            optimizer="Adam", lr=1e-2, seed=7)
small = {"cpu": "200m", "memory": "700Mi", "server_cpu": "300m", "server_memory": "700Mi"}
run = lab.run(experiment, on=lab.Cluster(**small))
run
"""
END = """\
run.wait(timeout_seconds=240)
print("ended:", run.status, "after", run.round, "rounds, with",
      round(run.final(metric="accuracy", split="validation"), 3))
expected = lab.run(experiment).wait()
print("same bits:", all(bool((run.model().state_dict()[key] == value).all())
                        for key, value in expected.model().state_dict().items()))
"""


OWNER = """\
import shutil
import flautim_lab as lab

shutil.copy("notebooks/iris.csv", "/data/iris.csv")
version = lab.register_dataset("ufmg", "/data/iris.csv", target="species", name="Iris")
print("registered:", version.ref, version.path)
"""
NET = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, x):
        return self.layers(x)
"""
READER = f"""\
from pathlib import Path
import flautim_lab as lab

catalog = lab.open_catalog()
project = catalog.add_project("ufmg", "Flowers")
net = catalog.save_model(project.ref, "Net", source={NET!r}, class_name="Net")
saved = catalog.save_experiment(project.ref, "Irises", model=net.ref, dataset="ufmg/iris",
                                settings={{"rounds": 30, "clients": 2, "lr": 0.05}})
small = {{"cpu": "200m", "memory": "700Mi", "server_cpu": "300m", "server_memory": "700Mi"}}
run = lab.run_saved(saved.ref, on=lab.Cluster(**small)).wait(timeout_seconds=240)
print("ended:", run.status, "volume:", Path("/data").exists(), "loss:",
      round(run.final(metric="loss", split="validation"), 3))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with hub_on_the_cluster(tmp_path_factory.mktemp("hub")) as made:
        yield made


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visitor(hub, browser, tmp_path, request):
    shots = Path(os.environ.get("FLAUTIM_LAB_SHOTS") or tmp_path)
    made = Visitor(hub, browser, shots)
    yield made
    made.shot(f"{request.node.name}-last")
    made.close()


@pytest.fixture(scope="module")
def ana(hub, browser, tmp_path_factory):
    """Ana, with her notebook pod."""
    shots = Path(os.environ.get("FLAUTIM_LAB_SHOTS") or tmp_path_factory.mktemp("ana"))
    made = Visitor(hub, browser, shots)
    made.log_in("ana")
    made.seconds = made.start()
    yield made
    made.shot("ana-last")
    made.close()


@pytest.mark.parametrize(
    ("user", "password"), [("ana", "not the password"), ("ana", ""), ("mallory", None)]
)
def test_who_may_not_log_in(hub, visitor, user, password):
    visitor.log_in(user, password)
    assert "Invalid username or password" in visitor.text
    visitor.page.goto(f"{hub.url}/hub/spawn")
    assert "/hub/login" in visitor.page.url


def test_without_an_institution_there_is_no_notebook(hub, visitor):
    before = len(hub.pods(hub.namespace))
    visitor.log_in("admin")
    visitor.page.goto(f"{hub.url}/hub/spawn")
    assert "admin belongs to no institution of this hub (ufmg)" in visitor.text
    refused = visitor.page.evaluate(
        """async () => {
            const xsrf = document.cookie.match(/_xsrf=([^;]+)/)[1];
            const answer = await fetch(`/hub/api/users/admin/server?_xsrf=${xsrf}`,
                {method: "POST"});
            return [answer.status, await answer.text()];
        }"""
    )
    assert refused[0] == 403
    assert "belongs to no institution" in refused[1]
    assert len(hub.pods(hub.namespace)) == before
    assert not any(
        pod["metadata"]["name"].startswith("jupyter-admin") for pod in hub.pods(hub.institution)
    )


def test_a_notebook_pod_in_the_institutions_namespace(hub, ana, record_property):
    record_property("seconds_to_jupyterlab", ana.seconds)
    ana.shot("jupyterlab")
    pod = hub.notebook("ana")
    spec = pod["spec"]
    assert pod["metadata"]["namespace"] == hub.institution
    assert pod["status"]["phase"] == "Running"
    assert problems(spec) == []
    assert spec["automountServiceAccountToken"] is False
    mounts = [each["mountPath"] for each in spec["containers"][0]["volumeMounts"]]
    assert sorted(mounts) == ["/home/flautim", "/tmp"]


def test_a_cell_runs_and_finds_no_credential(hub, ana):
    hub.write("ana", "look.ipynb", [LOOK])
    ana.open("ana", "look.ipynb")
    ana.run_all()
    said = ana.wait_for_output("token:")
    assert said.strip() == "token: False user: 1000 root: False False home: True here: True"


def test_iris_on_four_clients_as_pods(api, hub, ana, record_property):
    hub.write("ana", "iris.ipynb", [IRIS, END])
    ana.open("ana", "iris.ipynb")
    begin = time.monotonic()
    ana.run_all()
    first = ana.wait_for_round(2)
    record_property("seconds_to_second_round", time.monotonic() - begin)
    ana.shot("iris-begins")
    later = ana.wait_for_round(10)
    ana.shot("iris-runs")
    assert later != first  # the curve moved
    said = ana.wait_for_output("ended:")
    same = ana.wait_for_output("same bits:")
    record_property("seconds_to_the_end", time.monotonic() - begin)
    ana.shot("iris-ended")
    assert "ended: finished after 60 rounds" in said
    assert float(said.partition("with ")[2].split()[0]) > 0.9
    assert "same bits: True" in same
    end = time.monotonic() + 60
    while left := left_in(api, [hub.institution]):
        assert time.monotonic() < end, f"left in the institution's namespace: {left}"
        time.sleep(0.5)


def test_rows_of_the_institutions_volume_are_read_where_they_are(api, hub, ana, visitor):
    visitor.log_in("carla")
    visitor.start()
    hub.write("carla", "owner.ipynb", [OWNER])
    visitor.open("carla", "owner.ipynb")
    visitor.run_all()
    assert "registered: ufmg/iris@1 iris.csv" in visitor.wait_for_output("registered:")
    hub.write("ana", "reader.ipynb", [READER])
    ana.open("ana", "reader.ipynb")
    ana.run_all()
    said = ana.wait_for_output("ended:")
    ana.shot("rows-at-home")
    assert said.startswith("ended: finished volume: False loss:")
    # On made-up rows nothing could be learned: it would stay near log 3.
    assert float(said.split()[-1]) < 0.7
    end = time.monotonic() + 60
    while left := left_in(api, [hub.institution]):
        assert time.monotonic() < end, f"left in the institution's namespace: {left}"
        time.sleep(0.5)


def test_another_user_has_a_pod_of_their_own_and_no_way_into_mine(hub, ana, visitor):
    visitor.log_in("bruno")
    visitor.page.goto(f"{hub.url}/user/ana/lab")
    assert "403" in visitor.text
    visitor.start()
    assert hub.notebook("bruno")["metadata"]["name"] != hub.notebook("ana")["metadata"]["name"]
    homes = {
        hub.notebook(user)["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        for user in ("ana", "bruno")
    }
    assert homes == {"home-ana", "home-bruno"}


def test_a_hub_that_restarts_keeps_users_and_their_servers(hub, ana):
    before = hub.notebook("ana")["metadata"]["uid"]
    kubectl("scale", "-n", hub.namespace, "deployment/hub", "--replicas=0")
    kubectl("wait", "-n", hub.namespace, "pod", "-l", "app.kubernetes.io/name=hub",
            "--for=delete", f"--timeout={PATIENCE}s")  # fmt: skip
    hub.write("ana", "away.ipynb", ["print('hub is', 'away')"])
    ana.open("ana", "away.ipynb")
    ana.run_all()
    ana.wait_for_output("hub is away")
    kubectl("scale", "-n", hub.namespace, "deployment/hub", "--replicas=1")
    kubectl("rollout", "status", "-n", hub.namespace, "deployment/hub", f"--timeout={PATIENCE}s")
    ana.page.goto(f"{hub.url}/hub/home")  # without another login
    ana.page.get_by_text("My Server").first.wait_for()
    assert "Stop My Server" in ana.text
    assert hub.notebook("ana")["metadata"]["uid"] == before
    ana.open("ana", "look.ipynb")


def test_who_is_taken_off_the_list_is_out(hub, visitor):
    visitor.log_in("bruno")
    assert "bruno" in visitor.text
    pod = hub.notebook("bruno")["metadata"]["name"]
    assert known_to_the_hub(hub, pod) == "200"
    listed = hub.overlay / "hub/institutions.json"
    listed.write_text(listed.read_text().replace('["ana", "bruno"]', '["ana"]'))
    hub.apply()
    visitor.page.goto(f"{hub.url}/hub/home")
    assert "/hub/login" in visitor.page.url
    assert known_to_the_hub(hub, pod) == "403"  # the token of the pod that is still there
    visitor.log_in("bruno")
    assert "Invalid username or password" in visitor.text


def known_to_the_hub(hub, pod):
    """What the Hub answers to the token of a notebook pod."""
    asked = (
        "import os, httpx; print(httpx.get(os.environ['JUPYTERHUB_API_URL'] + '/user', "
        "headers={'Authorization': 'token ' + os.environ['JUPYTERHUB_API_TOKEN']}).status_code)"
    )
    return kubectl("exec", "-n", hub.institution, pod, "--", "python", "-c", asked).strip()


def test_a_proxy_that_restarts_learns_its_routes_again(hub, ana):
    kubectl("rollout", "restart", "-n", hub.namespace, "deployment/proxy")
    kubectl("rollout", "status", "-n", hub.namespace, "deployment/proxy", f"--timeout={PATIENCE}s")
    # The first forwarded port went with the first proxy.
    with forwarded(hub.namespace) as url:
        end = time.monotonic() + PATIENCE
        while not answers(f"{url}/user/ana/api"):
            assert time.monotonic() < end, "the proxy never found ana's server again"
            time.sleep(1)


def answers(url):
    """Whether a notebook's own server is what answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return "version" in json.loads(answer.read())
    except (OSError, ValueError):
        return False
