"""The hub on this machine, as its three users have it: login, panel, a grant, a run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest

from hub_local.proxy import is_installed
from tests.jupyter.in_browser import MARKS, answer_dialog, browser, dialog_of
from tests.jupyter.panel.test_in_browser import MODEL, Walk

__all__ = ["browser"]
ROOT = Path(__file__).parents[2]
PROXY = ROOT / "build" / "hub" / "proxy"
pytestmark = [
    *MARKS,
    pytest.mark.skipif(not is_installed(PROXY), reason="not installed: the proxy (make hub)"),
]
PANEL = "import flautim_lab as lab\n\nlab.panel()"


class Hub:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        environment = os.environ | {"HUB_PORT": str(self.port), "FLWR_TELEMETRY_ENABLED": "0"}
        command = [sys.executable, "-m", "hub_local.start", str(folder), str(PROXY)]
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output
            )
        try:
            self._wait()
        except BaseException:
            self.process.kill()
            raise
        self.password = json.loads((folder / "passwords.json").read_text())["user"]

    def _wait(self) -> None:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                urllib.request.urlopen(f"{self.url}/services/flautim-lab/health", timeout=2)
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError(self.log.read_text())

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, how: signal.Signals) -> None:
        """End it; whatever it started must end with it."""
        family = self.family()
        self.process.send_signal(how)
        self.process.wait(60)
        _, left = psutil.wait_procs(family, timeout=30)
        for process in left:
            process.kill()
        assert not left
        assert len(family) >= 2  # proxy and service


@pytest.fixture
def hub(tmp_path):
    made = Hub(tmp_path / "hub")
    yield made
    if made.process.poll() is None:
        made.end(signal.SIGKILL)


class Desk:
    """A user's browser, with the panel open in their notebook."""

    def __init__(self, page, hub, user, shots) -> None:
        from playwright.sync_api import TimeoutError as Late

        self.page = page
        self.page.set_default_timeout(60_000)
        home = hub.folder / "homes" / user
        home.mkdir(parents=True, exist_ok=True)
        cell = nbformat.v4.new_code_cell(PANEL)
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
        nbformat.write(notebook, home / "panel.ipynb")
        self.page.goto(f"{hub.url}/hub/spawn/{user}?next=/user/{user}/lab/tree/panel.ipynb")
        self.log_in(user, "not the password")
        self.page.get_by_text("Invalid username or password").wait_for()
        self.log_in(user, hub.password)
        self.shots = shots / user
        self.shots.mkdir()
        self.walk = Walk(self, self.shots)
        # What is asked for before the kernel is connected is lost, and nothing tells.
        for _ in range(10):
            answer_dialog(self.page)
            with contextlib.suppress(Late):
                self.page.locator(".jp-Notebook .cm-content").first.click(timeout=8_000)
                self.page.keyboard.press("Shift+Enter")
                self.walk.panel.wait_for(timeout=8_000)
                return
        raise AssertionError("the panel never came; the page shows the dialog: " + dialog_of(page))

    def log_in(self, user: str, password: str) -> None:
        self.page.get_by_label("Username:").fill(user)
        self.page.get_by_label("Password:").fill(password)
        self.page.locator("#login_submit").click()


@pytest.fixture
def sit_down(browser, hub, tmp_path):
    """Let a user come to a browser of their own; what each saw last is kept."""
    pages = {}

    def sit_down(user):
        context = browser.new_context(viewport={"width": 1280, "height": 1200})
        pages[user] = context.new_page()
        return Desk(pages[user], hub, user, tmp_path).walk

    yield sit_down
    for user, page in pages.items():
        page.screenshot(path=tmp_path / f"last of {user}.png")
        page.context.close()


def test_two_institutions_train_a_model_once_the_data_owner_has_read_it(sit_down, hub, tmp_path):
    (tmp_path / "net.py").write_text(MODEL)

    ana = sit_down("ana")
    ana.new_experiment()
    ana.type("Name", "Irises of both")
    ana.panel.get_by_label("Dataset", exact=True).first.select_option(label="Iris (ufmg/iris@1)")
    ana.panel.get_by_label("Together with", exact=True).first.select_option(
        label="Iris (ifnmg/iris@1), ask for it before it runs"
    )
    ana.upload("Model (.py)", tmp_path / "net.py")
    ana.type("Rounds", "12")
    ana.type("Clients", "2")
    ana.press("Run experiment")  # checked on made-up rows, saved, and not run yet
    ana.see("was saved; ask for its data here before it runs")
    ana.type("Note", "To tell irises apart")
    ana.press("Ask for its data")
    ana.see("waits for an answer")
    ana.shot("1 ana asks")

    bruno = sit_down("bruno")
    bruno.press("Open Instituto Federal do Norte de Minas Gerais")
    bruno.press("Data requests")
    bruno.see("To tell irises apart")
    bruno.press("Read the code of ufmg/flowers")
    bruno.see("time.sleep(0.02)")
    bruno.shot("2 bruno reads the code")
    bruno.press("Grant this code")
    bruno.see("granted for this code by bruno")
    bruno.shot("3 bruno grants it")

    ana.press("Experiments")
    ana.press("Run Irises of both")
    ana.see("running")
    bruno.press("Look again")
    bruno.see("goes on")
    ana.see("finished")
    ana.press("Log")
    ana.panel.get_by_label("Client").first.wait_for()
    assert "ifnmg" in ana.panel.get_by_label("Client").first.inner_text()
    ana.shot("4 ana runs it on both institutions' rows")
    bruno.press("Look again")
    bruno.see("ended 2")
    bruno.shot("5 bruno sees what read the data")

    clara = sit_down("clara")
    clara.press("Open Instituto Federal do Norte de Minas Gerais")
    clara.panel.get_by_role("button", name="Institution data", exact=True).wait_for()
    assert not clara.panel.get_by_role("button", name="Datasets", exact=True).count()
    assert not clara.panel.get_by_text("Iris", exact=True).count()
    clara.shot("6 clara sees neither")

    hub.end(signal.SIGTERM)
    words = hub.log.read_text()
    assert words.startswith("The hub is starting; its address follows once it answers.")
    assert words.count(hub.password) == 1  # told once, when it answers


def test_killed_it_takes_everything_with_it(hub):
    hub.end(signal.SIGKILL)
