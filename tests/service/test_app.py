"""The service's routes, with a real Hub that knows the users; no run is started."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import math
import time

import pytest
from fastapi.testclient import TestClient

from flautim_lab.catalog import opening, wire
from flautim_lab.errors import ClusterError
from flautim_lab.records.event import Event
from flautim_lab.records.store import Records
from flautim_lab.runners.pod_api import event_page
from flautim_lab.service.app import make_app
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.hub import Hub
from flautim_lab.service.settings import Settings
from tests.service.conftest import PREFIX, packed

RUN = "r20261125-202140-net-on-iris-7d1947b4"
PODS = {"run_id": RUN, "name": "r", "namespace": "flautim-ufmg", "clients": 3, "image": "i"}
PODS["workers"] = {"flautim-ufmg": 2}


class Client:
    """Asks as one user, or with any token."""

    def __init__(self, test, token):
        self._test = test
        self._headers = {"Authorization": f"token {token}"} if token else {}

    def __call__(self, method, path, **body):
        return self._test.request(method, f"{PREFIX}{path}", headers=self._headers, **body)


def make():
    """The application, as its environment says."""
    settings = Settings.of_environment()
    catalogs = Catalogs(opening.database())
    catalogs.add_missing(settings.names)
    return make_app(Records.default(), settings, Hub(settings.institutions), catalogs)


@pytest.fixture
def no_cluster(monkeypatch):
    """Whoever asks for pods is refused: these tests make none."""

    def refuse(context=None):
        raise ClusterError("there is no cluster in this test")

    monkeypatch.setattr("flautim_lab.pods.api.Api", refuse)


@pytest.fixture
def ask(institutions, no_cluster, hub):
    with TestClient(make()) as test:
        yield lambda token: Client(test, token)


@pytest.fixture
def of_ana(ask):
    """A run of ana's that has ended."""
    records = Records.default()
    records.create_run(
        RUN,
        name="iris",
        runner="cluster",
        rounds=2,
        clients=3,
        settings={"owner": "ana", "institution": "ufmg"},
        plan={},
        detached=True,
    )
    records.append(RUN, [Event(1, 1.0, "log", text="hello")])
    records.set_status(RUN, "finished")
    (records.folder(RUN) / "model.safetensors").write_bytes(b"weights")
    return RUN


def wish(**changes):
    return {
        "name": "iris",
        "rounds": 2,
        "clients": 3,
        "settings": {},
        "plan": {},
        "cluster": {"institution": "ufmg"},
        "archive": base64.b64encode(packed()).decode(),
    } | changes


def body_of(method, path):
    """What a route wants to be sent."""
    if path.endswith("/scale"):
        return {"json": {"workers": 1}}
    if path.endswith("/faults"):
        return {"json": STRIKE}
    return {"json": wish()} if method == "PUT" else {}


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()["detail"]


ROUTES = [
    ("GET", "/"),
    ("GET", "/runs"),
    ("PUT", f"/runs/{RUN}"),
    ("GET", f"/runs/{RUN}"),
    ("GET", f"/runs/{RUN}/events"),
    ("GET", f"/runs/{RUN}/stream"),
    ("GET", f"/runs/{RUN}/files/model.safetensors"),
    ("POST", f"/runs/{RUN}/stop"),
    ("POST", f"/runs/{RUN}/faults"),
    ("POST", f"/runs/{RUN}/scale"),
    ("DELETE", f"/runs/{RUN}"),
]
BATCH = "r20261125-202140-batch-iris-7d1947b4"
BATCH_ROUTES = [
    ("GET", "/batches"),
    ("PUT", f"/batches/{BATCH}"),
    ("GET", f"/batches/{BATCH}"),
    ("GET", f"/batches/{BATCH}/results/pod"),
    ("DELETE", f"/batches/{BATCH}"),
]
NOTHING = base64.b64encode(gzip.compress(b"an experiment")).decode()
STRIKE = {"id": "0" * 32, "action": "kill", "targets": ["server"], "round": 1}


def test_every_route_is_in_the_table(ask):
    told = ask(None)("GET", "/openapi.json").json()["paths"]
    made = {
        (method.upper(), path.removeprefix(PREFIX))
        for path, methods in told.items()
        for method in methods
    }
    named = {
        (m, p.replace(RUN, "{run_id}").replace("model.safetensors", "{name}")) for m, p in ROUTES
    }
    for method, path in BATCH_ROUTES:
        path = path.replace(BATCH, "{batch_id}").replace("results/pod", "results/{pod}")
        named.add((method, path))
    catalogs = {(each.method, f"/catalog{each.path}") for each in wire.ROUTES.values()}
    # Those of the hub alone are in test_places.py.
    places = {("GET", path) for path in ("/places", "/places/institutions")}
    upkeep = {("GET", path) for path in ("/health", "/ready", "/metrics")}
    assert made == named | catalogs | upkeep | places


