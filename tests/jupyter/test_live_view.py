"""A run in a cell: live while it runs, a static page in any viewer once it has ended."""

from __future__ import annotations

import subprocess
import sys
import threading

import nbformat
import papermill
import pytest

import flautim_lab as lab
from flautim_lab.jupyter import live_view
from flautim_lab.jupyter.live_view import view_of
from tests.federations import experiment
from tests.jupyter.conftest import Stepwise, until

WIDGET = "application/vnd.jupyter.widget-view+json"
STATIC = {"text/html", "text/plain", "image/png"}


def threads_of(run):
    return [t for t in threading.enumerate() if t.name == f"view of {run.id}"]


def wait_for_pages(notebook, *views):
    """Wait until the views have ended and every display has become a page."""
    until(lambda: all(view.ended for view in views))
    until(lambda: all("text/html" in shown for shown in notebook.shown))


def show(notebook, run):
    """Show ``run`` as the value of a cell; return its view."""
    notebook.put(run=run)
    cell = notebook.run("run")
    assert cell.status == "ok"
    return view_of(run)


def test_live_while_it_runs_and_static_at_the_end(notebook, steps):
    run = steps.start(rounds=3)
    view = show(notebook, run)
    (shown,) = notebook.shown
    assert set(shown) == {WIDGET, "text/plain"}
    assert shown["text/plain"].startswith(f"Run Net on iris ({run.id})\nround 0/3, 00:00:0")
    assert shown[WIDGET]["model_id"] == view.box.model_id
    assert "0/3" in view.header.value
    assert view.picture.layout.display == "none"
    assert not view.stop_button.disabled

    steps.rounds(run, 1)
    until(lambda: "1/3" in view.header.value and bytes(view.picture.value)[:4] == b"\x89PNG")
    first = view.picture.value
    assert view.picture.layout.display == ""
    assert view.clients.value.count("<tr>") == 3  # the head, and two clients
    assert view.clients_box.titles == ("2 clients",)
    steps.rounds(run, 1)
    until(lambda: "2/3" in view.header.value and view.picture.value != first)
    assert len(threads_of(run)) == 1

    steps.finish(run)
    wait_for_pages(notebook, view)
    until(lambda: not threads_of(run))
    (shown,) = notebook.shown
    assert set(shown) == STATIC
    assert "finished: round 3/3, loss " in shown["text/plain"]
    assert "data:image/png;base64," in shown["text/html"]
    assert "2 clients" in shown["text/html"]
    assert "<script" not in shown["text/html"]
    # A page that was reloaded in the middle still shows the widgets: they end in the same state.
    assert ">finished<" in view.header.value
    assert view.stop_button.disabled


def test_two_displays_of_one_run_are_both_live_with_one_thread(notebook, steps):
    run = steps.start(rounds=2)
    view = show(notebook, run)
    steps.rounds(run, 1)
    until(lambda: view.picture.value)
    assert show(notebook, run) is view
    first, second = notebook.shown
    assert first[WIDGET] == second[WIDGET]
    # What cannot show widgets has a picture at once.
    assert set(second) == {WIDGET, "text/plain", "image/png"}
    assert len(threads_of(run)) == 1
    steps.finish(run)
    wait_for_pages(notebook, view)
    assert [set(shown) for shown in notebook.shown] == [STATIC, STATIC]


def test_two_runs_have_a_view_each(notebook, steps):
    runs = [steps.start(rounds=1), steps.start(rounds=1)]
    one, other = [show(notebook, run) for run in runs]
    assert one is not other
    for run in runs:
        steps.finish(run)
    wait_for_pages(notebook, one, other)
    texts = [shown["text/plain"] for shown in notebook.shown]
    assert [run.id in text for run, text in zip(runs, texts, strict=True)] == [True, True]


def test_closed_widgets_are_made_anew(notebook, steps):
    run = steps.start(rounds=1)
    view = show(notebook, run)
    view.box.close()
    assert not view.alive
    assert show(notebook, run) is not view


def test_a_finished_run_is_static_at_once(notebook):
    run = lab.run(experiment(rounds=1))
    until(lambda: run.status.ended)
    assert (run.status, run.message) == ("finished", "")
    assert show(notebook, run) is None
    (shown,) = notebook.shown
    assert set(shown) == STATIC
    assert not threads_of(run)


def test_a_run_that_ended_before_its_first_round_has_no_picture(notebook, steps):
    run = steps.start(rounds=1)
    run.stop()
    steps.finish(run)
    show(notebook, run)
    (shown,) = notebook.shown
    assert set(shown) == {"text/html", "text/plain"}
    assert ">stopped<" in shown["text/html"]


def test_a_run_of_another_kernel_is_read_from_its_records(notebook, steps):
    run = steps.start(rounds=2)
    view = show(notebook, lab.Run(run._records, run.id))
    steps.rounds(run, 1)
    until(lambda: "1/2" in view.header.value)
    steps.finish(run)
    wait_for_pages(notebook, view)
    assert ">finished<" in notebook.shown[0]["text/html"]


