"""How a batch stands on a cluster, against a mock API server."""

from __future__ import annotations

import dataclasses
import json

import kmock
import pytest

import flautim_lab as lab
from flautim_lab.pods.api import Api
from flautim_lab.pods.points import make_points
from flautim_lab.runners.rerun.place import OwnPlace, Seen, point_pods
from tests.mock_cluster import cluster

__all__ = ["cluster"]
BATCH = "r20261125-202140-batch-iris-7d1947b4"
RUN = point_pods(lab.Cluster(), BATCH, "ufmg")
FACTS = {"pods": dataclasses.asdict(RUN)}
QUOTA = "exceeded quota: small, requested: limits.cpu=1, used: limits.cpu=1, limited: limits.cpu=1"
SENTENCE = (
    f"there is no room for all of the batch's jobs in the quota of ufmg ({QUOTA}); ask for less "
    "cpu or memory or for fewer jobs, wait until there is room, or ask who runs the cluster for a "
    "larger quota"
)


@pytest.fixture
def batch(cluster):
    """A batch of 5 points, two at once, and what puts something there."""

    def put(resource, made):
        key = (kmock.resource(resource), "ufmg", made["metadata"]["name"])
        cluster.call(lambda handler: handler.objects.__setitem__(key, made))

    make_points(Api(), RUN, b"archive", 5, 2, 1)
    return OwnPlace(lab.Cluster()), put


def refused(name, second, *, message=QUOTA, job=f"{RUN.name}-points"):
    return {
        "metadata": {"name": name, "namespace": "ufmg", "resourceVersion": "1"},
        "involvedObject": {"kind": "Job", "name": job},
        "reason": "FailedCreate",
        "message": f'Error creating: pods "x" is forbidden: {message}',
        "lastTimestamp": f"2026-11-25T20:21:{second:02}Z",
    }


def point(index, second, phase="Running"):
    labels = {
        "flautim-lab/run": RUN.name,
        "flautim-lab/role": "point",
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    made = {"name": f"p{index}", "namespace": "ufmg", "labels": labels, "resourceVersion": "1"}
    made["creationTimestamp"] = f"2026-11-25T20:21:{second:02}Z"
    return {"metadata": made, "spec": {"containers": []}, "status": {"phase": phase}}


def stand(**status):
    Api()._batch.patch_namespaced_job(f"{RUN.name}-points", "ufmg", {"status": status})


def test_points_that_a_quota_refuses_are_told_of(batch):
    place, put = batch
    put("v1/events", refused("other", 50, job="somebody-elses"))
    assert place.look(FACTS).waits == ""
    put("v1/events", refused("old", 10, message="exceeded quota: it was smaller then"))
    put("v1/events", refused("new", 20))
    put("v1/pods", point(0, 5))
    stand(active=1)
    seen = place.look(FACTS)
    assert seen.waits == SENTENCE
    # As the hub's service sends it, and as one of before did.
    told = json.loads(json.dumps(seen.as_dict()))
    assert Seen.from_dict(told) == seen
    del told["waits"]
    assert Seen.from_dict(told).waits == ""


@pytest.mark.parametrize(
    "status",
    [
        {"active": 2},
        {"active": 1, "completedIndexes": "0-2", "failedIndexes": "3"},  # one is left
        {"conditions": [{"type": "Failed", "status": "True", "message": "too long"}]},
    ],
)
def test_once_all_are_there_nothing_is_told(batch, status):
    place, put = batch
    put("v1/events", refused("new", 20))
    assert place.look(FACTS).waits == SENTENCE
    stand(**status)
    assert place.look(FACTS).waits == ""


def test_a_refusal_from_before_there_was_room_is_none(batch):
    place, put = batch
    put("v1/events", refused("new", 20))
    put("v1/pods", point(1, 25, "Succeeded"))
    stand(active=0, completedIndexes="1")
    assert place.look(FACTS).waits == ""
