"""The production overlay: PostgreSQL that really starts here, migrations, backups, TLS."""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import stat
import subprocess
import time
import tomllib

import psycopg
import pytest
from click.testing import CliRunner

from flautim_lab.catalog import opening
from flautim_lab.cli import main
from flautim_lab.database import APART, MIGRATIONS_VARIABLE
from flautim_lab.home import HOME_VARIABLE
from flautim_lab.records import store
from flautim_lab.service import settings as service
from flautim_lab.service.requests import MOST_BYTES
from hub_config.institutions import read_institutions
from hub_config.settings import NEEDED, PASSWORDS, Settings
from tests.folders import free_port
from tests.k8s.conftest import AT_THE_PROVIDER, K8S, by_kubectl, pods_of, template
from tests.k8s.kustomize import build
from tests.k8s.pod_security import problems
from tests.postgresql import NOBODY, postgresql_programs

TOP = K8S.parent
OVERLAY = K8S / "overlays/production"
VERSION = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
MIGRATE = f"migrate-{VERSION.replace('.', '-')}"


@pytest.fixture(scope="module")
def pods(production):
    return pods_of(production)


def named(objects, kind):
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def data(objects, kind, name):
    """The content of a Secret or ConfigMap, whose name may end with a hash."""
    (one,) = (each for key, each in named(objects, kind).items() if key.startswith(name))
    if kind == "ConfigMap":
        return one["data"]
    return {key: base64.b64decode(value).decode() for key, value in one["data"].items()}


def without_hashes(value):
    """What kubectl made, with the names of what is generated as they were written."""
    if isinstance(value, dict):
        return {key: without_hashes(each) for key, each in value.items()}
    if isinstance(value, list):
        told = [without_hashes(each) for each in value]
        if told and all(isinstance(each, dict) and "name" in each for each in told):
            told.sort(key=lambda each: each["name"])  # kustomize puts what is new first
        return told
    if isinstance(value, str):
        return re.sub(r"^([a-z-]+)-[0-9bcdfghkmt]{10}$", r"\1", value)
    return value


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize(
    "overlay", ["overlays/laptop", "overlays/production", "zero-to-jupyterhub"]
)
def test_the_tests_own_kustomize_makes_what_kubectl_makes(copy, overlay):
    def key(each):
        return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]

    folder = copy / overlay
    real = sorted((without_hashes(each) for each in by_kubectl(folder)), key=key)
    ours = sorted((without_hashes(each) for each in build(folder)), key=key)
    assert [key(each) for each in ours] == [key(each) for each in real]
    for each in real:
        if each["kind"] == "Secret":  # it breaks base64 into lines
            each["data"] = {name: value.replace("\n", "") for name, value in each["data"].items()}
    assert ours == real


# --- pods ---------------------------------------------------------------------------------------


def test_every_pod_is_restricted_and_knows_its_limits(production, pods):
    assert set(pods) == {"hub", "proxy", "service", "database", MIGRATE, "backup"}
    for name, pod in pods.items():
        assert problems(pod.spec) == [], name
        for container in [*pod.spec.get("initContainers", []), pod.container]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            for kind in ("requests", "limits"):
                assert set(container["resources"][kind]) == {"cpu", "memory"}, name
        assert pod.spec["enableServiceLinks"] is False
        assert pod.spec["automountServiceAccountToken"] is (name in ("hub", "service"))
    for space in named(production, "Namespace").values():
        told = space["metadata"]["labels"]
        assert told["pod-security.kubernetes.io/enforce"] == "restricted"


def test_each_that_serves_is_probed_and_given_time_to_start(pods, objects):
    for found in (pods, pods_of(objects)):
        for name in set(found) - {MIGRATE, "backup"}:
            container = found[name].container
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["timeoutSeconds"] >= 5, (name, probe)
            patience = container["startupProbe"]
            assert patience["periodSeconds"] * patience["failureThreshold"] >= 120, name
            # One that is slow for a minute is not killed.
            alive = container["livenessProbe"]
            assert alive["periodSeconds"] * alive["failureThreshold"] >= 60, name
        service_ = found["service"].container
        assert service_["readinessProbe"]["httpGet"]["path"].endswith("/ready")
        assert service_["livenessProbe"]["httpGet"]["path"].endswith("/health")


