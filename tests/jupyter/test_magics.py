"""The magics: they define, run and look; a wrong word is one sentence, and fails the cell."""

from __future__ import annotations

import re

import pytest

import flautim_lab as lab
from flautim_lab.experiment.source import kept_cells
from flautim_lab.jupyter.cells import bound_names
from flautim_lab.runners.launch import RUNNERS
from tests.federations import Net, experiment, iris, iris_frame

DATASET = """%%dataset {name}
import flautim_lab as lab
data = lab.CSVDataset({path!r}, target="species")
"""
MODEL = """%%model Net
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 8)
    def forward(self, x):
        return self.layer(x).relu()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(Block(), nn.Linear(8, 3))
    def forward(self, x):
        return self.layers(x)
"""
EXPERIMENT = """%%experiment trial
import flautim_lab as lab
lab.Experiment(flowers, Net, clients=2, rounds=2)
"""


@pytest.fixture
def defined(notebook, tmp_path):
    """A notebook in which a dataset, a model and an experiment are defined by magics."""
    iris_frame().to_csv(tmp_path / "iris.csv", index=False)
    path = str(tmp_path / "iris.csv")
    for source in (DATASET.format(name="flowers", path=path), MODEL, EXPERIMENT):
        cell = notebook.run(source)
        assert cell.error == ""
    return notebook


def names(notebook):
    return notebook.shell.user_ns


def test_from_cells_to_a_curve(defined):
    assert isinstance(names(defined)["flowers"], lab.CSVDataset)
    assert names(defined)["Net"].__name__ == "Net"
    trial = names(defined)["trial"]
    assert (trial.dataset, trial.model) == (names(defined)["flowers"], names(defined)["Net"])

    cell = defined.run("run = %lab_run trial --wait")
    assert cell.status == "ok"
    run = names(defined)["run"]
    assert str(run.status) == "finished"
    assert "finished: round 2/2" in defined.shown[-1]["text/plain"]

    (plot,) = defined.run("%lab_plot run --metric accuracy").of("execute_result")
    assert plot["data"]["image/png"]
    (listed,) = defined.run("%lab_runs --limit 1").of("execute_result")
    assert run.id in listed["data"]["text/plain"]
    assert defined.run("%lab_logs run").text == run.logs() + "\n"
    assert defined.run("%lab_logs --last 1").text == run.logs(last=1) + "\n"


def test_the_kept_cell_is_the_whole_source_and_makes_the_class_again(defined):
    assert kept_cells()["Net"] == MODEL.split("\n", 1)[1]
    defined.run("run = %lab_run trial --wait")
    run = names(defined)["run"]
    elsewhere = lab.Run(run._records, run.id)
    assert elsewhere.model().layers[0].layer.in_features == 4
    assert elsewhere.experiment.model is not names(defined)["Net"]


def test_lab_run_returns_at_once_and_shows_the_run(defined, steps):
    run = steps.start(rounds=1)
    trial = run.experiment
    steps.finish(run)
    defined.put(slow=trial)
    cell = defined.run("%lab_run slow --centralized")
    (shown,) = cell.of("display_data")
    assert "round 1/1" in shown["data"]["text/plain"] or "round 0/1" in shown["data"]["text/plain"]
    (started,) = [r for r in lab.runs() if r.id != run.id]
    steps.runs.append(started)
    assert started.record.settings["centralized"] is True


