"""A sample that has other columns than was registered gets no pods."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from flautim_lab.catalog.at_home import at_home
from flautim_lab.catalog.things import Column, DatasetVersion
from flautim_lab.errors import DatasetError, ExperimentError
from flautim_lab.experiment.code import Code
from flautim_lab.runners.pod_files import Packed
from flautim_lab.service.tables import checked_tables

COLUMNS = (
    Column("age", "integer", low=0.0, high=90.0),
    Column("weight", "number", low=40.0, high=120.0, missing=True),
    Column("ill", "boolean"),
    Column("smokes", "text", values=("False", "True"), missing=True),
    Column("name", "text"),
)
VERSION = DatasetVersion("ufmg/people@2", 2, COLUMNS, "ill", 40, "0f" * 32, "people.csv")
ROWS = pd.DataFrame(
    {
        "age": [30, 40],
        "weight": [70.5, 80],
        "ill": [True, False],
        "smokes": [True, False],
        "name": ["a", "b"],
    }
)


def packed(rows=ROWS, homes=None, **dataset):
    content = rows if isinstance(rows, bytes) else rows.to_csv(index=False).encode()
    homes = {"ufmg": "people.csv"} if homes is None else homes
    return Packed(Code({}, {}), {"dataset": dataset}, homes, "ill", content)


def test_a_sample_of_the_same_kinds_gives_the_hash_that_the_table_must_have():
    assert checked_tables(packed(), [VERSION]) == {"ufmg": "0f" * 32}
    fewer = ROWS.drop(columns="name").assign(weight=[70, 80], smokes=["True", None])
    assert checked_tables(packed(fewer), [VERSION])
    other = ROWS.assign(more=1)
    assert checked_tables(packed(other, ignore=["more"]), [VERSION])
    made = at_home([VERSION], {"missing": "drop", "ignore": ["name"]})
    assert checked_tables(packed(made.frame), [VERSION])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            ROWS.assign(name=[True, False]),
            "the column 'name' of ufmg/people@2 holds text, and that of the sample true or false; "
            "take the sample from lab.home_dataset",
        ),
        (ROWS.assign(name=[1, 2]), "holds text, and that of the sample numbers"),
        (ROWS.assign(age=["a", "b"]), "'age' of ufmg/people@2 holds numbers, and that of the sam"),
        (ROWS.assign(ill=[0, 1]), "holds true or false, and that of the sample numbers"),
        (ROWS.assign(smokes=[0, 1]), "holds text, and that of the sample numbers"),
        (ROWS.assign(more=1), "ufmg/people@2 has no column 'more', which the sample has"),
        (b"", "the sample has no header line, or one that is too long"),
        (b"a," * 2**16, "the sample has no header line, or one that is too long"),
        (b"age,age\n1,2\n", "more than one column named 'age'"),
    ],
)
def test_a_sample_of_other_kinds_is_refused(rows, sentence):
    with pytest.raises((ExperimentError, DatasetError), match=re.escape(sentence)):
        checked_tables(packed(rows), [VERSION])


def test_the_tables_are_those_that_the_run_was_let_to_read():
    for homes in ({"ufmg": "other.csv"}, {"ifnmg": "people.csv"}):
        with pytest.raises(ExperimentError, match="this run was let to read another table of"):
            checked_tables(packed(homes=homes), [VERSION])