def test_nobody_gets_into_the_catalog_without_a_token_of_the_hub(ask):
    for route in wire.ROUTES.values():
        path = "/catalog" + route.path.replace("{", "").replace("}", "")
        body = {"content": b"x" * 10} if route.has_body else {}
        assert "send the Hub's token" in problem(ask(None)(route.method, path, **body), 401), path
        other = ask("0" * 64)(route.method, path, **body)
        assert "does not know this token" in problem(other, 401), path


def test_a_user_of_a_group_is_a_researcher_and_an_administrator_the_platforms(ask, hub):
    me = ask(hub.token("ana"))("GET", "/catalog/me").json()
    assert (me["user"], me["platform_admin"]) == ("ana", False)
    assert me["roles"] == {"ifnmg": ["researcher"], "ufmg": ["researcher"]}
    assert ask(hub.token("dora"))("GET", "/catalog/me").json()["platform_admin"] is True
    told = ask(hub.token("ana"))("GET", "/catalog/institutions").json()
    assert [each["name"] for each in told["items"]] == [
        "Instituto Federal do Norte de Minas Gerais",
        "Universidade Federal de Minas Gerais",
    ]


def test_nobody_gets_in_without_a_token_of_the_hub(ask, hub, of_ana):
    elsewhere = hub.token("ana", scopes=["read:users:name!user"])
    for token, status, sentence in [
        (None, 401, "send the Hub's token"),
        ("0" * 64, 401, "does not know this token"),
        (elsewhere, 403, "needs the scope access:services"),
    ]:
        for method, path in ROUTES + BATCH_ROUTES:
            answer = ask(token)(method, path, **body_of(method, path))
            assert sentence in problem(answer, status), (method, path)


def test_the_tests_service_is_no_user(ask, hub):
    assert "does not know this token" in problem(ask(hub.told["tests"])("GET", "/"), 401)


def test_who_you_are(ask, hub):
    assert ask(None)("GET", "/health").json() == {"status": "well"}
    assert ask(hub.token("ana"))("GET", "/").json() == {
        "user": "ana",
        "admin": False,
        "institutions": ["ifnmg", "ufmg"],
    }
    # A group of the Hub that is no institution gives nothing.
    assert ask(hub.token("bruno"))("GET", "/").json()["institutions"] == ["ufmg"]
    assert ask(hub.token("dora"))("GET", "/").json()["admin"] is True


@pytest.mark.parametrize(
    ("user", "statuses"),
    [
        # What has ended is not struck or scaled any more; that it is theirs is said by this.
        ("ana", [200, 200, 200, 200, 200, 409, 422, 200]),
        ("dora", [200, 200, 200, 200, 200, 403, 403, 403]),
        ("bruno", [404] * 8),
        ("carla", [404] * 8),
    ],
)
def test_a_run_is_its_owners_and_the_admins(ask, hub, of_ana, user, statuses):
    client = ask(hub.token(user))
    listed = [run["id"] for run in client("GET", "/runs").json()]
    assert listed == ([of_ana] if statuses[0] == 200 else [])
    answers = [client(method, path, **body_of(method, path)) for method, path in ROUTES[3:]]
    assert [answer.status_code for answer in answers] == statuses


def test_what_happened_and_what_is_left(ask, hub, of_ana):
    client = ask(hub.token("ana"))
    page = client("GET", f"/runs/{of_ana}/events?after=0&wait=5").json()
    assert (page["status"], page["ended"], page["more"]) == ("finished", True, False)
    assert [event[0] for event in page["events"]][:1] == [1]
    after = page["events"][-1][0]
    assert client("GET", f"/runs/{of_ana}/events?after={after}").json()["events"] == []
    assert client("GET", f"/runs/{of_ana}/files/model.safetensors").content == b"weights"
    for name in ("scale.json", "experiment.json", "..%2Frecords.db"):
        assert client("GET", f"/runs/{of_ana}/files/{name}").status_code == 404
    assert "after: " in problem(client("GET", f"/runs/{of_ana}/events?after=-1"), 422)


