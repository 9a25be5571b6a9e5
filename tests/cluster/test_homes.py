"""Rows that stay with their institutions: on volumes, which their own workers alone can read."""

from __future__ import annotations

import os

from kubernetes import client as k8s
from kubernetes import stream as k8s_stream

import flautim_lab as lab
from flautim_lab.pods.manifests import SERVER, WORKER
from flautim_lab.pods.volume import DATA
from flautim_lab.runners.cluster import IMAGE_VARIABLE
from tests.cluster.faulted import SMALL, check_it_ended_well, pods_of
from tests.cluster.waiting import wait_until
from tests.federations import Net, iris_frame

CLAIM = "rows"


def keep_rows(api, namespace, text):
    """Make a volume in a namespace and write a table on it, as its people would."""
    core = k8s.CoreV1Api(api._client)
    claim = {
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    core.create_namespaced_persistent_volume_claim(namespace, claim)
    core.create_namespaced_config_map(
        namespace, {"metadata": {"name": "table"}, "data": {"iris.csv": text}}
    )
    container = {
        "name": "writer",
        "image": os.environ[IMAGE_VARIABLE],
        "imagePullPolicy": "IfNotPresent",
        "command": ["cp", "-L", "/table/iris.csv", "/rows/iris.csv"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "table", "mountPath": "/table"},
            {"name": "rows", "mountPath": "/rows"},
        ],
    }
    pod = {
        "metadata": {"name": "writer"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [container],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}
            | {"seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [
                {"name": "table", "configMap": {"name": "table"}},
                {"name": "rows", "persistentVolumeClaim": {"claimName": CLAIM}},
            ],
        },
    }
    core.create_namespaced_pod(namespace, pod)

    def written():
        return core.read_namespaced_pod("writer", namespace).status.phase == "Succeeded"

    wait_until(written, "the table is written", 60)
    core.delete_namespaced_pod("writer", namespace)


def in_pod(api, pod, code):
    """Return what a line of Python says in a pod."""
    return k8s_stream.stream(
        k8s.CoreV1Api(api._forwarding).connect_get_namespaced_pod_exec,
        pod.metadata.name,
        pod.metadata.namespace,
        command=["python", "-c", code],
        stdout=True,
        stderr=True,
    )


def test_rows_on_volumes_of_two_namespaces(api, spaces, started, record_property, tmp_path):
    whole = iris_frame()
    whole["home"] = [spaces[0]] * 60 + [spaces[1]] * 90
    homes = {}
    for name, rows in whole.groupby("home", sort=False):
        table = rows.drop(columns="home").to_csv(index=False)
        keep_rows(api, name, table)
        (tmp_path / name).mkdir()
        (tmp_path / name / "iris.csv").write_text(table)
        homes[name] = "iris.csv"
    settings = {"rounds": 100, "seed": 3, "lr": 0.1}
    sample = whole.drop(columns="home").groupby("species").head(2)
    paths = {name: f"{name}/iris.csv" for name in homes}
    here = lab.HomeDataset(sample, target="species", homes=paths, root=str(tmp_path))
    expected = lab.run(lab.Experiment(here, Net, **settings)).wait()
    made = lab.Experiment(lab.HomeDataset(sample, target="species", homes=homes), Net, **settings)
    run = started(
        made,
        namespace=spaces[0],
        workers=dict.fromkeys(spaces, 1),
        data=dict.fromkeys(spaces, CLAIM),
        **SMALL,
    )
    wait_until(lambda: run.round >= 1, "a round")
    rows = f"print(len(open('{DATA}/iris.csv').readlines()))"
    write = f"open('{DATA}/iris.csv', 'a')"
    for pod in pods_of(api, run, WORKER):
        there = 60 if pod.metadata.namespace == spaces[0] else 90
        assert in_pod(api, pod, rows).strip() == str(there + 1)
        assert "Read-only file system" in in_pod(api, pod, write)
    # The server is in the same namespace as one of the volumes, and has none of them.
    (server,) = pods_of(api, run, SERVER)
    assert "No such file or directory" in in_pod(api, server, rows)
    assert CLAIM not in str(server.spec.volumes)
    check_it_ended_well(run, expected, api, spaces, record_property)
    core = k8s.CoreV1Api(api._client)
    for space in spaces:  # what was there before is there after
        assert core.read_namespaced_persistent_volume_claim(CLAIM, space).spec.volume_name
