"""``run.profile()``: what it tells, and what it says where there is nothing to tell."""

from __future__ import annotations

import dataclasses

import pytest

import flautim_lab as lab
from flautim_lab.errors import RecordsError
from flautim_lab.runners.profile import profile_of
from tests.federations import experiment


def test_the_parts_are_all_of_each_round():
    run = lab.run(experiment()).wait()
    profile = run.profile()
    rounds = profile.rounds
    assert list(rounds.index) == [1, 2, 3]
    assert (rounds[["training", "aggregation", "evaluation", "overhead"]] > 0).all(axis=None)
    assert rounds["seconds"].sum() == pytest.approx(profile.seconds)
    whole = run.resources.query("resource == 'round_seconds'")["value"].sum()
    assert profile.seconds == pytest.approx(whole)
    assert whole <= run.record.seconds + 0.5  # it begins and ends with the run
    assert "since a round asks 4 clients" in profile.engine
    assert [line.split()[0] for line in repr(profile).splitlines()[1:6]] == list(profile.total)
    assert repr(profile).endswith(profile.engine)
    assert run.progress().parts == pytest.approx(profile.total)
    assert lab.attach(run.id).profile().of_rounds == profile.of_rounds


def test_without_rounds_that_were_measured_it_is_one_sentence():
    record = lab.run(experiment(rounds=1)).wait().record
    with pytest.raises(RecordsError, match="a version that did not measure its rounds"):
        profile_of(record, [])
    with pytest.raises(RecordsError, match="no round that is over"):
        profile_of(dataclasses.replace(record, round=0), [])
