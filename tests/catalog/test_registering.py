"""From a file to a version in the catalog, and back to a dataset: real rows, or made-up ones."""

import pandas as pd
import pytest
import torch

import flautim_lab as lab
from flautim_lab.catalog.made_up import made_up_rows
from flautim_lab.catalog.registering import schema_of
from flautim_lab.catalog.things import Column

TRIPS = """speed;road;stops;electric;note;energy
10,5;city;3;True;first trip;1,5
80;highway;0;False;second trip;3,25
30;city;2;True;third trip;2
55;highway;1;False;;2,75
"""


@pytest.fixture
def trips(tmp_path):
    path = tmp_path / "trips.csv"
    path.write_text(TRIPS)
    return path


@pytest.fixture
def catalog(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(tmp_path / "home"))
    return lab.open_catalog()


def test_a_schema_tells_kinds_ranges_and_categories_and_no_rows(trips):
    schema = schema_of(trips)
    assert schema.rows == 4
    assert schema.columns == (
        Column("speed", "number", low=10.5, high=80.0),
        Column("road", "text", values=("city", "highway")),
        Column("stops", "integer", low=0.0, high=3.0),
        Column("electric", "boolean"),
        Column("note", "text", missing=True),
        Column("energy", "number", low=1.5, high=3.25),
    )


def test_is_registered_with_its_hash(catalog, trips):
    version = lab.register_dataset("local", trips, target="energy")
    assert version.ref == "local/trips@1"
    assert lab.register_dataset("local", trips, target="energy").number == 1
    trips.write_text(TRIPS + "1;city;1;True;x;1\n")
    second = lab.register_dataset("local", trips, target="energy", name="Trips")
    assert (second.number, second.rows) == (2, 5)


def test_the_target_must_be_a_column(catalog, trips):
    with pytest.raises(lab.DatasetError, match="did you mean 'energy'"):
        lab.register_dataset("local", trips, target="enrgy")


def test_real_rows_are_those_of_the_file(catalog, trips):
    lab.register_dataset("local", trips, target="energy")
    data = lab.dataset("local/trips", rows="real", ignore=["note"])
    assert isinstance(data, lab.CSVDataset)
    assert data.targets.tolist() == [1.5, 3.25, 2.0, 2.75]


def test_a_file_that_changed_is_refused(catalog, trips):
    lab.register_dataset("local", trips, target="energy")
    trips.write_text(TRIPS.replace("10,5", "11,5"))
    with pytest.raises(
        lab.DatasetError, match=r"has changed since local/trips@1 .*; a data owner of local may"
    ):
        lab.dataset("local/trips", rows="real")


def test_a_file_that_is_elsewhere_is_refused(catalog, trips):
    lab.register_dataset("local", trips, target="energy")
    trips.unlink()
    with pytest.raises(lab.DatasetError, match="not on this machine"):
        lab.dataset("local/trips", rows="real")
    assert len(lab.dataset("local/trips", missing="drop", ignore=["note"]).frame) == 4


def test_made_up_rows_follow_the_schema_and_are_always_the_same(catalog, trips):
    version = lab.register_dataset("local", trips, target="energy")
    rows = made_up_rows(version)
    pd.testing.assert_frame_equal(rows, made_up_rows(version))
    assert list(rows) == ["speed", "road", "stops", "electric", "note", "energy"]
    assert rows["speed"].between(10.5, 80).all()
    assert set(rows["road"]) == {"city", "highway"}
    assert rows["stops"].between(0, 3).all()
    assert rows["electric"].dtype == bool
    assert rows["note"].isna().any()
    assert not set(rows["note"].dropna()) & {"first trip", "second trip", "third trip"}


def test_made_up_rows_train_a_model(catalog, trips):
    lab.register_dataset("local", trips, target="road")
    data = lab.dataset("local/trips", missing="mean", ignore=["note"])
    assert data.classes == ("city", "highway")
    assert torch.isfinite(data.features).all()


OWN = """
import pandas as pd, torch
from torch.utils.data import Dataset

class Trips(Dataset):
    def __init__(self, path, scale=1.0):
        table = pd.read_csv(path, sep=None, engine="python")
        self.x = torch.tensor(table["stops"].to_numpy(), dtype=torch.float32)[:, None] * scale
        self.targets = torch.tensor(table["stops"].to_numpy(), dtype=torch.float32)
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.targets[i]
"""


def test_a_dataset_may_have_a_class_of_its_own(catalog, trips):
    version = lab.register_dataset("local", trips, target="energy", source=OWN)
    assert version.class_name == "Trips"
    real = lab.dataset("local/trips", rows="real", scale=2.0)
    assert real.x[:, 0].tolist() == [6.0, 0.0, 4.0, 2.0]
    assert len(lab.dataset("local/trips")) == 4
    with pytest.raises(lab.DatasetError, match=r"Trips\(path\)"):
        lab.dataset("local/trips", rows="real", scales=2.0)


def test_source_that_fails_is_one_sentence(catalog, trips):
    source = "class Trips(Dataset): ..."
    lab.register_dataset("local", trips, target="energy", source=source)
    with pytest.raises(lab.DatasetError, match="source of local/trips@1 fails: NameError"):
        lab.dataset("local/trips")


def test_on_the_volume_of_a_data_owner_it_is_known_by_its_path_there(catalog, trips, monkeypatch):
    monkeypatch.setenv("FLAUTIM_LAB_DATA_VOLUME", str(trips.parent))
    (trips.parent / "2026").mkdir()
    moved = trips.rename(trips.parent / "2026" / "trips.csv")
    version = lab.register_dataset("local", moved, target="energy", name="Trips")
    assert version.path == "2026/trips.csv"
    real = lab.dataset("local/trips", rows="real", missing="drop")
    assert real.features.shape[0] == 3
    monkeypatch.delenv("FLAUTIM_LAB_DATA_VOLUME")
    with pytest.raises(lab.DatasetError, match="run where they live"):
        lab.dataset("local/trips", rows="real")
