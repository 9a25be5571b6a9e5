from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from flautim_lab.records.process import ProcessMark

MARK_OF_A_CHILD = """
import sys
from flautim_lab.records.process import ProcessMark
mark = ProcessMark.own()
print(mark.host, mark.boot, mark.pid, mark.started, sep="|", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], ProcessMark]]:
    process = subprocess.Popen(
        [sys.executable, "-c", MARK_OF_A_CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    host, boot, pid, started = process.stdout.readline().strip().split("|")
    with process:
        yield process, ProcessMark(host, boot, int(pid), float(started))
        process.kill()


def test_this_process_is_there() -> None:
    mark = ProcessMark.own()
    assert (mark.host, mark.pid) == (socket.gethostname(), os.getpid())
    assert mark == ProcessMark.own()
    assert mark.gone(heartbeat=0.0) == ""  # it can be looked at: no sign of life is needed


def test_another_process_is_there_until_it_is_killed(
    child: tuple[subprocess.Popen[str], ProcessMark],
) -> None:
    process, mark = child
    now = time.time()
    assert mark.gone(now) == ""
    gone = f"the process that ran it (pid {process.pid} on {socket.gethostname()}) is gone"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert mark.gone(now) == gone
    process.wait()
    assert not psutil.pid_exists(process.pid)
    assert mark.gone(now) == gone


def test_a_number_that_was_given_again_is_another_process() -> None:
    mark = ProcessMark.own()
    earlier = dataclasses.replace(mark, started=mark.started - 60)
    assert earlier.gone(time.time()) == (
        f"the process that ran it (pid {os.getpid()} on {socket.gethostname()}) is gone"
    )


def test_setting_the_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = ProcessMark.own()
    if not mark.boot:
        pytest.skip("the system tells no boot id; only Linux does")
    # Linux' boot time is the clock's time less the time since the boot: both move together.
    booted, create_time = psutil.boot_time(), psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: booted + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + 3600)
    assert ProcessMark.own().started == pytest.approx(mark.started, abs=0.01)
    assert mark.gone(time.time()) == ""


@pytest.mark.parametrize(
    "change",
    [{"host": "elsewhere"}, {"boot": "another container"}],
)
def test_where_it_cannot_be_looked_at_its_heartbeat_counts(change: dict[str, str]) -> None:
    mark = dataclasses.replace(ProcessMark.own(), pid=12, **change)
    now = time.time()
    assert mark.gone(now - 59, now) == ""
    assert mark.gone(now - 95, now) == (
        f"the process that ran it (pid 12 on {mark.host}) has been silent for 00:01:35"
    )


def test_a_process_from_before_the_boot_is_gone_at_once() -> None:
    mark = dataclasses.replace(ProcessMark.own(), boot="the boot before")
    before = psutil.boot_time() - 1
    assert mark.gone(before, now=before + 2) == (
        f"the process that ran it (pid {mark.pid} on {mark.host}) is gone"
    )


def test_another_users_process_that_may_not_be_looked_at_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_self: psutil.Process) -> str:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "status", refuse)
    assert ProcessMark.own().gone(0.0) == ""