class TestWhatACellDefines:
    @pytest.mark.parametrize(
        "body",
        [
            "thing = iris()",  # the only one
            "other = iris(); thing = iris(); thing",  # the value at the end
            "other = iris(); thing = iris(); flowers = thing",  # the one of that name
            "iris(); None\nthing = iris(); again = thing",  # one thing, two names
            "class Data(Dataset):\n    pass\nthing = iris()",  # an object before its class
            "Unused = Dataset\nthing = iris()",
            "for i in range(2):\n    thing = iris()",
            "with suppress(ValueError):\n    thing = iris()",
            "others = [d for d in [iris()]]\nthing = iris()",
            "thing = iris()\n%precision 3",
        ],
    )
    def test_is_found(self, notebook, body):
        notebook.run(
            "from tests.federations import iris, Net\n"
            "from torch.utils.data import Dataset\nfrom contextlib import suppress"
        )
        cell = notebook.run(f"%%dataset flowers\nimport math\n{body}")
        assert cell.error == ""
        assert names(notebook)["flowers"] is names(notebook)["thing"]

    def test_may_be_a_class_of_a_dataset(self, notebook):
        cell = notebook.run(
            "%%dataset flowers\n"
            "from torch.utils.data import Dataset, TensorDataset\n"
            "class Flowers(Dataset):\n    pass\n"
        )
        assert cell.error == ""
        assert names(notebook)["flowers"] is names(notebook)["Flowers"]

    def test_may_be_a_function_that_makes_a_model_if_it_is_named(self, notebook):
        source = "from torch import nn\ndef small():\n    return nn.Linear(4, 3)\n"
        assert notebook.run(f"%%model small\n{source}").error == ""
        assert notebook.run(f"%%model other\n{source}").error == (
            "UsageError: the cell of %%model other defines no model; "
            "write a class of torch.nn.Module"
        )

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (
                "%%dataset flowers\nfrom tests.federations import iris\n5",
                "the cell of %%dataset flowers defines no dataset; "
                "write a lab.CSVDataset, or a torch Dataset or a class of one",
            ),
            (
                "%%dataset flowers\nfrom torch.utils.data import Dataset",
                "the cell of %%dataset flowers defines no dataset; "
                "write a lab.CSVDataset, or a torch Dataset or a class of one",
            ),
            (
                "%%model Net\nfrom torch import nn\nnet = nn.Linear(4, 3)",
                "the cell of %%model Net defines no model; write a class of torch.nn.Module",
            ),
            (
                "%%experiment trial\nimport flautim_lab as lab",
                "the cell of %%experiment trial defines no experiment; "
                "write a lab.Experiment(dataset, Model, ...)",
            ),
            (
                "%%model Net\nfrom torch import nn\n"
                "class A(nn.Module): pass\nclass B(nn.Module): pass",
                "the cell of %%model Net defines 2 models (A, B); call one of them Net, "
                "or end the cell with the one you mean",
            ),
            (
                "%%dataset my-data\n5",
                "'my-data' cannot name a dataset in a notebook; "
                "use letters, digits and _: %%dataset my_dataset",
            ),
            (
                "%%model class\n5",
                "'class' cannot name a model in a notebook; "
                "use letters, digits and _: %%model my_model",
            ),
        ],
    )
    def test_must_be_one_thing(self, notebook, source, message):
        cell = notebook.run(source)
        assert cell.status == "error"
        assert cell.error == f"UsageError: {message}"


class TestAFailingCell:
    def test_shows_its_own_traceback_once_and_fails(self, notebook):
        cell = notebook.run("%%model Net\nx = 1\ny = x / 0")
        assert cell.status == "error"
        (error,) = cell.of("error")
        assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
        plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error["traceback"]))
        assert "----> 2 y = x / 0" in plain
        assert "cells.py" not in plain
        assert "Net" not in names(notebook)

    def test_that_is_no_python_fails_too(self, notebook):
        cell = notebook.run("%%model Net\nclass Net(")
        assert cell.status == "error"
        assert [content["ename"] for content in cell.of("error")] == ["_IncompleteInputError"] or [
            content["ename"] for content in cell.of("error")
        ] == ["SyntaxError"]

    def test_with_an_error_of_ours_shows_one_sentence(self, notebook):
        cell = notebook.run(
            '%%dataset flowers\nimport flautim_lab as lab\nlab.CSVDataset("no.csv", target="x")'
        )
        assert cell.status == "error"
        assert cell.error.startswith("DatasetError: ")
        assert len(cell.of("error")) == 1
        assert "\n" not in cell.error


