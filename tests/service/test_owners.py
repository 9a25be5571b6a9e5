"""A data owner sees every run that reads the data, and ends it, whatever the run's code does."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time

import pytest

import flautim_lab as lab
from flautim_lab.catalog import opening
from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.things import Column, Role
from flautim_lab.errors import (
    CatalogUnavailableError,
    ClusterError,
    ConflictError,
    RecordsError,
    UsageError,
)
from flautim_lab.records.store import Records
from flautim_lab.runners import cluster_watch
from flautim_lab.runners.pod_files import pack
from flautim_lab.service import dispatch, owners
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.dispatch import Dispatch
from flautim_lab.service.owners import Owners
from flautim_lab.service.run_request import Request
from flautim_lab.service.settings import STOP_VARIABLE, Settings
from tests.federations import Net, iris_frame
from tests.service.conftest import INSTITUTIONS
from tests.service.test_start import ANA, cluster, run_id, secrets_of, wait_for

__all__ = ["cluster"]
RUN = run_id()
PROJECT = "ufmg/flowers"


@pytest.fixture(scope="module")
def archive():
    """An experiment whose rows stay at ufmg."""
    sample = iris_frame().groupby("species").head(2)
    homes = lab.HomeDataset(sample, target="species", homes={"ufmg": "iris.csv"})
    return pack(lab.Experiment(homes, Net, rounds=2, clients=3))


@pytest.fixture
def eva():
    """The catalog as an owner of ufmg's data has it; ana has a project there."""
    database = opening.database()
    root = LocalCatalog(database, Actor("root", platform_admin=True))
    root.add_institution("UFMG", key="ufmg")
    root.set_roles("ufmg", "ana", [Role.RESEARCHER])
    root.set_roles("ufmg", "eva", [Role.DATA_OWNER])
    LocalCatalog(database, Actor("ana")).add_project("ufmg", "Flowers")
    made = LocalCatalog(database, Actor("eva"))
    frame = iris_frame()
    columns = [Column(name, "text" if name == "species" else "number") for name in frame.columns]
    made.add_dataset_version(
        "ufmg", "Iris", columns=columns, target="species", rows=150, path="iris.csv"
    )
    yield made
    database.close()


@pytest.fixture
def make(cluster, eva):
    """Make the runs of a service; in the end nothing is followed any more."""
    made = []

    def one():
        spaces = {key: each["namespace"] for key, each in INSTITUTIONS.items()}
        settings = Settings(spaces, data={"ufmg": "tables"})
        made.append(Dispatch(Records.default(), settings, Catalogs(eva._database)))
        return made[-1]

    yield one
    for record in Records.default().runs():
        Records.default().request_stop(record.id)
    for each in made:
        each.close()
        for run in each.following():
            each.end(run, "the test is over")
    wait_for(lambda: not any(each.following() for each in made))


def start(runs, archive, run=RUN):
    told = {"name": "iris", "rounds": 2, "clients": 3, "settings": {}, "plan": {}, "archive": ""}
    where = {"workers": {"ufmg": 1}, "project": PROJECT}
    return runs.start(run, ANA, Request.model_validate(told | {"cluster": where}), archive)


def uses(eva):
    return {use.run_id: use for use in eva.uses("ufmg").items}


def end_of(runs, run=RUN):
    """Let a run end as by itself, and wait until it is not followed any more."""
    Records.default().request_stop(run)
    wait_for(lambda: run not in runs.following())


def obeying(runs, seconds=60.0):
    return Owners(Records.default(), runs._catalogs, seconds, runs)


def test_an_id_is_not_used_again_once_its_run_was_removed(make, archive, eva):
    runs = make()
    start(runs, archive)
    assert start(runs, archive).id == RUN  # asked again, as after an answer that was lost
    assert uses(eva)[RUN].ended is None
    end_of(runs)
    assert uses(eva)[RUN].ended is not None
    runs.remove(RUN)
    with pytest.raises(ConflictError, match=f"the run id {RUN} is taken; run the experiment again"):
        start(runs, archive)
    assert Records.default().runs() == []
    assert secrets_of(RUN) == []


