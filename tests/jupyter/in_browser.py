"""A real JupyterLab, its kernels, and headless Chromium, for the tests that look at pages.

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
        "notebook": importlib.util.find_spec("notebook"),
        "playwright": importlib.util.find_spec("playwright"),
    }.items()
    if not found
]
#: For ``pytestmark``.
MARKS = [
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

    def without_news(self) -> None:
        settings = self.folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True, exist_ok=True)
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
        "--JupyterNotebookApp.expose_app_in_browser=True",
    ]
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/api/status?token={TOKEN}", process, log)
        made = Server(url, folder)
        made.without_news()
        yield made
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
def browser(tmp_path_factory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as ended:
        # Where a browser that is killed leaves its folders.
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("browser")))
        playwright = ended.enter_context(sync_playwright())
        patch.undo()
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield chromium
        chromium.close()


def dialog_of(page: Any) -> str:
    """Return the words of the dialog in front of a page of JupyterLab; empty without one."""
    shown = page.locator("dialog.jp-Dialog")
    return str(shown.first.inner_text()) if shown.count() else ""


def answer_dialog(page: Any) -> None:
    """Take what JupyterLab proposes where it asks, for a kernel of a slow server for instance."""
    if words := dialog_of(page):
        print(f"JupyterLab asked: {words}")
        page.locator("dialog.jp-Dialog .jp-mod-accept").first.click()


class Lab:
    """A page with one notebook, driven as a person drives it: in JupyterLab, or in Notebook 7."""

    def __init__(
        self, page: Any, server: Server, path: Path, shots: Path, *, lab: bool = True
    ) -> None:
        self.page, self._server, self.path, self._shots = page, server, path, shots
        page.set_default_timeout(60_000)
        # A workspace of its own: no tabs of other tests.
        place = f"lab/workspaces/{path.stem}/tree" if lab else "notebooks"
        page.goto(f"{server.url}/{place}/{path.name}?token={TOKEN}")
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

    def change_theme(self, theme: str) -> None:
        change = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
        self.page.evaluate(change, theme)
        self.page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")

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


@contextlib.contextmanager
def lab_pages(server: Server, browser: Any, shots: Path) -> Iterator[Any]:
    """Yield what opens a page with one notebook; the pages are closed at the end."""
    pages = []

    def open_(name: str, cells: list[str], *, lab: bool = True) -> Lab:
        path = server.write(name, cells)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        pages.append(page)
        return Lab(page, server, path, shots, lab=lab)

    yield open_
    for page in pages:
        with contextlib.suppress(Exception):
            page.screenshot(path=shots / "last.png")
        # Its kernel would go on for ever.
        with contextlib.suppress(Exception):
            page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.close()


@pytest.fixture
def open_lab(server, browser, tmp_path) -> Iterator[Any]:
    with lab_pages(server, browser, tmp_path) as open_:
        yield open_