def test_what_is_secret_comes_from_secrets_and_all_of_them_are_used(production, pods):
    used = {}
    for name, pod in pods.items():
        for container in [*pod.spec.get("initContainers", []), pod.container]:
            for each in container["env"]:
                secret = each.get("valueFrom", {}).get("secretKeyRef")
                if re.search("PASSWORD|TOKEN|SECRET|URL", each["name"]) and not secret:
                    assert each["name"] in ("JUPYTERHUB_API_URL",), f"{name}: {each['name']}"
                if secret:
                    kind = re.sub("-[0-9a-z]{10}$", "", secret["name"])
                    used.setdefault(kind, set()).add(secret["key"])
    for name in ("flautim-hub", "flautim-database"):
        assert used[name] == set(data(production, "Secret", name))


def test_secrets_are_made_once_and_only_the_owner_reads_them(tmp_path):
    shutil.copytree(K8S, tmp_path / "k8s", ignore=shutil.ignore_patterns("*.env"))
    folder = tmp_path / "k8s/overlays/production"

    def make(**options):
        return subprocess.run([folder / "secrets.sh"], capture_output=True, text=True, **options)

    refused = make(stdin=subprocess.DEVNULL)
    assert refused.returncode == 1
    assert (
        refused.stderr == "give the hub's secret at the identity provider in OIDC_CLIENT_SECRET\n"
    )
    assert not [*folder.rglob("*.env")]
    done = make(env=AT_THE_PROVIDER)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    files = [folder / "hub" / name for name in ("secrets.env", "database.env")]
    told = {}
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        told |= dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert len(set(told.values())) == len(told)
    assert not any(value in said for value in told.values())
    for who in ("hub", "lab"):
        assert told[f"{who}-url"] == (
            f"postgresql+psycopg://{who}:{told[f'{who}-password']}@database:5432/{who}"
        )
    assert told["oidc-client-secret"] == AT_THE_PROVIDER["OIDC_CLIENT_SECRET"]
    before = [file.read_bytes() for file in files]
    assert make(stdin=subprocess.DEVNULL).returncode == 0  # what is there is not asked for again
    assert [file.read_bytes() for file in files] == before
    # Of an older version, which knew no provider.
    files[0].write_text("service-token=kept\n")
    make(env=AT_THE_PROVIDER)
    again = dict(line.split("=", 1) for line in files[0].read_text().splitlines())
    assert again["service-token"] == "kept"
    assert set(again) == {key for key in told if key not in files[1].read_text()}
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert not [*folder.rglob("*.new")]
    for file in files:
        path = f"k8s/overlays/production/hub/{file.name}"
        if (TOP / ".git").exists():
            assert subprocess.run(["git", "check-ignore", "-q", path], cwd=TOP).returncode == 0


# --- the contract -------------------------------------------------------------------------------


def test_hub_service_and_jobs_are_told_where_the_databases_are(production, pods):
    def key(pod, variable):
        return pods[pod].env[variable]["secretKeyRef"]["key"]

    assert set(NEEDED) <= set(pods["hub"].env)
    assert set(service.NEEDED) <= set(pods["service"].env)
    assert key("hub", "FLAUTIM_LAB_HUB_DATABASE_URL") == "hub-url"
    for pod in ("service", MIGRATE, "backup"):
        for variable in (opening.URL_VARIABLE, store.URL_VARIABLE):
            assert key(pod, variable) == "lab-url"
        assert HOME_VARIABLE in pods[pod].env
    # The service alone leaves the tables to the Job.
    assert {pod: pods[pod].env.get(MIGRATIONS_VARIABLE) for pod in ("service", MIGRATE)} == {
        "service": APART,
        MIGRATE: None,
    }
    assert (
        pods["service"].env["FLAUTIM_LAB_METRICS_TOKEN"]["secretKeyRef"]["key"] == "metrics-token"
    )
    institutions = read_institutions(OVERLAY / "hub/institutions.json")
    spaces = named(production, "Namespace")
    for each in institutions.values():
        labels = spaces[each.namespace]["metadata"]["labels"]
        assert labels["flautim-lab/institution"] == each.key
    assert set(spaces) == {"flautim-hub"} | {each.namespace for each in institutions.values()}


