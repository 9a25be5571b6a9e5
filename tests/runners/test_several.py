"""Several runs: in what they differ, and in the forms of other tools."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

import flautim_lab as lab
from flautim_lab.errors import ExperimentError, RecordsError, UsageError
from flautim_lab.runners.differences import Difference

ROWS = pd.DataFrame({"x": range(24), "kind": ["low"] * 12 + ["high"] * 12})


class Narrow(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(1, 2))


WIDE = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self, hidden=3):
        super().__init__(nn.Linear(1, hidden), nn.Linear(hidden, 2))
"""


def make(model: type[nn.Module] = Narrow, rows: pd.DataFrame = ROWS, **settings) -> lab.Run:
    chosen = {"name": "halves", "clients": 2, "rounds": 2, "lr": 0.1, "seed": 7, **settings}
    experiment = lab.Experiment(lab.CSVDataset(rows, target="kind"), model, **chosen)
    return lab.run(experiment).wait()


@pytest.fixture
def first() -> lab.Run:
    return make()


# --- in what they differ ----------------------------------------------------------------------


def test_runs_that_differ_in_nothing(first: lab.Run) -> None:
    found = lab.differences([first, make().id])
    assert found.found == ()
    assert found.code == ""
    assert len(found.table) == 0
    assert "the same settings, data, code and versions" in repr(found)
    one, two = found.results.loc["validation_loss"]
    assert one == two == first.final()


def test_settings_data_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ROWS.assign(x=ROWS["x"] + 1)

    def imported(folder: str, source: str) -> type[nn.Module]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own_net.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path / folder)
        monkeypatch.delitem(sys.modules, "own_net", raising=False)
        return importlib.import_module("own_net").Net

    first = make(imported("one", WIDE))
    other = make(
        imported("two", WIDE.replace("3)", "3, unused=None)")),
        rows,
        lr=0.2,
        strategy="FedProx",
        strategy_args={"proximal_mu": 0.5},
        optimizer="Adam",
        model_args={"hidden": 4},
    )
    found = lab.differences([first, other])
    by_name = {(one.kind, one.name): one.values for one in found.found}
    assert by_name["setting", "lr"] == ("0.1", "0.2")
    assert by_name["setting", "strategy"] == ("FedAvg", "FedProx")
    assert by_name["setting", "strategy_args.proximal_mu"] == ("", "0.5")
    assert by_name["setting", "model_args.hidden"] == ("", "4")
    before, after = by_name["data", "sha256"]
    assert before != after
    assert ("data", "rows") not in by_name
    assert {kind for kind, _ in by_name} == {"setting", "data", "code"}
    assert by_name["code", "own_net.py"] == ("6 lines", "6 lines: +1 -1")
    assert "-    def __init__(self, hidden=3):\n" in found.code
    assert "+    def __init__(self, hidden=3, unused=None):\n" in found.code
    assert f"+++ {other.id}/own_net.py" in found.code
    assert found.plot("accuracy").axes
    text, html = repr(found), found._repr_html_()
    for words in ("strategy_args.proximal_mu", first.id, "at the end"):
        assert words in text
    assert "<table" in html
    assert list(found.table.columns) == ["kind", "name", first.id, other.id]


def test_one_run_or_none(first: lab.Run) -> None:
    with pytest.raises(ExperimentError, match="give at least two"):
        lab.differences(first)
    with pytest.raises(ExperimentError, match="no run to export"):
        lab.export([], "a.csv")
    with pytest.raises(ExperimentError, match=r"lab\.export takes runs or their ids, not int"):
        lab.export([3], "a.csv")


