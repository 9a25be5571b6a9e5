"""A run is read from its records: from its own kernel, and from another."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

import flautim_lab as lab
from flautim_lab.records.event import RunStatus
from flautim_lab.runners.labels import labels
from tests.federations import Net, experiment, iris_frame, same


@pytest.fixture
def finished():
    return lab.run(experiment(name="iris, um")).wait()


def labels_of(*runs):
    return labels([run.record for run in runs])


def elsewhere(run):
    """The run as another kernel sees it."""
    return lab.Run(run._records, run.id)


def test_facts(finished):
    for run in (finished, elsewhere(finished)):
        assert run.name == "iris, um"
        assert (run.round, run.rounds, run.clients) == (3, 3, 4)
        assert str(run.status) == "finished"
        assert run.message == ""
        assert run.plan["threads_per_client"] == 1
        assert run.plan["seed"] == 7
        assert repr(run) == f"<Run {run.id} finished, 3/3 rounds, 00:00:0{repr(run)[-2]}>"
        progress = run.progress()
        assert progress.seconds_left is None
        assert [client.name for client in progress.clients] == [f"client {n}" for n in range(4)]
        assert all(client.rows and client.loss for client in progress.clients)


def test_metrics_are_tidy(finished):
    frame = finished.metrics
    assert list(frame.columns) == ["round", "client", "split", "metric", "value"]
    assert set(frame["round"]) == {1, 2, 3}
    assert set(frame.client.dropna()) == {0, 1, 2, 3}
    assert set(zip(frame.split, frame.metric, strict=True)) == {
        ("train", "loss"),
        ("validation", "loss"),
        ("validation", "accuracy"),
    }
    assert not frame.duplicated(["round", "client", "split", "metric"]).any()
    # The mean over clients is weighted by rows.
    one = frame[(frame["round"] == 3) & (frame.split == "validation") & (frame.metric == "loss")]
    rows = [len(split.validation) for split in finished.experiment.splits]
    clients = one[one.client.notna()].sort_values("client").value.to_numpy()
    mean = one[one.client.isna()].value.item()
    assert mean == pytest.approx((clients * rows).sum() / sum(rows))


def test_the_model_is_the_trained_one(finished):
    model = finished.model()
    assert not model.training
    assert isinstance(model, Net)
    assert not same(model.state_dict(), finished.experiment.build_model().state_dict())
    other = elsewhere(finished).model()
    assert same(model.state_dict(), other.state_dict())


def test_final_numbers(finished):
    frame = finished.metrics
    last = frame[frame.client.isna() & (frame["round"] == 3) & (frame.split == "validation")]
    assert finished.final("accuracy") == last[last.metric == "accuracy"].value.item()
    assert finished.final() == last[last.metric == "loss"].value.item()
    with pytest.raises(lab.RecordsError, match="no measure named 'train accuracy'"):
        finished.final("accuracy", "train")


def test_another_process_finds_model_and_experiment(finished):
    code = (
        "import sys, torch, flautim_lab as lab\n"
        "run = lab.attach(sys.argv[1])\n"
        "print(type(run.model()).__name__, run.experiment.rounds, len(run.metrics))\n"
        "print(float(run.model()(torch.ones(1, 4)).sum()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, finished.id],
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | {"FLAUTIM_LAB_HOME": os.environ["FLAUTIM_LAB_HOME"]},
    )
    lines = out.stdout.splitlines()
    assert lines[0] == f"Net 3 {len(finished.metrics)}", out.stderr
    assert float(lines[1]) == float(finished.model()(torch.ones(1, 4)).sum())


def test_plots(finished):
    figure = finished.plot()
    assert figure.axes
    baseline = lab.run(finished.experiment, centralized=True).wait()
    figure = finished.plot("accuracy", compare=[baseline])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("centralized" in label for label in labels)
    with pytest.raises(lab.ExperimentError, match="no metric named 'acuracy'; did you mean 'accur"):
        finished.plot("acuracy")
    assert lab.compare([finished, baseline]).axes


def test_runs_of_the_same_name_get_labels_that_tell_them_apart(finished):
    again = lab.run(finished.experiment).wait()
    prox = lab.run(finished.experiment.replace(strategy="FedAdam")).wait()
    assert set(labels_of(finished, prox).values()) == {"FedAvg", "FedAdam"}
    slow = lab.run(finished.experiment.replace(lr=0.001), name="other").wait()
    assert set(labels_of(finished, slow).values()) == {
        "iris, um, lr=0.01",
        "other, lr=0.001",
    }
    assert len(set(labels_of(finished, again).values())) == 2


def test_downloads(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert finished.download("model").name == f"{finished.id}-model.safetensors"
    path = finished.download("metrics", tmp_path / "sub" / "m.csv")
    assert len(pd.read_csv(path)) == len(finished.metrics)
    assert "FINISHED" in finished.download("log").read_text()
    assert finished.download("plot").read_bytes()[:4] == b"\x89PNG"
    assert '"rounds": 3' in finished.download("experiment").read_text()
    with pytest.raises(lab.RecordsError, match=r"m.csv exists; choose another name, or remove it"):
        finished.download("metrics", path)
    assert finished.download("log", "new/").parent.name == "new"
    with pytest.raises(lab.ExperimentError, match="no download named 'weights'"):
        finished.download("weights")
    (tmp_path / "file").write_text("")
    with pytest.raises(lab.RecordsError, match="cannot write"):
        finished.download("log", tmp_path / "file" / "x")


def test_logs(finished):
    lines = finished.logs().splitlines()
    assert "RUNNING" in lines[0]
    assert "FINISHED" in lines[-1]
    assert finished.logs(last=1) == lines[-1]
    assert finished.logs(last=0) == ""
    assert finished.logs(client="client 2") == finished.logs(client=2)
    with pytest.raises(lab.RecordsError, match="no client named 'north'; choose one of: client 0"):
        finished.logs(client="north")
    with pytest.raises(lab.RecordsError, match="has no client 9; its clients are 0 to 3"):
        finished.logs(client=9)


def test_a_run_without_a_model_yet_says_so():
    run = lab.run(experiment(rounds=100_000))
    with pytest.raises(lab.RecordsError, match="has no model yet; wait for it"):
        run.model()
    while run.round < 1:
        pass
    progress = run.progress()
    assert progress.seconds_left > 0
    run.stop().wait()


def test_a_run_that_ends_while_it_is_read_is_not_half_old(finished, monkeypatch):
    read = finished._records.run
    here, finished._here.outcome = finished._here, None
    earlier = dataclasses.replace(read(finished.id), status=RunStatus.RUNNING, round=1)

    def ends_meanwhile(_run_id):
        here.outcome = (RunStatus.FINISHED, "")
        return earlier

    monkeypatch.setattr(finished._records, "run", ends_meanwhile)
    record = finished.record
    assert (str(record.status), record.round) == ("running", 1)
    monkeypatch.setattr(finished._records, "run", read)
    assert (str(finished.status), finished.round) == ("finished", 3)


def test_wait_tells_observers_and_the_terminal(finished, monkeypatch):
    seen = []
    run = lab.run(experiment())
    run.on_wait.append(seen.append)
    run.wait()
    assert str(seen[-1].status) == "finished"
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(lab.Run, "observer_factories", [])
    elsewhere(finished).wait()
    assert "finished: round 3/3, 00:00:0" in terminal.getvalue()


def test_a_model_whose_source_cannot_be_kept_still_trains(home):
    maker = eval("lambda: Net(3)", {"Net": Net})
    run = lab.run(experiment(maker)).wait()
    assert run.model()
    with pytest.raises(lab.BundleError, match="was not kept"):
        elsewhere(run).model()
    with pytest.raises(lab.BundleError):
        _ = elsewhere(run).experiment


def test_the_table_of_a_frame_is_kept_beside_the_run(finished):
    kept = elsewhere(finished).experiment
    assert kept.dataset.frame.equals(lab.CSVDataset(iris_frame(), target="species").frame)