def test_the_hub_starts_with_what_the_overlay_tells_it_of_the_provider(
    production, pods, monkeypatch
):
    (source,) = pods["hub"].container["envFrom"]
    properties = data(production, "ConfigMap", source["configMapRef"]["name"])
    told = {name: value for name, value in pods["hub"].env.items() if isinstance(value, str)}
    secret = {name: "x" * 64 for name, value in pods["hub"].env.items() if isinstance(value, dict)}
    environment = properties | told | secret
    environment["FLAUTIM_LAB_INSTITUTIONS"] = str(OVERLAY / "hub/institutions.json")
    environment["FLAUTIM_LAB_HUB_DATABASE_URL"] = "postgresql+psycopg://hub:x@database/hub"
    settings = Settings.of_environment(environment)
    assert settings.passwords is None
    assert settings.oidc.callback_url.startswith(
        "https://hub.example.org/"
    )  # as the ingress has it
    assert named(production, "Ingress")["hub"]["spec"]["rules"][0]["host"] == "hub.example.org"
    assert not set(PASSWORDS) & set(pods["hub"].env)


def test_the_data_that_the_list_names_are_there_and_have_owners(production):
    claims = {
        (each["metadata"]["namespace"], each["metadata"]["name"])
        for each in production
        if each["kind"] == "PersistentVolumeClaim"
    }
    for each in read_institutions(OVERLAY / "hub/institutions.json").values():
        assert each.owners
        assert (each.namespace, each.data) in claims


def test_the_jobs_call_commands_that_there_are(pods):
    for name in (MIGRATE, "backup"):
        program, command, *words = pods[name].container["args"]
        assert program == "flautim-lab"
        parsed = main.commands[command].make_context(command, list(words))  # or it refuses them
        assert parsed.params
    folder = pods["backup"].container["args"][2]
    assert folder in {each["mountPath"] for each in pods["backup"].container["volumeMounts"]}
    assert CliRunner().invoke(main, ["migrate"]).exit_code == 0


def test_versions_and_images(production, pods):
    """A Job cannot be changed, so that its name has to be another in each version."""
    job = named(production, "Job")[MIGRATE]
    assert job["spec"]["ttlSecondsAfterFinished"] <= 600
    images = {name: pod.container["image"] for name, pod in pods.items()}
    assert images == {
        "hub": f"flautim-lab-hub:{VERSION}",
        "proxy": f"flautim-lab-hub:{VERSION}",
        "service": f"flautim-lab-notebook:{VERSION}",
        MIGRATE: f"flautim-lab-notebook:{VERSION}",
        "backup": f"flautim-lab-notebook:{VERSION}",
        "database": "postgres:17",
    }
    extras = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(each.startswith("psycopg") for each in extras["hub"])  # is in the hub's image
    assert "flautim-lab[cluster,postgresql]" in extras["service"]


