"""``flautim-lab doctor --cluster``: what one may not do, and what runs have left behind."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os

import pytest
from click.testing import CliRunner

from flautim_lab.cli import main
from flautim_lab.pods.api import Api
from flautim_lab.pods.manifests import RunPods
from flautim_lab.pods.points import make_points
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners.cluster import ClusterRun
from tests.mock_cluster import cluster

__all__ = ["cluster"]
ID = "r20261125-202140-net-on-iris-7d1947b4"
RUN = RunPods(
    run_id=ID,
    name="r20261125-202140-7d1947b4",
    namespace="ufmg",
    workers={"ufmg": 1, "ifnmg": 2},
    clients=4,
    image="flautim-lab:0.1.0",
)
FAILED = {"type": "Failed", "status": "True", "message": "Job was active longer than specified"}
COMPLETE = {"type": "Complete", "status": "True"}
REVIEWS = "post /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.fixture
def lacking(cluster):
    """What the user may not do: (resource, verb) of it can be added."""
    found = set()

    def answer(request):
        asked = request.data["spec"]["resourceAttributes"]
        allowed = (asked["resource"], asked["verb"]) not in found
        return request.data | {"status": {"allowed": allowed}}

    cluster.call(lambda handler: handler[REVIEWS] << answer)
    version = {"gitVersion": "v1.36.2", "major": "1", "minor": "36"}
    body = version | dict.fromkeys(
        ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform"), "x"
    )
    cluster.call(lambda handler: handler["get /version/"] << body)
    return found


def make(run=RUN, hours=2.0, server=()):
    """Make the objects of a run, so many hours old, with conditions of its server's job."""
    api = Api()
    files = {"token": b"secret"}
    api.make(run, b"archive", files, dict.fromkeys(run.workers, files))
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
    aged = {"metadata": {"creationTimestamp": then.isoformat(timespec="seconds")}}
    for space in api.spaces(run):
        for anchor in api._core.list_namespaced_config_map(space).items:
            api._core.patch_namespaced_config_map(anchor.metadata.name, space, aged)
    if server:
        status = {"status": {"conditions": list(server)}}
        api._batch.patch_namespaced_job(f"{run.name}-server", run.namespace, status)
    return api


def record(status=RunStatus.RUNNING):
    records = Records.default()
    records.create_run(
        ID, name="x", runner="cluster", rounds=1, clients=4, settings={}, plan={}, detached=True
    )
    records.set_status(ID, status)


def doctor(*arguments, **settings):
    return CliRunner().invoke(main, ["doctor", "--cluster", *arguments], **settings)


def findings(*arguments):
    result = doctor("--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["runs"]


def there():
    return [run.run_id for run in Api().found(["ufmg", "ifnmg"])]


def test_what_one_may_not_do_is_said_by_namespace(cluster, lacking):
    result = doctor("--namespace", "ufmg", "--namespace", "ifnmg")
    assert (result.exit_code, result.stdout) == (
        0,
        f"Kubernetes v1.36.2 at {cluster.url}\nufmg: you may do all that a run needs\n"
        "ifnmg: you may do all that a run needs\n",
    )
    lacking |= {("events", "watch"), ("secrets", "create")}
    result = doctor()
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:] == [
        "ufmg: you may not create secrets, watch events; ask who runs the cluster for the role "
        "flautim-lab-runs there"
    ]


def test_a_run_of_somebody_else_is_shown_and_stays(cluster, lacking):
    make()
    (found,) = findings("--namespace", "ufmg", "--namespace", "ifnmg", "--remove")
    assert (found["run"], found["state"], found["leftover"]) == (ID, "running", False)
    assert found["namespaces"] == ["ifnmg", "ufmg"]
    assert found["volumes"] == ["ufmg/r20261125-202140-7d1947b4-state"]
    assert found["advice"] == "not yours, or its records are elsewhere"
    assert 7100 < found["age_seconds"] < 7300
    assert there() == [ID]
    # Where only its workers are looked at, they tell that it goes on.
    (found,) = findings("--namespace", "ifnmg", "--remove")
    assert (found["state"], found["leftover"]) == ("running", False)


@pytest.mark.parametrize(
    ("server", "state"), [([FAILED], "job failed"), ([COMPLETE], "finished"), (None, "nobody's")]
)
def test_what_is_over_and_unknown_here_is_a_leftover(cluster, lacking, server, state):
    api = make(server=server or ())
    if server is None:  # its time to live has passed
        for space, role in (("ufmg", "server"), ("ufmg", "workers"), ("ifnmg", "workers")):
            api._batch.delete_namespaced_job(f"{RUN.name}-{role}", space)
    (found,) = findings()
    assert (found["state"], found["leftover"]) == (state, True)
    result = doctor("--namespace", "ufmg", "--namespace", "ifnmg")
    assert result.exit_code == 0
    assert "flautim-lab doctor --cluster --remove removes what 1 run left" in result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith(ID))
    assert "02:00:0" in line
    assert "0 pods, volume ufmg/r20261125-202140-7d1947b4-state" in line
    assert there() == [ID]  # nobody was asked, and nothing was removed
    result = doctor("--namespace", "ufmg", "--namespace", "ifnmg", "--remove")
    assert result.stdout.splitlines()[-1] == f"removed: {ID}"
    assert there() == []