def test_a_start_that_was_refused_takes_its_id_and_is_no_use_of_data(
    make, archive, eva, monkeypatch
):
    runs = make()
    with monkeypatch.context() as now:
        now.setattr(Records, "create_run", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            start(runs, archive)
    assert uses(eva)[RUN].ended is not None
    with pytest.raises(ConflictError, match="is taken"):
        start(runs, archive)


class Hostile:
    """The server of a run whose researcher's code does not mean to end."""

    def __init__(self, how):
        self.how, self.asked, self.over = how, [], threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def connect(self, *_):
        return socket.create_connection(self._listening.getsockname())

    def _serve(self):
        tls = Records.default().folder(RUN) / "processes" / "tls"
        while not self.over.is_set():
            with contextlib.suppress(OSError):
                plain, _ = self._listening.accept()
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(tls / "server.pem", tls / "server.key")
                threading.Thread(target=self._answer, args=(context, plain), daemon=True).start()

    def _answer(self, context, plain):
        with contextlib.suppress(OSError), contextlib.closing(plain):
            if self.how == "no handshake":
                self.asked.append("a handshake")
                self.over.wait()
                return
            sock = context.wrap_socket(plain, server_side=True)
            while not self.over.is_set():
                asked = sock.recv(65536).decode()
                if not asked:
                    return
                self.asked.append(asked.split(" HTTP")[0])
                self._send(sock)

    def _send(self, sock):
        status = "finished" if self.how == "drips its model" else "running"
        page = {"status": status, "message": "", "events": [], "more": self.how == "more"}
        if self.how == "sends what no record holds":
            page["events"] = [[2**70, 0.0, "log"]]
        body = json.dumps(page).encode()
        drips = self.how == "drips" or (
            self.how == "drips its model" and "/files/" in self.asked[-1]
        )
        length = 2**20 if drips else len(body)
        sock.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n".encode())
        if not drips:
            time.sleep(0.01)
            sock.sendall(body)
        while drips and not self.over.wait(0.02):
            sock.sendall(b" ")

    def end(self):
        self.over.set()
        self._listening.close()


@pytest.fixture
def hostile(cluster, monkeypatch):
    made = []

    def one(how):
        made.append(Hostile(how))
        monkeypatch.setattr(cluster, "forward", made[-1].connect)
        return made[-1]

    yield one
    for each in made:
        each.end()


WAYS = [
    "goes on",
    "more",
    "drips",
    "drips its model",
    "no handshake",
    "sends what no record holds",
]


@pytest.mark.parametrize("how", WAYS)
def test_whoever_does_not_end_when_asked_is_ended(
    make, archive, eva, cluster, hostile, how, monkeypatch
):
    monkeypatch.setattr(cluster_watch, "STOP_SECONDS", 1000.0)
    server, runs = hostile(how), make()
    start(runs, archive)
    wait_for(lambda: server.asked)
    wait_for(lambda: how != "drips its model" or "GET /files/model.safetensors" in server.asked)
    (use,) = eva.stop_use(RUN)
    obey = obeying(runs)
    obey.look(use.stop_asked + 1)
    assert Records.default().stop_requested(RUN)
    assert Records.default().run(RUN).message == "eva, an owner of its data, asked for its end"
    obey.look(use.stop_asked + 59)
    assert not cluster.removed
    for _ in range(3):
        obey.look(use.stop_asked + 60)
    wait_for(lambda: RUN not in runs.following())
    record = Records.default().run(RUN)
    assert (str(record.status), record.message) == (
        "stopped",
        "eva, an owner of its data, asked for its end, and it had not ended 60 s later: its pods "
        "were removed",
    )
    assert cluster.removed == 1
    assert uses(eva)[RUN].ended is not None
    assert secrets_of(RUN) == []
    assert not (Records.default().folder(RUN) / "model.safetensors").exists()


def test_a_model_that_never_comes_is_given_up_and_keeps_nobody_waiting(
    make, archive, cluster, hostile, monkeypatch
):
    monkeypatch.setattr(cluster_watch, "FETCH_SECONDS", 0.2)
    monkeypatch.setattr(cluster_watch, "RETRY_SECONDS", 0.01)
    _, runs = hostile("drips its model"), make()
    start(runs, archive)
    wait_for(lambda: RUN not in runs.following())
    record = Records.default().run(RUN)
    assert (str(record.status), record.message) == (
        "finished",
        "its model.safetensors did not come within 0.2 s and was not fetched; its scale.json did "
        "not come within 0.2 s and was not fetched",
    )
    assert cluster.removed == 1


def test_records_that_are_away_lose_no_run(make, archive, cluster, hostile, monkeypatch):
    """What a watch needs to remove the pods stays until they are removed."""
    monkeypatch.setattr(dispatch, "AGAIN_SECONDS", 0.02)
    server, runs = hostile("goes on"), make()
    append, broken = Records.append, []

    def away(self, run, events):
        if len(broken) < 3:
            broken.append(run)
            raise RecordsError("the records are away")
        return append(self, run, events)

    monkeypatch.setattr(Records, "append", away)
    start(runs, archive)
    wait_for(lambda: len(broken) == 3)
    asked = len(server.asked)
    wait_for(lambda: len(server.asked) > asked + 3)
    assert secrets_of(RUN)
    assert not cluster.removed
    runs.end(RUN, "enough")
    wait_for(lambda: RUN not in runs.following())
    assert (cluster.removed, secrets_of(RUN)) == (1, [])


def test_what_was_lost_of_a_run_is_said_and_its_pods_go(make, archive, cluster, eva):
    dead = make()
    dead.close()
    start(dead, archive)
    for path in secrets_of(RUN):
        path.unlink()
    runs = make()
    assert runs.go_on() == [RUN]
    wait_for(lambda: RUN not in runs.following())
    record = Records.default().run(RUN)
    assert str(record.status) == "failed"
    assert record.message == "what it was made from is lost; run the experiment again"
    assert cluster.removed == 1
    assert uses(eva)[RUN].ended is not None


def test_pods_that_cannot_be_removed_are_said(make, archive, cluster, hostile, monkeypatch):
    def refuses(_run):
        raise ClusterError("you may not delete ConfigMap x")

    monkeypatch.setattr(cluster, "remove", refuses)
    server, runs = hostile("goes on"), make()
    start(runs, archive)
    wait_for(lambda: server.asked)
    runs.end(RUN, "enough")
    wait_for(lambda: RUN not in runs.following())
    assert Records.default().run(RUN).message == (
        "enough; its pods could not be removed: you may not delete ConfigMap x"
    )


def test_one_that_ends_when_asked_is_left_to_end(make, archive, eva, cluster):
    runs = make()
    start(runs, archive)
    (use,) = eva.stop_use(RUN)
    obeying(runs).look(use.stop_asked)
    wait_for(lambda: RUN not in runs.following())
    assert Records.default().run(RUN).message == "stopped while its server could not be reached"
    obeying(runs).look(use.stop_asked + 100)
    assert cluster.removed == 1


def test_a_service_that_is_started_anew_counts_on(
    make, archive, eva, cluster, hostile, monkeypatch
):
    hostile("goes on")
    dead = make()
    dead.close()  # as if killed: what it had made nobody follows
    start(dead, archive)
    eva.stop_use(RUN)
    monkeypatch.setattr(owners, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 61)
    runs = make()
    assert runs.go_on() == [RUN]
    wait_for(lambda: RUN not in runs.following())
    assert "its pods were removed" in Records.default().run(RUN).message
    assert cluster.removed == 1
    assert make().go_on() == []
    assert cluster.removed == 1


def test_a_later_run_of_an_id_is_told_anew(make, archive, eva, monkeypatch):
    runs = make()
    start(runs, archive)
    told, followed = [], [RUN]
    (use,) = eva.stop_use(RUN)
    with monkeypatch.context() as now:
        now.setattr(runs, "say", lambda run, message: told.append(run))
        now.setattr(runs, "following", lambda: followed)
        obey = obeying(runs)
        obey.look(use.stop_asked)
        obey.look(use.stop_asked)
        assert told == [RUN]
        followed.clear()
        obey.look(use.stop_asked)
        followed.append(RUN)
        obey.look(use.stop_asked)
    assert told == [RUN, RUN]


def test_a_run_that_is_gone_keeps_no_other_from_being_ended(make, archive, eva, cluster, hostile):
    server, runs = hostile("goes on"), make()
    start(runs, archive)
    wait_for(lambda: server.asked)
    (use,) = eva.stop_use(RUN)
    following = runs.following
    runs.following = lambda: [run_id(7), *following()]
    obeying(runs).look(use.stop_asked + 60)
    runs.following = following
    wait_for(lambda: RUN not in runs.following())


def test_an_end_that_could_not_be_noted_is_noted_later(make, archive, eva, monkeypatch):
    runs = make()
    start(runs, archive)
    away = CatalogUnavailableError("the catalog is away")

    def fails(*_):
        raise away

    with monkeypatch.context() as now:
        now.setattr(Catalogs, "end_run", fails)
        end_of(runs)
    assert uses(eva)[RUN].ended is None
    obey = obeying(runs)
    obey.look(time.time())
    assert uses(eva)[RUN].ended is None  # it may be on its way yet
    obey.look(time.time() + 601)
    assert uses(eva)[RUN].ended is not None


def test_what_goes_on_is_not_noted_as_ended(make, archive, eva, hostile):
    server, runs = hostile("goes on"), make()
    start(runs, archive)
    wait_for(lambda: server.asked)
    obeying(runs).look(time.time() + 10_000)
    assert uses(eva)[RUN].ended is None


@pytest.mark.parametrize("wrong", ["soon", "-1", "nan", "inf", "3601"])
def test_a_time_that_cannot_be_is_one_sentence(monkeypatch, tmp_path, wrong):
    path = tmp_path / "institutions.json"
    path.write_text(json.dumps(INSTITUTIONS))
    monkeypatch.setenv("FLAUTIM_LAB_INSTITUTIONS", str(path))
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "t")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:9")
    assert Settings.of_environment().stop_seconds == 60.0
    monkeypatch.setenv(STOP_VARIABLE, "0.5")
    assert Settings.of_environment().stop_seconds == 0.5
    monkeypatch.setenv(STOP_VARIABLE, wrong)
    with pytest.raises(
        UsageError, match=f"{STOP_VARIABLE} must be a number of seconds from 0 to 36"
    ):
        Settings.of_environment()