class TestErrorsOfOurs:
    def test_are_one_sentence_and_tb_shows_where_they_come_from(self, notebook):
        cell = notebook.run("def f():\n    import flautim_lab as lab\n    lab.attach('x')\nf()")
        assert cell.status == "error"
        (error,) = cell.of("error")
        assert error["ename"] == "RunNotFoundError"
        assert cell.error == f"RunNotFoundError: {error['evalue']}"
        shown = notebook.run("%tb").error
        assert "Traceback (most recent call last)" in shown
        assert "flautim_lab" in shown

    def test_leave_the_handlers_of_others_alone(self, notebook):
        seen = []

        def handler(shell, kind, error, trace, tb_offset=None):
            seen.append(str(error))

        notebook.shell.set_custom_exc((ZeroDivisionError,), handler)
        notebook.run("%reload_ext flautim_lab")
        assert notebook.run("1 / 0").status == "error"
        assert seen == ["division by zero"]
        assert notebook.run("%lab_run").error.startswith("UsageError: %lab_run: NAME is missing")
        notebook.shell.set_custom_exc((), None)

    def test_those_of_others_keep_their_traceback(self, notebook):
        assert "Traceback (most recent call last)" in notebook.run("1 / 0").error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%lab_run", "%lab_run: NAME is missing; type %lab_run? for help"),
        ("%lab_run trial more", "%lab_run: 'more' is one word too many; type %lab_run? for help"),
        (
            "%lab_run trial --centralised",
            "%lab_run: no option named '--centralised'; did you mean '--centralized'? "
            "choose one of: --on, --centralized, --wait",
        ),
        (
            "%lab_run trial --cent",
            "%lab_run: no option named '--cent'; did you mean '--centralized'? "
            "choose one of: --on, --centralized, --wait",
        ),
        (
            "%lab_run trial --metrics=loss",
            "%lab_run: no option named '--metrics'; choose one of: --on, --centralized, --wait",
        ),
        ("%lab_run 'trial", "%lab_run: no closing quotation; type %lab_run? for help"),
        (
            "%lab_run trail",
            "no experiment named 'trail'; did you mean 'trial'? choose one of: trial",
        ),
        ("%lab_run flowers", "flowers is a CSVDataset, not an experiment"),
        (
            "%lab_logs --last many",
            "%lab_logs: --last: 'many' is not a whole number; type %lab_logs? for help",
        ),
        (
            "%lab_logs --client",
            "%lab_logs: --client: expected one argument; type %lab_logs? for help",
        ),
        (
            "%lab_plot trial",
            "trial is an experiment, not a run; start a run of it with %lab_run trial",
        ),
        ("%lab_runs all", "%lab_runs: 'all' is one word too many; type %lab_runs? for help"),
        (
            "%%dataset\n5",
            "%%dataset: NAME is missing; type %%dataset? for help",
        ),
        (
            "%%model Net --wait\n5",
            "%%model has no options, and so no '--wait'; type %%model? for help",
        ),
    ],
)
def test_wrong_words(notebook, line, message):
    notebook.put(trial=experiment(rounds=1), flowers=iris())
    cell = notebook.run(line)
    assert cell.status == "error"
    assert cell.error == f"UsageError: {message}"
    # Nothing of argparse's own is printed beside it.
    assert cell.text == ""


def test_wrong_values_are_worded_by_those_who_know(notebook):
    notebook.put(trial=experiment(rounds=1))
    cell = notebook.run("%lab_run trial --on clutser")
    assert cell.error == (
        "ExperimentError: no runner named 'clutser'; did you mean 'cluster'? "
        f"choose one of: {', '.join(RUNNERS)}"
    )
    cell = notebook.run("%lab_logs nothing")
    assert cell.error.startswith("RunNotFoundError: ")
    assert notebook.run("%lab_run trial --wait").status == "ok"
    cell = notebook.run("%lab_plot --metric los")
    assert cell.error == (
        "ExperimentError: no metric named 'los'; did you mean 'loss'? choose one of: loss, accuracy"
    )


def test_without_an_experiment_the_next_step_is_said(notebook):
    assert notebook.run("%lab_run trial").error == (
        "UsageError: no experiment named 'trial'; define one first, in a cell that starts with "
        "%%experiment trial"
    )


@pytest.mark.parametrize(
    ("magic", "words"),
    [
        ("lab_run", ["%lab_run", "NAME", "--centralized", "Run an experiment"]),
        ("lab_plot", ["RUN", "--metric METRIC", "of several compared"]),
        ("lab_runs", ["--limit N", "those of other kernels too"]),
        ("lab_logs", ["--client N", "--last N", "tracebacks of failed clients included"]),
    ],
)
def test_help(notebook, magic, words):
    text = notebook.shell.magics_manager.magics["line"][magic].__doc__
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("magic", ["dataset", "model", "experiment"])
def test_help_of_cells(notebook, magic):
    text = notebook.shell.magics_manager.magics["cell"][magic].__doc__
    assert f"%%{magic} NAME" in text
    assert f"Define {'an' if magic == 'experiment' else 'a'} {magic}" in text


def test_load_ext_twice_is_harmless(notebook):
    for _ in range(2):
        assert notebook.run("%reload_ext flautim_lab").error == ""
    notebook.put(trial=experiment(Net, rounds=1))
    cell = notebook.run("%lab_run trial --wait")
    assert len(cell.of("display_data")) == 1


def test_bound_names():
    source = (
        "import a, b as c\nfrom d import e\nf = g = 1\nh: int = 2\n(i, *j) = f, g\n"
        "class K:\n    inside = 1\ndef l():\n    inner = 1\nfor m in [1]:\n    n = m\n"
        "with open('x') as o:\n    pass\n[p for p in [1]]\n(lambda q: q)\nif (r := 1):\n    pass\n"
        "j.attribute = 1\nj['item'] = 2\nasync def s(): pass"
    )
    assert bound_names(source) == [*"fghijKlmnors"]
