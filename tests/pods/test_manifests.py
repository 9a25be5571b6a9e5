"""The objects of a run: as literals, and by what every pod must be."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml
from kubernetes import client as k8s

from flautim_lab.experiment.home_dataset import DATA_VARIABLE, FEWEST_VARIABLE, HASHES_VARIABLE
from flautim_lab.pods import manifests
from flautim_lab.pods.manifests import SERVER, WORKER, Resources, RunPods
from flautim_lab.training.keys import make_worker_key

RUN = RunPods(
    run_id="r20261125-202140-net-on-iris-7d1947b4",
    name="r20261125-202140-7d1947b4",
    namespace="ufmg",
    workers={"ufmg": 2, "ifnmg": 3},
    clients=8,
    image="flautim-lab:0.1.0",
)
OWNER = k8s.V1OwnerReference(
    api_version="v1", kind="ConfigMap", name=RUN.name, uid="0", block_owner_deletion=False
)


def plain(made):
    return k8s.ApiClient().sanitize_for_serialization(made)


def all_objects(run=RUN):
    made = []
    for space, role in ((run.namespace, SERVER), *((space, WORKER) for space in run.workers)):
        made.append(manifests.make_anchor(run, space, role))
        made += manifests.make_code(run, space, role, b"x" * 1_500_000, OWNER)
        made.append(manifests.make_secret(run, space, role, {"token": b"secret"}, OWNER))
    made += [
        manifests.make_volume_claim(run, OWNER),
        manifests.make_service(run, OWNER),
        manifests.make_server_job(run, 3, OWNER),
        manifests.make_server_policy(run, OWNER),
    ]
    for space in run.workers:
        made.append(manifests.make_worker_job(run, space, 3, OWNER))
        made.append(manifests.make_worker_policy(run, space, OWNER))
    return made


POD = """
securityContext:
  fsGroup: 1000
  runAsGroup: 1000
  runAsNonRoot: true
  runAsUser: 1000
  seccompProfile: {type: RuntimeDefault}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 10
"""

WORKERS = """
apiVersion: batch/v1
kind: Job
metadata:
  name: r20261125-202140-7d1947b4-workers
  namespace: ifnmg
  annotations: {flautim-lab/run-id: r20261125-202140-net-on-iris-7d1947b4}
  labels:
    app.kubernetes.io/name: flautim-lab
    flautim-lab/run: r20261125-202140-7d1947b4
    flautim-lab/role: worker
  ownerReferences:
    - {apiVersion: v1, kind: ConfigMap, name: r20261125-202140-7d1947b4, uid: "0",
       blockOwnerDeletion: false}
spec:
  completionMode: Indexed
  completions: 3
  parallelism: 3
  backoffLimitPerIndex: 20
  podReplacementPolicy: Failed
  podFailurePolicy:
    rules:
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget, status: "True"}]
      - action: FailIndex
        onExitCodes: {containerName: worker, operator: In, values: [70]}
  activeDeadlineSeconds: 86400
  ttlSecondsAfterFinished: 600
  template:
    metadata:
      annotations: {flautim-lab/run-id: r20261125-202140-net-on-iris-7d1947b4}
      labels:
        app.kubernetes.io/name: flautim-lab
        flautim-lab/run: r20261125-202140-7d1947b4
        flautim-lab/role: worker
    spec:
      restartPolicy: Never
      containers:
        - name: worker
          image: flautim-lab:0.1.0
          imagePullPolicy: IfNotPresent
          command: [tini, --, python, -m, flautim_lab.runners.pod_client]
          env:
            - {name: OMP_NUM_THREADS, value: "1"}
            - {name: FLWR_TELEMETRY_ENABLED, value: "0"}
            - {name: HOME, value: /tmp}
            - {name: FLAUTIM_LAB_SERVER, value: "r20261125-202140-7d1947b4.ufmg.svc:9092"}
            - {name: FLAUTIM_LAB_FIRST_SLOT, value: "8"}
          resources:
            requests: {cpu: "1", memory: 1Gi}
            limits: {cpu: "1", memory: 1Gi}
          terminationMessagePolicy: FallbackToLogsOnError
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: run, mountPath: /flautim/run, readOnly: true}
            - {name: code, mountPath: /flautim/code, readOnly: true}
            - {name: keys, mountPath: /flautim/keys, readOnly: true}
      volumes:
        - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
        - {name: run, configMap: {name: r20261125-202140-7d1947b4-workers}}
        - name: code
          projected:
            sources:
              - {configMap: {name: r20261125-202140-7d1947b4-workers-code-0}}
              - {configMap: {name: r20261125-202140-7d1947b4-workers-code-1}}
        - name: keys
          secret: {secretName: r20261125-202140-7d1947b4-worker-keys, defaultMode: 288}
