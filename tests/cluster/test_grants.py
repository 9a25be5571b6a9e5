"""Two institutions of a hub on a real cluster: a grant, a run on both volumes, kills, a full quota.

The three images of ``make laptop-images`` must be there, as for ``test_hub.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import left_in
from tests.cluster.hub import Visitor, hub_on_the_cluster, kubectl
from tests.cluster.waiting import PATIENCE, wait_until
from tests.jupyter.in_browser import CHROMIUM, CHROMIUM_ARGS, MISSING
from tests.k8s.pod_security import problems

LACKING = [*MISSING, *(["kubectl"] if not shutil.which("kubectl") else [])]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
OTHERS = {
    "ifnmg": {
        "name": "Instituto Federal do Norte de Minas Gerais",
        "users": ["emil"],
        "owners": ["dora"],
        "data": "ifnmg-data",
    }
}
OWNER = """\
import pandas as pd
import flautim_lab as lab

frame = pd.read_csv("notebooks/iris.csv").iloc[{start}::2]
frame.to_csv("/data/iris.csv", index=False)
version = lab.register_dataset("{key}", "/data/iris.csv", target="species", name="Iris")
lab.open_catalog().change_dataset("{key}/iris", published=True)
print("registered:", version.ref, version.rows)
"""
NET = """\
import time

from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, x):
        time.sleep(0.02)  # long enough to be looked at
        return self.layers(x)
"""
ASK = f"""\
import flautim_lab as lab

catalog = lab.open_catalog()
project = catalog.add_project("ufmg", "Flowers")
net = catalog.save_model(project.ref, "Net", source={NET!r}, class_name="Net")
settings = {{"rounds": 60, "clients": 2, "lr": 0.05, "seed": 7}}
saved = catalog.save_experiment(project.ref, "Irises", model=net.ref, dataset="ufmg/iris",
                                more_datasets=["ifnmg/iris"], settings=settings)
try:
    lab.run_saved(saved.ref, on="cluster")
except lab.NotAllowedError as refusal:
    print("refused:", refusal)
(request,) = lab.ask_for_data(saved.ref, note="To tell irises apart")
print("asked:", request.dataset, request.answer)
"""
ANSWER = """\
import flautim_lab as lab
from flautim_lab.catalog.things import Answer

catalog = lab.open_catalog()
(request,) = catalog.grant_requests(institution="ifnmg", waiting=True).items
read = catalog.grant_request(request.id)
print(read.note, "|", "class Net(nn.Module)" in read.code.files["model.py"])
print("answered:", catalog.answer_request(request.id, Answer.THIS_CODE).answer)
"""
RUN = """\
from pathlib import Path
import flautim_lab as lab

small = {"cpu": "200m", "memory": "700Mi", "server_cpu": "300m", "server_memory": "700Mi"}
run = lab.run_saved("ufmg/flowers/irises", on=lab.Cluster(**small))
run
"""
END = """\
run.wait(timeout_seconds=400)
losses = run.metrics.query("metric == 'loss' and split == 'validation' and client.isna()")
rounds = sorted(losses["round"])
print("ended:", run.status, "rounds", rounds[-1],
      "whole:", rounds == list(range(rounds[0], rounds[-1] + 1)),
      "volume:", Path("/data").exists(), "loss:", round(run.final("loss"), 3))
"""
SEES = """\
import flautim_lab as lab

catalog = lab.open_catalog()
for name, ask in {
    "project": lambda: catalog.project("ufmg/flowers"),
    "runs": lambda: catalog.runs("ufmg/flowers"),
    "uses": lambda: catalog.uses("ifnmg"),
    "requests": lambda: catalog.grant_requests(institution="ifnmg"),
}.items():
    try:
        print(name, "seen:", ask())
    except lab.FlautimError as refusal:
        print(name, "refused:", type(refusal).__name__)
print("runs here:", len(lab.runs()), "looked:", True)
"""
USES = """\
import flautim_lab as lab

uses = lab.open_catalog().uses("ifnmg").items
print("uses:", [(use.dataset, use.started_by, bool(use.ended)) for use in uses])
"""
FULL = """\
import flautim_lab as lab

run = lab.run_saved("ufmg/flowers/irises", on="cluster")
try:
    run.wait(timeout_seconds=20)
except TimeoutError:
    pass
print("full:", run.status, "|", run.progress().waiting or run.message)
run.stop()
run.wait(timeout_seconds=120)
print("over:", run.status)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with hub_on_the_cluster(tmp_path_factory.mktemp("hub"), others=OTHERS) as made:
        yield made


@pytest.fixture(scope="module")
def people(hub, tmp_path_factory):
    """Whoever is named comes with a browser and a notebook pod, once."""
    from playwright.sync_api import sync_playwright

    shots = Path(os.environ.get("FLAUTIM_LAB_SHOTS") or tmp_path_factory.mktemp("shots"))
    here = {}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)

        def come(user):
            if user not in here:
                here[user] = Visitor(hub, chromium, shots)
                here[user].log_in(user)
                here[user].seconds = here[user].start()
            return here[user]

        yield come
        for user, visitor in here.items():
            visitor.shot(f"grants-{user}-last")
            visitor.close()
        chromium.close()


