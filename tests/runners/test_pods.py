"""Server and workers as their pods run them, and the watch that follows: all but the cluster.

The processes, the mounts, TLS, keys, records and the watch are the real ones; what stands in for
Kubernetes are folders where it would mount volumes, and a socket where it would forward a port.
``tests/cluster`` has the rest.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import os
import shutil
import sqlite3
import tarfile
import threading
import time
from pathlib import Path

import pytest

import flautim_lab as lab
from flautim_lab.errors import ClusterError
from flautim_lab.records.store import Records
from flautim_lab.runners import cluster_watch
from flautim_lab.runners.cluster import Cluster, ClusterRun
from flautim_lab.runners.cluster_line import Line
from flautim_lab.runners.cluster_watch import ClusterWatch
from flautim_lab.runners.pod_files import pack
from tests.federations import DropoutNet, Net, experiment, iris_frame, same
from tests.folders import Folders

pytestmark = pytest.mark.measures_children
PATIENCE = 150


@pytest.fixture
def folders(tmp_path, monkeypatch):
    made = Folders(tmp_path / "cluster")
    monkeypatch.setattr("flautim_lab.pods.api.Api", lambda context: made)
    yield made
    made.end()


def start(made, folders, plan=None, **settings):
    """What ``lab.run`` does, with the watch left to the caller."""
    records = Records.default()
    run_id = f"r20261125-000000-test-{os.urandom(4).hex()}"
    pods = ClusterRun(records.folder(run_id))
    pods.prepare(run_id, pack(made), len(made.splits), Cluster(**settings))
    made.save(pods.folder.run_folder / "experiment")
    records.create_run(
        run_id,
        name=made.name,
        runner="cluster",
        rounds=made.rounds,
        clients=len(made.splits),
        settings={},
        plan={},
        detached=True,
    )
    if plan is not None:
        plan(lab.Run(records, run_id, made).chaos)
    pods.make(folders)
    return lab.Run(records, run_id, made), pods


@pytest.mark.chaos
def test_as_pods_it_ends_with_the_kernels_bits_whatever_dies(folders, monkeypatch):
    made = experiment(DropoutNet, rounds=12, clients=5, strategy="FedAdam")
    expected = lab.run(made).wait()
    run, pods = start(made, folders, workers={"here": 1, "there": 1})
    watch = ClusterWatch(pods)
    hits = {2: "server", 4: "client-5", 6: "server"}

    polled = watch._poll

    def poll(line):
        outcome = polled(line)
        for round_number in list(hits):
            if run.round >= round_number:
                folders.kill(hits.pop(round_number))
        return outcome

    monkeypatch.setattr(watch, "_poll", poll)
    watch.run()
    assert not hits
    assert (str(run.status), run.message) == ("finished", "")
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)  # nothing lost, nothing doubled
    assert "the server goes on after round" in run.logs()
    assert run.predict(made.dataset.features).equal(expected.predict(made.dataset.features))
    assert folders.removed
    # The workers were told that the run has ended, and ended by themselves.
    assert {folders.processes[f"client-{slot}"].returncode for slot in (0, 5)} == {0}
    left = {path.name for path in pods.folder.path.rglob("*") if path.is_file()}
    assert not {n for n in left if n.endswith((".key", ".pem", ".pub", ".pid", ".gz"))}
    assert "token" not in left


@pytest.mark.chaos
def test_what_is_planned_before_the_start_goes_with_the_pods(folders, monkeypatch):
    monkeypatch.setattr(cluster_watch, "LOOK_AT_JOB_SECONDS", 0.5)
    made = experiment(DropoutNet, rounds=6, clients=3, strategy="FedAdam")
    expected = lab.run(made).wait()

    def plan(chaos):
        chaos.kill("server", round=2, during="aggregating")
        chaos.kill("server", round=4, during="storing")
        with pytest.raises(lab.ExperimentError, match="on a cluster only the server can be killed"):
            chaos.kill("client-0", round=2)

    run, pods = start(made, folders, plan, workers=1)
    ClusterWatch(pods).run()
    assert str(run.status) == "finished"
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)
    assert list(run.faults["round"]) == [2, 4]
    assert run.faults.recovery_seconds.notna().all()


@pytest.mark.chaos
def test_a_server_that_was_away_for_long_goes_on(folders):
    # Nobody else records a pod's sign of life: its own records call the run interrupted meanwhile.
    made = experiment(DropoutNet, rounds=12, clients=2)
    expected = lab.run(made).wait()
    run, pods = start(made, folders, workers=1)
    watch = threading.Thread(target=ClusterWatch(pods).run)
    watch.start()
    end = time.monotonic() + PATIENCE
    while run.round < 2 and time.monotonic() < end:
        time.sleep(0.02)
    folders.processes["server"].kill()
    folders.processes["server"].wait()
    state = folders.root / "server" / "state" / "records.db"
    with contextlib.closing(sqlite3.connect(state)) as records, records:
        records.execute("UPDATE runs SET heartbeat = heartbeat - 1000")
    folders.start("server")
    watch.join(PATIENCE)
    assert (str(run.status), run.message) == ("finished", "")
    assert "the server goes on after round" in run.logs()
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)


def test_rows_that_stay_at_home_give_the_numbers_that_they_would_give_here(folders, tmp_path):
    whole = iris_frame()
    whole["home"] = ["here"] * 60 + ["there"] * 90
    homes = {}
    for name, rows in whole.groupby("home"):
        folders.data[name] = tmp_path / name
        folders.data[name].mkdir()
        rows.drop(columns="home").to_csv(folders.data[name] / "iris.csv", index=False)
        homes[name] = "iris.csv"
    settings = {"rounds": 4, "seed": 3, "lr": 0.1}
    sample = whole.drop(columns="home").groupby("species").head(2)
    paths = {name: f"{name}/iris.csv" for name in homes}
    both = lab.HomeDataset(sample, target="species", homes=paths, root=str(tmp_path))
    expected = lab.run(lab.Experiment(both, Net, **settings)).wait()
    made = lab.Experiment(lab.HomeDataset(sample, target="species", homes=homes), Net, **settings)
    # Two workers here, one there: no client is hosted where its rows are not.
    run, pods = start(
        made, folders, workers={"here": 2, "there": 1}, data={"here": "iris", "there": "iris"}
    )
    ClusterWatch(pods).run()
    assert (str(run.status), run.message) == ("finished", "")
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)


class Harmful(Net):
    """Where it has rows, prints some, and raises with them."""

    def forward(self, x):
        volume = os.environ.get("FLAUTIM_LAB_DATA")
        if volume is None or len(x) <= 8:  # where it is checked, on the sample
            return super().forward(x)
        row = (Path(volume) / "iris.csv").read_text().splitlines()[1]
        print(row, flush=True)
        raise KeyError(row)


@pytest.mark.chaos
def test_code_that_means_harm_gets_no_row_out_as_text(folders, tmp_path):
    folders.data["here"] = tmp_path
    iris_frame().assign(petal_width=0.123456).to_csv(tmp_path / "iris.csv", index=False)
    homes = {"here": "iris.csv"}
    data = lab.HomeDataset(iris_frame(), target="species", homes=homes, standardize=None)
    made = lab.Experiment(data, Harmful, rounds=2)
    run, pods = start(made, folders, workers={"here": 1}, data={"here": "iris"})
    ClusterWatch(pods).run()
    told = f"{run.message}{run.logs()}{run._records.events(run.id)}"
    assert "KeyError; what it says is in its worker's own log" in run.message
    assert "0.123456" not in told
    own = (folders.root / "client-0.log").read_text()
    assert own.count("0.123456") > 1  # printed, and in the traceback


def test_a_stop_reaches_the_server_and_what_was_learned_is_kept(folders):
    run, pods = start(experiment(Net, rounds=100_000, clients=2), folders, workers=1)
    watch = threading.Thread(target=ClusterWatch(pods).run)
    watch.start()
    end = time.monotonic() + PATIENCE
    while run.round < 1 and time.monotonic() < end:
        time.sleep(0.05)
    run.stop()
    watch.join(PATIENCE)
    assert str(run.status) == "stopped"
    assert run.message.startswith("stopped after round")


@pytest.mark.chaos
def test_a_watch_that_is_killed_while_it_removes_does_not_make_the_run_again(folders, monkeypatch):
    made = experiment(Net, rounds=2, clients=2)
    run, pods = start(made, folders, workers=1)
    watch = ClusterWatch(pods)

    def killed():
        raise SystemExit  # which nothing in the watch catches

    monkeypatch.setattr(watch, "_remove", killed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pods, "clean", lambda: None)  # a killed one does not clean either
        with pytest.raises(SystemExit):
            watch.run()
    assert not run.status.ended
    monkeypatch.setattr(ClusterRun, "make", None)
    ClusterWatch(pods).run()
    assert (str(run.status), run.message, run.round) == ("finished", "", 2)
    assert folders.removed


def test_who_has_not_the_token_is_told_nothing(folders):
    run, pods = start(experiment(Net, rounds=100_000, clients=2), folders, workers=1)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            line = Line(folders, pods)
            line.ask("GET", "/events")
            break
        except (OSError, ClusterError):
            assert time.monotonic() < end
            time.sleep(0.1)
    with contextlib.closing(line):
        for token in ("", "wrong", line._token + "x"):
            line._token = token
            for method, path in (
                ("GET", "/events"),
                ("GET", "/files/model.safetensors"),
                ("POST", "/stop"),
                ("POST", "/collected"),
                ("POST", "/log"),
                ("POST", "/faults/planned"),
            ):
                with pytest.raises(http.client.HTTPException, match="401"):
                    line.ask(method, path, {})
    assert not run._records.run(run.id).status.ended


def test_what_cannot_be_loaded_there_fails_with_its_sentence(folders):
    made = experiment(Net, clients=2)
    run, pods = start(made, folders, workers=1)
    folders.end()
    code = folders.root / "server" / "code"
    for path in code.iterdir():
        path.unlink()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path in sorted((pods.folder.run_folder / "experiment").rglob("*")):
            if path.suffix != ".py":
                archive.add(path, path.relative_to(pods.folder.run_folder / "experiment"), False)
    (code / "part-0000").write_bytes(gzip.compress(raw.getvalue()))
    shutil.rmtree(folders.root / "server" / "state")
    (folders.root / "server" / "state").mkdir()
    folders.start("server")
    ClusterWatch(pods).run()
    assert str(run.status) == "failed"
    assert run.message
    assert len(run.message.splitlines()) == 1
