"""A hub on the cluster, in namespaces of its own, and a browser before it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nbformat
from playwright.sync_api import TimeoutError as Late

from flautim_lab.runners.cluster import IMAGE, IMAGE_VARIABLE
from tests.cluster.waiting import PATIENCE, wait_until
from tests.jupyter.in_browser import answer_dialog

K8S = Path(__file__).parents[2] / "k8s"
KERNEL_IS_IDLE = """async ([user, name]) => {
    const token = document.cookie.match(/_xsrf=([^;]+)/)[1];
    const headers = {"X-XSRFToken": token};
    const answer = await fetch(`/user/${user}/api/sessions`, {headers});
    return answer.ok && (await answer.json()).some(
        (each) => each.path === name && each.kernel?.execution_state === "idle");
}"""


def kubectl(*arguments: str, **options: Any) -> str:
    """Return what kubectl says; what goes wrong is shown by the test."""
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@dataclass
class Hub:
    """Where it is, and how to get in."""

    url: str
    namespace: str
    institutions: dict[str, str]  # namespace of each, by its key
    passwords: dict[str, str]
    overlay: Path

    @property
    def institution(self) -> str:
        """The namespace of the first."""
        return next(iter(self.institutions.values()))

    def apply(self) -> None:
        """Bring the cluster to what the files say."""
        kubectl("apply", "-k", str(self.overlay))
        for name in ("hub", "proxy", "service"):
            limit = f"--timeout={PATIENCE}s"
            kubectl("rollout", "status", "-n", self.namespace, f"deployment/{name}", limit)

    def pods(self, namespace: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            kubectl("get", "pods", "-n", namespace, "-o", "json")
        )["items"]
        return found

    def notebook(self, user: str) -> dict[str, Any]:
        """Return a user's notebook pod."""
        (pod,) = (
            pod
            for namespace in self.institutions.values()
            for pod in self.pods(namespace)
            if pod["metadata"]["annotations"].get("hub.jupyter.org/username") == user
        )
        return pod

    def write(self, user: str, name: str, cells: list[str]) -> None:
        """Put a notebook into a user's home."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        pod = self.notebook(user)["metadata"]
        where = ["-n", pod["namespace"], pod["name"]]
        command = ["exec", "-i", *where, "--", "sh", "-c", f"cat > {name}"]
        kubectl(*command, input=nbformat.writes(notebook))


def copied(folder: Path, names: Mapping[str, str]) -> Path:
    """Copy the manifests, with other names in them; returns the copy."""
    images = {f"value: {IMAGE}": f"value: {os.environ[IMAGE_VARIABLE]}"}
    shutil.copytree(K8S, folder / "k8s", ignore=shutil.ignore_patterns("*.env"))
    for kind in ("*.yaml", "*.json", "*.properties"):
        for path in (folder / "k8s").rglob(kind):
            text = path.read_text(encoding="utf-8")
            for old, new in {**names, **images}.items():
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
    return folder / "k8s"


def remove(*namespaces: str) -> None:
    """Remove namespaces and all in them."""
    for each in namespaces:
        # Jobs first: in a namespace that is going, those of their pods that never ran would stay.
        kubectl("delete", "job", "-n", each, "--all", "--ignore-not-found")
    kubectl("delete", "namespace", *namespaces, "--wait=false", "--ignore-not-found")


@contextlib.contextmanager
def hub_on_the_cluster(
    folder: Path,
    names: Mapping[str, str] = MappingProxyType({}),
    change: Callable[[Path], None] = lambda overlay: None,
    others: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Iterator[Hub]:
    """Apply the laptop's overlay under other names; everything is removed at the end.

    Parameters
    ----------
    folder : Path
    names : mapping
        Further ones that are to be others.
    change : callable
        What is to be another in the copy of the overlay.
    others : mapping
        Further institutions: by their keys, what the list of institutions says of them.
    """
    mark = secrets.token_hex(3)
    spaces = {key: f"fl-{key}-{mark}" for key in ("ufmg", *others)}
    namespace = f"fl-hub-{mark}"
    own = {"flautim-hub": namespace, "flautim-ufmg": spaces["ufmg"]}
    overlay = copied(folder, {**own, **names}) / "overlays/laptop"
    for key, about in others.items():
        _add_institution(overlay, key, {**about, "namespace": spaces[key]})
    change(overlay)
    subprocess.run([overlay / "secrets.sh"], check=True, stdout=subprocess.DEVNULL)
    told = dict(line.split("=", 1) for line in (overlay / "hub/secrets.env").read_text().split())
    passwords = {"admin": told["admin-password"], "": told["login-password"]}
    hub = Hub("", namespace, spaces, passwords, overlay)
    try:
        hub.apply()
        with forwarded(namespace) as hub.url:
            yield hub
    finally:
        remove(namespace, *spaces.values())


def _add_institution(overlay: Path, key: str, told: Mapping[str, Any]) -> None:
    """Give an overlay another institution, as who runs the cluster would: like the first."""
    shutil.copytree(overlay / "ufmg", overlay / key)
    for path in (overlay / key).iterdir():
        path.write_text(path.read_text().replace("ufmg", key))
    spaces = overlay / "namespaces.yaml"
    *_, first = spaces.read_text().split("---\n")
    spaces.write_text(f"{spaces.read_text()}---\n{first.replace('ufmg', key)}")
    all_of_it = overlay / "kustomization.yaml"
    all_of_it.write_text(f"{all_of_it.read_text().rstrip()}\n  - {key}\n")
    listed = overlay / "hub/institutions.json"
    listed.write_text(json.dumps(json.loads(listed.read_text()) | {key: dict(told)}))


@contextlib.contextmanager
def forwarded(namespace: str, service: str = "proxy", port: int = 80) -> Iterator[str]:
    """Forward a port of this machine to a service of the hub, its proxy by default.

    Also to the pod that comes in the place of its pod.
    """
    process, here = _forward(namespace, service, port)
    ended = threading.Event()

    def again() -> None:
        nonlocal process
        while not ended.wait(0.2):
            if process.poll() is not None:  # its pod is gone
                with contextlib.suppress(AssertionError):
                    process, _ = _forward(namespace, service, port, here)

    keeper = threading.Thread(target=again)
    keeper.start()
    try:
        yield f"http://127.0.0.1:{here}"
    finally:
        ended.set()
        keeper.join()
        process.terminate()
        process.wait()


def _forward(
    namespace: str, service: str, port: int, here: str = ""
) -> tuple[subprocess.Popen[str], str]:
    """Begin to forward; returns the process and the port on this machine."""
    command = ["kubectl", "port-forward", "-n", namespace, f"service/{service}", f"{here}:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    said = process.stdout.readline()
    found = re.search(r"127\.0\.0\.1:(\d+) ->", said)
    if not found:
        process.kill()
        process.wait()
    assert found, said
    return process, found[1]


class Visitor:
    """Somebody with a browser of their own."""

    def __init__(self, hub: Hub, browser: Any, shots: Path) -> None:
        self.hub, self._shots = hub, shots
        self.context = browser.new_context(viewport={"width": 1280, "height": 1000})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)

    def log_in(self, user: str, password: str | None = None) -> None:
        if password is None:
            password = self.hub.passwords.get(user, self.hub.passwords[""])
        self.page.goto(f"{self.hub.url}/hub/login?next=%2Fhub%2Fhome")
        self.page.fill("#username_input", user)
        self.page.fill("#password_input", password)
        self.page.click("#login_submit")
        self.page.wait_for_load_state()

    @property
    def text(self) -> str:
        return " ".join(self.page.inner_text("body").split())

    def start(self) -> float:
        """Start the notebook pod; returns the seconds until JupyterLab is there."""
        begin = time.monotonic()
        self.page.goto(f"{self.hub.url}/hub/spawn")
        self.page.locator(".jp-Launcher").first.wait_for()
        return time.monotonic() - begin

    def open(self, user: str, name: str) -> None:
        # A workspace of its own: no other notebook is there to be run instead.
        workspace = name.partition(".")[0]
        self.page.goto(f"{self.hub.url}/user/{user}/lab/workspaces/{workspace}/tree/{name}")
        self.page.locator(".jp-Notebook .jp-InputArea-editor").first.wait_for()
        # JupyterLab calls it idle before there is a kernel, and would ask for one on "run".
        wait_until(lambda: self.page.evaluate(KERNEL_IS_IDLE, [user, name]), f"a kernel of {name}")
        self.page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first.wait_for()

    def run_all(self) -> None:
        """Run all cells; JupyterLab overlooks what is asked while it still connects to a kernel."""
        begun = (
            r"/\[(\*|\d+)\]/.test(document.querySelector('.jp-Notebook .jp-InputPrompt').innerText)"
        )
        end = time.monotonic() + PATIENCE
        while True:
            answer_dialog(self.page)  # a click would wait for it, and tell nothing
            self.page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
            self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            with contextlib.suppress(Late):
                self.page.wait_for_function(begun, timeout=5_000)
                return
            assert time.monotonic() < end, "the cells never began"

    def wait_for_output(self, text: str) -> str:
        """Wait until a cell's output holds a text, and return that output."""
        output = self.page.locator(".jp-OutputArea-output", has_text=text).first
        output.wait_for()
        return str(output.inner_text())

    def wait_for_round(self, number: int) -> str:
        """Wait until the live curve of a notebook is at a round, and return its picture."""
        shown: str = self.page.wait_for_function(
            """number => {
                const shown = document.querySelector('.jp-OutputArea-output .widget-vbox');
                const rounds = shown?.innerText.match(/(\\d+)\\/\\d+ rounds/);
                return rounds && Number(rounds[1]) >= number && shown.querySelector('img')?.src;
            }""",
            arg=number,
        ).json_value()
        return shown

    def shot(self, name: str) -> None:
        self.page.screenshot(path=self._shots / f"{name}.png")

    def close(self) -> None:
        self.context.close()