def test_versions_and_numerics(first: lab.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make()
    plan = first.plan
    plans = {first.id: plan, other.id: {**plan, "torch": "1.0", "cpu_capability": "NONE"}}
    monkeypatch.setattr(lab.Run, "plan", property(lambda run: plans[run.id]))
    found = lab.differences([first, other]).found
    assert [(one.kind, one.name, one.values[1]) for one in found] == [
        ("version", "torch", "1.0"),
        ("numerics", "cpu_capability", "NONE"),
    ]
    assert isinstance(found[0], Difference)


# --- other tools ------------------------------------------------------------------------------


def test_tables(first: lab.Run, tmp_path: Path) -> None:
    second = make(name="=2+2", strategy="FedProx", strategy_args={"proximal_mu": 0.5})
    place = lab.export([first, second], tmp_path / "all.csv")
    assert place == str(tmp_path / "all.csv")
    with open(place, newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["run", "name", "round", "client", "split", "metric", "value"]
    assert len(lines) == len(first.metrics) + len(second.metrics)
    assert {line["name"] for line in lines} == {"halves", "'=2+2"}
    total = [
        line for line in lines
        if (line["run"], line["client"], line["split"], line["metric"])
        == (first.id, "", "validation", "loss")
    ]  # fmt: skip
    assert float(total[-1]["value"]) == first.final()

    lab.export(lab.runs(), tmp_path / "runs.csv", what="runs")
    table = pd.read_csv(tmp_path / "runs.csv").set_index("run")
    assert table.loc[first.id, "validation_loss"] == first.final()
    assert table.loc[second.id, "strategy_args.proximal_mu"] == 0.5
    assert table.loc[first.id, ["status", "rounds", "seed"]].tolist() == ["finished", 2, 7]
    with pytest.raises(UsageError, match=r"'a\.txt'; end its name in \.csv or \.parquet"):
        lab.export(first, tmp_path / "a.txt")
    with pytest.raises(UsageError, match="choose one of: metrics, runs"):
        lab.export(first, tmp_path / "a.csv", what="weights")


def test_mlflow(first: lab.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    uri = "sqlite:///runs/mlflow.db"
    (tmp_path / "runs").mkdir()
    second = make(lr=0.2)
    for _ in range(2):  # what is exported twice is there once
        assert lab.export([first, second], uri) == uri
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("halves")
    found = client.search_runs([experiment.experiment_id], "params.lr = '0.1'")
    assert [run.data.tags["flautim_lab.run"] for run in found] == [first.id]
    assert len(client.search_runs([experiment.experiment_id])) == 2
    (there,) = found
    assert there.info.status == "FINISHED"
    assert there.info.run_name == first.id
    assert there.data.params["strategy"] == "FedAvg"
    assert there.data.metrics["validation_loss"] == first.final()
    curve = client.get_metric_history(there.info.run_id, "train_loss/client 1")
    frame = first.metrics.query("client == 1 and split == 'train' and metric == 'loss'")
    assert [point.step for point in curve] == list(frame["round"]) == [1, 2]
    assert [point.value for point in curve] == list(frame["value"])
    files = {item.path for item in client.list_artifacts(there.info.run_id)}
    assert files == {"model.safetensors", "metrics.csv", "run.log", "experiment"}
    kept = tmp_path / "runs" / "mlartifacts"
    assert any(kept.rglob("experiment.json"))
    assert not any(kept.rglob("dataset.csv"))  # rows stay where they are
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "runs"]


def test_mlflow_gets_what_is_new_of_a_run_that_goes_on(
    first: lab.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    from flautim_lab.records.event import RunStatus
    from flautim_lab.records.recorder import Recorder
    from flautim_lab.records.store import Records

    records = Records.default()
    records.create_run(
        "r1", name="going on", runner="local", rounds=2, clients=1, settings={}, plan={}
    )
    recorder = Recorder(records, "r1")
    recorder.status(RunStatus.RUNNING)
    recorder.metric(1, -1, "train", "loss @ 5%", 0.5)
    recorder.metric(1, -1, "train", "worst", float("nan"))
    recorder.flush()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    lab.export("r1", uri)
    client = mlflow.MlflowClient(uri)
    number = client.get_experiment_by_name("going on").experiment_id
    (there,) = client.search_runs([number])
    assert there.info.status == "RUNNING"
    recorder.metric(2, -1, "train", "loss @ 5%", 0.25)
    recorder.status(RunStatus.STOPPED)
    recorder.close()
    lab.export("r1", uri)
    (there,) = client.search_runs([number])
    assert there.info.status == "KILLED"
    curve = client.get_metric_history(there.info.run_id, "train_loss _ 5_")
    assert [(point.step, point.value) for point in curve] == [(1, 0.5), (2, 0.25)]


def test_stores_that_mlflow_refuses(first: lab.Run, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    with pytest.raises(UsageError, match=r"give sqlite:///mlflow\.db"):
        lab.export(first, f"file://{tmp_path}")
    with pytest.raises(RecordsError, match=r"^MLflow at nothing://ana:\*\*\*@here ") as refused:
        lab.export(first, "nothing://ana:secret@here")
    assert "secret" not in str(refused.value)
    (tmp_path / "no.db").write_text("no database")
    with pytest.raises(RecordsError, match="did not take the runs"):
        lab.export(first, f"sqlite:///{tmp_path}/no.db")
