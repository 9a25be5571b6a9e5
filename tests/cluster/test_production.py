"""The production overlay on a real cluster: PostgreSQL, an identity provider, data, a backup.

It needs the images of ``make laptop-images`` and one of PostgreSQL, by the name in
``FLAUTIM_LAB_POSTGRES_IMAGE`` (``postgres:17`` by default). No ingress controller is asked for: the
hub is reached where the ingress would lead.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.cluster.asking import Asking, in_a_notebook
from tests.cluster.hub import Hub, copied, forwarded, kubectl, remove
from tests.cluster.waiting import PATIENCE, wait_until
from tests.k8s.test_production import MIGRATE

HERE = Path(__file__).parent
POSTGRES = os.environ.get("FLAUTIM_LAB_POSTGRES_IMAGE", "postgres:17")
CALLBACK = "https://hub.example.org/hub/oauth_callback"
PEOPLE = {"ana": ["ufmg", "students"], "eva": ["ifnmg"], "root": ["flautim-admins"], "mallory": []}
RUN = """\
import sys
import flautim_lab as lab
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Linear(4, 3)
    def forward(self, x):
        return self.layers(x)

iris = lab.CSVDataset("notebooks/iris.csv", target="species")
small = {"cpu": "200m", "memory": "700Mi", "server_cpu": "300m", "server_memory": "700Mi"}
experiment = lab.Experiment(iris, Net, clients=2, rounds=int(sys.argv[1]), seed=7)
run = lab.run(experiment, on=lab.Cluster(**small))
print(run.id, flush=True)
run.wait(timeout_seconds=400)
print(run.status, run.round)
"""

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def certificate(name, folder):
    """A certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "tls.key").write_bytes(private)


def provider_objects(space, secret):
    """A pod of the provider, and its address."""
    env = {"CALLBACK": CALLBACK, "CLIENT_SECRET": secret, "PEOPLE": json.dumps(PEOPLE)}
    container = {
        "name": "provider",
        "image": "flautim-lab-notebook:0.1.0",
        "imagePullPolicy": "IfNotPresent",
        "args": ["python", "/provider/provider.py"],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "readinessProbe": {"tcpSocket": {"port": 6443}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "provider", "mountPath": "/provider"},
            {"name": "certificate", "mountPath": "/certificate"},
        ],
    }
    pod = {
        "containers": [container],
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "provider", "configMap": {"name": "provider"}},
            {"name": "certificate", "secret": {"secretName": "provider"}},
        ],
    }
    metadata = {"name": "provider", "namespace": space, "labels": {"app": "provider"}}
    ports = [{"port": 443, "targetPort": 6443}]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": "provider"}, "ports": ports},
        },
    ]


