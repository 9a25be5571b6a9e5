"""Every notebook is executed as a user would, and must have learned what it says."""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from flautim_lab.records.artifacts import load_model
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners.notebook import execute_notebook
from flautim_lab.runners.parameters import read_parameters
from tests.federations import same

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]


class Outcome:
    """An executed notebook: its outputs, and the runs it left in the records, oldest first."""

    def __init__(self, path: Path) -> None:
        self.notebook: Any = nbformat.read(path, as_version=4)
        self.records = Records.default()
        self.runs = list(reversed(self.records.runs()))

    def outputs(self) -> list[Any]:
        return [output for cell in self.notebook.cells for output in cell.get("outputs", [])]

    def pictures(self) -> list[bytes]:
        data = [output.get("data", {}) for output in self.outputs()]
        return [base64.b64decode(one["image/png"]) for one in data if "image/png" in one]

    def text(self) -> str:
        return "".join(output.get("text", "") for output in self.outputs())

    def validation(self, run_id: str, metric: str) -> pd.Series:
        """Return one value per round, over all clients."""
        frame = self.records.metrics(run_id)
        chosen = (frame["split"] == "validation") & (frame["metric"] == metric)
        return frame[chosen & frame["client"].isna()].set_index("round")["value"]

    def final(self, metric: str) -> dict[str, float]:
        """Return the last value of each run, by its strategy (or "centralized")."""
        return {
            run.settings["strategy"]: float(self.validation(run.id, metric).iloc[-1])
            for run in self.runs
        }


def numbers_of(pattern: str, text: str) -> list[float]:
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in what the notebook printed:\n{text}"
    return [float(number) for number in found.groups()]


def first_experiment(outcome: Outcome) -> None:
    assert outcome.final("accuracy")["FedAvg"] > 0.9


def uneven_clients(outcome: Outcome) -> None:
    final = outcome.final("accuracy")
    assert set(final) == {"FedAvg", "FedProx", "FedAdam", "centralized"}
    # Ten digits: one in ten by chance.
    assert min(final.values()) > 0.5
    # The lesson of the notebook: walls between the clients cost, and a strategy wins some back.
    assert final["FedAvg"] < final["FedAdam"] < final["centralized"]
    assert final["centralized"] > 0.9


def regression(outcome: Outcome) -> None:
    mae, guess = numbers_of(
        r"error: ([\d.]+) points; guessing the mean: ([\d.]+) points", outcome.text()
    )
    assert mae < 0.85 * guess
    assert mae == pytest.approx(outcome.final("mae")["FedAvg"], abs=0.051)


def magics(outcome: Outcome) -> None:
    assert outcome.final("accuracy")["FedAvg"] > 0.9


def connected_vehicles(outcome: Outcome) -> None:
    [model] = numbers_of(r"took no part: ([\d.]+) kW", outcome.text())
    [mean] = numbers_of(r"mean of [\d.]+ kW: +([\d.]+) kW", outcome.text())
    assert model < 0.5 * mean
    assert outcome.runs[0].clients == 12


def survives_anything(outcome: Outcome) -> None:
    text = outcome.text()
    assert "weights equal, bit for bit: True; metrics neither lost nor doubled: True" in text
    calm, struck, *small = outcome.runs
    assert (calm.runner, struck.runner) == ("local", "processes")
    faults = outcome.records.faults(struck.id)
    assert list(faults.target) == ["server", "client-1", "client-0", "server"]
    assert faults.recovery_seconds.notna().all()
    # Micro-FL's evaluation in small: whatever is killed, the same weights.
    assert [run.name for run in small] == ["healthy", "server killed", "worker killed"]
    models = [load_model(outcome.records.folder(run.id)) for run in small]
    assert same(models[0], models[1])
    assert same(models[0], models[2])
    assert [len(outcome.records.faults(run.id)) for run in small] == [0, 1, 1]


