"""The notebook about the cluster, on one, as a user's kubeconfig has it."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from flautim_lab.runners.notebook import execute_notebook
from tests.cluster.conftest import left_in
from tests.cluster.waiting import wait_until
from tests.notebooks.test_notebooks_run import FOLDER, Outcome, on_the_cluster


def test_the_notebook_about_the_cluster(api, spaces, tmp_path, monkeypatch):
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text(encoding="utf-8"))
    for context in config["contexts"]:
        context["context"]["namespace"] = spaces[0]
    mine = tmp_path / "kubeconfig"
    mine.write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(mine))
    path = FOLDER / "08_on_the_cluster.ipynb"
    done = execute_notebook(path, tmp_path / path.name, {}, timeout_seconds=600)
    outcome = Outcome(done.path)
    assert [output for output in outcome.outputs() if output.output_type == "error"] == []
    assert [str(run.status) for run in outcome.runs] == ["finished"] * 3
    on_the_cluster(outcome, "cluster")
    wait_until(lambda: not left_in(api, spaces), f"all is removed, not {left_in(api, spaces)}", 60)
