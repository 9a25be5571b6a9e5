"""More and fewer workers while a run goes; processes stand for pods (see ``test_pods.py``)."""

from __future__ import annotations

import threading
import time

import pytest
from click.testing import CliRunner

import flautim_lab as lab
from flautim_lab.cli import main
from flautim_lab.runners.cluster_watch import ClusterWatch
from tests.federations import DropoutNet, Net, experiment, iris_frame, same
from tests.runners.test_pods import folders, start

__all__ = ["folders"]
PATIENCE = 150


@pytest.fixture
def watching():
    """Follow runs in threads; they are stopped at the end, whatever happens."""
    begun = []

    def follow(run, pods):
        thread = threading.Thread(target=ClusterWatch(pods).run)
        thread.start()
        begun.append((run, thread))
        return thread

    yield follow
    for run, thread in begun:
        run.stop()
        thread.join(PATIENCE)


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: it did not happen in {PATIENCE} s"
        time.sleep(0.05)


def workers_of(run, after):
    """The workers that a run says used anything in the rounds after one."""
    used = run.resources
    names = set(used.process[used["round"] > after])
    return {name for name in names if name.startswith("client-")}


@pytest.mark.chaos
def test_scaled_down_and_up_again_the_kernels_bits(folders, watching):
    made = experiment(DropoutNet, rounds=160, clients=6, strategy="FedAdam")
    expected = lab.run(made).wait()
    run, pods = start(made, folders, workers=4)
    watching(run, pods)
    wait_for(lambda: {f"client-{n}" for n in range(4)} <= workers_of(run, 0), "all four work")
    assert run.scale(workers=2) == "4 workers -> 2"
    wait_for(lambda: folders.processes["client-3"].poll() is not None, "it ended")
    assert run.scale(workers=2) == "2 workers, as before"
    # The server that comes after this one still knows: it waits for nobody that is not meant.
    before = run.round
    folders.kill("server")
    wait_for(lambda: run.round > before + 3, "rounds after the server")
    assert workers_of(run, before + 2) == {"client-0", "client-1"}
    assert run.chaos.targets == ("server", "client-0", "client-1", "half")
    assert "not connected" not in run.progress().waiting
    before = run.round
    told = CliRunner().invoke(main, ["scale", run.id, "--workers", "3"], catch_exceptions=False)
    assert told.output == "2 workers -> 3\n"
    wait_for(lambda: "client-2" in workers_of(run, before), "the third works")
    assert "client-3" not in workers_of(run, before)
    run.wait(timeout_seconds=PATIENCE)
    assert (str(run.status), run.message) == ("finished", "")
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)
    log = run.logs()
    assert (log.count("4 workers -> 2"), log.count("2 workers -> 3")) == (1, 1)
    with pytest.raises(lab.ExperimentError, match="has finished; there is nothing to scale"):
        run.scale(workers=2)


@pytest.mark.chaos
def test_rows_that_stay_at_home_stay_there_when_it_is_scaled(folders, watching, tmp_path):
    whole = iris_frame()
    whole["home"] = ["here"] * 60 + ["there"] * 90
    homes = {}
    for name, rows in whole.groupby("home"):
        folders.data[name] = tmp_path / name
        folders.data[name].mkdir()
        rows.drop(columns="home").to_csv(folders.data[name] / "iris.csv", index=False)
        homes[name] = "iris.csv"
    settings = {"rounds": 100, "seed": 3, "lr": 0.1}
    sample = whole.drop(columns="home").groupby("species").head(2)
    paths = {name: f"{name}/iris.csv" for name in homes}
    both = lab.HomeDataset(sample, target="species", homes=paths, root=str(tmp_path))
    expected = lab.run(lab.Experiment(both, Net, **settings)).wait()
    made = lab.Experiment(lab.HomeDataset(sample, target="species", homes=homes), Net, **settings)
    data = {"here": "iris", "there": "iris"}
    run, pods = start(made, folders, workers={"here": 2, "there": 1}, data=data)
    watching(run, pods)
    wait_for(lambda: run.round >= 1, "a round")
    with pytest.raises(lab.ExperimentError, match="this run has workers in 'here', 'there'; say"):
        run.scale(workers=2)
    assert run.scale({"here": 1, "there": 2}) == "2 workers in here -> 1, 1 worker in there -> 2"
    before = run.round
    # Client 1 is there, where the second worker is its home now.
    wait_for(lambda: "client-3" in workers_of(run, before), "the new worker works")
    run.wait(timeout_seconds=PATIENCE)
    assert same(expected.model().state_dict(), run.model().state_dict())
    assert run.metrics.equals(expected.metrics)


def test_what_cannot_be_is_one_sentence_and_changes_nothing(folders, watching):
    run, pods = start(experiment(Net, rounds=100_000, clients=3), folders, workers=1)
    watching(run, pods)
    wait_for(lambda: run.round >= 1, "a round")
    for workers, sentence in [
        (0, "workers must be a whole number from 1, not 0"),
        (True, "workers must be a whole number from 1, not True"),
        ({"here": 1.5}, "workers of 'here' must be a whole number from 1, not 1.5"),
        ({}, "workers names no namespace; give at least one, or a number"),
        (
            4,
            "this run has room for 3 workers in 'here', not for 4; it has 3 clients, and more "
            "workers would have nothing to do",
        ),
        (
            {"her": 1},
            "no namespace with workers of this run named 'her'; did you mean 'here'? choose one "
            "of: here",
        ),
    ]:
        with pytest.raises(lab.ExperimentError) as caught:
            run.scale(workers)
        assert str(caught.value) == sentence
    assert folders.workers(pods.pods()) == {"here": 1}
    assert "->" not in run.logs()


def test_a_cluster_that_refuses_leaves_the_server_as_it_was(folders, watching, monkeypatch):
    run, pods = start(experiment(Net, rounds=100_000, clients=3), folders, workers=1)
    watching(run, pods)
    wait_for(lambda: run.round >= 1, "a round")

    def refuse(*_):
        raise lab.ClusterError("there is no room")

    monkeypatch.setattr(folders, "scale", refuse)
    with pytest.raises(lab.ClusterError, match="there is no room"):
        run.scale(2)
    wait_for(lambda: "2 workers -> 1: there is no room" in run.logs(), "it is said")
    assert run.chaos.targets == ("server", "client-0", "half")


def test_only_pods_are_scaled():
    run = lab.run(experiment(Net, rounds=1)).wait()
    with pytest.raises(lab.ExperimentError, match="is inside its kernel, where the number of work"):
        run.scale(workers=2)
    for words in (["--workers", "many"], ["--workers", "2", "--workers", "3"], []):
        told = CliRunner().invoke(main, ["scale", run.id, *words])
        assert told.exit_code == 2
        assert "--workers" in told.output
    told = CliRunner().invoke(main, ["scale", run.id, "--workers", "2"])
    assert (told.exit_code, len(told.output.splitlines())) == (1, 1)
