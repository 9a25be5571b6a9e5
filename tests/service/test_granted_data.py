"""Rows of two institutions, read by a run through the service: only once they were granted."""

from __future__ import annotations

import json

import pytest

import flautim_lab as lab
from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.schema import CatalogDatabase
from flautim_lab.catalog.things import Answer, Role
from tests.catalog.conftest import run_id
from tests.federations import Net, iris_frame, same
from tests.service.conftest import INSTITUTIONS
from tests.service.test_dispatch import PATIENCE, service, wait_for

__all__ = ["service"]
pytestmark = pytest.mark.measures_children
PATHS = {"ufmg": "iris.csv", "ifnmg": "2026/iris.csv"}
REFS = ("ufmg/iris", "ifnmg/iris")
NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, x):
        return self.layers(x)
"""


@pytest.fixture
def volumes(tmp_path, institutions):
    """A volume of each institution, which only its own workers see."""
    told = {key: each | {"data": "tables", "fewest_rows": 11} for key, each in INSTITUTIONS.items()}
    institutions.write_text(json.dumps(told))
    frame, folders = iris_frame(), {}
    for key, rows in (("ufmg", slice(0, None, 2)), ("ifnmg", slice(1, None, 2))):
        path = tmp_path / "volumes" / key / PATHS[key]
        path.parent.mkdir(parents=True)
        frame.iloc[rows].to_csv(path, index=False)
        folders[INSTITUTIONS[key]["namespace"]] = str(tmp_path / "volumes" / key)
    (tmp_path / "volumes.json").write_text(json.dumps(folders))
    return tmp_path / "volumes"


@pytest.fixture
def owner(volumes, service, tmp_path):
    """The catalog as bruno has it, who owns both institutions' data; ana has a project."""
    database = CatalogDatabase(f"sqlite:///{tmp_path / 'service' / 'catalog.db'}", 20.0)
    root = LocalCatalog(database, Actor("root", platform_admin=True))
    bruno = LocalCatalog(database, Actor("bruno"))
    for key, path in PATHS.items():
        root.set_roles(key, "bruno", [Role.DATA_OWNER])
        schema = lab.register_dataset(  # as its owner, who has the volume: for its schema
            key, volumes / key / path, target="species", name="Iris", catalog=bruno
        )
        bruno.add_dataset_version(
            key,
            "Iris",
            columns=schema.columns,
            target="species",
            rows=schema.rows,
            sha256=schema.sha256,
            path=path,
        )
        bruno.change_dataset(f"{key}/iris", published=True)
    lab.open_catalog().add_project("ufmg", "Flowers")
    yield bruno
    database.close()


def save(model=NET, **settings):
    catalog = lab.open_catalog()
    net = catalog.save_model("ufmg/flowers", "Net", source=model, class_name="Net")
    return catalog.save_experiment(
        "ufmg/flowers",
        "Irises",
        model=net.ref,
        dataset=REFS[0],
        more_datasets=REFS[1:],
        settings={"rounds": 3, "clients": 4, "seed": 7, "validation": 0.3} | settings,
    )


def test_a_run_reads_rows_of_another_institution_once_their_owner_said_yes(owner, service, volumes):
    catalog, version = lab.open_catalog(), save()
    with pytest.raises(lab.NotAllowedError, match="ifnmg/iris@2 is not granted to project ufmg/fl"):
        lab.run_saved(version.ref, on="cluster")
    # By hand, too, past what the notebook checks; and with code that nobody has read.
    made = lab.saved_experiment(version.ref)
    here = lab.Cluster(project="ufmg/flowers")
    with pytest.raises(lab.ClusterError, match="ifnmg/iris is not granted to project ufmg/flowers"):
        lab.run(made, on=here)
    request = catalog.ask_grant("ifnmg/iris", "ufmg/flowers", experiment=version.ref)
    assert owner.grant_request(request.id).code.files == {"model.py": NET}
    owner.answer_request(request.id, Answer.THIS_CODE)
    other = lab.Experiment(lab.home_dataset(*REFS), Net, rounds=1)
    with pytest.raises(lab.ClusterError, match=r"ifnmg/iris is not granted .* for this code"):
        lab.run(other, on=here)
    ana = LocalCatalog(owner._database, Actor("ana", institutions=frozenset({"ufmg"})))
    with pytest.raises(lab.NotAllowedError, match="let its column 'species' be learned, and the"):
        ana.admit_run(run_id(1), "ufmg/flowers", PATHS, request.code_hash, "petal_width")
    with pytest.raises(lab.ExperimentError, match="who grant them to a project; say which"):
        lab.run(made, on="cluster")
    with pytest.raises(lab.ExperimentError, match="run it there, with on='cluster'"):
        lab.run_saved(version.ref, on="local")
    assert not service.cluster.living()
    assert not (service.cluster.root / "server").exists()  # no pod was ever made

    run = lab.run_saved(version.ref, on="cluster").wait(timeout_seconds=PATIENCE)
    assert str(run.status) == "finished"
    assert catalog.run(run.id).more_datasets == ("ifnmg/iris@2",)
    # The same as on one machine that has both tables: so these rows it was, dealt out like this.
    both = volumes / "both"
    for key, path in PATHS.items():
        (both / path).parent.mkdir(parents=True, exist_ok=True)
        (both / path).write_bytes((volumes / key / path).read_bytes())
    rehearsal = lab.saved_experiment(version.ref)
    rehearsal.dataset.root = str(both)
    assert same(lab.run(rehearsal).wait().model().state_dict(), run.model().state_dict())
    (use,) = owner.uses("ifnmg").items
    assert (use.run_id, use.dataset, use.started_by) == (run.id, "ifnmg/iris@2", "ana")
    wait_for(lambda: owner.uses("ifnmg").items[0].ended, "its end is noted")
    assert [each.action for each in owner.audit("ifnmg").items[:2]] == ["ran", "granted"]


@pytest.mark.chaos
def test_a_data_owner_stops_a_run_that_reads_the_data(owner, service):
    owner.give_grant("ifnmg/iris", "ufmg/flowers")
    run = lab.run_saved(save(rounds=100_000).ref, on="cluster")
    wait_for(lambda: run.round >= 1, "a round")
    lab.open_catalog().end_run(run.id)  # its owner cannot hide it
    assert owner.uses("ifnmg").items[0].ended is None
    owner.stop_use(run.id)
    run.wait(timeout_seconds=PATIENCE)
    assert str(run.status) == "stopped"
    assert lab.open_catalog().run(run.id).stop_asked_by == "bruno"
    wait_for(lambda: not service.cluster.living(), "its pods are gone")
    wait_for(lambda: owner.uses("ifnmg").items[0].ended, "its end is noted")
