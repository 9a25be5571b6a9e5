"""What keeps a run's pods from working is told as it changes, against a mock API server."""

from __future__ import annotations

import threading
import time

import kmock
import pytest

from flautim_lab.pods import follow
from flautim_lab.pods.api import Api
from flautim_lab.pods.manifests import RunPods

RUN = RunPods(
    run_id="r20261125-202140-net-on-iris-7d1947b4",
    name="r20261125-202140-7d1947b4",
    namespace="ufmg",
    workers={"ufmg": 2},
    clients=4,
    image="flautim-lab:0.1.0",
)
JOB = f"{RUN.name}-workers"
LABELS = {"flautim-lab/run": RUN.name, "flautim-lab/role": "worker"}
QUOTA = (
    'Error creating: pods "r20261125-202140-7d1947b4-workers-1-abcde" is forbidden: exceeded '
    "quota: small, requested: limits.cpu=1, used: limits.cpu=1, limited: limits.cpu=1"
)


def pod(name, index=0, second=0, phase="Pending", **status):
    labels = LABELS | {
        "batch.kubernetes.io/job-name": JOB,
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    metadata = {"name": name, "namespace": "ufmg", "labels": labels, "resourceVersion": "1"}
    metadata["creationTimestamp"] = f"2026-11-25T20:21:{second:02}Z"
    resources = {"limits": {"memory": "64Mi"}}
    container = {"name": "worker", "image": "flautim-lab:0.1.0", "resources": resources}
    return {
        "metadata": metadata,
        "spec": {"containers": [container]},
        "status": {"phase": phase, **status},
    }


def state(**told):
    container = {"name": "worker", "state": told, "image": "nowhere:1", "imageID": ""}
    return [container | {"ready": False, "restartCount": 0}]


def job(**status):
    return {
        "metadata": {"name": JOB, "namespace": "ufmg", "labels": LABELS, "resourceVersion": "1"},
        "spec": {"parallelism": 2, "template": {"spec": {"containers": []}}},
        "status": status,
    }


def event(name, message=QUOTA, job=JOB):
    return {
        "metadata": {"name": name, "namespace": "ufmg", "resourceVersion": "1"},
        "involvedObject": {"kind": "Job", "name": job},
        "reason": "FailedCreate",
        "message": message,
    }


@pytest.fixture
def followed(cluster):
    """What is there, put there by ``put``, and what was said of it."""

    def put(resource, made):
        key = (kmock.resource(resource), "ufmg", made["metadata"]["name"])
        cluster.call(lambda handler: handler.objects.__setitem__(key, made))

    said, lost, stopped = [], [], threading.Event()
    api = Api()

    def begin():
        return api.follow(
            RUN,
            lambda name, sentence: said.append((name, sentence)),
            lambda space, sentence: lost.append((space, sentence)),
            stopped,
        )

    yield api, put, begin, said, lost, stopped
    stopped.set()  # which ends the watches: the mock server cannot end before them


def test_a_pod_in_trouble_and_out_of_it(followed):
    api, put, begin, said, _, stopped = followed
    put("v1/pods", pod("a", containerStatuses=state(waiting={"reason": "ImagePullBackOff"})))
    put("batch/v1/jobs", job())
    put("v1/events", event("e", job="somebody-elses"))
    threads = begin()
    wait_for(lambda: said)
    assert said[0][0] == "a"
    assert said[0][1].startswith("the image nowhere:1 cannot be pulled for pod a")
    running = {"phase": "Running", "containerStatuses": state(running={})}
    api._core.patch_namespaced_pod("a", "ufmg", {"status": running})
    wait_for(lambda: len(said) > 1)
    assert said[1:] == [("a", "")]
    stopped.set()
    for thread in threads:
        thread.join(10)
    assert [thread.is_alive() for thread in threads] == [False] * 5


def test_pods_that_a_quota_refuses_are_told_of_until_all_are_there(followed):
    api, put, begin, said, _, _ = followed
    put("batch/v1/jobs", job())
    put("v1/pods", pod("a"))
    put("v1/events", event("e"))
    begin()
    wait_for(lambda: said)
    assert said == [
        (
            JOB,
            "there is no room for all of the run's workers in the quota of ufmg (exceeded quota: "
            "small, requested: limits.cpu=1, used: limits.cpu=1, limited: limits.cpu=1); ask for "
            "less cpu or memory or for fewer workers, wait until there is room, or ask who runs "
            "the cluster for a larger quota",
        )
    ]
    api._core.create_namespaced_pod("ufmg", pod("b", index=1))
    wait_for(lambda: len(said) > 1)
    assert said[1:] == [(JOB, "")]


def test_a_refusal_that_is_heard_of_before_its_job_is_not_forgotten(followed):
    api, put, begin, said, _, _ = followed
    put("v1/pods", pod("a"))
    put("v1/events", event("e"))
    begin()
    time.sleep(1)
    assert not said
    api._batch.create_namespaced_job("ufmg", job())
    wait_for(lambda: said)
    assert said[0][0] == JOB


def test_what_keeps_a_pod_from_starting_on_its_node_is_told_until_it_starts(followed):
    api, put, begin, said, _, _ = followed
    put("v1/pods", pod("a"))
    begin()
    held = "Multi-Attach error for volume pvc-1: it is used by a pod on another node"
    warned = event("w", held) | {"reason": "FailedAttachVolume"}

    def warn():
        """As Kubernetes does again and again; what comes too early is not kept."""
        for name in ("somebody-elses", "a", "a"):
            warned["involvedObject"] = {"kind": "Pod", "name": name}
            warned["metadata"] = {"generateName": "w", "namespace": "ufmg", "resourceVersion": "1"}
            api._core.create_namespaced_event("ufmg", dict(warned))
        return said

    wait_for(warn)
    sentence = (
        "pod a cannot start yet (FailedAttachVolume: Multi-Attach error for volume pvc-1: it is "
        "used by a pod on another node); it is tried again, and if it lasts, ask who runs the "
        "cluster"
    )
    time.sleep(1)
    assert said == [("a", sentence)]
    api._core.patch_namespaced_pod("a", "ufmg", {"status": {"phase": "Running"}})
    wait_for(lambda: len(said) > 1)
    assert said[1:] == [("a", "")]


def test_what_was_said_of_a_dead_pod_stands_until_another_has_taken_its_place(followed):
    api, put, begin, said, _, _ = followed
    killed = state(terminated={"reason": "OOMKilled", "exitCode": 137})
    put("v1/pods", pod("a", phase="Failed", containerStatuses=killed))
    begin()
    wait_for(lambda: said)
    sentence = (
        "pod a was killed for memory (its limit is 64Mi); give more, as in "
        'lab.Cluster(memory="...")'
    )
    assert said == [("a", sentence)]
    api._core.create_namespaced_pod("ufmg", pod("b", index=1, phase="Running", second=1))
    api._core.create_namespaced_pod("ufmg", pod("c", second=9))
    time.sleep(1)
    assert said == [("a", sentence)]
    api._core.patch_namespaced_pod("c", "ufmg", {"status": {"phase": "Running"}})
    wait_for(lambda: len(said) > 1)
    assert said[1:] == [("a", "")]


def test_workers_that_will_never_work_again_are_lost_with_the_reason(followed):
    api, put, begin, said, lost, _ = followed
    killed = state(terminated={"reason": "OOMKilled", "exitCode": 137})
    put("v1/pods", pod("a", phase="Failed", containerStatuses=killed))
    put("batch/v1/jobs", job())
    begin()
    wait_for(lambda: said)
    assert not lost
    failed = {"type": "Failed", "status": "True", "message": "Job has failed indexes"}
    api._batch.patch_namespaced_job(JOB, "ufmg", {"status": {"conditions": [failed]}})
    wait_for(lambda: lost)
    assert lost[0][0] == "ufmg"
    assert lost[0][1].startswith("no worker is left in ufmg: pod a was killed for memory")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_pod_that_takes_the_place_of_another_is_counted(followed):
    api, put, begin, _, _, _ = followed
    # Two of one slot that were there before anybody looked are none of its business.
    put("v1/pods", pod("old", second=1, phase="Failed"))
    put("v1/pods", pod("a", second=2, phase="Running"))
    put("batch/v1/jobs", job())
    before = follow.replaced["worker"]
    begin()
    late = pod("b", phase="Running")
    late["metadata"]["creationTimestamp"] = "2100-01-01T00:00:00Z"
    wait_for(lambda: api._core.list_namespaced_pod("ufmg").items)
    time.sleep(0.3)
    assert follow.replaced["worker"] == before
    api._core.create_namespaced_pod("ufmg", late)
    wait_for(lambda: follow.replaced["worker"] == before + 1)