def trust(overlay):
    """Let the hub trust the provider's certificate, as that of an institution's own authority."""
    hub = overlay / "hub"
    shutil.copy(overlay / "tls.crt", hub / "authority.crt")
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "hub"},
        "spec": {"template": {"spec": {
            "containers": [{
                "name": "hub",
                "env": [{"name": "SSL_CERT_FILE", "value": "/flautim/authority/authority.crt"}],
                "volumeMounts": [{"name": "authority", "mountPath": "/flautim/authority"}],
            }],
            "volumes": [{"name": "authority", "configMap": {"name": "authority"}}],
        }}},
    }  # fmt: skip
    (hub / "authority.yaml").write_text(yaml.safe_dump(patch))
    file = hub / "kustomization.yaml"
    told = yaml.safe_load(file.read_text())
    told["patches"].append({"path": "authority.yaml"})
    told["configMapGenerator"].append({"name": "authority", "files": ["authority.crt"]})
    file.write_text(yaml.safe_dump(told))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The overlay as it is but for names, images, sizes of volumes, and who the provider is."""
    mark, secret = secrets.token_hex(3), secrets.token_hex(16)
    spaces = {name: f"fl-{name.removeprefix('flautim-')}-{mark}" for name in
              ("flautim-hub", "flautim-ufmg", "flautim-ifnmg")}  # fmt: skip
    login = f"fl-login-{mark}"
    address = f"provider.{login}.svc.cluster.local"
    # Only the name of the client at the provider stays.
    names = {f"namespace: {old}": f"namespace: {new}" for old, new in spaces.items()}
    names |= {f"name: {old}": f"name: {new}" for old, new in spaces.items()}
    names |= {f'"namespace": "{old}"': f'"namespace": "{new}"' for old, new in spaces.items()}
    names |= {"login.example.org": address, "postgres:17": POSTGRES}
    folder = tmp_path_factory.mktemp("production")
    overlay = copied(folder, names) / "overlays/production"
    text = (overlay / "hub/kustomization.yaml").read_text()
    assert f"namespace: {spaces['flautim-hub']}" in text
    certificate(address, overlay)
    trust(overlay)
    environment = os.environ | {"OIDC_CLIENT_SECRET": secret}
    subprocess.run([overlay / "secrets.sh"], check=True, stdout=subprocess.DEVNULL, env=environment)
    institutions = {key: spaces[f"flautim-{key}"] for key in ("ufmg", "ifnmg")}
    made = Hub("", spaces["flautim-hub"], institutions, {}, overlay)
    made.login, made.other = login, spaces["flautim-ifnmg"]
    try:
        kubectl("create", "namespace", login)
        files = {"provider.py": HERE / "provider.py",
                 "oidc.py": HERE.parent / "hub_config/provider.py"}  # fmt: skip
        kubectl("create", "configmap", "provider", "-n", login,
                *(f"--from-file={name}={path}" for name, path in files.items()))  # fmt: skip
        kubectl("create", "secret", "tls", "provider", "-n", login,
                f"--cert={overlay / 'tls.crt'}", f"--key={overlay / 'tls.key'}")  # fmt: skip
        for each in provider_objects(login, secret):
            kubectl("apply", "-f", "-", input=json.dumps(each))
        limit = f"--timeout={PATIENCE}s"
        kubectl("wait", "pod/provider", "-n", login, "--for=condition=Ready", limit)
        made.seconds = time.monotonic()
        made.apply()
        made.seconds = time.monotonic() - made.seconds
        with forwarded(made.namespace) as made.url:
            yield made
    finally:
        remove(*spaces.values(), login)


@pytest.fixture(scope="module")
def provider(hub):
    with (
        forwarded(hub.login, "provider", 443) as url,
        httpx.Client(
            base_url=url.replace("http:", "https:"), verify=False, trust_env=False
        ) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def ana(hub, provider):
    made = Asking(hub).by_provider("ana", provider)
    yield made
    made.close()


def test_all_of_it_is_there_and_ready(hub, record_property):
    record_property("seconds_to_ready", hub.seconds)
    print(f"{hub.seconds:.0f} s from apply to ready")
    kubectl("rollout", "status", "-n", hub.namespace, "statefulset/database", "--timeout=60s")
    found = kubectl("get", "ingress,cronjob,pvc,networkpolicy", "-n", hub.namespace, "-o", "name")
    assert {
        "ingress.networking.k8s.io/hub",
        "cronjob.batch/backup",
        "persistentvolumeclaim/data-database-0",
        "persistentvolumeclaim/backup",
    } <= set(found.split())
    jobs = json.loads(kubectl("get", "jobs", "-n", hub.namespace, "-o", "json"))["items"]
    for each in jobs:  # it is removed five minutes after its end
        assert each["metadata"]["name"] == MIGRATE
        assert each["status"].get("succeeded") == 1
    for space in (hub.institution, hub.other):
        assert "data" in kubectl("get", "pvc", "-n", space, "-o", "name")


def test_the_provider_says_who_is_of_what(hub, provider, ana):
    told = ana.api("GET", "/user").json()
    assert (told["name"], told["groups"], told["admin"]) == ("ana", ["ufmg"], False)
    root = Asking(hub).by_provider("root", provider)
    assert root.api("GET", "/user").json()["admin"] is True
    root.close()
    stranger = Asking(hub)
    with pytest.raises(AssertionError, match="mallory is in no institution of this hub"):
        stranger.by_provider("mallory", provider)
    assert stranger.client.get("/hub/login").status_code == 200
    stranger.close()


def test_a_data_owner_has_the_institutions_volume_and_a_run_goes(hub, ana, record_property):
    record_property("seconds_to_notebook", ana.start("ana"))
    said = in_a_notebook(
        hub.institution, "ana",
        "from pathlib import Path; x = Path('/data/x'); print(x.write_text('x'), x.exists())",
    )  # fmt: skip
    assert said.split() == ["1", "True"]
    pod = ("-n", hub.institution, "jupyter-ana")
    kubectl("exec", *pod, "-i", "--", "sh", "-c", "cat > run.py", input=RUN)
    said = kubectl("exec", *pod, "--", "python", "run.py", "2").split()
    assert said[1:] == ["finished", "2"]


def test_a_database_that_is_killed_during_a_run_costs_nothing(hub, ana):
    pod = ("-n", hub.institution, "jupyter-ana")
    command = ["kubectl", "exec", *pod, "--", "python", "run.py", "40"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        run_id = running.stdout.readline().strip()
        assert run_id.startswith("r"), run_id

        def rounds():
            return ana.service("GET", f"/runs/{run_id}").json().get("round", 0)

        wait_until(lambda: rounds() >= 3, "three rounds")
        kubectl("delete", "pod", "-n", hub.namespace, "database-0", "--grace-period=0", "--force")
        said, _ = running.communicate(timeout=500)
    assert running.returncode == 0, said
    assert said.split() == ["finished", "40"]
    kubectl("rollout", "status", "-n", hub.namespace, "statefulset/database", "--timeout=120s")
    events = []
    while more := ana.service(
        "GET", f"/runs/{run_id}/events", params={"after": len(events), "wait": 0}
    ).json()["events"]:
        events += more
    assert [seq for seq, *_ in events] == list(range(1, len(events) + 1))
    # seq, time, kind, round, client, split, name, value, text
    curve = {each[3] for each in events if each[2] == "metric" and each[6] == "loss"}
    assert curve >= set(range(1, 41))


def job(hub, name, words):
    """Run a command as the backup's Job does; returns what it says."""
    options = ("-n", hub.namespace, "--from=cronjob/backup", "--dry-run=client", "-o", "json")
    told = json.loads(kubectl("create", "job", name, *options))
    told["spec"]["template"]["spec"]["containers"][0]["args"] = words
    told["spec"]["backoffLimit"] = 0
    kubectl("apply", "-n", hub.namespace, "-f", "-", input=json.dumps(told))
    place = ("-n", hub.namespace, f"job/{name}")
    try:
        kubectl("wait", *place, "--for=condition=complete", f"--timeout={PATIENCE}s")
    except AssertionError as error:
        raise AssertionError(kubectl("logs", *place)) from error
    return kubectl("logs", *place)


