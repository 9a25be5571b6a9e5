"""What keeps a pod from working is one sentence with the next step."""

from __future__ import annotations

from types import SimpleNamespace as Thing

import pytest

from flautim_lab.pods.sentences import refusal, trouble


def pod(*, conditions=(), reason=None, message=None, waiting=None, ended=None, last=None):
    def of(state):
        return None if state is None else Thing(reason=state[0], message=state[1])

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
