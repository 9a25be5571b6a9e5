"""Tables that stay with their institutions: what the kernel sees, and what a worker there reads."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

import flautim_lab as lab
from flautim_lab.experiment.client_data import ClientData
from flautim_lab.experiment.experiment import Experiment
from tests.federations import Net, iris_frame

HOMES = {"ufmg": "iris.csv", "ifnmg": "2026/iris.csv"}


@pytest.fixture
def volume(tmp_path, monkeypatch):
    """An institution's volume, as a worker there has it."""
    folder = tmp_path / "volume"
    (folder / "2026").mkdir(parents=True)
    frame = iris_frame()
    frame.iloc[:60].to_csv(folder / "iris.csv", index=False)
    frame.iloc[60:].to_csv(folder / "2026/iris.csv", index=False)
    monkeypatch.setenv("FLAUTIM_LAB_DATA", str(folder))
    return folder


def sample(rows=None, **settings):
    frame = iris_frame()
    # One row of each species, so that all classes are known.
    frame = frame.groupby("species").head(2) if rows is None else rows
    return lab.HomeDataset(frame, target="species", homes=HOMES, **settings)


def at_home(**settings):
    return lab.Experiment(sample(), Net, rounds=2, **settings)


def test_one_client_is_one_institution_with_the_sample_here():
    made = at_home()
    assert made.client_names == ("ufmg", "ifnmg")
    assert made.clients == 2
    assert [len(rows.train) + len(rows.validation) for rows in made.splits] == [6, 6]
    assert ClientData(made, 1).rows("train") == len(made.splits[1].train)
    run = lab.run(made).wait()  # a rehearsal
    assert run.final("accuracy") >= 0


def test_a_worker_there_reads_its_own_rows_and_no_others(volume):
    made, whole = at_home(), lab.CSVDataset(iris_frame(), target="species")
    for client, rows in enumerate([slice(0, 60), slice(60, 150)]):
        features, targets = made.dataset.rows_at(list(HOMES)[client])
        assert torch.equal(features, whole.features[rows])
        assert torch.equal(targets, whole.targets[rows])
        data = ClientData(made, client)
        assert data.rows("train") + data.rows("validation") == len(targets)
        seen = np.concatenate([data._rows.train, data._rows.validation])
        assert sorted(seen) == list(range(len(targets)))
        sums = data.sums()
        chosen = features[torch.from_numpy(data._rows.train)].double()
        assert np.allclose(sums.total, chosen.sum(0).numpy())


def test_an_institution_with_several_clients_deals_its_rows_out(volume):
    made = at_home(clients=6, validation=0.5)
    names = ("ufmg 1", "ufmg 2", "ufmg 3", "ifnmg 1", "ifnmg 2", "ifnmg 3")
    assert made.client_names == names
    held = []
    for client in range(6):
        data = ClientData(made, client)
        held.append(np.concatenate([data._rows.train, data._rows.validation]))
    for first, rows in ((0, 60), (3, 90)):
        assert sorted(np.concatenate(held[first : first + 3])) == list(range(rows))
    again = ClientData(at_home(clients=6, validation=0.5), 2)
    assert np.array_equal(again._rows.train, ClientData(made, 2)._rows.train)
    pd.read_csv(volume / "iris.csv").iloc[:5].to_csv(volume / "iris.csv", index=False)
    with pytest.raises(lab.DatasetError, match="5 rows cannot be dealt out among 3 clients"):
        ClientData(at_home(clients=6), 0)


def split(client=0, **settings):
    return ClientData(at_home(**settings), client)._rows


def test_no_setting_chooses_which_rows_are_held_back_or_dealt_out(volume):
    """Two runs never differ by rows that somebody chose."""
    several = {"clients": 4, "validation": 0.5}
    for client, settings in ((0, {}), (1, {}), (3, several)):
        for seed in (1, 2, 77):
            again = split(client, **settings, seed=seed)
            assert np.array_equal(again.train, split(client, **settings).train)
            assert np.array_equal(again.validation, split(client, **settings).validation)
    # One row more to validate on is not one row less to train on: all are dealt anew.
    held, more = (set(split(validation=share).validation) for share in (0.2, 0.21))
    assert (len(held), len(more)) == (12, 13)
    assert len(more - held) > 5
    # Nor is a row that is added: another table is another split.
    before = split().train
    frame = pd.read_csv(volume / "iris.csv")
    frame.iloc[::-1].to_csv(volume / "iris.csv", index=False)
    assert not np.array_equal(split().train, before)


