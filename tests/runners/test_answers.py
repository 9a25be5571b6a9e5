"""Answers that are too large, or none: of a run's server, and of a hub's service."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from flautim_lab.connection import Away, Service
from flautim_lab.errors import RecordsError
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners import service
from flautim_lab.runners.cluster_line import Line, TooLarge
from flautim_lab.runners.cluster_watch import ClusterWatch
from flautim_lab.runners.pod_api import FILES
from flautim_lab.runners.process_files import ProcessFolder
from flautim_lab.runners.service import ServiceRun
from flautim_lab.training.keys import make_server_files

RUN = "r20261125-202140-iris-7d1947b4"


@contextlib.contextmanager
def answering(answers, tls=None):
    """A server that gives these answers, (status, body), in turn; yields its port and the asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append(f"{self.command} {self.path}")
            status, body = answers.pop(0)
            self.send_response(status)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked has read enough
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = answer  # noqa: N815 - the library's names

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "server.pem", tls / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_address[1], asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path):
    folder = ProcessFolder(tmp_path / "run")
    make_server_files(folder.tls, ["localhost"])
    write_atomic(folder.tls / "token", b"token")
    pods = SimpleNamespace(run_id=RUN, workers={"here": 1}, data={})
    return SimpleNamespace(folder=folder, pods=lambda: pods)


def line(run, port):
    forward = SimpleNamespace(forward=lambda *_: socket.create_connection(("127.0.0.1", port)))
    return Line(forward, run)


def test_too_large_an_answer_is_not_read_and_the_next_question_is_answered(run):
    with (
        answering([(200, b"x" * 2000), (200, b"x" * 1000)], run.folder.tls) as (port, _),
        contextlib.closing(line(run, port)) as one,
    ):
        with pytest.raises(TooLarge):
            one.ask("GET", "/events", most_bytes=1000)
        assert one.ask("GET", "/events", most_bytes=1000) == b"x" * 1000


@pytest.mark.parametrize(
    "answer",
    [
        b"none",
        b"[]",
        b"[" * 100_000,
        b'{"events": [[1]], "status": "running"}',
        b'{"events": [], "status": "dancing"}',
    ],
)
def test_an_answer_that_is_none_is_a_server_that_cannot_be_reached(run, answer):
    Records.default().create_run(
        RUN, name="iris", runner="cluster", rounds=1, clients=1, settings={}, plan={}, detached=True
    )
    run.api = lambda: None
    with (
        answering([(200, answer)], run.folder.tls) as (port, _),
        contextlib.closing(line(run, port)) as one,
        pytest.raises(http.client.HTTPException, match="an answer that is none"),
    ):
        ClusterWatch(run)._poll(one)


def test_of_a_model_that_is_too_large_the_run_says_so(run, monkeypatch):
    monkeypatch.setattr("flautim_lab.runners.cluster_watch.MOST_BYTES", 2**20)
    run.api = lambda: None
    with (
        answering([(200, b"x" * (2**20 + 1)), (200, b"{}")], run.folder.tls) as (port, _),
        contextlib.closing(line(run, port)) as one,
    ):
        left_out = ClusterWatch(run)._fetch(one)
    assert left_out == ["its model.safetensors is larger than 1 MiB and was not fetched"]
    assert (run.folder.run_folder / "scale.json").read_bytes() == b"{}"


def test_a_sign_of_life_in_a_stream_is_no_event(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "0" * 64)
    told = b"id: 1\ndata: [1]\n\n: here\n\n: still here\n\nevent: state\ndata: {}\n\n"
    with answering([(200, told)]) as (port, _), Service(f"http://127.0.0.1:{port}") as one:
        events = [(each.event, each.id, each.data) for each in one.stream("/stream", 0)]
    assert events == [("message", "1", "[1]"), ("state", "1", "{}")]


@pytest.fixture
def asking(tmp_path, monkeypatch):
    """Returns a run that is asked for at a port; nothing follows it."""
    monkeypatch.setattr(service, "AGAIN_SECONDS", 0.01)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "0" * 64)
    monkeypatch.setattr(ServiceRun, "watch", lambda self: None)

    def make(port):
        made = ServiceRun(tmp_path / RUN)
        write_atomic(made._request, b"{}")
        write_atomic(made._facts, json.dumps({"url": f"http://127.0.0.1:{port}"}).encode())
        return made

    return make


def test_a_run_whose_answer_was_lost_is_asked_for_again(asking):
    with answering([(503, b""), (200, b"{}")]) as (port, asked):
        asking(port).start({})
    assert asked == [f"PUT /runs/{RUN}"] * 2


def test_a_run_that_is_given_up_is_stopped(asking):
    with answering([(503, b"")] * 3 + [(200, b"{}")]) as (port, asked), pytest.raises(Away):
        asking(port).start({})
    assert asked == [f"PUT /runs/{RUN}"] * 3 + [f"POST /runs/{RUN}/stop"]


def test_records_that_are_away_at_the_beginning_leave_the_keys_to_the_next_watch(run, monkeypatch):
    cleaned = []
    run.api, run.clean = SimpleNamespace, lambda: cleaned.append(run)
    watch = ClusterWatch(run)

    def away(_run_id):
        raise RecordsError("the records cannot be used")

    monkeypatch.setattr(watch._records, "run", away)
    with pytest.raises(RecordsError):
        watch.run()
    assert not cleaned
    assert watch._over.is_set()


def test_records_that_are_away_for_a_moment_are_waited_for(run, monkeypatch):
    monkeypatch.setattr("flautim_lab.runners.cluster_watch.AWAY_SECONDS", 0.0)
    answers = [(404, b"")] * len(FILES) + [(200, b"{}")]
    with answering(answers, run.folder.tls) as (port, asked):
        forward = lambda *_: socket.create_connection(("127.0.0.1", port))  # noqa: E731
        run.api = lambda: SimpleNamespace(forward=forward)
        watch = ClusterWatch(run)
        told = [RecordsError("away"), RecordsError("away"), (RunStatus.FINISHED, "")]

        def poll(_line):
            if isinstance(told[0], RecordsError):
                raise told.pop(0)
            return told.pop(0)

        monkeypatch.setattr(watch, "_poll", poll)
        assert watch._follow() == (RunStatus.FINISHED, "")
    assert not told
    assert asked[-1] == "POST /collected"