def test_stop_button(notebook, steps):
    run = steps.start(rounds=50)
    view = show(notebook, run)
    steps.rounds(run, 1)
    view.stop_button.click()
    assert view.stop_button.disabled
    assert view.stop_button.description == "stopping..."
    steps.finish(run)
    assert str(run.status) == "stopped"
    wait_for_pages(notebook, view)
    assert view.stop_button.disabled
    assert view.stop_button.description == "Stop"
    assert ">stopped<" in notebook.shown[0]["text/html"]


def test_a_stop_that_fails_is_said_and_can_be_tried_again(notebook, steps, monkeypatch):
    run = steps.start(rounds=1)
    view = show(notebook, run)

    def fail():
        raise OSError("disk full <b>")

    with monkeypatch.context() as broken:
        broken.setattr(run, "stop", fail)
        view.stop_button.click()
        assert "The run could not be stopped (OSError: disk full &lt;b&gt;)." in view.problem.value
        assert not view.stop_button.disabled
    view.stop_button.click()
    assert view.stop_button.disabled


def test_an_error_while_drawing_is_shown_and_got_over(notebook, steps, monkeypatch):
    run = steps.start(rounds=2)
    view = show(notebook, run)

    def fail():
        raise OSError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(run, "progress", fail)
        until(lambda: view.problem.value != "")
        assert (
            "This view could not be brought up to date (OSError: disk I/O error); trying again."
            in view.problem.value
        )
        assert threads_of(run)
    until(lambda: view.problem.value == "")
    steps.finish(run)
    wait_for_pages(notebook, view)
    assert set(notebook.shown[0]) == STATIC


def test_a_view_that_always_fails_gives_up_and_says_so(notebook, steps, monkeypatch):
    monkeypatch.setattr(live_view, "GIVE_UP_AFTER", 1)
    run = steps.start(rounds=1)
    view = show(notebook, run)
    with monkeypatch.context() as broken:
        broken.setattr(type(run), "progress", lambda self: 1 / 0)
        until(lambda: not threads_of(run))
    assert (
        "(ZeroDivisionError: division by zero); the view has given up; show the run again."
        in view.problem.value
    )
    assert show(notebook, run) is not view


def test_pictures_are_drawn_within_their_share_and_always_at_the_end(notebook, steps):
    run = steps.start(rounds=3)
    view = show(notebook, run)
    view._spent = 1e9  # as if drawing had cost that many seconds already
    steps.rounds(run, 1)
    until(lambda: "1/3" in view.header.value)
    steps.rounds(run, 1)
    until(lambda: "2/3" in view.header.value)
    assert view.picture.value == b""
    steps.finish(run)
    assert (run.status, run.message) == ("finished", "")
    wait_for_pages(notebook, view)
    assert set(notebook.shown[0]) == STATIC


def test_waits_alarms_and_where_the_time_goes(notebook, steps, monkeypatch):
    monkeypatch.setattr("flautim_lab.training.client_grid.WAIT_SECONDS", 0.3)
    run = steps.start(OneFails, rounds=6, clients=3, partition=lab.by_label(alpha=0.5))
    rows = [len(split.train) for split in run.experiment.splits]
    failing = rows.index(min(rows))
    view = show(notebook, run)
    until(lambda: "waiting for client 0 and 2 others; 0 of 3 have answered" in view.header.value)
    assert view.usage_box.layout.display == "none"
    steps.rounds(run, 2)
    until(lambda: "2/6" in view.header.value)
    assert view.problem.value == ""
    until(lambda: "<table" in view.usage.value)
    assert (view.usage_box.layout.display, view.usage_box.titles) == ("", ("Where the time goes",))
    assert "kernel</td>" in view.usage.value
    steps.rounds(run, 1)
    sentence = f"client {failing} has failed in 3 rounds running: ValueError: no luck"
    until(lambda: sentence in view.problem.value)
    steps.finish(run)
    wait_for_pages(notebook, view)
    (shown,) = notebook.shown
    sentence = f"client {failing} has failed in 6 rounds running: ValueError: no luck"
    assert sentence in shown["text/html"]
    assert sentence in shown["text/plain"]
    assert sentence in view.problem.value
    assert "<summary>Where the time goes</summary>" in shown["text/html"]
    assert "waiting for client" not in shown["text/html"]


def test_nothing_is_printed(notebook, steps, capfd):
    run = steps.start(rounds=2)
    view = show(notebook, run)
    steps.finish(run)
    wait_for_pages(notebook, view)
    messages = [m["msg_type"] for m in notebook.read()]
    assert "stream" not in messages
    assert capfd.readouterr().out == ""


def test_names_are_escaped(notebook, steps):
    run = steps.start(rounds=1, name="<img src=x onerror=alert(1)>")
    view = show(notebook, run)
    assert "<img" not in view.header.value
    steps.finish(run)
    wait_for_pages(notebook, view)
    assert "<img src=x" not in notebook.shown[0]["text/html"]


class Failing(Stepwise):
    def training_loop(self, model, loader):
        super().training_loop(model, loader)
        raise ValueError("no <b>luck</b>")


