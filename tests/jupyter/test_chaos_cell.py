"""``%%chaos``: each line is a call of ``run.chaos``; a wrong one is refused before any is done."""

from __future__ import annotations

import re

import pytest

import flautim_lab as lab
from flautim_lab.jupyter.chaos_cell import Line, read_lines
from flautim_lab.runners.processes import Processes
from tests.federations import Net, experiment, same

PATIENCE = 150


def test_lines_are_calls():
    cell = (
        "kill server round=3 during=storing  # a comment\n"
        "\n"
        "# another\n"
        "pause client-0 client-1 seconds=0.5\n"
        "partition client=2 seconds=5"
    )
    assert read_lines(cell) == [
        Line(1, "kill", ("server",), {"round": 3, "during": "storing"}),
        Line(4, "pause", ("client-0", "client-1"), {"seconds": 0.5}),
        Line(5, "partition", (), {"client": 2, "seconds": 5}),
    ]


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("", "the cell of %%chaos is empty; write one fault a line, such as kill server round=3"),
        ("kill server\nkil server", "line 2: no fault named 'kil'; did you mean 'kill'?"),
        ("kill server rond=3", "line 1: no setting of kill named 'rond'; did you mean 'round'?"),
        ("kill server seconds=3", "line 1: no setting of kill named 'seconds'"),
        ("kill 'server", "line 1: No closing quotation"),
    ],
)
def test_what_is_no_fault_is_one_sentence(cell, sentence):
    with pytest.raises(lab.UsageError, match=re.escape(sentence)):
        read_lines(cell)


def test_an_experiment_is_run_with_the_faults_planned(notebook):
    made = experiment(Net, rounds=4, clients=4)
    notebook.put(trial=made)
    # A line that cannot be starts nothing.
    cell = notebook.run("%%chaos trial\nkill server round=2\nkill sever round=3")
    assert cell.error.startswith("UsageError: line 2: no process named 'sever'; did you mean 'serv")
    (refused,) = lab.runs()
    assert str(refused.status) == "failed"
    assert not Processes(refused.folder).names()
    cell = notebook.run("%%chaos trial\nkill server")
    assert "say in which round to kill it, as in round=1" in cell.error

    cell = notebook.run(
        "%%chaos trial --run struck\nkill server round=2 during=storing\nkill client=1 round=3"
    )
    assert cell.error == ""
    assert cell.text.splitlines()[:2] == [
        "to be killed in round 2 (storing): server",
        "to be killed in round 3 (training): client-1",
    ]
    run = notebook.shell.user_ns["struck"]
    try:
        run.wait(timeout_seconds=PATIENCE)
        assert list(run.faults.target) == ["server", "client-1"]
        assert same(run.model().state_dict(), lab.run(made).wait().model().state_dict())
        cell = notebook.run("%%chaos struck\nkill server")
        assert "line 1: run" in cell.error
        assert "has finished; there is nothing to kill" in cell.error
    finally:
        run.stop()
        assert Processes(run.folder).wait_gone(30)


def test_a_run_inside_its_kernel_is_refused_in_one_sentence(notebook):
    notebook.put(calm=lab.run(experiment()).wait())
    assert "is inside its kernel" in notebook.run("%%chaos calm\nkill server").error
    assert "no run" in notebook.run("%%chaos nobody\nkill server").error
