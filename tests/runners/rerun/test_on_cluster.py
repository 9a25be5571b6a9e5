"""A batch as pods: all but the cluster.

What a pod does is done by the same program, in a process with folders where Kubernetes would mount
volumes, under a small stand-in for an Indexed Job. ``tests/cluster`` has the rest.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from kubernetes import client as k8s

import flautim_lab as lab
from flautim_lab.errors import ClusterError, NotebookError, RecordsError
from flautim_lab.pods.points import indexes
from flautim_lab.records.store import Records
from flautim_lab.records.transfer import put_in, take_out
from flautim_lab.runners.content import content_of
from flautim_lab.runners.parameters import read_notebook
from flautim_lab.runners.rerun import parcel
from flautim_lab.runners.rerun.folder import Task
from flautim_lab.runners.rerun.on_cluster import STATE, ClusterSchedule
from flautim_lab.runners.stamp import read_stamp
from tests.runners.test_measures import make_run

NOTEBOOK = """\
import sys

from torch import nn

import flautim_lab as lab

if kind == "fails":
    raise ValueError("no rows today")


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(1, 2))


table = lab.CSVDataset("data/points.csv", target="kind")
run = lab.run(lab.Experiment(table, Net, name="halves", clients=2, rounds=2, lr=0.1, seed=seed))
"""


class Job:
    """Pods of one Indexed Job as processes, so many at once, each tried so often."""

    def __init__(self, job: k8s.V1Job, parts: list[bytes], root: Path) -> None:
        self.model, self._root = job, root
        self.processes: list[tuple[int, subprocess.Popen[bytes], Path]] = []
        self._tries = job.spec.backoff_limit_per_index + 1
        code = root / "mounts" / "code"
        code.mkdir(parents=True)
        for number, part in enumerate(parts):
            (code / f"part-{number:04d}").write_bytes(part)

    def look(self) -> None:
        """Start what may be started now."""
        for index in range(self.model.spec.completions):
            going = sum(process.poll() is None for _, process, _ in self.processes)
            own = [process.poll() for i, process, _ in self.processes if i == index]
            ended = 0 in own or len(own) >= self._tries or None in own
            if going < self.model.spec.parallelism and not ended:
                self._start(index)

    def _start(self, index: int) -> None:
        log = self._root / f"{len(self.processes)}.log"
        scratch = self._root / f"tmp{len(self.processes)}"
        scratch.mkdir()
        environment = os.environ | {
            "JOB_COMPLETION_INDEX": str(index),
            "FLAUTIM_LAB_MOUNTS": str(self._root / "mounts"),
            "TMPDIR": str(scratch),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-m", "flautim_lab.runners.rerun.pod"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, cwd=scratch
            )
        self.processes.append((index, process, log))

    def status(self) -> k8s.V1Job:
        codes: dict[int, list[int | None]] = {}
        for index, process, _ in self.processes:
            codes.setdefault(index, []).append(process.poll())
        done = [str(i) for i, own in codes.items() if 0 in own]
        failed = [
            str(i)
            for i, own in codes.items()
            if len(own) >= self._tries and not {0, None} & set(own)
        ]
        self.model.status = k8s.V1JobStatus(
            completed_indexes=",".join(sorted(done)), failed_indexes=",".join(sorted(failed))
        )
        return self.model


class Cluster:
    """What ``flautim_lab.pods.api.Api`` is to a batch."""

    namespace = "ufmg"

    def __init__(self, root: Path) -> None:
        self.root, self.jobs, self.removed = root, {}, []
        self._parts: list[bytes] = []
        self.policies: list[Any] = []

    def check_access(self, namespaces: list[str]) -> None:
        assert namespaces == ["ufmg"]

    def anchor(self, made: k8s.V1ConfigMap) -> k8s.V1OwnerReference:
        return k8s.V1OwnerReference(
            api_version="v1", kind="ConfigMap", name=made.metadata.name, uid="1"
        )

    def create(self, made: Any) -> None:
        assert made.metadata.owner_references[0].name
        if made.kind == "ConfigMap":
            self._parts += [base64.b64decode(part) for part in made.binary_data.values()]
        elif made.kind == "NetworkPolicy":
            self.policies.append(made)
        elif made.kind == "Job":
            place = self.root / made.metadata.name
            self.jobs[made.metadata.name] = Job(made, self._parts, place)

    def job(self, name: str, _namespace: str) -> Any:
        if name not in self.jobs:
            return None
        self.jobs[name].look()
        return self.jobs[name].status()

    def refusals(self, _job: str, _namespace: str) -> list[Any]:
        return []

    def pods(self, run: Any, role: str) -> list[Any]:
        assert role == "point"
        job = self.jobs.get(f"{run.name}-points")
        phases = {None: "Running", 0: "Succeeded"}
        found = []
        for number, (index, process, _) in enumerate(job.processes if job else ()):
            labels = {"batch.kubernetes.io/job-completion-index": str(index)}
            made = datetime.datetime.fromtimestamp(1e9 + number, datetime.UTC)
            name = f"{run.name}:{number}"
            found.append(
                k8s.V1Pod(
                    metadata=k8s.V1ObjectMeta(name=name, labels=labels, creation_timestamp=made),
                    status=k8s.V1PodStatus(phase=phases.get(process.poll(), "Failed")),
                )
            )
        return found

    def whole_log(self, pod: Any) -> str:
        name, number = pod.metadata.name.split(":")
        return self.jobs[f"{name}-points"].processes[int(number)][2].read_text()

    def log(self, pod: Any, _lines: int) -> str:
        return self.whole_log(pod)

    def follow(self, *_: Any) -> list[Any]:
        return []

    def remove(self, run: Any) -> list[str]:
        job = self.jobs.pop(f"{run.name}-points", None)
        for _, process, _ in job.processes if job else ():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait(30)
        self.removed.append(run.name)
        return []


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(tmp_path / "cluster")
    monkeypatch.setattr("flautim_lab.pods.api.Api", lambda _context: made)
    monkeypatch.setattr("flautim_lab.runners.rerun.on_cluster.LOOK_SECONDS", 0.1)
    return made


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    rows = "\n".join(f"{n},{'low' if n < 12 else 'high'}" for n in range(24))
    (tmp_path / "data" / "points.csv").write_text(f"x,kind\n{rows}\n")
    tagged = nbformat.v4.new_code_cell('kind = "fine"\nseed = 7', metadata={"tags": ["parameters"]})
    cells = [tagged, nbformat.v4.new_code_cell(NOTEBOOK)]
    path = tmp_path / "halves.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.chaos
def test_a_batch_goes_on_where_it_was_cut_off(
    cluster: Cluster, notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {
        "grid": {"kind": ["fine", "fails"]}, "on": "cluster", "jobs": 2, "retries": 1,
        "output": tmp_path / "batch", "progress": False,
    }  # fmt: skip
    with monkeypatch.context() as killed:
        killed.setattr(ClusterSchedule, "_follow", lambda *_: os._exit(9))
        child = os.fork()
        if child == 0:
            lab.rerun(notebook, **asked)  # ends in the middle, as by kill -9
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    state = json.loads((tmp_path / "batch" / STATE).read_text())
    assert len(state["points"]) == 2

    # What the child made on the "cluster" was in its memory: it is made here again, once.
    schedules = []
    begin = ClusterSchedule._begin
    monkeypatch.setattr(
        ClusterSchedule, "_begin", lambda self, tasks: schedules.append(1) or begin(self, tasks)
    )
    batch = lab.rerun(notebook, **asked)
    assert (len(schedules), len(cluster.removed), cluster.jobs) == (1, 2, {})
    assert not (tmp_path / "batch" / STATE).exists()
    fine, fails = batch.summary.to_dict("records")
    assert (fine["status"], fine["attempts"]) == ("finished", 1)
    assert (fails["status"], fails["attempts"]) == ("failed", 2)
    assert fails["error"].endswith("ValueError: no rows today")
    assert lab.attach(fine["run"]).final() == fine["validation_loss"]
    assert lab.attach(fine["run"]).model()
    stamp = read_stamp(tmp_path / "batch" / fine["notebook"])
    assert stamp["environment"]["versions"]["torch"] == stamp["versions"]["torch"]
    assert stamp["results"][0]["model"]
    executed = nbformat.read(tmp_path / "batch" / fails["notebook"], as_version=4)
    assert any(o.get("ename") == "ValueError" for c in executed.cells for o in c.get("outputs", []))
    (policy,) = cluster.policies
    assert (policy.spec.ingress, policy.spec.egress) == ([], [])

    again = lab.rerun(notebook, **{**asked, "on": "local", "grid": {"kind": ["fine"]}})
    assert again.runs == [fine["run"]]  # wherever it was done, it is done


def test_a_job_of_before_is_followed_and_one_of_other_code_is_not(
    cluster: Cluster, notebook: Path, tmp_path: Path
) -> None:
    from flautim_lab.runners.rerun.folder import BatchFolder

    def schedule() -> ClusterSchedule:
        contents = {"a.ipynb": content_of(read_notebook(notebook), tmp_path, {})}
        return ClusterSchedule(
            BatchFolder(tmp_path / "batch"), lab.Cluster(), contents, jobs=1, timeout=None,
            retries=0, settle=lambda *_: None, watch=lambda _: None,
        )  # fmt: skip

    tasks = [Task(notebook, 1, {}, "a", "a.ipynb")]
    facts, order = schedule()._begin(tasks)
    assert order == ["a.ipynb"]
    adopted, again = schedule()._adopt(tasks) or pytest.fail("it was begun anew")
    assert (adopted["pods"]["name"], again) == (facts["pods"]["name"], order)
    (tmp_path / "data" / "points.csv").write_text("x,kind\n")
    assert schedule()._adopt(tasks) is None
    assert cluster.removed == [facts["pods"]["name"]]
    assert not (tmp_path / "batch" / STATE).exists()

    # What a hub's service made is not to be forgotten here, where nobody can remove it.
    (tmp_path / "batch" / STATE).write_text(json.dumps({"batch": "r1", "points": {}}))
    with pytest.raises(ClusterError, match=r"begun by a hub's service and was cut off; let it end"):
        schedule().run(tasks)


def test_what_cannot_travel(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packed(parameters: dict[str, object]) -> bytes:
        content = content_of(read_notebook(notebook), tmp_path, parameters)
        return parcel.pack_tasks(notebook, [content], [Task(notebook, 1, {}, "a", "a")], None)

    assert packed({}) == packed({})
    elsewhere = tmp_path.parent / "elsewhere.csv"
    elsewhere.write_text("x\n")
    with pytest.raises(
        NotebookError, match=r"elsewhere\.csv is not in the folder of halves\.ipynb"
    ):
        packed({"data": str(elsewhere)})
    monkeypatch.setattr(parcel, "MOST_BYTES", 10)
    with pytest.raises(NotebookError, match=r"halves\.ipynb and its files are 0 MiB, and at most"):
        packed({})
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )
    with pytest.raises(ClusterError, match="no Kubernetes cluster is configured here"):
        lab.rerun(notebook, on="cluster", output=tmp_path / "batch")


def test_a_result_in_a_log() -> None:
    packed = bytes(range(256)) * 100
    lines = list(parcel.result_lines(packed))
    assert max(map(len, lines)) < 16_000
    log = "\n".join(["torch says something", *lines[:2], "a warning", *lines[2:], "the end"])
    assert parcel.read_result(log) == packed
    assert parcel.read_result("\n".join(lines[1:])) is None
    assert parcel.read_result("\n".join(lines[:-1])) is None
    assert parcel.read_result("flautim-lab part x y\nflautim-lab end 1 0") is None
    told = {"cell": 2, "cells": 5, "round": 1, "rounds": 3}
    assert parcel.read_told(f"noise\n{parcel.told_line(told)}\nflautim-lab told {{") == told
    assert parcel.read_told("noise") == {}
    for forged in ({"result": {}, "process": 1}, {"cell": 1}, {"cells": math.nan}, [1]):
        assert parcel.read_told(parcel.told_line(forged)) == {}


def test_indexes_of_a_job() -> None:
    assert indexes("0,3-5,9") == {0, 3, 4, 5, 9}
    assert indexes(None) == indexes("") == frozenset()


def test_a_run_moves_to_other_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = make_run("r1", [0.5, float("nan")])
    (records.folder("r1") / "sub").mkdir()
    (records.folder("r1") / "sub" / "a.txt").write_text("kept")
    place = take_out(records, "r1", tmp_path / "parcel")
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(tmp_path / "other"))
    other = Records.default()
    for _ in range(2):  # once, however often
        assert put_in(other, place) == "r1"
    assert str(other.events("r1")) == str(records.events("r1"))
    assert (other.folder("r1") / "sub" / "a.txt").read_text() == "kept"
    assert [run.id for run in other.runs()] == ["r1"]
    content = json.loads((place / "run.json").read_text())
    content["run"]["id"] = "../r2"
    (place / "run.json").write_text(json.dumps(content))
    for wrong in (place, tmp_path):
        with pytest.raises(RecordsError):
            put_in(other, wrong)