class OneFails(Stepwise):
    """The client with the fewest rows fails."""

    def training_loop(self, model, loader):
        loss = super().training_loop(model, loader)
        if sum(len(batch[0]) for batch in loader) == min(len(s.train) for s in self.splits):
            raise ValueError("no luck")
        return loss


def test_failures_are_shown_first_and_the_reason_of_the_end(notebook, steps):
    run = steps.start(Failing, rounds=3)
    view = show(notebook, run)
    steps.finish(run)
    wait_for_pages(notebook, view)
    (shown,) = notebook.shown
    assert ">failed<" in shown["text/html"]
    assert "no &lt;b&gt;luck&lt;/b&gt;" in shown["text/html"]
    assert "<details open><summary>2 clients, 2 failing</summary>" in shown["text/html"]
    assert run.message in shown["text/plain"]


class TestWait:
    def test_leaves_the_page_of_the_view_in_the_waiting_cell(self, notebook, steps):
        run = steps.start(rounds=2)
        view = show(notebook, run)
        steps.permits.release(100)
        cell = notebook.run("run.wait();")
        assert cell.status == "ok"
        assert view.ended
        (display_id,) = notebook.displays
        assert set(notebook.displays[display_id]) == STATIC
        # Sent by the waiting cell, which is what papermill listens to.
        assert cell.id in notebook.changed_by[display_id]
        assert notebook.run("run.wait();").of("update_display_data") == []

    def test_without_a_view_is_a_line_that_becomes_the_page(self, notebook, steps):
        run = steps.start(rounds=2)
        notebook.put(run=run)
        release = threading.Timer(1.0, steps.permits.release, [100])
        release.start()
        cell = notebook.run("run.wait().status")
        first, *others = cell.of("display_data")
        assert others == []
        assert set(first["data"]) == {"text/plain"}
        assert "round 0/2, 00:00:0" in first["data"]["text/plain"]
        assert [set(shown) for shown in notebook.shown] == [STATIC]
        assert "finished: round 2/2" in notebook.shown[0]["text/plain"]
        assert cell.of("stream") == []
        # It is shown once.
        assert notebook.run("run.wait().status").of("display_data") == []

    def test_at_the_end_of_a_cell_shows_the_page_once(self, notebook):
        notebook.put(run=lab.run(experiment(rounds=1)))
        notebook.run("run.wait()")
        assert [set(shown) for shown in notebook.shown] == [STATIC]
        notebook.run("run")
        assert [set(shown) for shown in notebook.shown] == [STATIC, STATIC]

    def test_of_a_failed_run_shows_the_page_and_one_sentence(self, notebook, steps):
        run = steps.start(Failing, rounds=1)
        steps.finish(run)
        notebook.put(run=run)
        cell = notebook.run("run.wait()")
        assert cell.status == "error"
        assert cell.error == f"TrainingError: run {run.id} failed: {run.message}"
        assert set(notebook.shown[0]) == STATIC - {"image/png"}

    def test_is_not_ended_by_a_display_that_fails(self, notebook, steps, monkeypatch):
        run = steps.start(rounds=1)
        notebook.put(run=run)
        steps.permits.release(100)
        monkeypatch.setattr("flautim_lab.jupyter.text_progress.Artist", lambda run: 1 / 0)
        assert notebook.run("run.wait();").status == "ok"
        assert run.status.ended


NOTEBOOK = """\
import sys
sys.path.insert(0, {root!r})
import flautim_lab as lab
from tests.federations import experiment
run = lab.run(experiment(rounds=2))
---
run
---
run.wait().status
---
lab.CSVDataset("nowhere.csv", target="x")
"""


def test_under_papermill(tmp_path, request):
    """The page is saved, without widgets, and an error of ours fails the notebook by its name."""
    cells = NOTEBOOK.format(root=str(request.config.rootpath)).split("---\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(
            tmp_path / "in.ipynb",
            tmp_path / "out.ipynb",
            kernel_name="python3",
            cwd=tmp_path,
            progress_bar=False,
        )
    assert caught.value.ename == "DatasetError"
    assert caught.value.traceback == [
        "\x1b[0;31mDatasetError\x1b[0m: " + caught.value.evalue,
    ]
    done = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    shown = next(cell for cell in done.cells if cell.source == "run\n")
    (output,) = shown.outputs
    assert set(output.data) == STATIC
    assert "finished: round 2/2" in output.data["text/plain"]


def test_in_a_terminal_a_run_is_text(tmp_path):
    run = lab.run(experiment(rounds=1)).wait()
    code = f"import flautim_lab as lab; run = lab.attach({run.id!r})\nrun"
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--colors=NoColor", "-i"],
        input=code + "\nexit\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"Run Net on iris ({run.id})\nfinished: round 1/1" in done.stdout


def test_registering_loads_nothing_heavy(tmp_path):
    code = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "before = set(sys.modules)\n"
        "import flautim_lab\n"
        "from flautim_lab.jupyter import register\n"
        "register(shell)\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'torch', 'flwr', 'pandas', 'sqlalchemy', 'matplotlib',"
        " 'ipywidgets', 'papermill', 'kubernetes'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