def test_what_cannot_be_run_is_one_sentence_and_leaves_nothing(ask, hub):
    ana = ask(hub.token("ana"))
    for changes, status, sentence in [
        ({"cluster": {"institution": "usp"}}, 409, "ana is not of the institution 'usp'; choose"),
        ({"cluster": {"workers": {"ufmg": 1, "usp": 1}}}, 409, "not of the institution 'usp'"),
        ({"cluster": {"workers": 0}}, 422, "workers must be a whole number from 1, not 0"),
        ({"cluster": {"memory": "much"}}, 422, "memory must be a quantity"),
        ({"cluster": {"image": "mine"}}, 422, "cluster.image: Extra inputs are not permitted"),
        ({"cluster": {"namespace": "kube-system"}}, 422, "cluster.namespace: Extra inputs"),
        ({"archive": "no base64!"}, 422, "the archive is no base64"),
        ({"archive": "AAAA"}, 422, "the archive is no compressed experiment"),
        ({"archive": NOTHING}, 422, "the archive is no experiment: truncated header"),
        ({"rounds": 0}, 422, "rounds: Input should be greater than or equal to 1"),
        ({}, 409, "there is no cluster in this test"),
    ]:
        answer = ana("PUT", f"/runs/{RUN}", json=wish(**changes))
        assert sentence in problem(answer, status)
        records = Records.default()
        assert records.runs() == []
        assert not (records.folder(RUN) / "processes").exists()


def test_who_is_of_no_institution_runs_nothing(ask, hub):
    answer = ask(hub.token("carla"))("PUT", f"/runs/{RUN}", json=wish())
    assert "carla belongs to no institution; ask who runs the hub" in problem(answer, 409)


def test_the_id_of_somebody_elses_run_cannot_be_taken(ask, hub, of_ana):
    bruno = ask(hub.token("bruno"))
    assert "is taken" in problem(bruno("PUT", f"/runs/{of_ana}", json=wish()), 409)
    # Another id, of which the pods would have the same names.
    alike = "r20261125-202140-other-7d1947b4"
    assert "is taken" in problem(bruno("PUT", f"/runs/{alike}", json=wish()), 409)
    for wrong in ("net", "r20261125-202140-net-7d1947b4-workers", "..%2f..%2fx"):
        assert bruno("PUT", f"/runs/{wrong}", json=wish()).status_code in (404, 422)
    # The owner asks again, as after an answer that was lost.
    again = ask(hub.token("ana"))("PUT", f"/runs/{of_ana}", json=wish())
    assert (again.status_code, again.json()["status"]) == (200, "finished")


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ({"workers": 0}, 422, "workers must be a whole number from 1, not 0"),
        ({"workers": True}, 422, "body.workers.int: Input should be a valid integer"),
        ({"workers": {}}, 422, "workers names no namespace; give at least one, or a number"),
        ({"workers": {"usp": 1}}, 409, "ana is not of the institution 'usp'; choose one of"),
        ({"workers": 1, "image": "mine"}, 422, "body.image: Extra inputs are not permitted"),
        ({}, 422, "body.workers: Field required"),
        ({"workers": 1}, 409, "there is no cluster in this test"),
    ],
)
def test_what_cannot_be_scaled_is_one_sentence(ask, hub, of_ana, asked, status, sentence):
    records = Records.default()
    records.set_status(of_ana, "running")
    facts = {"context": None, "pods": {"server": {}, "worker": {}} | PODS}
    folder = records.folder(of_ana) / "processes"
    folder.mkdir()
    (folder / "cluster.json").write_text(json.dumps(facts))
    answer = ask(hub.token("ana"))("POST", f"/runs/{of_ana}/scale", json=asked)
    assert sentence in problem(answer, status)


def test_too_large_a_request_is_not_taken_in(ask, hub):
    answer = ask(hub.token("ana"))("PUT", f"/runs/{RUN}", content=b"x" * (32 * 2**20 + 1))
    assert problem(answer, 413) == "a request may hold at most 32768 KiB"


def test_a_hub_that_is_away_is_said(institutions, no_cluster, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:9/hub/api")
    with TestClient(make()) as test:
        answer = Client(test, "0" * 64)("GET", "/")
    assert "the Hub does not answer" in problem(answer, 503)


def test_no_body_is_taken_in_before_it_is_known_who_sends_it(ask, of_ana):
    sent = []

    def endless():
        for _ in range(64):
            sent.append(1)
            yield b" " * 2**20

    app = ask(None)._test.app
    headers = [(b"content-type", b"application/json")]
    path = f"{PREFIX}/runs/{of_ana}/faults"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"headers": headers, "query_string": b"", "http_version": "1.1", "scheme": "http"}
    scope |= {"server": ("test", 80), "client": ("test", 1), "root_path": ""}
    parts, answered = endless(), []

    async def receive():
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message):
        answered.append(message)

    asyncio.run(app(scope, receive, send))
    assert answered[0]["status"] == 401
    assert len(sent) <= 1


def test_a_strike_is_small(ask, hub, of_ana):
    ana = ask(hub.token("ana"))
    answer = ana("POST", f"/runs/{of_ana}/faults", content=b" " * (2**16 + 1))
    assert problem(answer, 413) == "a request may hold at most 64 KiB"