def test_one_that_is_just_being_made_is_none(cluster, lacking):
    api = make(hours=0)
    api._batch.delete_namespaced_job(f"{RUN.name}-server", "ufmg")
    (found,) = findings("--remove")
    assert (found["state"], found["advice"]) == ("nobody's", "it may just have begun")


def test_a_run_of_ones_own_that_nobody_follows_is_shown_with_the_way_back(cluster, lacking):
    make()
    record()
    (found,) = findings("--remove")
    assert found["advice"] == f"nobody follows it; lab.resume({ID!r}) fetches the rest"
    assert there() == [ID]


def test_a_run_that_is_followed_is_left_alone_whatever_its_server_says(cluster, lacking):
    make(server=[FAILED])
    record()
    folder = ClusterRun(Records.default().folder(ID)).folder
    folder.path.mkdir(parents=True)
    folder.announce("watch")  # this process is it
    try:
        (found,) = findings("--remove")
        assert (found["advice"], found["leftover"]) == ("yours, and followed", False)
    finally:
        os.unlink(folder.path / "watch.pid")
    (found,) = findings()
    assert (found["advice"], found["leftover"]) == ("yours; it cannot go on", True)


def test_what_is_left_of_a_run_that_has_ended_is_removed_everywhere(cluster, lacking):
    make()  # its server was never told
    record(RunStatus.STOPPED)
    pods = ClusterRun(Records.default().folder(ID))
    pods.folder.path.mkdir(parents=True)
    facts = {"context": None, "pods": dataclasses.asdict(RUN)}
    pods._facts.write_text(json.dumps(facts), encoding="utf-8")
    (found,) = findings("--namespace", "ufmg", "--remove")
    assert (found["advice"], found["leftover"]) == ("yours, and stopped", True)
    assert there() == []  # in the other namespace too, which was not named


def test_one_that_goes_on_is_removed_when_it_is_named(cluster, lacking):
    make()
    result = doctor("--run", "r2026")
    assert result.exit_code == 1
    assert f"no run in ufmg named 'r2026'; choose one of: {ID}" in result.stderr
    result = doctor("--run", ID, "--namespace", "ufmg", "--namespace", "ifnmg")
    assert result.stdout.splitlines()[-1] == f"removed: {ID}"
    assert there() == []
    result = doctor("--run", ID)
    assert "there is nothing of any run in ufmg; name others with --namespace" in result.stderr


def test_at_a_terminal_one_is_asked(cluster, lacking, monkeypatch):
    make(server=[FAILED])
    monkeypatch.setattr("flautim_lab.cli.doctor._is_terminal", lambda: True)
    result = doctor(input="n\n")
    assert "Remove what 1 run left? [y/N]: n" in result.stdout
    assert there() == [ID]
    result = doctor("--namespace", "ufmg", "--namespace", "ifnmg", input="y\n")
    assert result.stdout.splitlines()[-1] == f"removed: {ID}"
    assert there() == []


def test_who_may_not_look_is_told_so(cluster, lacking):
    body = {"kind": "Status", "message": 'configmaps is forbidden: User "ana" cannot list'}
    cluster.call(lambda handler: handler["get /api/v1/namespaces/ufmg/configmaps"] << 403 << body)
    lacking |= {("configmaps", "list")}
    result = doctor()
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].startswith("ufmg: you may not list configmaps; ask who")


def test_words_that_need_the_cluster_are_refused_without():
    result = CliRunner().invoke(main, ["doctor", "--remove"])
    assert result.exit_code == 2
    assert "--context, --namespace, --remove and --run go with --cluster" in result.stderr


def test_a_batch_stays_until_it_is_named(cluster, lacking):
    batch = dataclasses.replace(RUN, workers={})
    make_points(Api(), batch, b"archive", 3, 2, 1)
    advice = "a batch; the same flautim-lab rerun fetches it, and --run removes it"
    for state, conditions in (("running", []), ("finished", [COMPLETE]), ("job failed", [FAILED])):
        status = {"status": {"conditions": conditions}}
        Api()._batch.patch_namespaced_job(f"{batch.name}-points", "ufmg", status)
        (found,) = findings("--remove")
        assert (found["state"], found["advice"]) == (state, advice)
    result = doctor("--run", ID)
    assert result.exit_code == 0, result.output
    assert there() == []
