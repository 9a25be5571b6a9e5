"""Names: suggestions, names of things, ids."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flautim_lab import names
from flautim_lab.errors import ExperimentError, RunNotFoundError, UsageError


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            "FedAvgg",
            "no strategy named 'FedAvgg'; did you mean 'FedAvg'? choose one of: FedAvg, SGD",
        ),
        ("fedavg", "no strategy named 'fedavg'; did you mean 'FedAvg'? choose one of: FedAvg, SGD"),
        ("zzz", "no strategy named 'zzz'; choose one of: FedAvg, SGD"),
        (3, "no strategy named '3'; choose one of: FedAvg, SGD"),
    ],
)
def test_a_name_that_is_no_choice(value, sentence):
    with pytest.raises(UsageError) as caught:
        names.choose(value, ["FedAvg", "SGD"], "strategy", UsageError)
    assert str(caught.value) == sentence


def test_a_choice_comes_back():
    assert names.choose("SGD", ["FedAvg", "SGD"], "strategy") == "SGD"


@pytest.mark.parametrize("name", ["iris", "Olá, mundo", "实验 1", "a.b-c_d", "née"])
def test_names_that_are_fine(name):
    assert names.check_name(f"  {name} ") == name


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("a/b", "holds a slash"),
        ("a\\b", "holds"),
        ("a\nb", "holds '\\\\n'"),
        ("\u202eabc", "holds"),
        ("..", "is a folder"),
        ("x" * 101, "has 101 characters; use at most 100"),
        (3, "must be text, not int"),
    ],
)
def test_names_that_are_not(name, part):
    with pytest.raises(ExperimentError, match=part):
        names.check_name(name)


@given(st.text())
def test_a_slug_is_safe_everywhere(text):
    slug = names.slug(text)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", slug)


def test_run_ids_sort_by_time_and_may_name_a_pod():
    first, second = names.make_run_id("Olá/1", 1_000_000), names.make_run_id("b" * 200, 2_000_000)
    assert first < second
    assert first.startswith("r19700112-134640-ola-1-")
    for name in (first, second):
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name)
    assert len({names.make_run_id("a", 0) for _ in range(50)}) == 50


def test_words_for_people():
    assert names.count(1, "client") == "1 client"
    assert names.count(3, "client") == "3 clients"
    assert names.count(0, "class", "classes") == "0 classes"
    assert names.duration(155.4) == "00:02:35"
    assert names.duration(360_000) == "100:00:00"
    assert names.duration(-1) == "00:00:00"


def test_a_missing_run_is_a_sentence_and_not_a_repr():
    assert str(RunNotFoundError("no run 'x'")) == "no run 'x'"
    assert str(RunNotFoundError()) == ""