def test_a_question_for_events_that_could_not_end(ask, hub, of_ana):
    ana = ask(hub.token("ana"))
    for query in ("wait=nan", "wait=-1", f"after={10**30}"):
        answer = ana("GET", f"/runs/{of_ana}/events?{query}")
        assert f"{query.partition('=')[0]}: " in problem(answer, 422)


def test_a_loss_that_is_no_number_is_told(ask, hub, of_ana):
    lost = Event(2, 1.0, "metric", round=1, split="train", name="loss", value=math.nan)
    Records.default().append(of_ana, [lost])
    page = ask(hub.token("ana"))("GET", f"/runs/{of_ana}/events").json()
    assert any(isinstance(x, float) and math.isnan(x) for event in page["events"] for x in event)


def test_an_interrupted_run_can_be_stopped_and_waited_for(ask, hub, of_ana):
    records = Records.default()
    records.set_status(of_ana, "interrupted")
    ana = ask(hub.token("ana"))
    began = time.monotonic()
    page = ana("GET", f"/runs/{of_ana}/events?after={records.last_seq(of_ana)}&wait=0.5").json()
    assert page["status"] == "interrupted"
    assert time.monotonic() - began >= 0.5  # its follower is not to ask again and again
    assert ana("POST", f"/runs/{of_ana}/stop").status_code == 200
    assert records.stop_requested(of_ana)


def test_a_run_that_is_removed_leaves_nothing_here(ask, hub, of_ana):
    records = Records.default()
    ana = ask(hub.token("ana"))
    folder = records.folder(of_ana)
    records.set_status(of_ana, "running")
    answer = problem(ana("DELETE", f"/runs/{of_ana}"), 409)
    assert answer == f"run {of_ana} is running; stop it first, and remove it when it has ended"
    records.set_status(of_ana, "stopped")
    (folder / "processes" / "tls").mkdir(parents=True)  # keys: its pods may be there
    answer = problem(ana("DELETE", f"/runs/{of_ana}"), 409)
    assert answer == f"the pods of run {of_ana} are being removed; try again in a moment"
    (folder / "processes" / "tls").rmdir()
    assert ana("DELETE", f"/runs/{of_ana}").json() == {"removed": True}
    assert ana("GET", f"/runs/{of_ana}").status_code == 404
    assert ana("DELETE", f"/runs/{of_ana}").status_code == 404
    assert records.runs() == []
    assert list(folder.parent.iterdir()) == []


def test_of_too_many_questions_each_looks_once(ask, hub, of_ana, monkeypatch):
    monkeypatch.setattr("flautim_lab.service.streams.MOST_WAITING", 0)
    Records.default().set_status(of_ana, "running")
    looks = []
    page = event_page

    def counted(*asked):
        looks.append(1)
        return page(*asked)

    monkeypatch.setattr("flautim_lab.service.readers.event_page", counted)
    assert ask(hub.token("ana"))("GET", f"/runs/{of_ana}/events?after=99&wait=1").status_code == 200
    assert len(looks) == 1


def test_a_token_that_is_none_is_not_asked_for(ask):
    assert "send the Hub's token" in problem(ask("x" * 257)("GET", "/"), 401)


def test_what_would_be_too_much_for_the_service_is_refused(ask, hub):
    ana = ask(hub.token("ana"))
    for changes, sentence in [
        ({"archive": "é"}, "the archive is no base64"),
        ({"rounds": 10**30}, "rounds: "),
        ({"clients": 10**9}, "clients: "),
        ({"cluster": {"workers": {"ufmg": 10**9}}}, "workers may be at most 1000 in all"),
        ({"cluster": {"workers": 10**9}}, "workers may be at most 1000 in all"),
        ({"cluster": {"cpu": "0"}}, "cpu must be more than nothing"),
        ({"cluster": {"memory": "0.0Gi"}}, "memory must be more than nothing"),
        ({"cluster": {"server_cpu": "٣"}}, "server_cpu must be a quantity"),
        ({"faults": [STRIKE] * 101}, "faults: "),
        ({"faults": [STRIKE | {"targets": ["x" * 21]}]}, "faults.0.targets.0: "),
        ({"settings": {"a": "x" * 2**20}}, "the settings and plan are longer than"),
    ]:
        answer = ana("PUT", f"/runs/{RUN}", json=wish(**changes))
        assert sentence in problem(answer, 422)


def test_a_run_id_has_plain_digits(ask, hub):
    answer = ask(hub.token("ana"))("PUT", "/runs/r2026112٥-202140-net-7d1947b4", json=wish())
    assert "is no run id" in problem(answer, 422)
