"""Batches of points through the service: whose, where, how many, and what is left of them."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import gzip
import json
import time
from pathlib import Path

import nbformat
import pytest
from kubernetes import client as k8s

import flautim_lab as lab
from flautim_lab.connection import Away, Refusal
from flautim_lab.errors import ClusterError
from flautim_lab.home import home
from flautim_lab.pods.api import Unreachable
from flautim_lab.runners.pod_files import pack_folder
from flautim_lab.runners.rerun import hub_place, parcel
from flautim_lab.runners.stamped import Outcome
from flautim_lab.service.batches import AskedBatch, Batches
from flautim_lab.service.hub import Caller
from flautim_lab.service.settings import Settings
from tests.service.conftest import INSTITUTIONS
from tests.service.test_app import BATCH, BATCH_ROUTES, ask, no_cluster, problem  # noqa: F401

ARCHIVE = gzip.compress(b"what nobody opens")
ANA = Caller("ana", False, {"ufmg": "flautim-ufmg"})


class Cluster:
    """What ``flautim_lab.pods.api.Api`` is to a batch; pods do what a test says they did."""

    namespace = "flautim-hub"

    def __init__(self):
        self.made, self.checked, self.removed, self.stay = [], [], [], []
        self.trouble = None
        #: By pod: index, phase, log.
        self.running = {}
        self.status = k8s.V1JobStatus()

    def _answer(self):
        trouble, self.trouble = self.trouble, None
        if trouble:
            raise trouble

    def check_access(self, namespaces):
        self.checked.append(namespaces)

    def anchor(self, made):
        self.create(made)
        return k8s.V1OwnerReference(
            api_version="v1", kind="ConfigMap", name=made.metadata.name, uid="1"
        )

    def create(self, made):
        if made.kind == "Job":
            self._answer()
        if made.metadata.name not in [each.metadata.name for each in self.of(made.kind)]:
            self.made.append(made)

    def of(self, kind):
        return [each for each in self.made if each.kind == kind]

    def job(self, name, namespace):
        self._answer()
        (found,) = [each for each in self.of("Job") if each.metadata.name == name]
        found.status = self.status
        return found

    def pods(self, run, role):
        found = []
        for number, (name, (index, phase, _)) in enumerate(self.running.items()):
            labels = {"batch.kubernetes.io/job-completion-index": str(index)}
            made = datetime.datetime.fromtimestamp(1e9 + number, datetime.UTC)
            metadata = k8s.V1ObjectMeta(name=name, labels=labels, creation_timestamp=made)
            found.append(k8s.V1Pod(metadata=metadata, status=k8s.V1PodStatus(phase=phase)))
        return found

    def refusals(self, job, namespace):
        return []

    def log(self, pod, lines):
        return self.whole_log(pod)

    def whole_log(self, pod):
        return self.running[pod.metadata.name][2]

    def remove(self, run, seconds=60.0):
        self._answer()
        self.removed.append(run.name)
        left, self.stay = self.stay, []
        if not left:
            self.made = [each for each in self.made if run.name not in each.metadata.name]
        return left


@pytest.fixture
def cluster(ask, monkeypatch):  # noqa: F811
    made = Cluster()
    monkeypatch.setattr("flautim_lab.pods.api.Api", lambda context=None: made)
    return made


def wish(**changes):
    told = {"cluster": {"institution": "ufmg"}, "points": 3, "jobs": 2, "tries": 2}
    return told | {"archive": base64.b64encode(ARCHIVE).decode()} | changes


def put(client, batch=BATCH, **changes):
    return client("PUT", f"/batches/{batch}", json=wish(**changes))


def kept():
    return sorted(path.name for path in (home() / "batches").glob("*"))


def test_what_is_made_is_the_institutions_and_holds_no_credential(ask, hub, cluster):  # noqa: F811
    ana = ask(hub.token("ana"))
    limits = {"institution": "ufmg", "cpu": "500m", "memory": "2Gi", "hours": 2}
    for _ in range(2):  # the same once more is no second batch
        told = put(ana, cluster=limits, jobs=200).json()
        assert (told["id"], told["owner"], told["institution"]) == (BATCH, "ana", "ufmg")
    assert cluster.checked == [["flautim-ufmg"]]
    assert {each.metadata.namespace for each in cluster.made} == {"flautim-ufmg"}
    assert [each.kind for each in cluster.made] == [
        "ConfigMap",
        "ConfigMap",
        "NetworkPolicy",
        "Job",
    ]
    parts = [each.binary_data for each in cluster.made[1:2]]
    assert [base64.b64decode(part) for held in parts for part in held.values()] == [ARCHIVE]
    (policy,) = cluster.of("NetworkPolicy")
    assert (policy.spec.ingress, policy.spec.egress) == ([], [])
    (job,) = cluster.of("Job")
    spec, pod = job.spec, job.spec.template.spec
    assert (spec.completions, spec.parallelism, spec.backoff_limit_per_index) == (3, 3, 1)
    assert (spec.active_deadline_seconds, spec.ttl_seconds_after_finished) == (7200, 7 * 24 * 3600)
    assert job.metadata.owner_references[0].name == cluster.made[0].metadata.name
    assert pod.automount_service_account_token is False
    assert {volume.name for volume in pod.volumes} == {"tmp", "code"}
    (container,) = pod.containers
    assert container.resources.limits == {"cpu": "500m", "memory": "2Gi"}
    assert not [each for each in container.env or () if each.value_from or "TOKEN" in each.name]
    # No run's objects, nor another user's batch of the same id, have such names.
    assert cluster.made[0].metadata.name.startswith("b")
    assert [each["id"] for each in ana("GET", "/batches").json()] == [BATCH]


@pytest.mark.parametrize(
    ("user", "statuses"),
    [
        ("ana", [200, 200, 200, 200, 200]),
        ("dora", [200, 409, 200, 200, 200]),  # an administrator is of no institution
        ("bruno", [200, 409, 404, 404, 404]),
        ("carla", [200, 409, 404, 404, 404]),
    ],
)
def test_a_batch_is_its_owners_and_the_admins(ask, hub, cluster, user, statuses):  # noqa: F811
    put(ask(hub.token("ana")))
    client = ask(hub.token(user))
    answers = [
        client(method, path, **({"json": wish()} if method == "PUT" else {}))
        for method, path in BATCH_ROUTES
    ]
    assert [answer.status_code for answer in answers] == statuses
    assert bool(answers[0].json()) is (statuses[2] == 200)
    assert kept() == ([] if statuses[4] == 200 else [BATCH])
    assert cluster.made == [] or statuses[4] != 200


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"cluster": {"institution": "usp"}}, 409, "ana is not of the institution 'usp'; choose"),
        ({"cluster": {"memory": "much"}}, 422, "memory must be a quantity"),
        ({"cluster": {"hours": 0}}, 422, "hours must be a number above 0"),
        ({"cluster": {"image": "mine"}}, 422, "cluster.image: Extra inputs are not permitted"),
        ({"cluster": {"namespace": "kube-system"}}, 422, "cluster.namespace: Extra inputs"),
        ({"cluster": {"workers": 3}}, 422, "cluster.workers: Extra inputs"),
        ({"archive": "no base64!"}, 422, "the archive is no base64"),
        ({"archive": "AAAA"}, 422, "the archive is no compressed batch"),
        ({"points": 0}, 422, "points: Input should be greater than or equal to 1"),
        ({"points": 1001}, 422, "points: Input should be less than or equal to 1000"),
        ({"tries": 21}, 422, "tries: Input should be less than or equal to 20"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(ask, hub, cluster, changes, status, sentence):  # noqa: F811
    assert sentence in problem(put(ask(hub.token("ana")), **changes), status)
    assert (kept(), cluster.made) == ([], [])


def test_too_large_a_batch_and_an_id_that_is_none(ask, hub, cluster):  # noqa: F811
    ana = ask(hub.token("ana"))
    answer = ana("PUT", f"/batches/{BATCH}", content=b"x" * (32 * 2**20 + 1))
    assert problem(answer, 413) == "a request may hold at most 32768 KiB"
    assert "is no batch id" in problem(put(ana, batch="..."), 422)
    assert ana("GET", "/batches/...").status_code == 404
    carla = ask(hub.token("carla"))
    assert "carla belongs to no institution" in problem(put(carla), 409)


def test_a_user_has_only_so_many_batches(ask, hub, cluster, monkeypatch):  # noqa: F811
    monkeypatch.setattr("flautim_lab.service.batches.MOST_BATCHES", 1)
    ana, bruno = ask(hub.token("ana")), ask(hub.token("bruno"))
    put(ana)
    other = BATCH[:-1] + "a"
    assert "ana has 1 batch under way, and no more are let in" in problem(put(ana, other), 409)
    assert put(bruno, other).status_code == 200
    assert f"the batch id {BATCH} is taken" in problem(put(bruno), 409)
    ana("DELETE", f"/batches/{BATCH}")
    assert put(ana).status_code == 200


def test_how_it_stands_and_what_came_of_it(ask, hub, cluster):  # noqa: F811
    ana = ask(hub.token("ana"))
    put(ana)
    packed = bytes(range(256)) * 50  # no archive at all: it is the user's to open
    told = parcel.told_line({"cell": 2, "cells": 5})
    cluster.running = {
        "p0": (0, "Succeeded", "\n".join([*parcel.result_lines(packed), "finished"])),
        "p1": (1, "Running", told),
        "p2": (2, "Failed", "Killed"),
    }
    cluster.status = k8s.V1JobStatus(completed_indexes="0", failed_indexes="2")
    seen = ana("GET", f"/batches/{BATCH}").json()
    assert (seen["finished"], seen["failed"], seen["over"]) == ([0], [2], "")
    told = [(pod["name"], pod["index"], pod["phase"], pod["told"]) for pod in seen["pods"]]
    running = ("p1", 1, "Running", {"cell": 2, "cells": 5})
    assert told == [("p0", 0, "Succeeded", {}), running, ("p2", 2, "Failed", {})]
    assert ana("GET", f"/batches/{BATCH}/results/p0").content == packed
    for pod in ("p2", "p9"):
        assert ana("GET", f"/batches/{BATCH}/results/{pod}").content == b""
    assert ana("GET", f"/batches/{BATCH}/results/..%2fx").status_code == 404
    cluster.trouble = Unreachable("the cluster does not answer")
    assert problem(ana("GET", f"/batches/{BATCH}"), 503) == "the cluster does not answer"
    cluster.stay = ["p1"]
    assert ana("DELETE", f"/batches/{BATCH}").json() == {"left": ["p1"]}
    assert kept() == [BATCH]
    assert ana("DELETE", f"/batches/{BATCH}").json() == {"left": []}
    assert (kept(), cluster.made) == ([], [])
    assert ana("DELETE", f"/batches/{BATCH}").status_code == 404


def test_what_is_cut_off_is_made_whole_or_goes(ask, hub, cluster, monkeypatch):  # noqa: F811
    ana = ask(hub.token("ana"))
    cluster.trouble = Unreachable("the cluster does not answer")
    assert problem(put(ana), 503) == "the cluster does not answer"
    assert "was not made whole; begin it again" in problem(ana("GET", f"/batches/{BATCH}"), 404)
    assert put(ana).status_code == 200
    assert ana("GET", f"/batches/{BATCH}").status_code == 200
    assert len(cluster.made) == 4
    ana("DELETE", f"/batches/{BATCH}")
    cluster.trouble = ClusterError("the quota is used up")
    assert problem(put(ana), 409) == "the quota is used up"
    assert (kept(), cluster.made) == ([], [])

    settings = Settings({key: each["namespace"] for key, each in INSTITUTIONS.items()})
    batches, asked = Batches(settings), AskedBatch.model_validate(wish())
    cluster.trouble = Unreachable("the cluster does not answer")
    with pytest.raises(Unreachable):
        batches.start(BATCH, ANA, asked, ARCHIVE)
    batches.start(BATCH[:-1] + "a", ANA, asked, ARCHIVE)
    now = time.time()
    for later, left in ((0, 2), (700, 1), (9 * 24 * 3600, 0)):
        monkeypatch.setattr("flautim_lab.service.batches.time.time", lambda at=now + later: at)
        for each in batches.all():
            batches._remove_if_forsaken(each.id)
        assert len(kept()) == left
    assert cluster.made == []


# --- from a notebook's kernel ------------------------------------------------------------------


@pytest.fixture
def kernel(ask, hub, cluster, monkeypatch, tmp_path):  # noqa: F811
    """From here on this process is the kernel of ana's notebook; the notebook's path."""
    ana = ask(hub.token("ana"))

    def asked(self, method, path, body=None):
        answer = ana(method, path, **({} if body is None else {"json": body}))
        if answer.is_success:
            return answer.content
        if answer.status_code >= 500:
            raise Away(answer.json()["detail"])
        raise Refusal(answer.json()["detail"], status=answer.status_code)

    monkeypatch.setattr(hub_place.HubPlace, "_ask", asked)
    monkeypatch.setattr(hub_place, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(hub_place, "AWAY_SECONDS", 20)
    monkeypatch.setattr("flautim_lab.runners.rerun.on_cluster.LOOK_SECONDS", 0.02)
    monkeypatch.setenv("FLAUTIM_LAB_SERVICE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("FLAUTIM_LAB_INSTITUTION", "ufmg")
    tagged = nbformat.v4.new_code_cell("seed = 7", metadata={"tags": ["parameters"]})
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[tagged]), path)
    return path


def test_a_service_that_restarts_is_asked_again(kernel, monkeypatch):
    asked, away = hub_place.HubPlace._ask, {"GET", "DELETE"}

    def restarting(self, method, path, body=None):
        if method in away:
            away.remove(method)
            raise Away("the hub's service does not answer")
        return asked(self, method, path, body)

    monkeypatch.setattr(hub_place.HubPlace, "_ask", restarting)
    place = hub_place.HubPlace(lab.Cluster())
    facts = place.plan("r20260101-000000-none")
    assert not place.is_there(facts)
    assert place.remove(facts) == []
    assert not away


def executed(notebook: Path, folder: Path) -> str:
    """The log of a pod that executed a notebook."""
    folder.mkdir()
    (folder / parcel.RESULT).write_bytes(notebook.read_bytes())
    (folder / parcel.RUNS).mkdir()
    outcome = Outcome("finished", seconds=1.0, started=1.0)
    (folder / parcel.OUTCOME).write_text(json.dumps(dataclasses.asdict(outcome)))
    return "\n".join(parcel.result_lines(pack_folder(folder)))


def test_rerun_in_a_hub_goes_through_the_service(kernel, cluster, tmp_path, capsys, monkeypatch):
    log = executed(kernel, tmp_path / "result")
    create, looks = cluster.create, []

    def job(name, namespace):
        looks.append(name)
        if len(looks) == 2:
            raise Unreachable("the cluster does not answer")
        if len(looks) == 3:
            cluster.running = {f"p{index}": (index, "Succeeded", log) for index in range(2)}
            cluster.status = k8s.V1JobStatus(completed_indexes="0,1")
        (made,) = cluster.of("Job")
        return k8s.V1Job(spec=made.spec, status=cluster.status)

    def created(made):
        if made.kind == "Job":
            cluster.running = {"p0": (0, "Running", parcel.told_line({"cell": 1, "cells": 1}))}
        create(made)

    monkeypatch.setattr(cluster, "job", job)
    monkeypatch.setattr(cluster, "create", created)
    cluster.trouble = Unreachable("the cluster is being started")  # once: it is asked for again
    batch = lab.rerun(kernel, seeds=2, jobs=2, on="cluster", output=tmp_path / "out")
    assert [entry.status for entry in batch.entries] == ["finished", "finished"]
    assert "the cluster does not answer" in capsys.readouterr().err
    assert (kept(), cluster.made, len(cluster.removed)) == ([], [], 1)
    assert not (tmp_path / "out" / "cluster.json").exists()


def test_interrupted_refused_and_gone_on_with(kernel, cluster, tmp_path, monkeypatch):
    asked = {"on": "cluster", "output": tmp_path / "out", "progress": False}
    for settings, sentence in [
        ({"image": "mine:1"}, "image='mine:1' is the hub's to choose; leave it out"),
        ({"namespace": "kube-system"}, "namespace='kube-system' is the hub's to choose"),
    ]:
        with pytest.raises(lab.ExperimentError, match=sentence):
            lab.rerun(kernel, **asked | {"on": lab.Cluster(**settings)})
    cluster.trouble = ClusterError("the quota is used up")
    with pytest.raises(ClusterError, match="the quota is used up"):
        lab.rerun(kernel, **asked)
    assert (kept(), cluster.made) == ([], [])

    def interrupt(self, facts):
        raise KeyboardInterrupt

    with monkeypatch.context() as now:
        now.setattr(hub_place.HubPlace, "look", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lab.rerun(kernel, **asked)
    assert (kept(), cluster.made) == ([], [])
    assert not (tmp_path / "out" / "cluster.json").exists()

    # As by kill -9: what is there stays, and the next call takes it in.
    with monkeypatch.context() as now:
        now.setattr(hub_place.HubPlace, "look", interrupt)
        now.setattr(hub_place.HubPlace, "remove", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lab.rerun(kernel, **asked)
    (there,) = kept()
    assert json.loads((tmp_path / "out" / "cluster.json").read_text())["batch"] == there
    log = executed(kernel, tmp_path / "result")
    cluster.running = {"p0": (0, "Succeeded", log)}
    cluster.status = k8s.V1JobStatus(completed_indexes="0")
    (job,) = cluster.of("Job")
    batch = lab.rerun(kernel, **asked)
    assert batch.finished
    assert job.metadata.name.startswith(cluster.removed[-1])
    assert (kept(), cluster.made) == ([], [])