def panel(outcome: Outcome) -> None:
    text = outcome.text()
    assert "gerais finds ['Universidade Federal de Minas Gerais']" in text
    assert "17217985 finds ['Universidade Federal de Minas Gerais']" in text
    assert "the check digits of the CNPJ 17.217.985/0001-05 are wrong" in text
    assert "granted: True\ngranted: False" in text
    assert "stays; archive it instead" in text
    proximal, averaged = outcome.runs
    assert (proximal.settings["strategy"], averaged.settings["strategy"]) == ("FedProx", "FedAvg")
    assert outcome.validation(proximal.id, "accuracy").iloc[-1] > 0.7


def on_the_cluster(outcome: Outcome, runner: str = "processes") -> None:
    text = outcome.text()
    assert "weights equal, bit for bit: True; the same metrics: True" in text
    assert text.count("weights equal, bit for bit: True") == 2
    assert outcome.final("accuracy")["FedAvg"] > 0.8
    assert [run.runner for run in outcome.runs] == [runner, "local", runner]
    faults = outcome.records.faults(outcome.runs[2].id)
    assert list(faults.target) == ["server", "server"]
    assert faults.recovery_seconds.notna().all()


def batch(outcome: Outcome) -> None:
    text = outcome.text()
    assert "4 points in " in text
    assert "the same runs: True" in text
    shown = [output.data.get("text/plain", "") for output in outcome.outputs() if "data" in output]
    same = "same: 15 numbers of 1 run and the trained weights, bit for bit\n"
    assert any(words.startswith(same) for words in shown)
    assert len(outcome.runs) == 4 + 1  # the last one verifies
    assert {run.settings["seed"] for run in outcome.runs} == {7, 8}
    assert min(outcome.validation(run.id, "accuracy").iloc[-1] for run in outcome.runs) > 0.5


#: What is set here: what there is to run on (tests/cluster has pods), and fewer of what takes long.
PARAMETERS = {
    "06_survives_anything": {"kills": "1"},
    "08_on_the_cluster": {"runner": "processes"},
    "09_batch": {"output": "{scratch}/batch", "seeds": "2"},
}
LEARNED: dict[str, Callable[[Outcome], None]] = {
    "01_first_experiment": first_experiment,
    "02_uneven_clients": uneven_clients,
    "03_regression": regression,
    "04_magics": magics,
    "05_connected_vehicles": connected_vehicles,
    "06_survives_anything": survives_anything,
    "07_panel": panel,
    "08_on_the_cluster": on_the_cluster,
    "09_batch": batch,
}


def test_there_are_notebooks_and_each_has_something_to_learn() -> None:
    assert NAMES
    assert list(LEARNED) == NAMES


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_runs_and_learns(path: Path, tmp_path: Path) -> None:
    asked = PARAMETERS.get(path.stem, {})
    set_here = {name: value.format(scratch=tmp_path) for name, value in asked.items()}
    done = execute_notebook(path, tmp_path / path.name, set_here, timeout_seconds=300)
    outcome = Outcome(done.path)
    assert [output for output in outcome.outputs() if output.output_type == "error"] == []
    # A batch makes its runs in notebooks of its own.
    assert [run.id for run in outcome.runs] == list(done.runs) or path.stem == "09_batch"
    assert outcome.runs
    for run in outcome.runs:
        assert (run.status, run.round) == (RunStatus.FINISHED, run.rounds), run.message
        loss = outcome.validation(run.id, "loss")
        assert loss.iloc[-1] < loss.iloc[0]
    assert outcome.pictures()
    for picture in outcome.pictures():
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5_000
    LEARNED[path.stem](outcome)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_in_git(path: Path) -> None:
    notebook: Any = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert [cell.execution_count for cell in code] == [None] * len(code)
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    # One plain assignment per line, the only form that papermill itself understands.
    statements = ast.parse(tagged[0].source).body
    assert [type(statement) for statement in statements] == [ast.Assign] * len(statements)
    parameters = read_parameters(notebook, path.name)
    assert len(parameters) == len(statements) == len(tagged[0].source.splitlines())
    assert "seed" in parameters
    assert None not in parameters.values()