def execute(hub, visitor, user, name, *cells):
    hub.write(user, f"{name}.ipynb", list(cells))
    visitor.open(user, f"{name}.ipynb")
    visitor.run_all()


def of_a_run(hub, institution):
    return [
        pod
        for pod in hub.pods(hub.institutions[institution])
        if "flautim-lab/run" in pod["metadata"]["labels"]
    ]


def nothing_is_left(api, hub):
    spaces = list(hub.institutions.values())
    wait_until(lambda: not left_in(api, spaces), "objects of a run are left")


def test_a_run_on_two_volumes_once_the_other_owner_has_read_its_code(api, hub, people):
    carla = people("carla")
    execute(hub, carla, "carla", "owner", OWNER.format(key="ufmg", start=0))
    assert "registered: ufmg/iris@1 75" in carla.wait_for_output("registered:")
    dora = people("dora")
    execute(hub, dora, "dora", "owner", OWNER.format(key="ifnmg", start=1))
    assert "registered: ifnmg/iris@1 75" in dora.wait_for_output("registered:")

    ana = people("ana")
    execute(hub, ana, "ana", "ask", ASK)
    said = ana.wait_for_output("asked:")
    assert "refused: dataset ifnmg/iris@1 is not granted to project ufmg/flowers for this" in said
    assert not of_a_run(hub, "ufmg")
    assert not of_a_run(hub, "ifnmg")
    execute(hub, dora, "dora", "answer", ANSWER)
    said = dora.wait_for_output("answered:")
    assert "To tell irises apart | True" in said

    execute(hub, ana, "ana", "run", RUN, END)
    ana.wait_for_round(3)
    for key in ("ufmg", "ifnmg"):
        (worker,) = (pod for pod in of_a_run(hub, key) if "worker" in pod["metadata"]["name"])
        assert problems(worker["spec"]) == []
        assert worker["spec"]["automountServiceAccountToken"] is False
        claims = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in worker["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert claims == {f"{key}-data"}
    ana.shot("grants-ana-runs")
    said = ana.wait_for_output("ended:")
    assert said.startswith("ended: finished rounds 60 whole: True volume: False loss:")
    assert float(said.split()[-1]) < 0.7  # on made-up rows it would stay near log 3
    execute(hub, dora, "dora", "uses", USES)
    assert "('ifnmg/iris@1', 'ana', True)" in dora.wait_for_output("uses:")
    nothing_is_left(api, hub)


def test_a_third_user_sees_neither_run_nor_request(hub, people):
    emil = people("emil")
    execute(hub, emil, "emil", "sees", SEES)
    said = emil.wait_for_output("looked:")
    assert "seen:" not in said
    assert said.count("refused:") == 4
    assert "runs here: 0" in said


@pytest.mark.parametrize("part", ["hub", "proxy", "service"])
def test_a_part_of_the_hub_is_killed_during_a_run(api, hub, people, part, record_property):
    ana = people("ana")
    execute(hub, ana, "ana", f"killed-{part}", RUN, END)
    ana.wait_for_round(5)
    named = ["-l", f"app.kubernetes.io/name={part}", "-o", "name"]
    pod = kubectl("get", "pods", "-n", hub.namespace, *named).strip()
    begin = time.monotonic()
    kubectl("delete", "-n", hub.namespace, pod, "--grace-period=0", "--force")
    limit = f"--timeout={PATIENCE}s"
    kubectl("rollout", "status", "-n", hub.namespace, f"deployment/{part}", limit)
    record_property(f"seconds_until_{part}_is_back", time.monotonic() - begin)
    said = ana.wait_for_output("ended:")
    assert said.startswith("ended: finished rounds 60 whole: True")
    # The page in the notebook, too, went to the end: what is left of it then is no widget any more.
    page = ana.page.locator(".jp-OutputArea-output", has_text="60/60 rounds").first
    page.wait_for()
    assert "finished" in page.inner_text()
    ana.shot(f"grants-{part}-was-killed")
    nothing_is_left(api, hub)


def test_a_full_quota_is_one_sentence(api, hub, people):
    ana, space = people("ana"), hub.institution
    quota = json.loads(kubectl("get", "resourcequota", "institution", "-n", space, "-o", "json"))
    # Counted here: the quota's own count still has pods that went a moment ago.
    pods = kubectl("get", "pods", "-n", space, "-o", "name").split()
    full = json.dumps({"spec": {"hard": {"pods": str(len(pods))}}})
    kubectl("patch", "resourcequota", "institution", "-n", space, "--type=merge", "-p", full)
    try:
        execute(hub, ana, "ana", "full", FULL)
        said = ana.wait_for_output("full:")
        assert f"there is no room for the run's server in the quota of {space}" in said
        assert "over: stopped" in ana.wait_for_output("over:")
        ana.shot("grants-full-quota")
    finally:
        whole = json.dumps({"spec": {"hard": {"pods": quota["spec"]["hard"]["pods"]}}})
        kubectl("patch", "resourcequota", "institution", "-n", space, "--type=merge", "-p", whole)
    nothing_is_left(api, hub)
