"""What followers of a run are told: all of it, once, by one look at the records for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import threading
import types

import httpx
import pytest
from httpx_sse import EventSource

from flautim_lab.connection import Refusal, Service
from flautim_lab.errors import RecordsError
from flautim_lab.records.event import Event
from flautim_lab.records.store import Records
from flautim_lab.runners.process_files import ProcessFolder, RunFacts
from flautim_lab.runners.service import ServiceRun
from flautim_lab.runners.service_watch import ServiceWatch
from flautim_lab.service import readers, streams
from flautim_lab.service.hub import Unknown
from flautim_lab.service.readers import Readers
from tests.service.conftest import PREFIX
from tests.service.test_app import ask, no_cluster, problem  # noqa: F401 - fixtures
from tests.service.test_dispatch import ROOT, RunningService, wait_for

RUN = "r20261125-202140-net-on-iris-7d1947b4"


def make(records, run_id=RUN, owner="ana"):
    records.create_run(
        run_id,
        name="iris",
        runner="cluster",
        rounds=2,
        clients=3,
        settings={"owner": owner, "institution": "ufmg"},
        plan={},
        detached=True,
    )
    records.set_status(run_id, "running")


def logged(first, last):
    return [Event(seq, 1.0, "log", text=f"line {seq}") for seq in range(first, last + 1)]


async def always():
    return True


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def follow(made, after=0, run_id=RUN, told=None):
    """Return the numbers of what a stream tells, and how it ended."""
    numbers = [] if told is None else told
    last = ""
    async for part in streams._told(made, run_id, after, always):
        for block in part.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
            if "id" in fields:
                assert json.loads(fields["data"])[0] == int(fields["id"])
                numbers.append(int(fields["id"]))
            last = fields.get("event", last)
    return numbers, last


@pytest.fixture
def looks(monkeypatch):
    """What was read from the records: after which event, and how many there were."""
    found = []
    page = readers.event_page

    def counted(records, run_id, after, most):
        told = page(records, run_id, after, most)
        found.append((after, len(told["events"])))
        return told

    monkeypatch.setattr("flautim_lab.service.readers.event_page", counted)
    return found


def test_one_look_at_the_records_for_all_followers(looks, monkeypatch):
    monkeypatch.setattr("flautim_lab.service.readers.LOOK_SECONDS", 60)  # woken, or never
    records = Records.default()
    make(records)

    async def all_of_it():
        made = Readers(records)
        async with made.open():
            tasks = [asyncio.create_task(follow(made)) for _ in range(20)]
            polls = [asyncio.create_task(streams._news(made, RUN, 0, 20)) for _ in range(5)]
            await until(lambda: looks)
            await asyncio.sleep(0.3)  # nobody else looks
            assert looks == [(0, 0)]
            # As the thread that follows the run: one transaction, one look.
            for first in (1, 4):
                writer = threading.Thread(
                    target=records.append, args=(RUN, logged(first, first + 2))
                )
                seen = len(looks)
                await asyncio.to_thread(lambda w=writer: (w.start(), w.join()))
                await until(lambda seen=seen: len(looks) > seen)
                await asyncio.sleep(0.2)
            assert looks == [(0, 0), (0, 3), (3, 3)]
            await asyncio.to_thread(records.set_status, RUN, "finished")
            for poll in polls:
                page = json.loads((await poll).page())
                assert [event[0] for event in page["events"]] == [1, 2, 3]
            return await asyncio.gather(*tasks)

    for numbers, last in asyncio.run(all_of_it()):
        assert (numbers, last) == ([1, 2, 3, 4, 5, 6], "end")
    assert len(looks) == 4


def test_who_is_far_behind_is_told_all_of_it_once(looks, monkeypatch):
    monkeypatch.setattr("flautim_lab.service.readers.KEPT_BYTES", 500)
    for module in ("readers", "streams"):
        monkeypatch.setattr(f"flautim_lab.service.{module}.PAGE", 7)
    records = Records.default()
    make(records)
    records.append(RUN, logged(1, 40))

    async def all_of_it():
        made = Readers(records)
        async with made.open():
            slow = streams._told(made, RUN, 0, always)
            await anext(slow)  # and then reads nothing for a while
            told = []
            fast = asyncio.create_task(follow(made, told=told))
            for first in range(41, 161, 20):
                await asyncio.to_thread(records.append, RUN, logged(first, first + 19))
                await asyncio.sleep(0.05)
            kept = sum(len(each.frame) for each in made._readers[RUN]._recent)
            assert kept <= 500
            await asyncio.to_thread(records.set_status, RUN, "stopped")
            rest = [part async for part in slow]
            return await fast, b"".join(rest).decode()

    (numbers, last), rest = asyncio.run(all_of_it())
    assert (numbers, last) == (list(range(1, 161)), "end")
    assert [int(line[4:]) for line in rest.splitlines() if line[:3] == "id:"] == list(range(8, 161))
    assert max(number for _, number in looks) <= 7  # of a page, and never all at once


def test_what_another_process_stored_is_found_and_a_broken_look_is_made_again(monkeypatch):
    monkeypatch.setattr("flautim_lab.service.readers.LOOK_SECONDS", 0.05)
    records, other = Records.default(), Records()
    make(records)
    page = readers.event_page
    broken = []

    def full(*asked):
        if broken:
            raise RecordsError(broken.pop())
        return page(*asked)

    monkeypatch.setattr("flautim_lab.service.readers.event_page", full)

    async def all_of_it():
        made = Readers(records)
        async with made.open():
            told = []
            task = asyncio.create_task(follow(made, told=told))
            await asyncio.sleep(0.2)
            other.append(RUN, logged(1, 2))
            await until(lambda: told == [1, 2])
            broken.append("the disk is full")
            assert await task == ([1, 2], "state")  # without an end: whoever it is comes again
            other.append(RUN, logged(3, 3))
            other.set_status(RUN, "failed")
            again = await follow(made, after=2)
            await until(lambda: not made._readers)  # nobody follows: nobody looks
            return again

    assert asyncio.run(all_of_it()) == ([3], "end")


def test_a_follower_that_does_not_read_is_left(monkeypatch):
    monkeypatch.setattr("flautim_lab.service.streams.STUCK_SECONDS", 0.1)
    records = Records.default()
    make(records)
    records.append(RUN, logged(1, 1))
    sent, waiting = [], streams.Counter()

    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # its buffers are full

    async def receive():
        await asyncio.Event().wait()

    async def all_of_it():
        made = Readers(records)
        async with made.open():
            told = streams._told(made, RUN, 0, always)
            answer = streams.EventStream(told, streams._counted(waiting, "ana"))
            scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
            async with asyncio.timeout(5):
                await answer(scope, receive, send)
            assert not made._readers[RUN].followers

    asyncio.run(all_of_it())
    assert [message.get("more_body") for message in sent] == [None, True]  # and no end
    assert not waiting


def lines(client, path, **headers):
    """What a stream that ends tells, as (event, id, data)."""
    test, token = client._test, client._headers
    with test.stream("GET", f"{PREFIX}{path}", headers=token | headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        found = list(EventSource(answer).iter_sse())
    return [(told.event, told.id, json.loads(told.data)) for told in found]


def test_a_stream_goes_on_after_a_number(ask, hub):  # noqa: F811
    records = Records.default()
    make(records)
    records.append(RUN, logged(1, 3))
    records.set_status(RUN, "failed", message="no worker is left")
    ana = ask(hub.token("ana"))
    end = ("end", "3", {"status": "failed", "message": "no worker is left"})
    every = lines(ana, f"/runs/{RUN}/stream")
    assert [told[:2] for told in every] == [
        ("message", "1"),
        ("message", "2"),
        ("message", "3"),
        end[:2],
    ]
    page = ana("GET", f"/runs/{RUN}/events").json()
    assert [told[2] for told in every[:-1]] == page["events"]
    assert lines(ana, f"/runs/{RUN}/stream?after=2") == [every[2], end]
    assert lines(ana, f"/runs/{RUN}/stream?after=1", **{"Last-Event-ID": "2"}) == [every[2], end]
    for asked in ({"Last-Event-ID": "x"}, {"Last-Event-ID": "-1"}, {"Last-Event-ID": "9" * 30}):
        told = ana._test.get(f"{PREFIX}/runs/{RUN}/stream", headers=ana._headers | asked)
        assert "last-event-id: " in problem(told, 422)
    assert "after: " in problem(ana("GET", f"/runs/{RUN}/stream?after=-1"), 422)


def test_of_a_run_that_has_ended_the_end_comes_last(ask, hub, monkeypatch, tmp_path):  # noqa: F811
    for module in ("readers", "streams"):
        monkeypatch.setattr(f"flautim_lab.service.{module}.PAGE", 4)
    there = Records.default()
    make(there)
    there.append(RUN, logged(1, 10))
    there.set_status(RUN, "finished", message="all of it")
    ana = ask(hub.token("ana"))
    told = lines(ana, f"/runs/{RUN}/stream")
    kinds = [kind for kind, _, _ in told if kind != "message"]
    assert kinds == ["more", "more", "end"]

    class Here(Service):
        def __init__(self):
            super().__init__(PREFIX)
            self._client = ana._test

    monkeypatch.setattr(ana._test, "close", lambda: None)
    ana._test.headers.update(ana._headers)
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(tmp_path / "notebook"))
    records = Records.default()
    make(records)
    run = ServiceRun(records.folder(RUN))
    monkeypatch.setattr(run, "service", Here)
    ServiceWatch(run).run()
    assert [event.seq for event in records.events(RUN)] == list(range(1, 11))
    record = records.run(RUN)
    assert (str(record.status), record.message) == ("finished", "all of it")


def test_signs_of_life_until_a_token_is_taken_back(ask, hub, monkeypatch):  # noqa: F811
    monkeypatch.setattr("flautim_lab.service.streams.BEAT_SECONDS", 0.1)
    monkeypatch.setattr("flautim_lab.service.streams.CHECK_SECONDS", 3)
    clock = itertools.count()  # seconds are looks at the clock, one for each sign of life
    monkeypatch.setattr(
        "flautim_lab.service.streams.time", types.SimpleNamespace(monotonic=lambda: next(clock))
    )

    async def unknown(_request):
        raise Unknown(401, "the Hub does not know this token")

    monkeypatch.setattr("flautim_lab.service.streams.caller", unknown)
    make(Records.default())
    ana = ask(hub.token("ana"))
    answer = ana("GET", f"/runs/{RUN}/stream")
    assert answer.text.count(": ping\n\n") in (2, 3)
    assert "event: end" not in answer.text


def test_of_too_many_streams_no_other_is_opened(ask, hub, monkeypatch):  # noqa: F811
    monkeypatch.setattr("flautim_lab.service.streams.MOST_WAITING", 0)
    make(Records.default())
    told = problem(ask(hub.token("ana"))("GET", f"/runs/{RUN}/stream"), 429)
    assert told.startswith("ana follows runs over 0 connections, and no more are let in; close")


def test_a_stream_of_a_run_that_is_removed_ends(ask, hub, monkeypatch):  # noqa: F811
    monkeypatch.setattr("flautim_lab.service.readers.LOOK_SECONDS", 0.05)
    records = Records.default()
    make(records)
    page = readers.event_page

    def gone(asked, run_id, after, most):
        return page(asked, "r20261125-202140-gone-00000000", after, most)

    ana = ask(hub.token("ana"))
    threading.Timer(
        0.3, monkeypatch.setattr, ("flautim_lab.service.readers.event_page", gone)
    ).start()
    assert "event: end" not in ana("GET", f"/runs/{RUN}/stream").text


# --- the notebook pod's follower, and whatever dies --------------------------------------------


class Follower:
    """A notebook pod's follower as a process, with records of its own."""

    def __init__(self, service, home, monkeypatch, hub):
        monkeypatch.setenv("FLAUTIM_LAB_SERVICE_URL", service.url)
        monkeypatch.setenv("JUPYTERHUB_API_TOKEN", hub.token("ana"))
        monkeypatch.setenv("FLAUTIM_LAB_HOME", str(home))
        self.records = Records.default()
        make(self.records)
        self.run = ServiceRun(self.records.folder(RUN))
        self.run.folder.write_facts(RunFacts(RUN, 1, 3))
        (self.run.folder.path / "service.json").write_text(json.dumps({"url": service.url}))
        self.start()

    def start(self):
        command = [sys.executable, "-m", "flautim_lab.runners.service_watch"]
        self.process = subprocess.Popen([*command, str(self.records.folder(RUN))], cwd=ROOT)

    def numbers(self):
        return [event.seq for event in self.records.events(RUN) if event.kind == "log"]


