"""The panel over a large catalog: 1,000 institutions, 10,000 experiments.

``python tests/benchmarks/panel.py [--institutions N] [--experiments N] [--repeats N]``: fills a
catalog (SQLite), then, in fresh kernels, measures from ``lab.panel()`` to the first screen, and for
each key that is typed into the search for institutions and into that for the experiments of one
project with a tenth of them all. Then the path of a CSV file of a million rows goes into the form
of a new experiment: how long until its columns are there, and how long the kernel did not do other
work meanwhile. What the browser draws is not in it. It prints the figures, and writes them to
``build/bench/panel.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NET = "from torch import nn\n\nclass Net(nn.Module): ...\n"

_IMPORT = (
    "import json, time\nimport ipywidgets\nimport flautim_lab as lab\nlab.panel, lab.open_catalog"
)
_FIRST = """
began = time.perf_counter()
shown = lab.panel()
shown
"""
_TOLD = """
first = time.perf_counter() - began

def every(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every(child)

def type_into(words):
    (box,) = [one for one in every(shown.widget)
              if isinstance(one, ipywidgets.Text) and one.description == "Search"]
    seconds = []
    for end in range(1, len(words) + 1):
        began = time.perf_counter()
        box.value = words[:end]
        seconds.append(time.perf_counter() - began)
    return seconds

def cards():
    return sum("lab-card" in one._dom_classes and one.layout.display != "none"
               for one in every(shown.widget) if hasattr(one, "_dom_classes"))

first_widgets = sum(1 for _ in every(shown.widget))
institutions = type_into("instituto 7")
found = cards()
from flautim_lab.jupyter.panel.context import Place
began = time.perf_counter()
shown.go(Place("project", "i0/p"))
project = time.perf_counter() - began
experiments = type_into("experiment 77")

shown.go(Place("new experiment", "i0/p"))
(path,) = [one for one in every(shown.widget)
           if isinstance(one, ipywidgets.Text) and one.placeholder == "data/trips.csv"]
def targets():
    return [one for one in every(shown.widget) if isinstance(one, ipywidgets.Dropdown)
            and one.description == "Target" and one.options]
began = time.perf_counter()
path.value = "million.csv"
late = []
while not targets():
    tick = time.perf_counter()
    time.sleep(0.01)
    late.append(time.perf_counter() - tick - 0.01)
table = time.perf_counter() - began
print(json.dumps({"first": first, "widgets": first_widgets, "found": found, "project": project,
                  "institutions": institutions, "experiments": experiments,
                  "table": table, "late": late}))
"""


def fill(institutions: int, experiments: int) -> float:
    """Fill the catalog of ``FLAUTIM_LAB_HOME``; returns the seconds that took."""
    import flautim_lab as lab

    began = time.perf_counter()
    catalog = lab.open_catalog()
    table = Path(os.environ["FLAUTIM_LAB_HOME"], "t.csv")
    table.write_text("x,y\n1,2\n3,4\n")
    large = experiments // 10
    each, more = divmod(experiments - large, institutions - 1)
    for number in range(institutions):
        key = f"i{number}"
        catalog.add_institution(f"Instituto {number} de Educação", key=key)
        catalog.add_project(key, "P", key="p")
        dataset = lab.register_dataset(key, table, target="y", name="T")
        model = catalog.save_model(f"{key}/p", "Net", source=NET, class_name="Net")
        here = large if number == 0 else each + (number <= more)
        for nth in range(here):
            catalog.save_experiment(
                f"{key}/p",
                f"Experiment {nth}",
                model=model.ref,
                dataset=dataset.ref,
                settings={"rounds": 1 + nth},
            )
    return time.perf_counter() - began


def write_table(path: Path, rows: int) -> None:
    """Write a CSV file of seven columns."""
    random = np.random.default_rng(7)
    frame = pd.DataFrame(random.normal(size=(rows, 6)).round(4), columns=list("abcdef"))
    frame["kind"] = random.choice(["low", "high"], rows)
    frame.to_csv(path, index=False)


def once(folder: Path) -> dict:
    """Open the panel in a fresh kernel, and type."""
    import flautim_lab as lab
    from flautim_lab.jupyter.panel.shell import KEPT

    lab.open_catalog().remember(KEPT, {})  # the first screen, not where the last kernel was
    cells = [nbformat.v4.new_code_cell(code.strip()) for code in (_IMPORT, _FIRST, _TOLD)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return json.loads(cells[-1].outputs[-1].text)


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--institutions", type=int, default=1000)
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FLAUTIM_LAB_HOME"] = str(Path(scratch, "home"))
        os.environ["FLAUTIM_LAB_LANGUAGE"] = "en"
        Path(scratch, "home").mkdir()
        write_table(Path(scratch, "million.csv"), 1_000_000)
        filled = fill(asked.institutions, asked.experiments)
        print(f"filled in {filled:.0f} s")
        runs = [once(Path(scratch)) for _ in range(asked.repeats)]
    keys = {
        "institutions": [second for run in runs for second in run["institutions"]],
        "experiments": [second for run in runs for second in run["experiments"]],
    }
    figures = {
        "first screen, s": statistics.median(run["first"] for run in runs),
        "a project's screen, s": statistics.median(run["project"] for run in runs),
        "a million rows, columns shown, s": statistics.median(run["table"] for run in runs),
        "a million rows, kernel held up, ms: worst": 1000 * max(max(run["late"]) for run in runs),
        "widgets": runs[0]["widgets"],
        "cards found": runs[0]["found"],
        **{
            f"a key, {name}, ms: {what}": 1000 * of(seconds)
            for name, seconds in keys.items()
            for what, of in (("median", statistics.median), ("worst", max))
        },
    }
    for name, figure in figures.items():
        print(f"{name:40} {figure:.3f}" if isinstance(figure, float) else f"{name:40} {figure}")
    target = ROOT / "build" / "bench" / "panel.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"figures": figures, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
