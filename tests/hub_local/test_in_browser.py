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
from tests.jupyter.in_browser import MARKS, browser
from tests.jupyter.panel.test_in_browser import HYPERPARAMETERS, MODEL, Walk

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
        self.walk = Walk(self, shots / user)
        (shots / user).mkdir()
        # What is asked for before the kernel is connected is lost, and nothing tells.
        for _ in range(10):
            self.page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
            self.page.keyboard.press("Shift+Enter")
            with contextlib.suppress(Late):
                self.walk.panel.wait_for(timeout=8_000)
                return
        raise AssertionError("the panel never came")

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


def test_a_data_owner_lets_a_project_of_another_institution_use_a_dataset(sit_down, hub, tmp_path):
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "settings.toml").write_text(HYPERPARAMETERS)

    ana = sit_down("ana")
    ana.see("Instituto Federal do Norte de Minas Gerais")
    ana.press("Open Universidade Federal de Minas Gerais")
    ana.see("Which iris is it?")
    ana.press("Open Flowers")
    ana.press("New experiment")
    datasets = ana.panel.get_by_label("Dataset", exact=True).first
    assert "ifnmg/iris" not in datasets.inner_text()  # nobody granted it
    ana.shot("before the grant")

    bruno = sit_down("bruno")
    bruno.press("Open Instituto Federal do Norte de Minas Gerais")
    bruno.press("Datasets")
    bruno.see("Iris")
    bruno.panel.get_by_text("Grants", exact=True).first.click()
    bruno.type("Project", "ufmg/flowers")
    bruno.press("Give grant")
    bruno.see("by bruno")
    bruno.shot("the grant")

    ana.start()
    ana.new_experiment()
    ana.type("Name", "Irises of IFNMG")
    ana.panel.get_by_label("Dataset", exact=True).first.select_option(label="Iris (ifnmg/iris@1)")
    ana.upload("Model (.py)", tmp_path / "net.py")
    ana.upload("Hyperparameters", tmp_path / "settings.toml")
    ana.see("settings.toml set rounds")
    ana.press("Run experiment")
    ana.see("finished")
    ana.shot("the run")

    clara = sit_down("clara")
    clara.press("Open Instituto Federal do Norte de Minas Gerais")
    clara.panel.get_by_role("button", name="Institution data", exact=True).wait_for()
    assert not clara.panel.get_by_role("button", name="Datasets", exact=True).count()
    assert not clara.panel.get_by_text("Iris", exact=True).count()
    clara.shot("somebody else")

    hub.end(signal.SIGTERM)
    words = hub.log.read_text()
    assert hub.password not in words.replace(words.splitlines()[1], "")  # told once, at the start


def test_killed_it_takes_everything_with_it(hub):
    hub.end(signal.SIGKILL)