@pytest.fixture
def service(tmp_path, institutions, hub):
    made = RunningService(tmp_path)
    yield made
    made.kill()


@pytest.mark.chaos
def test_killed_service_and_killed_follower_lose_and_double_nothing(
    service, tmp_path, monkeypatch, hub
):
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(tmp_path / "service"))
    there = Records()
    make(there)
    # What follows its pods is a process apart, this one, so that the service leaves it alone.
    watching = contextlib.ExitStack()
    watching.enter_context(ProcessFolder(there.folder(RUN)).watching())
    follower = Follower(service, tmp_path / "notebook", monkeypatch, hub)
    last = 0

    def store():
        nonlocal last
        there.append(RUN, logged(last + 1, last + 3))
        last += 3

    try:
        store()
        wait_for(lambda: follower.numbers() == [1, 2, 3], "what was there at first")
        store()
        follower.process.kill()
        follower.process.wait()
        store()
        follower.start()
        wait_for(lambda: len(follower.numbers()) == last, "what was stored meanwhile")
        store()
        service.kill()
        store()  # a run's server goes on without it
        service.start()
        store()
        wait_for(lambda: len(follower.numbers()) == last, "what a killed service did not tell")
        (there.folder(RUN) / "model.safetensors").write_bytes(b"weights")
        there.set_status(RUN, "finished", message="all of it")
        assert follower.process.wait(20) == 0
    finally:
        watching.close()
        follower.process.kill()
        follower.process.wait()
    assert follower.numbers() == list(range(1, last + 1))
    record = follower.records.run(RUN)
    assert (str(record.status), record.message) == ("finished", "all of it")
    assert (follower.records.folder(RUN) / "model.safetensors").read_bytes() == b"weights"
    assert [str(e) for e in follower.records.events(RUN)] == [str(e) for e in there.events(RUN)]


