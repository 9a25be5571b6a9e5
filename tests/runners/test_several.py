"""Several runs: in what they differ, and in the forms of other tools."""

from __future__ import annotations

import csv
import importlib
import logging
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from torch import nn

import flautim_lab as lab
from flautim_lab.errors import ExperimentError, RecordsError, RunNotFoundError, UsageError
from flautim_lab.home import home
from flautim_lab.runners.differences import Difference
from flautim_lab.runners.export import summary_of
from flautim_lab.runners.rerun.batch import Entry
from flautim_lab.runners.several import given
from flautim_lab.runners.stamp import stamp

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


def make(model: type[nn.Module] = Narrow, rows: pd.DataFrame | Path = ROWS, **settings) -> lab.Run:
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
    assert (found.code, found.code_in_words) == ("", "the same code\n")
    assert len(found.table) == 0
    assert "the same settings, data, code and versions" in repr(found)
    one, two = found.results.loc["validation_loss"]
    assert one == two == first.final()


def test_settings_data_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ROWS.assign(x=ROWS["x"] + 1).to_csv(tmp_path / "other.csv", index=False)

    def imported(folder: str, source: str) -> type[nn.Module]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own_net.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path / folder)
        monkeypatch.delitem(sys.modules, "own_net", raising=False)
        return importlib.import_module("own_net").Net

    first = make(imported("one", WIDE))
    other = make(
        imported("two", WIDE.replace("3)", "3, unused=None)")),
        tmp_path / "other.csv",
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
    before, after = by_name["data", "sha256 of the rows"]
    assert len(before) == 16
    assert after.endswith(" (other.csv)")
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
    for one in (first, [first, first.id, "last"]):
        with pytest.raises(
            ExperimentError, match="one run differs from nothing; give at least two"
        ):
            lab.differences(one)
    with pytest.raises(ExperimentError, match="there is no run to compare; give at least two"):
        lab.differences([])
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


# --- which runs are meant ---------------------------------------------------------------------


def batch_of(folder: Path, *stamps: dict[str, object]) -> lab.Batch:
    (folder / "points").mkdir(parents=True)
    entries = [Entry(n, {}, str(n), f"{n}.ipynb") for n in range(1, len(stamps) + 1)]
    for entry, facts in zip(entries, stamps, strict=True):
        path = folder / "points" / entry.name
        nbformat.write(nbformat.v4.new_notebook(), path)
        stamp(path, facts)
    batch = lab.Batch(folder, "a.ipynb", [], entries)
    batch.write()
    return lab.Batch.read(folder)


def test_batches_and_executed_notebooks_stand_for_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make(), make()
    monkeypatch.chdir(tmp_path)
    batch = batch_of(
        tmp_path / "grid",
        {"run": one.id, "runs": [two.id, one.id], "status": "finished"},
        {"run": two.id, "status": "failed"},
    )
    ids = [one.id, two.id]
    for source in (batch, "grid", "./grid", tmp_path / "grid", [one, batch], [batch, two.id]):
        assert [run.id for run in given(source, "export")] == ids
    assert [run.id for run in given("grid/points/1.ipynb", "export")] == ids[::-1]
    assert [run.id for run in lab.differences(batch).runs] == ids
    assert lab.compare(tmp_path / "grid").axes
    Path(one.id).mkdir()  # a run goes before a folder of its name
    assert [run.id for run in given(one.id, "export")] == [one.id]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("plain", "'plain' is a folder, but not one of a batch; give the folder that flautim-lab "),
        ("./none", "'none' is neither a file nor a folder; give a run, or the folder that "),
        ("grid/points", "'grid/points' is only a part of a batch; give its parent, HERE/grid"),
        ("grid/summary.csv", "'grid/summary.csv' is only a part of a batch; give its parent, HERE"),
        ("plain/a.csv", "'plain/a.csv' is a file, but no executed notebook; give a run"),
        ("plain/a.ipynb", "'plain/a.ipynb' has no stamp of an execution"),
        ("grid/points/2.ipynb", "'grid/points/2.ipynb' made no run"),
        ("grid", "no point of the batch in HERE/grid made a run (1 failed, 1 finished); "),
        (
            "moved",
            "the runs of the batch in HERE/moved are in other records, /far/records; set "
            "FLAUTIM_LAB_HOME to that folder",
        ),
        ("here", "run r9 of the batch in HERE/here is not in the records any more"),
    ],
)
def test_paths_without_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    batch_of(tmp_path / "grid", {"status": "failed"}, {"status": "finished"})
    Path("grid/summary.csv").write_text("")
    batch_of(tmp_path / "moved", {"run": "r9", "environment": {"home": "/far/records"}})
    batch_of(tmp_path / "here", {"run": "r9", "environment": {"home": str(home())}})
    Path("plain").mkdir()
    Path("plain/a.csv").write_text("")
    nbformat.write(nbformat.v4.new_notebook(), "plain/a.ipynb")
    with pytest.raises((ExperimentError, RunNotFoundError)) as refused:
        given(source, "export")
    assert str(refused.value).startswith(message.replace("HERE", str(tmp_path)))