def test_a_backup_is_restored(hub, ana):
    before = {each["id"] for each in ana.service("GET", "/runs").json()}
    assert before
    project = {"name": "Before"}
    path = "/catalog/institutions/ufmg/projects"
    assert ana.service("POST", path, json=project).status_code == 200
    # By the CronJob's own words, and by its own account.
    kubectl("create", "job", "now", "-n", hub.namespace, "--from=cronjob/backup")
    kubectl("wait", "-n", hub.namespace, "job/now", "--for=condition=complete",
            f"--timeout={PATIENCE}s")  # fmt: skip
    assert ana.service("POST", path, json={"name": "After"}).status_code == 200

    def scale(number):
        kubectl("scale", "-n", hub.namespace, "deployment/service", f"--replicas={number}")
        kubectl("rollout", "status", "-n", hub.namespace, "deployment/service",
                f"--timeout={PATIENCE}s")  # fmt: skip

    scale(0)
    newest = "f=$(ls /flautim/backups/*.gz | tail -1)"
    said = job(hub, "check", ["sh", "-c", f"{newest}; flautim-lab restore --check $f"])
    assert "catalog.projects" in said or "whole" in said, said
    job(hub, "restore", ["sh", "-c", f"{newest}; flautim-lab restore --replace $f"])
    scale(1)
    wait_until(lambda: ana.service("GET", "/runs").status_code == 200, "the service answers")
    assert {each["id"] for each in ana.service("GET", "/runs").json()} == before
    names = [each["name"] for each in ana.service("GET", path).json()["items"]]
    assert names == ["Before"]


def test_hub_and_service_come_back_on_the_same_database(hub, ana):
    for name in ("hub", "service", "proxy"):
        label = f"app.kubernetes.io/name={name}"
        kubectl("delete", "pod", "-n", hub.namespace, "-l", label, "--grace-period=0", "--force")
        kubectl("rollout", "status", "-n", hub.namespace, f"deployment/{name}",
                f"--timeout={PATIENCE}s")  # fmt: skip
    with forwarded(hub.namespace) as url:  # the first port went with the first proxy
        ana.client.base_url = url

        def user():
            with contextlib.suppress(httpx.HTTPError, ValueError):
                return ana.api("GET", "/user").json()
            return {}

        wait_until(lambda: user().get("groups") == ["ufmg"], "the hub knows ana and her token")
        ana.stop("ana")


def test_no_secret_is_in_a_log(hub):
    held = json.loads(kubectl("get", "secrets", "-n", hub.namespace, "-o", "json"))["items"]
    values = {
        base64.b64decode(value).decode()
        for each in held
        for key, value in each["data"].items()
        if "url" not in key
    }
    assert len(values) > 5
    for name in ("hub", "service", "proxy"):
        said = kubectl("logs", "-n", hub.namespace, f"deployment/{name}")
        assert not [value for value in values if value in said], name
    said = kubectl("logs", "-n", hub.namespace, "database-0", "--all-containers")
    assert not [value for value in values if value in said]