def test_a_service_without_streams_is_asked_again_and_again(tmp_path, monkeypatch):
    """As one of before: its streams are no route, and its pages are what they were."""
    records = Records.default()
    make(records)
    asked = []
    pages = [
        {"events": [[1, 1.0, "log"]], "status": "running", "message": "", "more": True},
        {"events": [[2, 1.0, "log"]], "status": "running", "message": "wait", "more": False},
        {"events": [], "status": "finished", "message": "", "more": False},
    ]

    class Old(Service):
        def __init__(self):
            super().__init__("http://127.0.0.1:9", "t")

        def stream(self, path, after):
            asked.append(path)
            raise Refusal("404 Not Found")

        def ask(self, method, path, body=None, query=None):
            asked.append(path)
            if "/files/" in path:
                raise Refusal("404 Not Found")
            return json.dumps(pages.pop(0)).encode()

    run = ServiceRun(records.folder(RUN))
    monkeypatch.setattr(run, "service", Old)
    ServiceWatch(run).run()
    assert [e.seq for e in records.events(RUN)] == [1, 2]
    assert str(records.run(RUN).status) == "finished"
    kinds = [path.rpartition("/")[2].partition("?")[0] for path in asked]
    assert kinds == ["stream", "events", "events", "events", "model.safetensors", "scale.json"]
    assert "after=2" in asked[3]


def test_a_sign_of_life_is_no_event():
    lines = b"id: 1\ndata: [1]\n\n: ping\n\nevent: end\ndata: {}\n\n"
    kind = {"content-type": "text/event-stream"}
    answers = httpx.MockTransport(lambda _: httpx.Response(200, headers=kind, content=lines))
    with Service("http://127.0.0.1:9", "t") as service:
        service._client = httpx.Client(transport=answers)
        told = list(service.stream("/stream", 0))
    assert [(each.event, each.data) for each in told] == [("message", "[1]"), ("end", "{}")]