@pytest.mark.parametrize(
    ("fewest", "settings", "sentence"),
    [
        (
            "",
            {"clients": 12},
            "ufmg 1 has 8 rows to train on, and the rows of ufmg may be counted together from 10 "
            "on; ask for fewer clients",
        ),
        ("", {"validation": 0.1}, "ufmg has 6 rows to validate on, and the rows of ufmg may be"),
        ("", {"validation": 0.9}, "ufmg has 6 rows to train on"),
        ("13", {}, "ufmg has 12 rows to validate on, and the rows of ufmg may be counted together"),
        ("none", {}, "FLAUTIM_LAB_FEWEST_ROWS must be a whole number from 1, not 'none'"),
        ("0", {}, "FLAUTIM_LAB_FEWEST_ROWS must be a whole number from 1, not '0'"),
    ],
)
def test_so_few_rows_are_not_read_at_home(volume, monkeypatch, fewest, settings, sentence):
    monkeypatch.setenv("FLAUTIM_LAB_FEWEST_ROWS", fewest)
    with pytest.raises(lab.DatasetError, match=re.escape(sentence)):
        ClientData(at_home(**settings), 0)


def test_as_few_rows_as_their_keeper_allows_are_read(volume, monkeypatch):
    assert ClientData(at_home(validation=0.0), 0).rows("train") == 60
    monkeypatch.setenv("FLAUTIM_LAB_FEWEST_ROWS", "2")
    assert ClientData(at_home(clients=12), 0).rows("validation") == 2


def test_sums_tell_of_numbers_in_many_rows_alone(volume, monkeypatch):
    frame = pd.read_csv(volume / "iris.csv").assign(kind=["a"] * 59 + ["b"])
    frame.loc[:, "petal_width"] = [np.nan] * 40 + list(frame.petal_width[40:])
    frame.to_csv(volume / "iris.csv", index=False)
    rows = iris_frame().groupby("species").head(2).assign(kind=["a", "b"] * 3)
    made = lab.Experiment(sample(rows, missing="mean"), TwoMore, rounds=1)
    data = ClientData(made, 0)
    named = dict(zip(made.dataset.feature_names, data.sums().total, strict=True))
    assert named["sepal_length"] > 0
    assert named["kind=a"] == named["kind=b"] == 0  # who is the one 'b' is not told
    assert data.sums().scale().std[made.dataset.numeric.numpy()].all()
    frame.loc[5:, "petal_width"] = np.nan
    frame.loc[:5, "petal_width"] = 1.0
    frame.to_csv(volume / "iris.csv", index=False)
    made = lab.Experiment(sample(rows, missing="mean"), TwoMore, rounds=1)
    with pytest.raises(lab.DatasetError, match=r"'petal_width' of ufmg has values in fewer than 1"):
        ClientData(made, 0).sums()


