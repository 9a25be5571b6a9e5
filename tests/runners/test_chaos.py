"""Faults on request: pauses and partitions pass, wrong words are refused, and all is recorded."""

from __future__ import annotations

import time

import pytest

import flautim_lab as lab
from flautim_lab.runners.processes import Processes
from tests.federations import Net, experiment, same

PATIENCE = 150


@pytest.fixture
def long_run():
    run = lab.run(experiment(Net, rounds=100_000, clients=4), on="processes", workers=2)
    yield run
    run.stop()
    assert Processes(run.folder).wait_gone(30)


def test_paused_cut_off_and_killed_it_goes_on_with_the_same_bits():
    made = experiment(Net, rounds=8, clients=4)
    run = lab.run(made, on="processes", workers=2)
    assert run.chaos.pause(client=3, seconds=1.0, round=2) == (
        "to be paused for 1 s in round 2 (training): client-1"
    )
    run.chaos.partition("client-0", seconds=1.0, round=4)
    run.chaos.pause("server", seconds=1.0, round=6, during="aggregating")
    run.chaos.kill("template", round=7, during="starting")
    assert len(run.chaos.planned) == 4
    run.wait(timeout_seconds=PATIENCE)
    expected = lab.run(made).wait()
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)
    faults = run.faults
    assert list(faults.target) == ["client-1", "client-0", "server", "template"]
    assert list(faults.what) == ["paused for 1 s", "cut off for 1 s", "paused for 1 s", "killed"]
    assert list(faults["round"]) == [2, 4, 6, 7]
    assert (faults.recovery_seconds[:3] >= 1.0).all()
    assert "client-0 cut off for 1 s" in run.logs()
    used = run.resources
    assert set(used.process) == {"server", "client-0", "client-1"}
    assert set(used["round"]) == set(range(1, 9))
    sent = used[(used.process == "client-0") & (used.resource == "bytes_sent")]
    assert sent.value.sum() > 0
    with pytest.raises(lab.ExperimentError, match="has finished; there is nothing to kill"):
        run.chaos.kill("server")


def test_what_cannot_be_struck_is_one_sentence(long_run):
    chaos = long_run.chaos
    for call, sentence in (
        (lambda: chaos.kill("sever"), "no process named 'sever'; did you mean 'server'?"),
        (lambda: chaos.kill(), "say what to kill: server, watch, template, client-0, client-1"),
        (lambda: chaos.kill(client=4), "there is no client 4; clients are 0 to 3"),
        (lambda: chaos.pause("watch"), "the watch cannot be paused, only killed"),
        (lambda: chaos.partition("server"), "only workers .* can be cut off from the server"),
        (lambda: chaos.pause(client=0, seconds=-1), "seconds must be a number above 0"),
        (lambda: chaos.kill("server", round=0), r"round 0 does not come \(any more\): the run has"),
        (lambda: chaos.kill("server", during="lunch"), "no moment of a round named 'lunch'"),
        (lambda: chaos.kill("server", round=50_000, during="ended"), "of the last round alone"),
    ):
        with pytest.raises(lab.ExperimentError, match=sentence):
            call()
    end = time.monotonic() + PATIENCE
    while long_run.round < 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert chaos.kill(client=3) == "client-1 killed (at home there: clients 1, 3)"
    assert chaos.kill("supervisor") == "watch killed"
    while not (len(long_run.faults) == 2 and long_run.faults.recovery_seconds.notna().all()):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_run_inside_its_kernel_has_nothing_to_strike():
    with pytest.raises(lab.ExperimentError, match=r"run it with lab\.run\(experiment, on='proc"):
        _ = lab.run(experiment()).wait().chaos