def test_what_there_may_be_one_of_is_never_two(production, pods):
    deployments = named(production, "Deployment")
    assert set(deployments) == {"hub", "proxy", "service"}
    for each in deployments.values():
        assert each["spec"]["replicas"] == 1
        assert each["spec"]["strategy"] == {"type": "Recreate"}
    assert named(production, "CronJob")["backup"]["spec"]["concurrencyPolicy"] == "Forbid"
    budget = named(production, "PodDisruptionBudget")["database"]["spec"]
    labels = template(named(production, "StatefulSet")["database"])["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_ingress_is_https_alone_and_lets_experiments_through(production, pods):
    spec = named(production, "Ingress")["hub"]["spec"]
    (rule,) = spec["rules"]
    (entry,) = spec["tls"]
    assert entry["hosts"] == [rule["host"]]
    assert entry["secretName"]
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    proxy = named(production, "Service")["proxy"]["spec"]
    assert backend == {"name": "proxy", "port": {"name": proxy["ports"][0]["name"]}}
    told = named(production, "Ingress")["hub"]["metadata"]["annotations"]
    nginx = "nginx.ingress.kubernetes.io"
    assert told[f"{nginx}/force-ssl-redirect"] == "true"
    assert int(told[f"{nginx}/proxy-body-size"].removesuffix("m")) * 2**20 >= MOST_BYTES
    assert int(told[f"{nginx}/proxy-read-timeout"]) >= 3600
    assert told["traefik.ingress.kubernetes.io/router.entrypoints"] == "websecure"


# --- the database of the component, started by its own script -----------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory, production, pods):
    """PostgreSQL as the StatefulSet starts it: its script, its arguments, its probe."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL (apt install postgresql)")
    folder = tmp_path_factory.mktemp("database", numbered=True)
    script = folder / "initialize.sh"
    script.write_text(data(production, "ConfigMap", "database-scripts")["initialize.sh"])
    as_root = os.getuid() == 0
    if as_root:
        for each in [folder, *list(folder.parents)[:3]]:
            os.chmod(each, 0o755)
        os.chown(folder, NOBODY, NOBODY)
    other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if as_root else {}
    secret = data(production, "Secret", "flautim-database")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PGDATA": str(folder / "data"),
        "HUB_PASSWORD": secret["hub-password"],
        "LAB_PASSWORD": secret["lab-password"],
    }
    (first,) = pods["database"].spec["initContainers"]
    assert {each["name"] for each in first["env"]} == set(environment) - {"PATH"}

    def initialize():
        return subprocess.run(
            ["sh", script], env=environment, cwd=folder, capture_output=True, text=True, **other
        )

    # What one that was killed may have left.
    half = folder / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("17")
    if as_root:
        os.chown(half, NOBODY, NOBODY)
    begun = initialize()
    assert begun.returncode == 0, begun.stderr
    os.chmod(folder / "data", 0o770)  # as who mounts a volume may do
    again = initialize()
    assert (again.returncode, again.stdout) == (0, "")
    assert not half.exists()
    assert not any(value in begun.stdout + begun.stderr for value in secret.values())
    port = free_port()
    words = {"listen_addresses=*": "listen_addresses=127.0.0.1"}
    words["unix_socket_directories=/tmp"] = f"unix_socket_directories={folder}"
    command = [words.get(word, word) for word in pods["database"].container["command"]]
    process = subprocess.Popen(
        [*command, "-p", str(port), "-c", "fsync=off"],
        env=environment, cwd=folder, stderr=subprocess.DEVNULL, **other,
    )  # fmt: skip
    probe = pods["database"].container["readinessProbe"]["exec"]["command"]
    probe = [str(folder) if word == "/tmp" else word for word in probe] + ["-p", str(port)]
    end = time.monotonic() + 30
    while subprocess.run(probe, env=environment).returncode:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    yield lambda who, **changes: psycopg.connect(
        host="127.0.0.1", port=port, connect_timeout=5,
        **{"user": who, "dbname": who, "password": secret[f"{who}-password"]} | changes,
    )  # fmt: skip
    stop = shlex.split("pg_ctl stop -m fast -W")
    assert pods["database"].container["lifecycle"]["preStop"]["exec"]["command"] == stop
    assert subprocess.run(stop, env=environment, stdout=subprocess.DEVNULL, **other).returncode == 0
    assert process.wait(30) == 0


@pytest.mark.parametrize("who", ["hub", "lab"])
def test_each_user_has_a_database_and_no_way_into_another(database, who):
    with database(who) as connection:
        connection.execute("CREATE TABLE mine (x int)")
        told = connection.execute("SHOW server_encoding").fetchone()
        superuser = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert told == ("UTF8",)
    assert superuser == (False, False, False)
    other = {"hub": "lab", "lab": "hub"}[who]
    for changes in ({"dbname": other}, {"dbname": "postgres"}, {"password": "wrong"}):
        with pytest.raises(psycopg.OperationalError):
            database(who, **changes)
    with pytest.raises(psycopg.OperationalError):
        database(who, user="postgres", dbname="postgres")