class TwoMore(Net):
    """For four numbers and a column of two categories."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Linear(6, 3)


def test_with_a_root_the_tables_are_read_here(volume, tmp_path, monkeypatch):
    monkeypatch.delenv("FLAUTIM_LAB_DATA")
    made = lab.Experiment(sample(root=str(volume)), Net, rounds=1)
    assert ClientData(made, 1).rows("train") == 72
    again = Experiment.load(made.save(tmp_path / "kept"))
    assert again.dataset.root == str(volume)
    assert ClientData(again, 0).rows("train") == 48


def test_it_round_trips_and_keeps_the_order_of_its_homes(tmp_path):
    homes = {"zeta": "a.csv", "alfa": "b.csv"}
    frame = iris_frame().groupby("species").head(2)
    made = lab.Experiment(
        lab.HomeDataset(frame, target="species", homes=homes, missing="drop"), Net
    )
    again = Experiment.load(made.save(tmp_path / "kept"))
    assert isinstance(again.dataset, lab.HomeDataset)
    assert list(again.dataset.homes.items()) == list(homes.items())
    assert again.client_names == ("zeta", "alfa")
    assert again.dataset.settings() | {"path": None} == made.dataset.settings()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"clients": 3},
            "the rows stay in 2 homes, each with as many clients; give a multiple of 2, or leave "
            "clients out (it is 3)",
        ),
        ({"partition": lab.by_label(alpha=1.0)}, "dealt out evenly; leave partition out"),
        ({"centralized": True}, "so there is no centralized baseline; use lab.CSVDataset"),
    ],
)
def test_rows_are_not_moved_between_homes(settings, sentence):
    with pytest.raises(lab.DatasetError, match=re.escape(sentence)):
        at_home(**settings)


@pytest.mark.parametrize(
    ("homes", "sentence"),
    [
        ({}, "homes must say where each institution has its table, such as {'ufmg': 'trips.csv'}"),
        (["ufmg"], "homes must say where each institution has its table"),
        ({"ufmg": "/etc/passwd"}, "the home of 'ufmg' must be a relative path on its volume"),
        ({"ufmg": "../ifnmg/iris.csv"}, "must be a relative path on its volume"),
        ({"ufmg": ""}, "must be a relative path on its volume"),
        ({"uf/mg": "a.csv"}, "the name 'uf/mg' of the institution holds a slash"),
    ],
)
def test_a_home_that_is_none(homes, sentence):
    with pytest.raises(lab.ExperimentError, match=re.escape(sentence)):
        lab.HomeDataset(iris_frame(), target="species", homes=homes)


def without(column):
    return lambda frame: frame.drop(columns=column)


def with_text(frame):
    return frame.assign(petal_width="secret")


def with_a_class(frame):
    return frame.assign(species=["secret", *frame.species[1:]])


def with_gaps(frame):
    return frame.assign(petal_width=[np.nan, *frame.petal_width[1:]])


def without_target(frame):
    return frame.assign(species=[None, *frame.species[1:]])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("petal_width"), "the table of ufmg has no column named 'petal_width'"),
        (with_text, "the table of ufmg: column 'petal_width' holds text, and numbers are wanted"),
        (with_a_class, "the target 'species' has classes that the sample does not have, which are"),
        (with_gaps, "column 'petal_width' has missing values; fill them first"),
        (without_target, "the table of ufmg lacks the target 'species' in some rows; fill it in"),
        (lambda frame: frame.assign(petal_width=1e300), "'petal_width' has numbers that are infin"),
        # Without a header line the names of columns are a row.
        (lambda frame: frame.set_axis(["secret", *"abcd"], axis=1), "has no column named 'sepal"),
        (lambda frame: pd.DataFrame({"secret": []}), "cannot be read as the sample is; its owner"),
        (lambda frame: frame.iloc[:1], "the table of ufmg has 1 row that can be used, and"),
    ],
)
def test_a_table_that_is_not_as_the_sample_is(volume, change, sentence):
    frame = pd.read_csv(volume / "iris.csv")
    change(frame).to_csv(volume / "iris.csv", index=False)
    with pytest.raises(lab.DatasetError, match=re.escape(sentence)) as caught:
        sample().rows_at("ufmg")
    assert "secret" not in str(caught.value)  # a value of a row is never told
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", [bool, float])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_sample_of_another_kind_than_the_table_makes_no_value_be_told(volume, kind, task):
    frame = pd.read_csv(volume / "iris.csv").assign(name=["Maria", *["João"] * 59])
    frame.to_csv(volume / "iris.csv", index=False)
    rows = pd.DataFrame({"sepal_length": [1.0, 2, 3, 4], "name": [0, 1, 1, 0]})
    rows["name"] = rows["name"].astype(kind)
    made = lab.HomeDataset(rows, target="name", task=task, homes=HOMES)
    with pytest.raises(lab.DatasetError, match="the table of ufmg: ") as caught:
        made.rows_at("ufmg")
    assert "Maria" not in str(caught.value)


def test_what_a_library_says_is_not_told(volume, monkeypatch):
    def fails(*_):
        raise ValueError("could not convert string to float: 'Maria'")

    monkeypatch.setattr(lab.HomeDataset, "encode", fails)
    with pytest.raises(lab.DatasetError, match="cannot be read as the sample is") as caught:
        sample().rows_at("ufmg")
    assert "Maria" not in str(caught.value)
    (volume / "iris.csv").write_text('Maria,"João\n' * 3)
    with pytest.raises(
        lab.DatasetError, match=r"cannot be read as the sample is|has no col"
    ) as told:
        sample().rows_at("ufmg")
    assert "Maria" not in str(told.value)


def test_the_table_is_the_one_that_was_registered(volume, monkeypatch):
    digest = hashlib.sha256((volume / "iris.csv").read_bytes()).hexdigest()
    monkeypatch.setenv("FLAUTIM_LAB_DATA_HASHES", json.dumps({"iris.csv": digest}))
    assert len(sample().rows_at("ufmg")[1]) == 60
    assert len(sample().rows_at("ifnmg")[1]) == 90  # of which no hash is known
    with open(volume / "iris.csv", "a") as table:
        table.write("5,3,1,0.2,setosa\n")
    with pytest.raises(lab.DatasetError, match="has changed since it was registered, and that one"):
        sample().rows_at("ufmg")


def test_a_table_that_is_not_there(volume):
    (volume / "iris.csv").unlink()
    with pytest.raises(lab.DatasetError, match=r"'iris.csv' is not on the volume of ufmg") as told:
        sample().rows_at("ufmg")
    assert str(volume) not in str(told.value)


def test_rows_with_gaps_are_left_out_where_that_was_said(volume):
    with_gaps(pd.read_csv(volume / "iris.csv")).to_csv(volume / "iris.csv", index=False)
    features, targets = sample(missing="drop").rows_at("ufmg")
    assert len(features) == len(targets) == 59
    features, _ = sample(missing="mean").rows_at("ufmg")
    assert features.isnan().sum() == 1


def test_categories_and_whole_number_classes_are_the_samples(volume):
    rows = pd.DataFrame({"kind": ["a", "b", "c", "a"], "x": [1.0, 2, 3, 4], "y": [2, 5, 7, 2]})
    rows.iloc[[1, 3]].to_csv(volume / "iris.csv", index=False)
    made = lab.HomeDataset(rows, target="y", task="classification", homes={"ufmg": "iris.csv"})
    features, targets = made.rows_at("ufmg")
    assert targets.tolist() == [1, 0]
    assert torch.equal(features, made.features[[1, 3]])
