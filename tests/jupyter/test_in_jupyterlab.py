"""The live view as a researcher sees it: a real JupyterLab, its kernel, and headless Chromium.

Screenshots are left in the test's ``tmp_path``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
MISSING = [
    what
    for what, found in {
        "chromium": CHROMIUM,
        "jupyterlab": importlib.util.find_spec("jupyterlab"),
        "playwright": importlib.util.find_spec("playwright"),
    }.items()
    if not found
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

TOKEN = "a-token-of-this-test"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDGET = "application/vnd.jupyter.widget-view+json"

DEFINE = """\
import time
import flautim_lab as lab
from sklearn.datasets import load_iris
from torch import nn

data = load_iris(as_frame=True)
iris = lab.CSVDataset(data.frame, target="target", name="iris", task="classification")

class Slow(lab.Experiment):
    def loss(self, model, batch):
        time.sleep(0.1)
        return super().loss(model, batch)

experiment = Slow(iris, lambda: nn.Linear(4, 3), name="<i>iris", clients=3, rounds={rounds},
                  lr=0.05, batch_size=64)
run = lab.run(experiment)
"""


@dataclass
class Server:
    url: str
    folder: Path

    def write(self, name: str, cells: list[str]) -> Path:
        path = self.folder / "notebooks" / name
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, path)
        return path

    def set_theme(self, theme: str) -> None:
        settings = self.folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
        news = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(news))


@pytest.fixture(scope="module")
def server(tmp_path_factory, pytestconfig) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "FLAUTIM_LAB_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join(
            [str(pytestconfig.rootpath), os.environ.get("PYTHONPATH", "")]
        ),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={folder / 'notebooks'}",
        # So that a test can give JupyterLab's own commands by name.
        "--LabApp.expose_app_in_browser=True",
    ]
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/api/status?token={TOKEN}", process, log)
        yield Server(url, folder)
    finally:
        _reap(process)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab does not answer:\n{log.read_text()}")


def _reap(process: subprocess.Popen[bytes]) -> None:
    """End the server and its kernels, whatever state they are in."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield chromium
        chromium.close()


class Lab:
    """A page with one notebook, driven as a person drives it."""

    def __init__(self, page: Any, server: Server, path: Path, shots: Path) -> None:
        self.page, self._server, self.path, self._shots = page, server, path, shots
        page.set_default_timeout(60_000)
        # A workspace of its own: no tabs of other tests.
        page.goto(f"{server.url}/lab/workspaces/{path.stem}/tree/{path.name}?token={TOKEN}")
        self.wait_for_kernel()

    def wait_for_kernel(self) -> None:
        self.page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'"
        )

    def command(self, name: str) -> None:
        # Not its result: "run all" would answer only when all has run.
        self.page.evaluate(f"void window.jupyterapp.commands.execute('{name}')")

    def save(self) -> nbformat.NotebookNode:
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(self.path, as_version=4)

    def shot(self, name: str) -> None:
        self.page.screenshot(path=self._shots / f"{name}.png")

    @property
    def live(self) -> Any:
        return self.page.locator(".jp-OutputArea-output .widget-vbox").first

    @property
    def picture(self) -> str:
        return self.live.locator("img").first.get_attribute("src") or ""

    def wait_for_text(self, text: str) -> None:
        self.page.locator(".jp-OutputArea-output", has_text=text).first.wait_for()

    def wait_for_another_picture(self, src: str) -> None:
        self.page.wait_for_function(
            """src => {
                const shown = document.querySelector('.jp-OutputArea-output .widget-vbox img');
                return shown && shown.src !== src;
            }""",
            arg=src,
        )

    def wait_for_round(self, number: int) -> None:
        """Wait until the live view says that at least so many rounds are done."""
        self.page.wait_for_function(
            """number => {
                const shown = document.querySelector('.jp-OutputArea-output .widget-vbox');
                const rounds = shown?.innerText.match(/(\\d+)\\/\\d+ rounds/);
                return rounds && Number(rounds[1]) >= number;
            }""",
            arg=number,
        )


