"""Flower's SuperLink inside a process, and a worker's connection to it: TLS, keys, restarts."""

from __future__ import annotations

import ssl
import stat
import threading
import time
from datetime import timedelta

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.corestate import in_memory_corestate
from flwr.supercore.task_identity import TaskIdentity

from flautim_lab.training import engine, flower, keys


@pytest.fixture
def files(tmp_path):
    return keys.make_server_files(tmp_path / "tls", ["localhost", "127.0.0.1"])


@pytest.fixture
def link(files):
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    made = engine.SuperLink(files)
    yield made
    made.close()
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def connect(link, files, path):
    return engine.Connection(f"127.0.0.1:{link.port}", files.authority, keys.read_worker_key(path))


def activate(connection):
    end = time.monotonic() + 20
    while True:
        try:
            return connection.activate()
        except httpx.TransportError:  # it is not up yet
            assert time.monotonic() < end
            time.sleep(0.05)


def question(node, text="what is it?"):
    content = RecordDict({"w": ArrayRecord([np.arange(5.0)]), "c": ConfigRecord({"text": text})})
    return Message(content, node, "query")


def test_a_message_goes_out_and_its_answer_comes_back(link, files, tmp_path):
    node = link.admit(keys.make_worker_key(tmp_path / "worker.key"))
    worker = connect(link, files, tmp_path / "worker.key")
    assert activate(worker) == node
    assert set(link.online()) == {node}
    assert worker.receive() is None
    sent = link.send(question(node))
    got = worker.receive()
    assert got.content["c"]["text"] == "what is it?"
    assert np.array_equal(got.content["w"]["0"].numpy(), np.arange(5.0))
    assert list(link.receive([sent])) == []
    worker.send(Message(RecordDict({"c": ConfigRecord({"text": "a test"})}), reply_to=got))
    ((asked, answer),) = link.receive([sent])
    assert asked == sent
    assert answer.content["c"]["text"] == "a test"
    assert len(link._state.object_store) == 0  # nothing is left behind
    worker._beaten = 0.0
    worker.beat()
    worker.close()
    assert not link.online()


def test_a_run_may_take_longer_than_flower_waits_for_a_sign_of_life(
    link, files, tmp_path, monkeypatch
):
    node = link.admit(keys.make_worker_key(tmp_path / "worker.key"))
    worker = connect(link, files, tmp_path / "worker.key")
    activate(worker)
    sent = link.send(question(node))
    got = worker.receive()
    later = in_memory_corestate.now() + timedelta(days=2)
    monkeypatch.setattr(in_memory_corestate, "now", lambda: later)
    assert link._state.get_task_by_token("none") is None  # looks for what has expired
    worker.send(Message(RecordDict({"c": ConfigRecord({"text": "late"})}), reply_to=got))
    ((_, answer),) = link.receive([sent])
    assert answer.content["c"]["text"] == "late"
    assert link.send(question(node, "and now?"))


def test_a_large_message_comes_whole(link, files, tmp_path):
    node = link.admit(keys.make_worker_key(tmp_path / "worker.key"))
    worker = connect(link, files, tmp_path / "worker.key")
    activate(worker)
    big = np.random.default_rng(1).random(3_000_000)
    sent = link.send(Message(RecordDict({"w": ArrayRecord([big])}), node, "train"))
    got = worker.receive()
    thread = threading.Thread(
        target=worker.send, args=(Message(RecordDict({"w": got.content["w"]}), reply_to=got),)
    )
    thread.start()
    answers = []
    while not answers:  # looked at while its parts are on their way
        answers = list(link.receive([sent]))
    thread.join()
    assert np.array_equal(answers[0][1].content["w"]["0"].numpy(), big)


def test_a_worker_that_nobody_told_the_server_of_is_refused(link, files, tmp_path):
    keys.make_worker_key(tmp_path / "stranger.key")
    with pytest.raises(engine.Refused):
        activate(connect(link, files, tmp_path / "stranger.key"))


def test_an_expelled_worker_is_refused(link, files, tmp_path):
    node = link.admit(keys.make_worker_key(tmp_path / "worker.key"))
    worker = connect(link, files, tmp_path / "worker.key")
    activate(worker)
    link.expel(node)
    with pytest.raises(engine.Refused):
        worker.receive()
    with pytest.raises(engine.Refused):
        worker.activate()


def test_a_server_of_another_run_is_not_believed(link, files, tmp_path):
    other = keys.make_server_files(tmp_path / "other", ["127.0.0.1"])
    link.admit(keys.make_worker_key(tmp_path / "worker.key"))
    activate(connect(link, files, tmp_path / "worker.key"))
    stranger = connect(link, other, tmp_path / "worker.key")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        stranger.activate()
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{link.port}/")
    with pytest.raises((httpx.ConnectError, ssl.SSLError)):
        httpx.get(f"https://127.0.0.1:{link.port}/")


def test_a_server_that_begins_anew_takes_its_workers_back(files, tmp_path):
    public = keys.make_worker_key(tmp_path / "worker.key")
    first = engine.SuperLink(files)
    first.admit(public)
    worker = connect(first, files, tmp_path / "worker.key")
    activate(worker)
    port = first.port
    first.close()
    with pytest.raises(httpx.TransportError):
        worker.receive()
    second = engine.SuperLink(files, port=port)
    try:
        node = second.admit(public)
        end = time.monotonic() + 20
        while True:
            try:
                worker.receive()
            except engine.Refused:
                break
            except httpx.TransportError:
                assert time.monotonic() < end
        assert activate(worker) == node
        assert set(second.online()) == {node}
    finally:
        second.close()


def test_a_worker_whose_connection_broke_is_let_in_again_and_the_server_can_tell(
    link, files, tmp_path
):
    node = link.admit(keys.make_worker_key(tmp_path / "worker.key"))
    broken = connect(link, files, tmp_path / "worker.key")
    activate(broken)
    before = link.online()[node]
    broken.close(goodbye=False)
    pair = keys.read_worker_key(tmp_path / "worker.key")
    address = f"127.0.0.1:{link.port}"
    with pytest.raises(engine.Refused):  # it is online, as far as the server knows
        engine.Connection(address, files.authority, pair).activate()
    again = engine.Connection(address, files.authority, pair, broken.node)
    assert again.activate() == node
    assert link.online()[node] > before


def test_nothing_but_the_fleet_api_is_served(link, files, tmp_path):
    link.admit(keys.make_worker_key(tmp_path / "worker.key"))
    activate(connect(link, files, tmp_path / "worker.key"))  # it is up
    with httpx.Client(verify=ssl.create_default_context(cafile=files.authority)) as client:
        for path in ("/docs", "/openapi.json", "/v1/control/list-runs", "/health"):
            assert client.get(f"https://127.0.0.1:{link.port}{path}").status_code == 404


def test_keys_are_private_and_the_authority_cannot_sign_again(files, tmp_path):
    for path in (files.key, files.certificate, files.authority):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in files.authority.read_bytes()
    assert sorted(p.name for p in files.key.parent.iterdir()) == [
        "authority.pem",
        "server.key",
        "server.pem",
    ]


flower.prepare()