def test_a_batch_with_one_run(first: lab.Run, tmp_path: Path) -> None:
    stamps = [{"run": first.id, "status": "finished"}, {"status": "failed"}, {"status": "died"}]
    batch = batch_of(tmp_path / "grid", *stamps)
    with pytest.raises(
        ExperimentError, match=r"nothing \(2 of 3 points in \S*grid did not finish\)"
    ):
        lab.differences(batch)


# --- other tools ------------------------------------------------------------------------------


def test_tables(first: lab.Run, tmp_path: Path) -> None:
    second = make(name="=2+2", strategy="FedProx", strategy_args={"proximal_mu": 0.5})
    place = lab.export([first, second], tmp_path / "all.csv")
    assert place == str(tmp_path / "all.csv")
    with open(place, newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        "run", "name", "round", "client", "client_name", "split", "metric", "value",
    ]  # fmt: skip
    names = first.record.settings["client_names"]
    assert {(line["client"], line["client_name"]) for line in lines} == {
        ("", ""), ("0", names[0]), ("1", names[1]),
    }  # fmt: skip
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
    assert table.loc[first.id, "created"].endswith("+00:00")
    assert not any(value.isna().all() for _, value in summary_of([first]).items())
    with pytest.raises(UsageError, match=r"'a\.txt'; end its name in \.csv or \.parquet"):
        lab.export(first, tmp_path / "a.txt")
    with pytest.raises(UsageError, match="choose one of: metrics, runs"):
        lab.export(first, tmp_path / "a.csv", what="weights")
    for target, shown in ((None, "None"), (3, "int"), ("", "''")):
        with pytest.raises(UsageError, match=rf"goes to a file that ends in .*, not to {shown}$"):
            lab.export(first, target)


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
    names = first.record.settings["client_names"]
    assert there.data.tags["flautim_lab.client_names"] == f"0: {names[0]}, 1: {names[1]}"
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


def test_addresses_that_are_no_store(first: lab.Run, tmp_path: Path) -> None:
    for uri, message in (
        (f"file://{tmp_path}", r"give sqlite:///mlflow\.db"),
        ("file:mlruns", r"give sqlite:///mlflow\.db"),
        ("sqlit:///x.db", "no kind of MLflow store named 'sqlit'; did you mean 'sqlite'"),
        ("nothing://ana:secret@here", "no kind of MLflow store named 'nothing'; choose one of: sq"),
        ("sqlite://x.db", "'sqlite://x.db' names no file; give sqlite:///FILE"),
        ("sqlite:///", "names no file"),
        ("sqlite//x.db", "'sqlite//x.db' is neither a table nor an MLflow store; .* sqlite:///ml"),
        ("localhost:5000", "is neither a table nor an MLflow store"),
    ):
        with pytest.raises(UsageError, match=message) as refused:
            lab.export(first, uri)
        assert "secret" not in str(refused.value)


def test_stores_that_take_nothing(first: lab.Run, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "no.db").write_text("no database")
    (tmp_path / "folder.db").mkdir()
    level = logging.getLogger("mlflow").level
    start = time.monotonic()
    for uri, message in (
        (
            f"sqlite:///{tmp_path}/no.db",
            r"no\.db cannot be used: file is not a database; choose another",
        ),
        (f"sqlite:///{tmp_path}/folder.db", r"folder\.db is a folder, not an SQLite file; choose"),
        (f"sqlite:///{tmp_path}/none/a.db", "none does not exist; make it, or choose another"),
        (f"sqlite:///{tmp_path}/no.db/a.db", r"no\.db is a file, not a folder; choose another"),
        ("sqlite:////proc/a.db", r"unable to open database file; give sqlite:///FILE or the addr"),
        (f"sqlite:///{home()}/records.db", r"records\.db is the database of another program; choo"),
        (
            "postgresql+psycopg://ana:secret@127.0.0.1:1/x",
            r"^MLflow at postgresql\+psycopg://ana:\*\*\*@127\.0\.0\.1:1/x did not take the runs: ",
        ),
    ):
        with pytest.raises(RecordsError, match=message) as refused:
            lab.export(first, uri)
        said = str(refused.value)
        assert not any(words in said for words in ("secret", "\n", "sqlalche.me", "[SQL"))
    assert time.monotonic() - start < 20  # MLflow itself would try for minutes
    assert logging.getLogger("mlflow").level == level
