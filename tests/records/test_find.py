from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flautim_lab.errors import RunNotFoundError
from flautim_lab.records.store import Records


@pytest.fixture
def records(home: Path) -> Iterator[Records]:
    records = Records()
    yield records
    records.close()


def create(records: Records, run_id: str, *, name: str = "iris") -> str:
    records.create_run(run_id, name=name, runner="local", rounds=5, clients=3, settings={}, plan={})
    return run_id


def refusal(records: Records, text: str) -> str:
    with pytest.raises(RunNotFoundError) as refused:
        records.find(text)
    return str(refused.value)


@pytest.fixture
def several(records: Records) -> Records:
    create(records, "r20261121-iris-aa11", name="Iris, seed 7")
    create(records, "r20261121-digits-bb22", name="Dígitos")
    create(records, "r20261122-vehicles-cc33", name="实验 1")
    return records


@pytest.mark.parametrize(
    ("text", "run_id"),
    [
        ("r20261121-iris-aa11", "r20261121-iris-aa11"),
        ("last", "r20261122-vehicles-cc33"),
        ("r20261122", "r20261122-vehicles-cc33"),
        ("r20261121-d", "r20261121-digits-bb22"),
        ("BB22", "r20261121-digits-bb22"),
        (" seed 7 ", "r20261121-iris-aa11"),
        ("实验", "r20261122-vehicles-cc33"),
        ("dígitos", "r20261121-digits-bb22"),
        ("Di\u0301gitos", "r20261121-digits-bb22"),  # the accent as a character of its own
    ],
)
def test_finds_a_run_by_what_a_person_types(several: Records, text: str, run_id: str) -> None:
    assert several.find(text) == run_id


def test_a_full_id_is_that_run_even_where_others_begin_with_it(records: Records) -> None:
    for run_id in ("r1", "r10", "r11"):
        create(records, run_id)
    assert records.find("r1") == "r1"


def test_spaces_around_a_full_id_change_nothing(records: Records) -> None:
    for run_id in ("r1", "r10"):
        create(records, run_id)
    assert records.find(" r1 ") == "r1"


def test_several_that_fit_are_listed_newest_first(records: Records) -> None:
    for number in range(7):
        create(records, f"r{number}", name="iris")
    assert refusal(records, "iris") == (
        "'iris' means 7 runs; write more of one id: r6, r5, r4, r3, r2, ..."
    )
    create(records, "s1")
    create(records, "s2")
    assert refusal(records, "s") == ("'s' means 2 runs; write more of one id: s2, s1")


@pytest.mark.parametrize("text", ["", "  "])
def test_nothing_means_no_run(several: Records, text: str) -> None:
    assert refusal(several, text) == (
        "no run named ''; choose one of: "
        "r20261122-vehicles-cc33, r20261121-digits-bb22, r20261121-iris-aa11"
    )


def test_a_misspelt_run_is_suggested_however_old(several: Records) -> None:
    for number in range(6):
        create(several, f"s{number}")
    assert refusal(several, "r20261121-irsi-aa11") == (
        "no run named 'r20261121-irsi-aa11'; did you mean 'r20261121-iris-aa11'? "
        "choose one of: r20261121-iris-aa11, s5, s4, s3, s2"
    )