@pytest.fixture
def open_lab(server, browser, tmp_path, request) -> Iterator[Any]:
    pages = []

    def open_(name: str, cells: list[str], theme: str = "JupyterLab Light") -> Lab:
        server.set_theme(theme)
        path = server.write(name, cells)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        pages.append(page)
        return Lab(page, server, path, tmp_path)

    yield open_
    for page in pages:
        with contextlib.suppress(Exception):
            page.screenshot(path=tmp_path / "last.png")
        # Its kernel would go on for ever.
        with contextlib.suppress(Exception):
            page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
        page.close()


def test_live_while_it_runs_and_static_at_the_end(open_lab):
    lab = open_lab("live.ipynb", [DEFINE.format(rounds=30), "run"])
    lab.command("notebook:run-all-cells")
    lab.wait_for_round(2)
    lab.live.locator("img").wait_for()
    assert "&lt;i&gt;iris" in lab.live.inner_html()
    first = lab.picture
    lab.live.get_by_text("3 clients").click()
    lab.live.get_by_text("client 2").wait_for()
    lab.wait_for_another_picture(first)
    lab.shot("live")
    assert lab.live.get_by_text("client 2").is_visible()  # the table stayed open

    page = lab.page.locator(".jp-RenderedHTMLCommon", has_text="finished").first
    page.wait_for()
    assert page.locator("img").get_attribute("src").startswith("data:image/png;base64,")
    lab.shot("static")
    saved = lab.save().cells[1].outputs
    assert [set(output.data) for output in saved] == [{"text/html", "image/png", "text/plain"}]
    assert WIDGET not in json.dumps(saved)


def test_reloaded_in_the_middle(open_lab):
    lab = open_lab("reload.ipynb", [DEFINE.format(rounds=500), "run"])
    lab.command("notebook:run-all-cells")
    lab.wait_for_round(2)
    lab.live.locator("img").wait_for()
    lab.save()
    lab.page.reload()
    lab.wait_for_kernel()
    lab.wait_for_round(4)  # the same view, from the kernel's widgets
    lab.wait_for_another_picture(lab.picture)
    assert "running" in lab.live.inner_text()
    lab.shot("reloaded")
    # And to the end: no display is left behind as "running".
    lab.live.get_by_role("button", name="Stop").click()
    lab.wait_for_text("stopped")
    assert lab.live.get_by_role("button", name="Stop").is_disabled()
    lab.shot("reloaded_stopped")


def test_stop_button_while_the_kernel_waits(open_lab):
    lab = open_lab("stop.ipynb", [DEFINE.format(rounds=500), "run", "print(run.wait().status)"])
    lab.command("notebook:run-all-cells")
    lab.wait_for_round(1)
    lab.live.get_by_role("button", name="Stop").click()
    lab.page.locator(".jp-RenderedHTMLCommon", has_text="stopped").first.wait_for()
    lab.page.locator(".jp-RenderedText", has_text="stopped").first.wait_for()
    lab.shot("stopped")


# The contrast of WCAG 2.1 between a text and the first background behind it.
CONTRAST = """element => {
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    let behind = element, color = [0, 0, 0, 0];
    while (behind && (color[3] ?? 1) < 1) {
        color = numbers(getComputedStyle(behind).backgroundColor);
        behind = behind.parentElement;
    }
    const both = [light(numbers(getComputedStyle(element).color)), light(color)].sort();
    return (both[1] + 0.05) / (both[0] + 0.05);
}"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_readable_in_every_theme(open_lab, theme):
    name = theme.split()[1].lower()
    lab = open_lab(f"{name}.ipynb", [DEFINE.format(rounds=10), "run"], theme=theme)
    lab.command("notebook:run-all-cells")
    lab.wait_for_round(2)
    lab.live.locator("img").wait_for()
    lab.live.get_by_text("3 clients").click()
    lab.live.get_by_text("client 2").wait_for()
    lab.shot(f"live_{name}")
    texts = lab.live.locator("strong, span, code, td, th")
    assert texts.count() > 20
    assert min(texts.evaluate_all(f"all => all.map({CONTRAST})")) >= 4.5
    page = lab.page.locator(".jp-RenderedHTMLCommon", has_text="finished").first
    page.wait_for()
    for folded in page.locator("summary").all():
        folded.click()
    lab.shot(f"static_{name}")
    texts = page.locator("strong, span, code, td, th, summary")
    assert min(texts.evaluate_all(f"all => all.map({CONTRAST})")) >= 4.5
