"""Words and tables of a run: pure functions."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from flautim_lab.jupyter import html
from flautim_lab.records.event import RunStatus
from flautim_lab.records.faults import Fault
from flautim_lab.runners.progress import ClientProgress, Progress
from flautim_lab.runners.usage import ProcessUsage

HOSTILE = "<img src=x onerror=alert(1)>"


def progress(status=RunStatus.RUNNING, message="", clients=(), done=3, left=12.0):
    return Progress(status, message, done, 20, 3.0, left, tuple(clients))


def client(number, loss=None, error="", rows=10, at=3, name=""):
    return ClientProgress(
        number, name or f"client {number}", rows, loss, None if loss is None else at, error
    )


def rows_of(table):
    return [
        re.sub(r"<[^>]+>", "|", row).strip("|")
        for row in re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1])
    ]


def names_of(table):
    return [row.split("|")[0] for row in rows_of(table)]


def test_text_line():
    clients = [client(0, 0.5, rows=30), client(1, 0.628, rows=10)]
    assert (
        html.text_line(progress(clients=clients))
        == "round 3/20, loss 0.532, 00:00:03, about 00:00:12 left"
    )
    assert (
        html.text_line(progress(RunStatus.FAILED, "a sentence", [client(0, error="x")], left=None))
        == "failed: round 3/20, 00:00:03, 1 client failing; a sentence"
    )
    assert html.text_line(progress(RunStatus.FINISHED, done=20, left=None)) == (
        "finished: round 20/20, 00:00:03"
    )


def test_waits_and_alarms_are_said_in_the_line_and_on_the_page():
    fault = Fault(0.0, 2, "server", "killed", 1.24)
    seen = replace(
        progress(),
        waiting="waiting for <client> 3 (for 12 s)",
        alarms=("client 2 has failed in 3 rounds running: no <sensor>",),
        faults=(fault,),
        processes=(ProcessUsage("server", 0.5, 1e8, 0.0, 0.0, (("training", 1.0),)),),
    )
    assert html.text_line(seen) == (
        "round 3/20, 00:00:03, about 00:00:12 left; waiting for <client> 3 (for 12 s); "
        "client 2 has failed in 3 rounds running: no <sensor>"
    )
    head = html.header("iris", "r1", seen)
    assert ">waiting for &lt;client&gt; 3 (for 12 s)</div>" in head
    assert ">server killed, back after 1.2 s (round 2)</div>" in head
    page = html.page("iris", "r1", seen, final={}, png=None, width=0)
    assert ">client 2 has failed in 3 rounds running: no &lt;sensor&gt;</div>" in page
    assert "<details><summary>Where the time goes</summary><table" in page
    many = html.header("iris", "r1", replace(seen, faults=(fault,) * 5))
    assert many.count("server killed") == 3
    assert ">2 earlier faults; server killed" in many
    quiet = html.page("iris", "r1", progress(), final={}, png=None, width=0)
    assert "Where the time goes" not in quiet


def test_train_loss_is_of_the_latest_round_and_weighted_by_rows():
    clients = [client(0, 1.0, rows=1), client(1, 2.0, rows=3), client(2, 9.0, rows=3, at=2)]
    assert html.train_loss(progress(clients=clients)) == pytest.approx(1.75)
    assert html.train_loss(progress(clients=[client(0), client(1)])) is None


def test_everything_typed_is_escaped():
    seen = progress(message=HOSTILE, clients=[client(0, 0.5, HOSTILE, name=HOSTILE)])
    page = html.page(
        HOSTILE,
        HOSTILE,
        seen,
        final={HOSTILE: {"train": 1.0}},
        png=b"png",
        width=10,
    )
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 7
    assert HOSTILE not in page
    assert HOSTILE not in html.problem(HOSTILE)
    # The only image is the picture.
    assert re.findall(r"<img [^>]*", page) == [
        '<img width="10" style="max-width:100%;margin-top:8px;background-color:#ffffff" '
        'alt="curves of run &lt;img src=x onerror=alert(1)&gt;" '
        'src="data:image/png;base64,cG5n"'
    ]


def test_header_says_that_it_is_stopping_until_it_has_stopped():
    assert ">stopping...<" in html.header("iris", "r1", progress(), stopping=True)
    ended = html.header("iris", "r1", progress(RunStatus.STOPPED), stopping=True)
    assert "stopping" not in ended
    assert ">stopped<" in ended


def test_clients_are_in_order_and_failures_first():
    table = html.clients_table([client(0, 0.5), client(1, 0.7), client(2, error="ValueError: x")])
    assert names_of(table) == ["client 2", "client 0", "client 1"]
    assert "failed: ValueError: x" in table
    assert "not shown" not in table


def test_a_client_with_a_name_has_its_number_too():
    assert names_of(html.clients_table([client(4, name="BH-42")])) == ["4: BH-42"]


def test_the_colour_goes_from_the_lowest_loss_to_the_highest():
    table = html.clients_table([client(0, 0.1), client(1, 0.9), client(2, 0.5), client(3)])
    assert re.findall(r"background-color:(rgb\([\d,]+\))", table) == [
        "rgb(255,247,236)",
        "rgb(253,163,91)",
        "rgb(254,205,164)",
    ]
    alike = html.clients_table([client(0, 0.5), client(1, 0.5)])
    assert set(re.findall(r"background-color:(rgb\([\d,]+\))", alike)) == {"rgb(255,247,236)"}


def test_a_loss_that_is_no_number_stands_out_and_leaves_the_scale_alone():
    table = html.clients_table([client(0, 0.1), client(1, math.nan), client(2, 0.9)])
    assert 'background-color:#ffebe9;color:#82071e">nan<' in table
    assert "rgb(253,163,91)" in table


def test_of_many_clients_the_worst_are_shown():
    clients = [client(n, n / 100) for n in range(60)]
    clients[7] = client(7, 0.07, error="ValueError: x")
    clients[8] = client(8, math.nan)
    clients[9] = client(9)
    names = names_of(html.clients_table(clients))
    assert len(names) == 50
    assert names[:4] == ["client 7", "client 8", "client 59", "client 58"]
    assert "client 9" not in names
    assert "10 more clients with a lower loss are not shown." in html.clients_table(clients)
    assert "1 more client with a lower loss is not shown." in html.clients_table(clients[:51])
    assert html.clients_title(clients) == "60 clients, 1 failing"


def test_last_measures():
    table = html.measures({"loss": {"train": 0.12345, "validation": 1234567.0}, "mae": {}})
    assert rows_of(table) == ["loss||0.1235||1.235e+06", "mae||–||–"]
    assert html.measures({}) == ""
