"""What keeps a pod from working is one sentence with the next step."""

from __future__ import annotations

from types import SimpleNamespace as Thing

import pytest

from flautim_lab.pods.sentences import refusal, refused, trouble


def pod(
    *, conditions=(), reason=None, message=None, waiting=None, ended=None, last=None, rows=False
):
    def of(state):
        if state is None:
            return None
        reason, message, *status = state
        return Thing(reason=reason, message=message, exit_code=status[0] if status else 137)

    container = Thing(
        name="worker",
        image="flautim-lab:0.1",
        state=Thing(waiting=of(waiting), terminated=of(ended)),
        last_state=Thing(terminated=of(last)),
    )
    return Thing(
        metadata=Thing(name="run-workers-0-abcde"),
        spec=Thing(
            containers=[
                Thing(
                    name="worker",
                    image="flautim-lab:0.1",
                    resources=Thing(limits={"memory": "64Mi"}),
                    env=[Thing(name="FLAUTIM_LAB_DATA")] if rows else None,
                )
            ]
        ),
        status=Thing(
            conditions=[Thing(type=t, status=s, message=m) for t, s, m in conditions],
            reason=reason,
            message=message,
            container_statuses=[container],
        ),
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (pod(), ""),
        (pod(conditions=[("PodScheduled", "True", None)]), ""),
        (pod(waiting=("ContainerCreating", None)), ""),
        (
            pod(conditions=[("PodScheduled", "False", "0/1 nodes: 1 Insufficient memory.")]),
            "pod run-workers-0-abcde finds no node: 0/1 nodes: 1 Insufficient memory; ask for less "
            "cpu or memory, or wait until there is room",
        ),
        (
            pod(conditions=[("PodScheduled", "False", "0/1 nodes: 1 node(s) were unschedulable.")]),
            "pod run-workers-0-abcde finds no node: 0/1 nodes: 1 node(s) were unschedulable; its "
            "people keep new pods off (a drain); the run waits, and goes on once there is a node "
            "again",
        ),
        (
            pod(conditions=[("PodScheduled", "False", "1 node(s) didn't match node selector.")]),
            "pod run-workers-0-abcde finds no node: 1 node(s) didn't match node selector; check "
            "node_selector and tolerations of lab.Cluster, or wait: a node keeps pods off while "
            "its disk is full, too",
        ),
        (
            pod(conditions=[("DisruptionTarget", "True", "Eviction API: evicting")]),
            "pod run-workers-0-abcde has to leave its node (Eviction API: evicting); another takes "
            "its place, and the run goes on",
        ),
        (
            pod(waiting=("ImagePullBackOff", "Back-off")),
            "the image flautim-lab:0.1 cannot be pulled for pod run-workers-0-abcde "
            "(ImagePullBackOff); check its name, or ask who runs the cluster to load it",
        ),
        (
            pod(waiting=("CreateContainerConfigError", "secret not found")),
            "pod run-workers-0-abcde cannot start (CreateContainerConfigError): secret not found",
        ),
        (
            pod(last=("OOMKilled", None)),
            "pod run-workers-0-abcde was killed for memory (its limit is 64Mi); give more, as in "
            'lab.Cluster(memory="...")',
        ),
        (pod(last=("Error", "", 143)), ""),
        (pod(ended=("Error", "", 1)), "pod run-workers-0-abcde ended with exit status 1"),
        (
            pod(ended=("Error", "Traceback ...\nRuntimeError: no data there.\n", 1)),
            "pod run-workers-0-abcde ended with exit status 1; its last words: RuntimeError: no "
            "data there",
        ),
        # What it wrote to its log, or to the file for its last words, may be made of rows.
        (
            pod(ended=("Error", "ValueError: 'Maria'", 1), rows=True),
            "pod run-workers-0-abcde, which has rows of its institution, ended with exit status 1; "
            "why is in its own log, for who runs the cluster there",
        ),
        (
            pod(reason="Evicted", message="The node was low on memory."),
            "pod run-workers-0-abcde was evicted: The node was low on memory; it is started again",
        ),
    ],
)
def test_trouble(given, sentence):
    assert trouble(given) == sentence


def test_refusals():
    asked = "create Job run-workers in ufmg"
    assert refusal(403, "Forbidden", 'jobs is forbidden: User "ana".', asked) == (
        'you may not create Job run-workers in ufmg: jobs is forbidden: User "ana"; ask who runs '
        "the cluster for the permission"
    )
    assert "there is no room in the namespace's quota to create" in refusal(
        403, "Forbidden", "pods is forbidden: exceeded quota: small", asked
    )
    assert refusal(404, "Not Found", 'namespaces "ufmg" not found', asked) == (
        'cannot create Job run-workers in ufmg: namespaces "ufmg" not found; check the namespace'
    )


def test_pods_that_are_refused():
    quota = 'Error creating: pods "x" is forbidden: exceeded quota: small, requested: cpu=1'
    assert refused("point", "ufmg", quota) == (
        "there is no room for all of the batch's jobs in the quota of ufmg (exceeded quota: "
        "small, requested: cpu=1); ask for less cpu or memory or for fewer jobs, wait until there "
        "is room, or ask who runs the cluster for a larger quota"
    )
    assert refused("server", "ufmg", quota).startswith(
        "there is no room for the run's server in the quota of ufmg (exceeded quota: small, "
    )
    assert refused("worker", "ufmg", "Error creating: no PriorityClass named high.") == (
        "the cluster refuses pods for all of the run's workers in ufmg: no PriorityClass named "
        "high; ask who runs it"
    )
