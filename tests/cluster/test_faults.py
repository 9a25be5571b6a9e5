"""What a cluster does to pods, and refuses: a run ends with the kernel's bits, or says why."""

from __future__ import annotations

import os
import shlex
import subprocess
import time

import pytest
from kubernetes import client as k8s

import flautim_lab as lab
from flautim_lab.pods.manifests import SERVER, WORKER
from flautim_lab.runners.cluster import ClusterRun
from tests.cluster.conftest import left_in
from tests.cluster.faulted import SMALL, check_it_ended_well, everything, evict, pods_of
from tests.cluster.models import HungryNet
from tests.cluster.waiting import wait_until
from tests.federations import DropoutNet, Net, experiment

RESTART_VARIABLE = "FLAUTIM_LAB_CLUSTER_RESTART"


@pytest.mark.parametrize("role", [SERVER, WORKER])
def test_an_evicted_pod_is_replaced(api, spaces, started, role, record_property):
    made = experiment(DropoutNet, rounds=150)
    expected = lab.run(made).wait()
    run = started(made, namespace=spaces[0], workers=2, **SMALL)
    wait_until(lambda: run.round >= 2, "two rounds")
    (pod, *_) = pods_of(api, run, role)
    since = time.time()
    evict(api, pod)
    check_it_ended_well(run, expected, api, spaces, record_property, since)
    assert f"pod {pod.metadata.name} has to leave its node (Eviction API: evicting)" in run.logs()
    assert ("the server goes on after round" in run.logs()) is (role == SERVER)


def test_all_workers_at_once(api, spaces, started, record_property):
    made = experiment(DropoutNet, rounds=150)
    expected = lab.run(made).wait()
    run = started(made, namespace=spaces[0], workers=dict.fromkeys(spaces, 1), **SMALL)
    wait_until(lambda: run.round >= 2, "two rounds")
    since = time.time()
    assert len(api.kill(ClusterRun(run.folder).pods(), WORKER)) == 2
    check_it_ended_well(run, expected, api, spaces, record_property, since)
    assert "the server goes on after round" not in run.logs()


@pytest.fixture
def node(api):
    """The only node, which takes new pods again at the end."""
    core = k8s.CoreV1Api(api._client)
    (found,) = core.list_node().items

    def cordon(closed):
        core.patch_node(found.metadata.name, {"spec": {"unschedulable": closed}})

    yield cordon
    cordon(False)


def test_a_drained_node_is_waited_for(api, spaces, started, node, record_property):
    made = experiment(DropoutNet, rounds=150)
    expected = lab.run(made).wait()
    run = started(made, namespace=spaces[0], workers=2, **SMALL)
    wait_until(lambda: run.round >= 2, "two rounds")
    since = time.time()
    node(True)
    for pod in everything(api, run):
        evict(api, pod)
    wait_until(lambda: "finds no node" in run.message, "it is said", 60)
    assert "1 node(s) were unschedulable" in run.message
    assert "the run waits, and goes on once there is a node again" in run.message
    assert str(run.status) == "running"
    time.sleep(3)
    node(False)
    check_it_ended_well(run, expected, api, spaces, record_property, since)


def test_a_worker_that_is_killed_for_memory_is_told_of_and_others_do_its_work(
    api, spaces, started, record_property
):
    made = experiment(HungryNet, rounds=30)
    expected = lab.run(made).wait()
    since = time.time()
    run = started(made, namespace=spaces[0], workers=2, **SMALL)
    wait_until(lambda: "killed for memory" in run.message, "it is said")
    assert "was killed for memory (its limit is 700Mi); give more" in run.message
    assert 'lab.Cluster(memory="...")' in run.message
    check_it_ended_well(run, expected, api, spaces, record_property, since)


def test_when_no_worker_can_ever_work_the_run_fails_with_the_reason(api, spaces, started):
    # What ends a worker at once, and nobody else: it cannot be started again with another result.
    made = experiment(Net, rounds=100_000)
    run = started(made, namespace=spaces[0], workers=1, **SMALL)
    wait_until(lambda: run.round >= 2, "two rounds")
    batch = k8s.BatchV1Api(api._client)
    name = f"{ClusterRun(run.folder).pods().name}-workers"
    batch.patch_namespaced_job(name, spaces[0], {"spec": {"activeDeadlineSeconds": 1}})
    with pytest.raises(lab.TrainingError, match="no worker is left in"):
        run.wait(timeout_seconds=120)
    assert str(run.status) == "failed"
    assert run.message.startswith(f"no worker is left in {spaces[0]}: Job was active longer than")
    assert run.model()  # what was learned is kept
    wait_until(lambda: not left_in(api, spaces), "all is removed", 60)


def test_the_servers_volume_is_attached_again(api, spaces, started, record_property):
    made = experiment(DropoutNet, rounds=150, strategy="FedAdam")
    expected = lab.run(made).wait()
    run = started(made, namespace=spaces[0], workers=2, **SMALL)
    core, batch = k8s.CoreV1Api(api._client), k8s.BatchV1Api(api._client)
    (claim,) = core.list_namespaced_persistent_volume_claim(spaces[0]).items
    wait_until(lambda: run.round >= 5, "five rounds")
    since, reached = time.time(), run.round
    (first,) = pods_of(api, run, SERVER)
    job = first.metadata.labels["batch.kubernetes.io/job-name"]
    batch.patch_namespaced_job(job, spaces[0], {"spec": {"suspend": True}})
    wait_until(lambda: not pods_of(api, run, SERVER), "nobody has the volume", 60)
    batch.patch_namespaced_job(job, spaces[0], {"spec": {"suspend": False}})
    wait_until(lambda: run.round > reached, "it goes on", 120)
    (second,) = pods_of(api, run, SERVER)
    assert second.metadata.uid != first.metadata.uid
    (again,) = core.list_namespaced_persistent_volume_claim(spaces[0]).items
    assert again.metadata.uid == claim.metadata.uid
    assert again.spec.volume_name
    check_it_ended_well(run, expected, api, spaces, record_property, since)
    (line,) = [each for each in run.logs().splitlines() if "the server goes on after" in each]
    assert int(line.split("after round ")[1].split()[0]) >= reached


