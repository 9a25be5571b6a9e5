"""Experiments of the catalog: run in the kernel, or in a process of their own; checked before."""

import dataclasses
import time

import psutil
import pytest

import flautim_lab as lab
from flautim_lab.runners.apart import ask_apart
from flautim_lab.runners.check import check_apart, estimate
from flautim_lab.runners.saved import start_apart
from tests.federations import iris_frame

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, x):
        return self.layers(x)
"""
SETTINGS = {
    "clients": 3,
    "rounds": 2,
    "partition": {"kind": "by_label", "alpha": 1.0},
    "strategy": "FedProx",
    "strategy_args": {"proximal_mu": 0.1},
    "model_args": {"hidden": 5},
}


@pytest.fixture
def catalog(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(tmp_path / "home"))
    made = lab.open_catalog()
    made.add_project("local", "Flowers")
    iris_frame().to_csv(tmp_path / "iris.csv", index=False)
    lab.register_dataset("local", tmp_path / "iris.csv", target="species", name="Iris")
    made.save_model("local/flowers", "Net", source=NET, class_name="Net")
    save(made)
    return made


def save(catalog, name="First", **changed):
    return catalog.save_experiment(
        "local/flowers",
        name,
        model="local/flowers/net",
        dataset="local/iris",
        settings=SETTINGS | changed,
    )


def test_an_experiment_is_made_of_what_the_catalog_has(catalog):
    experiment = lab.saved_experiment("local/flowers/first")
    assert (experiment.name, experiment.clients, experiment.strategy) == ("First", 3, "FedProx")
    assert experiment.build_model().layers[0].out_features == 5
    assert repr(experiment.partition).startswith("by_label(alpha=1.0")


def test_a_run_knows_its_versions(catalog):
    run = lab.run_saved("local/flowers/first").wait()
    assert run.status == "finished"
    link = catalog.run(run.id)
    assert (link.experiment, link.dataset) == ("local/flowers/first@1", "local/iris@1")
    assert catalog.project("local/flowers").runs == 1


def test_it_learns_what_the_same_experiment_learns_in_a_cell(catalog):
    saved = lab.run_saved("local/flowers/first").wait()
    typed = lab.run(lab.saved_experiment("local/flowers/first")).wait()
    assert saved.metrics["value"].tolist() == typed.metrics["value"].tolist()


def test_a_run_in_a_process_of_its_own_ends_with_it(catalog):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    run_id = start_apart("local/flowers/first")
    run = lab.attach(run_id).wait(60)
    assert (run.status, run.round) == ("finished", 2)
    end = time.monotonic() + 20
    while {child.pid for child in psutil.Process().children(recursive=True)} - before:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_it_is_stopped_from_here(catalog):
    save(catalog, "Long", rounds=100_000)
    run = lab.attach(start_apart("local/flowers/long"))
    assert run.stop().wait(60).status == "stopped"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"strategy": "FedAvgg"}, "did you mean 'FedAvg'"),
        ({"model_args": {"hiden": 5}}, "cannot be made with model_args"),
        ({"clients": 1000}, "cannot be shared"),
    ],
)
def test_what_cannot_run_is_one_sentence_on_every_way(catalog, changed, said):
    version = save(catalog, "Wrong", **({"strategy_args": {}} | changed))
    with pytest.raises(lab.ExperimentError, match=said) as here:
        lab.run_saved(version.ref)
    with pytest.raises(lab.FlautimError, match=said) as apart:
        start_apart(version.ref)
    data, net = catalog.dataset(version.dataset).latest, catalog.model(version.model)
    with pytest.raises(lab.FlautimError, match=said) as checked:
        check_apart([data], net, version.settings)
    assert str(here.value) == str(apart.value) == str(checked.value)


def test_what_an_experiment_will_cost(catalog):
    version = save(catalog)
    data, net = catalog.dataset(version.dataset).latest, catalog.model(version.model)
    found = check_apart([data], net, version.settings)
    assert (found.parameters, found.rows, found.clients) == (4 * 5 + 5 + 5 * 3 + 3, 150, 3)
    assert found.classes == ("setosa", "versicolor", "virginica")
    assert [sum(column) for column in zip(*[rows for _, rows in found.held], strict=True)] == [
        50,
        50,
        50,
    ]
    assert 0 < found.seconds_per_round < 10
    assert 2**26 < found.memory_bytes < 2**32
    mine = estimate(lab.saved_experiment(version.ref))
    assert dataclasses.replace(mine, seconds_per_round=0, memory_bytes=0) == dataclasses.replace(
        found, seconds_per_round=0, memory_bytes=0
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import os; os._exit(3)", "without an answer"),
        ("while True: pass", "without an answer"),
        ("x = bytearray(2**40)", "not memory enough"),
        ("print('{}')", ""),
        ("raise ValueError('mine')", "ValueError: mine"),
        ("import sys; sys.exit('bye')", "bye|without an answer"),
    ],
)
def test_code_that_does_harm_does_it_to_its_own_process(catalog, monkeypatch, line, said):
    if line.startswith("while"):  # the others answer by themselves
        monkeypatch.setattr("flautim_lab.runners.check.LIMIT_SECONDS", 8.0)
    version = save(catalog)
    data = catalog.dataset(version.dataset).latest
    net = dataclasses.replace(catalog.model(version.model), source=f"{NET}\n{line}\n")
    if not said:
        assert check_apart([data], net, version.settings).clients == 3
        return
    with pytest.raises(lab.FlautimError, match=said):
        check_apart([data], net, version.settings)


def test_a_module_that_does_not_answer_is_killed(tmp_path, monkeypatch):
    (tmp_path / "hangs.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = set(psutil.Process().children())
    with pytest.raises(lab.TrainingError, match=r"within 0\.5 s"):
        ask_apart("hangs", {}, 0.5)
    end = time.monotonic() + 10
    while set(psutil.Process().children()) - before:
        assert time.monotonic() < end
        time.sleep(0.05)
