"""Runs as pods on a real cluster: the kernel's bits, whatever is killed, and nothing left."""

from __future__ import annotations

import time

import pytest
from kubernetes import client as k8s

import flautim_lab as lab
from flautim_lab.runners.cluster import ClusterRun
from tests.cluster.conftest import left_in
from tests.cluster.faulted import SMALL
from tests.cluster.waiting import PATIENCE, wait_until
from tests.federations import DropoutNet, Net, experiment, same


def test_four_clients_in_two_namespaces_end_with_the_kernels_bits(
    api, spaces, started, record_property
):
    made = experiment(DropoutNet, rounds=6, clients=4, strategy="FedAdam")
    expected = lab.run(made).wait()
    begin = time.monotonic()
    run = started(made, namespace=spaces[0], workers=dict.fromkeys(spaces, 1), **SMALL)
    wait_until(lambda: run.round >= 1, "a round")
    record_property("seconds_to_first_round", time.monotonic() - begin)
    run.wait(timeout_seconds=PATIENCE)
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)
    wait_until(lambda: not left_in(api, spaces), f"all is removed, not {left_in(api, spaces)}", 60)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam"])
@pytest.mark.parametrize("target", ["server", "client-0", "half", "process"])
def test_pods_that_are_killed_come_back(api, spaces, started, target, strategy, record_property):
    # A server's pod holds the run up; without a worker's it goes on, until that is back and after.
    rounds = 600 if target in ("client-0", "half") else 150
    made = experiment(DropoutNet, rounds=rounds, clients=4, strategy=strategy)
    expected = lab.run(made).wait()
    run = started(made, namespace=spaces[0], workers=2, **SMALL)
    if target == "process":
        wait_until(lambda: run.round >= 1, "a round")
        run.chaos.kill("server", round=run.round + 10, during="aggregating")
    else:
        wait_until(lambda: run.round >= 2, "two rounds")
        run.chaos.kill(target)
    run.wait(timeout_seconds=PATIENCE)
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)
    record_property("recovery_seconds", list(run.faults.recovery_seconds))
    assert len(run.faults) == 1
    assert run.faults.recovery_seconds.notna().all()
    wait_until(lambda: not left_in(api, spaces), "all is removed", 60)


def test_a_stop_removes_everything_in_seconds(api, spaces, started, record_property):
    run = started(experiment(Net, rounds=100_000, clients=2), namespace=spaces[0], **SMALL)
    wait_until(lambda: run.round >= 1, "a round")
    begin = time.monotonic()
    run.stop().wait(timeout_seconds=60)
    assert str(run.status) == "stopped"
    assert run.model()
    wait_until(lambda: not left_in(api, spaces), "all is removed", 60)
    record_property("seconds_to_nothing", time.monotonic() - begin)


def test_a_watch_that_was_killed_is_no_loss(api, spaces, started):
    made = experiment(DropoutNet, rounds=40, clients=4)
    expected = lab.run(made).wait()
    run = started(made, namespace=spaces[0], **SMALL)
    wait_until(lambda: run.round >= 1, "a round")
    ClusterRun(run.folder).folder.kill("watch")
    time.sleep(3)
    lab.resume(run).wait(timeout_seconds=PATIENCE)
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)


def test_a_wrong_image_is_one_sentence_and_the_run_can_be_stopped(api, spaces, started):
    run = started(
        experiment(Net, clients=2), namespace=spaces[0], image="flautim-lab:none", **SMALL
    )
    wait_until(lambda: "cannot be pulled" in run.message, "it is said")
    assert "the image flautim-lab:none cannot be pulled for pod" in run.message
    assert "check its name" in run.message
    run.stop().wait(timeout_seconds=90)
    assert str(run.status) == "stopped"
    wait_until(lambda: not left_in(api, spaces), "all is removed", 60)


def test_too_much_memory_is_one_sentence(api, spaces, started):
    run = started(experiment(Net, clients=2), namespace=spaces[0], **(SMALL | {"memory": "900Gi"}))
    wait_until(lambda: "finds no node" in run.message, "it is said")
    assert "ask for less cpu or memory" in run.message
    run.stop().wait(timeout_seconds=90)
    wait_until(lambda: not left_in(api, spaces), "all is removed", 60)


def test_a_namespace_that_is_not_there_is_one_sentence():
    with pytest.raises(lab.ClusterError, match='namespaces "nowhere" not found; check the names'):
        lab.run(experiment(Net), on=lab.Cluster(namespace="nowhere"))
    (run,) = lab.runs()
    assert str(run.status) == "failed"


def test_pods_hold_no_credential(api, spaces, started):
    run = started(experiment(Net, rounds=100_000, clients=2), namespace=spaces[0], **SMALL)
    wait_until(lambda: run.round >= 1, "a round")
    for pod in api.pods(ClusterRun(run.folder).pods()):
        assert pod.spec.automount_service_account_token is False
        for container in pod.spec.containers:
            assert not [one for one in container.env if "token" in str(one.value).lower()]
        log = k8s.CoreV1Api(api._client).read_namespaced_pod_log(
            pod.metadata.name, pod.metadata.namespace
        )
        assert "PRIVATE KEY" not in log