def limit(api, namespace, **hard):
    """Give a namespace a quota, or another than it has."""
    core = k8s.CoreV1Api(api._client)
    spec = k8s.V1ResourceQuotaSpec(hard={name.replace("_", "."): v for name, v in hard.items()})
    made = k8s.V1ResourceQuota(metadata=k8s.V1ObjectMeta(name="small"), spec=spec)
    if core.list_namespaced_resource_quota(namespace).items:
        core.replace_namespaced_resource_quota("small", namespace, made)
    else:
        core.create_namespaced_resource_quota(namespace, made)

    def in_force():
        status = core.read_namespaced_resource_quota("small", namespace).status
        return status is not None and status.hard == made.spec.hard

    wait_until(in_force, "the quota is in force", 30)


def test_a_quota_without_room_for_workers_is_told_and_the_run_goes_on_when_there_is(
    api, spaces, started, record_property
):
    made = experiment(DropoutNet, rounds=20)
    expected = lab.run(made).wait()
    limit(api, spaces[1], limits_cpu="400m")
    run = started(made, namespace=spaces[0], workers={spaces[1]: 2}, **SMALL)
    begin = time.monotonic()
    wait_until(lambda: "quota" in run.message, "it is said", 60)
    record_property("seconds_until_it_is_said", round(time.monotonic() - begin, 1))
    assert run.message.startswith(
        f"there is no room for all of the run's workers in the quota of {spaces[1]} (exceeded "
        "quota: small, requested: limits.cpu=300m, used: limits.cpu=300m, limited: limits.cpu=400m)"
    )
    assert "ask for less cpu or memory or for fewer workers" in run.message
    wait_until(lambda: run.round >= 1, "the worker that is there trains")
    check_it_ended_well(run, expected, api, spaces, record_property)


def test_a_quota_that_is_widened_lets_the_run_go_on(api, spaces, started, record_property):
    made = experiment(DropoutNet, rounds=20)
    expected = lab.run(made).wait()
    limit(api, spaces[0], limits_cpu="100m")
    run = started(made, namespace=spaces[0], workers={spaces[1]: 2}, **SMALL)
    wait_until(lambda: "quota" in run.message, "it is said", 60)
    assert run.message.startswith(
        f"there is no room for the run's server in the quota of {spaces[0]} (exceeded quota: small"
    )
    assert not run.status.ended
    limit(api, spaces[0], limits_cpu="2")
    begin = time.monotonic()
    wait_until(lambda: run.round >= 1, "it goes on")
    record_property("seconds_until_it_goes_on", round(time.monotonic() - begin, 1))
    check_it_ended_well(run, expected, api, spaces, record_property)


def test_a_run_that_waits_for_a_quota_can_be_stopped(api, spaces, started, record_property):
    limit(api, spaces[0], limits_cpu="100m")
    run = started(experiment(Net), namespace=spaces[0], workers={spaces[1]: 1}, **SMALL)
    wait_until(lambda: "quota" in run.message, "it is said", 60)
    begin = time.monotonic()
    run.stop().wait(timeout_seconds=90)
    assert str(run.status) == "stopped"
    wait_until(lambda: not left_in(api, spaces), "all is removed", 60)
    record_property("seconds_to_nothing_left", round(time.monotonic() - begin, 1))


def test_a_quota_without_room_for_the_volume_is_refused_at_once(api, spaces, started):
    limit(api, spaces[0], persistentvolumeclaims="0")
    with pytest.raises(lab.ClusterError) as caught:
        started(experiment(Net), namespace=spaces[0], workers={spaces[1]: 1}, **SMALL)
    said = str(caught.value)
    assert said.startswith("there is no room in the namespace's quota to create Persistent")
    assert said.endswith("limited: persistentvolumeclaims=0; ask for less")
    wait_until(lambda: not left_in(api, spaces), "all is removed", 60)
    (run,) = lab.runs()
    assert (str(run.status), run.message) == ("failed", said)


RESTART = os.environ.get(RESTART_VARIABLE, "")


@pytest.mark.skipif(not RESTART, reason=f"{RESTART_VARIABLE} names no command that restarts a part")
@pytest.mark.parametrize("part", ["kubelet", "kube-apiserver"])
def test_a_part_of_the_cluster_is_restarted(api, spaces, started, part, record_property):
    made = experiment(DropoutNet, rounds=400)
    expected = lab.run(made).wait()
    run = started(made, namespace=spaces[0], workers=2, **SMALL)
    wait_until(lambda: run.round >= 2, "two rounds")
    before = {pod.metadata.uid for pod in everything(api, run)}
    since = time.time()
    subprocess.run([*shlex.split(RESTART), part], check=True, timeout=120)
    record_property("seconds_to_restart", round(time.time() - since, 1))
    assert not run.status.ended
    seen = {pod.metadata.uid for pod in everything(api, run)}
    assert seen == before  # no pod ended by it
    check_it_ended_well(run, expected, api, spaces, record_property, since)
    assert "the server goes on after round" not in run.logs()
