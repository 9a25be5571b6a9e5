"""``lab.run``, ``lab.runs`` and ``lab.attach``."""

from __future__ import annotations

import os

import pytest

import flautim_lab as lab
from tests.federations import experiment


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: lab.run("iris"),
            "lab.run takes an Experiment, not str; "
            "make one with lab.Experiment(dataset, Model, clients=...)",
        ),
        (
            lambda: lab.run(experiment(), on="kluster"),
            "no runner named 'kluster'; did you mean 'cluster'? "
            "choose one of: local, processes, cluster",
        ),
        (
            lambda: lab.run(experiment(), workers=0),
            "workers must be 'auto' or a whole number from 1, not 0",
        ),
        (
            lambda: lab.run(experiment(), name="a/b"),
            "the name 'a/b' of the experiment holds a slash; "
            "use letters, digits, spaces, '-', '_' and '.'",
        ),
        (
            lambda: lab.runs(status="done"),
            "no status named 'done'; choose one of: "
            "waiting, running, finished, failed, stopped, interrupted",
        ),
    ],
)
def test_wrong_words_are_one_sentence(call, sentence):
    with pytest.raises(lab.ExperimentError) as caught:
        call()
    assert str(caught.value) == sentence


def test_run_returns_at_once_and_runs_are_listed_newest_first():
    assert lab.runs() == []
    assert repr(lab.runs()) == "no runs yet; start one with lab.run(experiment)"
    first = lab.run(experiment(), name="Olá 1")
    first.wait()
    second = lab.run(experiment(), name="segundo").wait()
    listed = lab.runs()
    assert [run.id for run in listed] == [second.id, first.id]
    assert listed[0] is second  # this kernel's own object
    assert "Olá 1" in repr(listed)
    assert "segundo" in listed._repr_html_()
    assert [run.id for run in lab.runs(limit=1)] == [second.id]
    assert lab.runs(status="failed") == []
    assert lab.attach() is second
    assert lab.attach(first.id[:-3]).id == first.id
    with pytest.raises(lab.RunNotFoundError):
        lab.attach("nothing-like-it")


def test_in_batch_a_run_has_ended_when_it_is_returned(monkeypatch):
    monkeypatch.setenv("FLAUTIM_LAB_BATCH", "1")
    assert lab.run(experiment()).status.ended


def test_a_home_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("I am in the way")
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(blocked))
    with pytest.raises(lab.RecordsError) as caught:
        lab.run(experiment())
    assert str(blocked) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_a_records_file_that_is_no_database_is_one_sentence(home):
    home.mkdir(parents=True)
    (home / "records.db").write_text("these are my notes, not a database, " * 100)
    with pytest.raises(lab.RecordsError) as caught:
        lab.run(experiment())
    assert "records.db" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_runs_at_once_do_not_disturb_each_other():
    from tests.federations import same

    made = experiment(rounds=6)
    alone = lab.run(made).wait().model().state_dict()
    both = [lab.run(made), lab.run(made), lab.run(made.replace(seed=9))]
    states = [run.wait().model().state_dict() for run in both]
    assert same(alone, states[0])
    assert same(alone, states[1])
    assert not same(alone, states[2])
