"""What is asked of the cluster, and what becomes of its answers, against a mock API server."""

from __future__ import annotations

import re

import pytest

from flautim_lab.errors import ClusterError
from flautim_lab.pods.access import questions
from flautim_lab.pods.api import Api
from flautim_lab.pods.manifests import RunPods

RUN = RunPods(
    run_id="r20261125-202140-net-on-iris-7d1947b4",
    name="r20261125-202140-7d1947b4",
    namespace="ufmg",
    workers={"ufmg": 1, "ifnmg": 2},
    clients=4,
    image="flautim-lab:0.1.0",
)
FILES = {"token": b"secret"}
MADE = [
    ("ifnmg", "configmaps", "r20261125-202140-7d1947b4-workers"),
    ("ifnmg", "configmaps", "r20261125-202140-7d1947b4-workers-code-0"),
    ("ifnmg", "jobs", "r20261125-202140-7d1947b4-workers"),
    ("ifnmg", "networkpolicies", "r20261125-202140-7d1947b4-workers"),
    ("ifnmg", "secrets", "r20261125-202140-7d1947b4-worker-keys"),
    ("ufmg", "configmaps", "r20261125-202140-7d1947b4"),
    ("ufmg", "configmaps", "r20261125-202140-7d1947b4-code-0"),
    ("ufmg", "configmaps", "r20261125-202140-7d1947b4-workers"),
    ("ufmg", "configmaps", "r20261125-202140-7d1947b4-workers-code-0"),
    ("ufmg", "jobs", "r20261125-202140-7d1947b4-server"),
    ("ufmg", "jobs", "r20261125-202140-7d1947b4-workers"),
    ("ufmg", "networkpolicies", "r20261125-202140-7d1947b4-server"),
    ("ufmg", "networkpolicies", "r20261125-202140-7d1947b4-workers"),
    ("ufmg", "persistentvolumeclaims", "r20261125-202140-7d1947b4-state"),
    ("ufmg", "secrets", "r20261125-202140-7d1947b4-server-keys"),
    ("ufmg", "secrets", "r20261125-202140-7d1947b4-worker-keys"),
    ("ufmg", "services", "r20261125-202140-7d1947b4"),
]


def there(cluster):
    def look(handler):
        return sorted(
            (space or "", resource.plural, name)
            for (resource, space, name), made in handler.objects.items()
            if not made.deleted
        )

    return cluster.call(look)


def make(api):
    api.make(RUN, b"archive", FILES, {"ufmg": FILES, "ifnmg": FILES})


def test_all_is_made_once_and_a_second_time_changes_nothing(cluster):
    api = Api()
    assert api.namespace == "ufmg"
    make(api)
    assert there(cluster) == MADE
    make(api)
    assert there(cluster) == MADE


def test_only_what_the_role_grants_is_asked_for(cluster):
    api = Api()
    make(api)
    api.pods(RUN)
    api.found(["ufmg"])
    api.failure(RUN)
    api.workers(RUN)
    api.scale(RUN, "ifnmg", 3)
    api.remove(RUN, seconds=0.0)
    verbs = {"FETCH": "get", "LIST": "list", "CREATE": "create", "DELETE": "delete"}
    verbs["UPDATE"] = "patch"

    def look(handler):
        return {
            (request.resource.group or "", request.resource.plural, verbs[request.action.name])
            for request in handler
            if request.resource is not None
        }

    assert cluster.call(look) <= set(questions())


def test_a_refusal_is_one_sentence_and_what_was_made_goes(cluster):
    body = {"kind": "Status", "message": 'jobs.batch is forbidden: User "ana" cannot create'}
    cluster.call(
        lambda handler: handler["post /apis/batch/v1/namespaces/ifnmg/jobs"] << 403 << body
    )
    with pytest.raises(ClusterError) as caught:
        make(Api())
    assert str(caught.value) == (
        "you may not create Job r20261125-202140-7d1947b4-workers in ifnmg: jobs.batch is "
        'forbidden: User "ana" cannot create; ask who runs the cluster for the permission'
    )
    left = [(space, kind, name) for space, kind, name in there(cluster) if kind == "configmaps"]
    # The anchors are gone; what they owned, a real cluster removes with them.
    assert {name for _, _, name in left} == {
        "r20261125-202140-7d1947b4-code-0",
        "r20261125-202140-7d1947b4-workers-code-0",
    }


def test_what_one_may_not_do_is_said_before_anything_is_made(cluster):
    def answer(request):
        asked = request.data["spec"]["resourceAttributes"]
        allowed = (asked["resource"], asked["verb"]) != ("pods", "watch")
        return request.data | {"status": {"allowed": allowed}}

    path = "post /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    cluster.call(lambda handler: handler[path] << answer)
    api = Api()
    assert api.denied("ufmg") == ["watch pods"]
    with pytest.raises(ClusterError, match="you may not watch pods in the namespace 'ufmg', wh"):
        api.check_access(["ufmg"])


def test_workers_are_scaled_with_completions_and_parallelism_together(cluster):
    api = Api()
    with pytest.raises(ClusterError, match="cannot read Job r20261125-202140-7d1947b4-workers in"):
        api.workers(RUN)
    make(api)
    assert api.workers(RUN) == {"ufmg": 1, "ifnmg": 2}
    api.scale(RUN, "ifnmg", 4)
    job = api._batch.read_namespaced_job(f"{RUN.name}-workers", "ifnmg")
    assert (job.spec.completions, job.spec.parallelism) == (4, 4)
    assert api.workers(RUN) == {"ufmg": 1, "ifnmg": 4}
    body = {"kind": "Status", "message": "jobs.batch is forbidden"}
    cluster.call(
        lambda handler: (
            handler[f"patch /apis/batch/v1/namespaces/ufmg/jobs/{RUN.name}-workers"] << 403 << body
        )
    )
    with pytest.raises(ClusterError, match=r"you may not scale Job .* in ufmg"):
        api.scale(RUN, "ufmg", 2)


def test_a_job_that_failed_says_why(cluster):
    api = Api()
    assert api.failure(RUN) == "the server's job is gone: somebody removed it"
    make(api)
    assert api.failure(RUN) == ""
    failed = {"type": "Failed", "status": "True", "message": "Job was active longer than specified"}
    api._batch.patch_namespaced_job(
        f"{RUN.name}-server", "ufmg", {"status": {"conditions": [failed]}}
    )
    assert api.failure(RUN) == "the server's job failed: Job was active longer than specified"


def test_removing_is_done_when_it_was_done_before(cluster):
    api = Api()
    make(api)
    assert [run.run_id for run in api.found(["ufmg", "ifnmg"])] == [RUN.run_id]
    assert api.remove(RUN) == []
    assert api.remove(RUN) == []


def test_a_run_that_goes_on_is_not_removed_by_a_refusal(cluster):
    api = Api()
    make(api)
    body = {"kind": "Status", "message": "the server is overloaded"}
    cluster.call(
        lambda handler: (
            handler["get /apis/batch/v1/namespaces/ifnmg/jobs/r20261125-202140-7d1947b4-workers"]
            << 503
            << body
        )
    )
    with pytest.raises(ClusterError, match="the server is overloaded"):
        make(api)
    assert there(cluster) == MADE


def test_a_context_that_is_not_there_is_named_and_a_cluster_that_is_away(cluster):
    with pytest.raises(ClusterError, match=re.escape("no context named 'nope' in the kubeconfig")):
        Api("nope")
    with pytest.raises(ClusterError, match="the cluster does not answer, cannot ask for its vers"):
        Api("away").version()