"""


def test_the_job_of_the_workers_is_this():
    expected = yaml.safe_load(WORKERS)
    expected["spec"]["template"]["spec"] |= yaml.safe_load(POD)
    assert plain(manifests.make_worker_job(RUN, "ifnmg", 2, OWNER)) == expected


def test_the_server_comes_back_in_place_and_keeps_its_volume():
    job = plain(manifests.make_server_job(RUN, 1, OWNER))
    pod = job["spec"]["template"]["spec"]
    assert job["metadata"]["name"] == "r20261125-202140-7d1947b4-server"
    assert pod["restartPolicy"] == "OnFailure"
    assert {"name": "state", "mountPath": "/flautim/state"} in pod["containers"][0]["volumeMounts"]
    claim = {"claimName": "r20261125-202140-7d1947b4-state"}
    assert {"name": "state", "persistentVolumeClaim": claim} in pod["volumes"]
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports == {"fleet": 9092, "api": 9093}


@pytest.mark.parametrize(
    "made", [made for made in all_objects() if made.kind == "Job"], ids=lambda m: m.metadata.name
)
def test_every_pod_passes_the_restricted_standard_and_ends_by_itself(made):
    job = plain(made)["spec"]
    pod = job["template"]["spec"]
    assert job["activeDeadlineSeconds"] > 0
    assert job["ttlSecondsAfterFinished"] > 0
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    allowed = {"emptyDir", "configMap", "projected", "secret", "persistentVolumeClaim"}
    for volume in pod["volumes"]:
        assert set(volume) - {"name"} <= allowed
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert not [e for e in container["env"] if "KEY" in e["name"] or "TOKEN" in e["name"]]


def test_names_are_short_enough_and_all_but_the_anchors_are_owned():
    for made in all_objects():
        # A pod of an Indexed Job is named after it, its index and five letters.
        assert len(made.metadata.name) <= 63 - len("-9999-abcde"), made.metadata.name
        owners = made.metadata.owner_references
        is_anchor = made.kind == "ConfigMap" and "run.json" in (made.data or {})
        assert (owners is None) == is_anchor
    names = [(m.kind, m.metadata.namespace, m.metadata.name) for m in all_objects()]
    assert len(names) == len(set(names))


def test_an_archive_travels_in_parts_that_a_config_map_can_hold():
    parts = manifests.make_code(RUN, "ufmg", WORKER, b"0123456789" * 150_000, OWNER)
    assert [list(part.binary_data) for part in parts] == [
        ["part-0000"],
        ["part-0001"],
        ["part-0002"],
    ]
    assert all(len(next(iter(part.binary_data.values()))) < 2**20 for part in parts)


def test_workers_talk_to_the_server_and_to_nobody_else():
    policy = plain(manifests.make_worker_policy(RUN, "ifnmg", OWNER))["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    server, names = policy["egress"]
    assert server["ports"] == [{"port": 9092, "protocol": "TCP"}]
    (peer,) = server["to"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ufmg"}
    assert peer["podSelector"]["matchLabels"]["flautim-lab/role"] == "server"
    assert [port["port"] for port in names["ports"]] == [53, 53]
    policy = plain(manifests.make_server_policy(RUN, OWNER))["spec"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    spaces = [p["namespaceSelector"]["matchLabels"] for p in rule["from"]]
    assert spaces == [{"kubernetes.io/metadata.name": space} for space in ("ufmg", "ifnmg")]


def test_each_namespace_owns_a_block_of_slots_as_large_as_it_may_ever_need():
    assert RUN.blocks == {"ufmg": 8, "ifnmg": 8}  # as many as clients
    assert RUN.slots == 16
    assert RUN.first_slot("ifnmg") == 8
    assert [RUN.place(slot) for slot in (0, 7, 8, 15)] == [
        ("ufmg", 0),
        ("ufmg", 7),
        ("ifnmg", 0),
        ("ifnmg", 7),
    ]
    with pytest.raises(IndexError):
        RUN.place(16)
    assert RUN.facts()["begin"] == RUN.taken(RUN.workers) == [0, 1, 8, 9, 10]
    assert RUN.taken({"ifnmg": 1, "ufmg": 3}) == [8, 0, 1, 2]
    many = dataclasses.replace(RUN, clients=1000, workers={"ufmg": 2, "ifnmg": 100})
    assert many.blocks == {"ufmg": 64, "ifnmg": 100}


@pytest.mark.parametrize("spaces", [1, 40, 400])
def test_the_keys_of_all_slots_fit_into_a_secret(spaces, tmp_path):
    public = len(make_worker_key(tmp_path / "key"))
    private = (tmp_path / "key").stat().st_size
    rest = manifests.MOST_WORKERS - (spaces - 1)
    workers = {f"n{n}": 1 for n in range(1, spaces)} | {"n0": rest}
    run = dataclasses.replace(RUN, clients=5000, workers=workers, namespace="n0")
    assert run.slots * public < 2**20
    assert max(run.blocks.values()) * private < 2**20


def test_gpus_and_where_to_run_are_asked_for_on_request():
    run = dataclasses.replace(
        RUN,
        worker=Resources("2", "4Gi", gpu=1),
        node_selector={"gpu": "h100"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        priority_class="low",
        storage_class="fast",
    )
    pod = plain(manifests.make_worker_job(run, "ufmg", 1, OWNER))["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {
        "cpu": "2",
        "memory": "4Gi",
        "nvidia.com/gpu": "1",
    }
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert pod["priorityClassName"] == "low"
    claim = plain(manifests.make_volume_claim(run, OWNER))
    assert claim["spec"]["storageClassName"] == "fast"


def test_an_institutions_volume_is_read_by_its_own_workers_and_written_by_nobody():
    run = dataclasses.replace(RUN, data={"ifnmg": "trips"}, fewest_rows={"ifnmg": 30})
    ufmg, ifnmg = (
        manifests.make_worker_job(run, space, 1, OWNER).spec.template.spec for space in run.workers
    )
    (mount,) = [each for each in ifnmg.containers[0].volume_mounts if each.name == "data"]
    (volume,) = [each for each in ifnmg.volumes if each.name == "data"]
    assert (mount.mount_path, mount.read_only) == ("/flautim/data", True)
    assert volume.persistent_volume_claim.claim_name == "trips"
    assert volume.persistent_volume_claim.read_only is True
    # Nowhere to write to but /tmp: not where the run's records and files are.
    writable = [each.name for each in ifnmg.containers[0].volume_mounts if not each.read_only]
    assert writable == ["tmp"]
    # What it writes last is no word of ours, and a name that it asks for might carry a row out.
    assert ifnmg.containers[0].termination_message_policy == "File"
    egress = plain(manifests.make_worker_policy(run, "ifnmg", OWNER))["spec"]["egress"]
    assert [each["ports"][0]["port"] for each in egress] == [9092]
    known = manifests.make_worker_job(run, "ifnmg", 1, OWNER, "10.96.0.7").spec.template.spec
    assert plain(known.host_aliases) == [{"ip": "10.96.0.7", "hostnames": [run.address]}]
    told = {each.name: each.value for each in ifnmg.containers[0].env}
    assert (told[DATA_VARIABLE], told[FEWEST_VARIABLE]) == ("/flautim/data", "30")
    assert HASHES_VARIABLE not in told
    some = dataclasses.replace(run, tables={"ifnmg": ["a.csv"]}, hashes={"ifnmg": {"a.csv": "0f"}})
    granted = manifests.make_worker_job(some, "ifnmg", 1, OWNER).spec.template.spec.containers[0]
    (mount,) = [each for each in granted.volume_mounts if each.name == "data"]
    assert (mount.mount_path, mount.sub_path) == ("/flautim/data/a.csv", "a.csv")
    assert {e.name: e.value for e in granted.env}[HASHES_VARIABLE] == '{"a.csv": "0f"}'
    assert HASHES_VARIABLE not in json.dumps(some.facts())
    for others in (ufmg, manifests.make_server_job(run, 1, OWNER).spec.template.spec):
        assert "data" not in [each.name for each in others.volumes]
        assert DATA_VARIABLE not in [each.name for each in others.containers[0].env]
    assert run.facts()["places"] == ["ufmg"] * 8 + ["ifnmg"] * 8
    assert RUN.facts()["places"] == []
