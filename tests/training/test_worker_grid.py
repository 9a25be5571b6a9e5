"""Federations over workers: the same bits as in the kernel, whatever happens to the workers."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from flautim_lab.errors import TrainingError
from flautim_lab.training import engine, flower, keys, worker, worker_grid
from flautim_lab.training.client_app import ClientHost, make_client_app
from flautim_lab.training.server_app import serve
from flautim_lab.training.strategies import client_mods, make_strategy
from flautim_lab.training.worker import Worker
from flautim_lab.training.worker_grid import WorkerGrid
from flautim_lab.training.worker_usage import Usage
from tests.federations import DropoutNet, experiment, same
from tests.training.test_checkpoint import run as run_in_the_kernel
from tests.training.test_checkpoint import server_of

flower.prepare()


class Fleet:
    """A SuperLink and workers in threads of this process, which can be lost and come back."""

    def __init__(self, folder, app, clients, slots):
        self.folder, self.app, self.clients = folder, app, clients
        self.files = keys.make_server_files(folder / "tls", ["127.0.0.1"])
        self.link = engine.SuperLink(self.files)
        self.roster, self.stops, self.threads, self.lines = {}, {}, [], []
        self.cuts, self.connections = {}, {}
        self.stopped = threading.Event()
        self.made = 0
        for slot in range(slots):
            self.start(slot)
        self.grid = WorkerGrid(
            self.link,
            slots,
            clients,
            lambda: self.roster,
            stopped=self.stopped.is_set,
            log=self.lines.append,
        )

    def start(self, slot):
        self.made += 1
        path = self.folder / f"worker-{self.made}.key"
        self.roster[slot] = self.link.admit(keys.make_worker_key(path))
        stop = self.stops[slot] = threading.Event()
        cut = self.cuts[slot] = threading.Event()
        worker = Worker(self.app, self.clients, stop.is_set, cut.is_set)
        address = f"127.0.0.1:{self.link.port}"
        made = self.connections[slot] = []

        def connect():
            pair = keys.read_worker_key(path)
            node = made[-1].node if made else None
            made.append(engine.Connection(address, self.files.authority, pair, node))
            return made[-1]

        thread = threading.Thread(target=worker.serve, args=(connect, 30.0), daemon=True)
        thread.start()
        self.threads.append(thread)

    def lose(self, slot):
        """As a supervisor sees a worker die: its node is struck off the list."""
        node = self.roster.pop(slot)
        self.stops[slot].set()
        self.link.expel(node)

    def close(self):
        self.stopped.set()
        for stop in self.stops.values():
            stop.set()
        for thread in self.threads:
            thread.join(timeout=20)
        self.link.close()


@pytest.fixture
def fleet(tmp_path):
    fleets = []
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)

    def make(app, clients, slots):
        fleets.append(Fleet(tmp_path, app, clients, slots))
        return fleets[-1]

    yield make
    for each in fleets:
        each.close()
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def app_of(made):
    host = ClientHost(made, torch.device("cpu"))
    return make_client_app(host, client_mods(make_strategy(made)))


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam"])
def test_workers_and_the_kernel_give_the_same_bits(strategy, fleet):
    made = experiment(DropoutNet, strategy=strategy, clients=5, clients_per_round=4)
    expected = run_in_the_kernel(made, "kernel").state_dict()
    here = fleet(app_of(made), 5, 2)
    server = server_of(made, make_strategy(made), "workers")
    serve(server, here.grid)
    assert same(expected, server.state_dict())


class Gate:
    """Where clients wait until they are let through, all of them and for good."""

    def __init__(self):
        self.waiting, self.open = threading.Semaphore(0), threading.Event()

    def once_they_wait(self, clients, action):
        """Act in a thread of its own as soon as so many clients wait, then open."""

        def act():
            for _ in range(clients):
                assert self.waiting.acquire(timeout=20)
            action()
            self.open.set()

        threading.Thread(target=act, daemon=True).start()

    def wait(self):
        self.waiting.release()
        self.open.wait(20)


def echo_app(delay=0.0, fails=(), gate=None):
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        time.sleep(delay)
        if gate is not None:
            gate.wait()
        if client in fails:
            raise ValueError(f"client {client} is broken")
        return Message(RecordDict({"m": MetricRecord({"client": client})}), reply_to=message)

    return app


def ask(clients):
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    return [Message(content, client, "train") for client in clients]


def numbers(replies):
    return [reply.content["m"]["client"] for reply in replies]


def test_answers_come_in_client_order_and_failures_with_their_traceback(fleet):
    here = fleet(echo_app(fails=[3]), 7, 3)
    replies = here.grid.send_and_receive(ask(range(7)))
    assert [reply.metadata.src_node_id for reply in replies] == list(range(7))
    assert [reply.has_error() for reply in replies] == [c == 3 for c in range(7)]
    assert replies[3].error.reason.splitlines()[0] == "ValueError: client 3 is broken"
    assert "Traceback" in replies[3].error.reason
    assert list(here.grid.get_node_ids()) == list(range(7))
    ids = list(here.grid.push_messages(ask([1])))
    assert numbers(here.grid.pull_messages(ids)) == [1]


def test_a_worker_is_sent_the_weights_once_a_round(fleet, monkeypatch):
    packed, unpacked = [], []
    pack, unpack = worker_grid.pack, worker.unpack
    monkeypatch.setattr(worker_grid, "pack", lambda content: packed.append(1) or pack(content))
    monkeypatch.setattr(worker, "unpack", lambda data: unpacked.append(data) or unpack(data))
    # Weights that are so large that each client's answer goes by itself.
    monkeypatch.setattr(worker_grid, "PORTION_BYTES", 1)
    here = fleet(echo_app(), 4, 2)
    taken = []
    here.grid.taken = taken.append
    for number in (1, 2):
        config = ConfigRecord({"server-round": number, "buffers": bytes(10_000)})
        content = RecordDict({"config": config})
        replies = here.grid.send_and_receive([Message(content, n, "train") for n in range(4)])
        assert numbers(replies) == numbers(taken) == list(range(4))
        taken.clear()
        assert len(packed) == number
        assert 1 <= sum(data == pack(content) for data in unpacked) <= 2
    # What went over the wire: at most once a round and worker, where there were four portions.
    received = sum(each.bytes_received for made in here.connections.values() for each in made)
    assert 20_000 < received < 50_000
    # A worker that begins anew is sent them again.
    here.lose(0)
    here.start(0)
    assert numbers(here.grid.send_and_receive(ask(range(4)))) == list(range(4))


def test_a_lost_workers_clients_go_to_another_and_are_asked_again(fleet):
    gate = Gate()
    here = fleet(echo_app(gate=gate), 6, 2)
    until(lambda: len(here.link.online()) == 2)
    gate.once_they_wait(2, lambda: here.lose(1))
    replies = here.grid.send_and_receive(ask(range(6)))
    assert numbers(replies) == list(range(6))
    assert any(line.startswith("a worker was lost; the work of") for line in here.lines)
    assert numbers(here.grid.send_and_receive(ask(range(6)))) == list(range(6))


def test_all_workers_lost_is_said_and_a_new_one_goes_on(fleet, monkeypatch):
    monkeypatch.setattr("flautim_lab.training.client_grid.WAIT_SECONDS", 0.3)
    said, gate = [], Gate()
    alone = "answered (none of 1 worker is connected)"
    here = fleet(echo_app(gate=gate), 4, 1)
    here.grid.waits = said.append

    def lose_and_start():
        here.lose(0)
        until(lambda: any(alone in sentence for sentence in said))
        here.start(0)

    gate.once_they_wait(1, lose_and_start)
    assert numbers(here.grid.send_and_receive(ask(range(4)))) == list(range(4))
    assert said[-1] == ""  # it waits no more
    assert all(sentence.startswith("waiting for client ") for sentence in said[:-1])
    assert any(alone in sentence for sentence in said)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_a_worker_that_is_cut_off_forgets_its_work_and_gets_it_again(fleet):
    """It reconnects between pull and answer: without taking it back, the round would never end."""
    asked = []
    begun, go = threading.Event(), threading.Event()
    app = ClientApp()

    @app.train()
    def train(message, context):
        asked.append(context.node_config["partition-id"])
        begun.set()
        go.wait(20)
        return Message(RecordDict({"m": MetricRecord({"client": asked[-1]})}), reply_to=message)

    here = fleet(app, 2, 1)
    heard = []
    here.grid.heard = heard.append
    replies = []
    thread = threading.Thread(
        target=lambda: replies.extend(here.grid.send_and_receive(ask(range(2))))
    )
    thread.start()
    assert begun.wait(20)
    here.cuts[0].set()
    go.set()
    until(lambda: len(here.connections[0]) > 2)  # it tries, in vain
    assert replies == []
    before = here.connections[0][0]
    here.cuts[0].clear()
    thread.join(20)
    assert numbers(replies) == [0, 1]
    assert asked == [0, 0, 1]
    assert before.bytes_sent == 0  # its answer never left
    assert here.lines == ["a worker was lost; the work of 1 client is sent again"]
    assert heard == [0, 0, 0, 0]  # it connected, connected again, and answered twice


def test_a_client_may_train_longer_than_a_silence_takes_to_mean_death(fleet, monkeypatch):
    monkeypatch.setattr("flwr.superlink.servicer.fleet.fleet_handlers.HEARTBEAT_MIN_INTERVAL", 0.1)
    monkeypatch.setattr(engine, "HEARTBEAT_SECONDS", 1.5)  # lost after twice as long
    monkeypatch.setattr("flautim_lab.training.worker.PULSE_SECONDS", 0.1)
    here = fleet(echo_app(delay=4.0), 1, 1)
    threading.Timer(40, here.stopped.set).start()  # else it would be sent again for ever
    assert numbers(here.grid.send_and_receive(ask([0]))) == [0]
    assert here.lines == []


def test_what_a_worker_used_comes_with_its_answers(fleet, monkeypatch):
    monkeypatch.setattr(worker_grid, "SHORT_SECONDS", 60.0)  # whatever a stall makes of 0.1 s
    here = fleet(echo_app(delay=0.1), 4, 1)
    used, sent = [], []
    here.grid.used = lambda slot, resources: used.append((slot, resources))
    here.grid.sent = lambda: sent.append(len(used))
    for _ in range(2):
        here.grid.send_and_receive(ask(range(4)))
        time.sleep(0.2)
    # In two portions until it is known how long a client takes; told before its answer is there.
    assert sent == [0, 2]
    assert [slot for slot, _ in used] == [0, 0, 0]
    for _, resources in used:
        assert set(resources) - {"waiting_seconds"} == {
            "cpu_seconds",
            "memory_bytes",
            "training_seconds",
            "transfer_seconds",
            "bytes_received",
            "bytes_sent",
        }
        assert 0.2 <= resources["training_seconds"] < 5
        assert resources["memory_bytes"] > 1e6
        assert 0 < resources["transfer_seconds"] < 5
        assert 100 < resources["bytes_received"] < 1e5
    assert "waiting_seconds" in used[2][1]  # between the two rounds
    # What its answer weighs is known once it has left, and is said with the next one.
    assert used[0][1]["bytes_sent"] == 0
    assert used[1][1]["bytes_sent"] > 100


def test_each_connection_counts_from_zero():
    class Counts:
        def __init__(self, number):
            self.bytes_received = self.bytes_sent = number
            self.transfer_seconds = float(number)

    usage = Usage()
    first = Counts(100)
    assert usage.take(first)["bytes_sent"] == 100
    first.bytes_sent = 130
    assert usage.take(first)["bytes_sent"] == 30
    second = usage.take(Counts(150))  # more than the first one ever counted
    assert (second["bytes_sent"], second["transfer_seconds"]) == (150, 150)


def test_late_clients_are_dropped_once_enough_answered(fleet):
    here = fleet(echo_app(delay=0.4), 6, 1)
    here.grid._enough = 2
    replies = here.grid.send_and_receive(ask(range(6)), timeout=1.5)
    assert 2 <= len(replies) < 6
    assert here.lines[-1].startswith("late after 1.5 s, their work is dropped: clients ")


def test_a_stop_ends_the_waiting(fleet):
    gate = Gate()
    here = fleet(echo_app(gate=gate), 4, 1)
    waited = []

    def stop():
        here.stopped.set()
        until(lambda: waited)  # the clients are at work all that time

    gate.once_they_wait(1, stop)
    assert here.grid.send_and_receive(ask(range(4))) == []
    waited.append(True)


def test_a_worker_without_a_server_gives_up(tmp_path):
    files = keys.make_server_files(tmp_path / "tls", ["127.0.0.1"])
    keys.make_worker_key(tmp_path / "worker.key")

    def connect():
        pair = keys.read_worker_key(tmp_path / "worker.key")
        return engine.Connection("127.0.0.1:9", files.authority, pair)

    with pytest.raises(TrainingError, match=r"no server was found for 0\.5 s"):
        Worker(echo_app(), 1, lambda: False).serve(connect, 0.5)
