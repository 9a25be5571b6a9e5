"""A kernel inside the test's process, and runs that take one step when they are told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from ipykernel.inprocess.manager import InProcessKernelManager

import flautim_lab as lab
from flautim_lab.jupyter import live_view, magics, static_page, text_progress
from flautim_lab.runners.progress import observer_factories
from tests.federations import experiment


@dataclass
class Cell:
    """What a front end received for one execution."""

    id: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m["content"] for m in self.messages if m["msg_type"] == kind]

    @property
    def text(self) -> str:
        return "".join(content["text"] for content in self.of("stream"))

    @property
    def error(self) -> str:
        """Name and message of the error that the cell ended with, as a person reads it."""
        shown = ["\n".join(content["traceback"]) for content in self.of("error")]
        return "\n".join(shown).replace("\x1b[0;31m", "").replace("\x1b[0m", "")


class Notebook:
    """A front end that keeps what each display shows now, as a notebook file would."""

    def __init__(self) -> None:
        manager = InProcessKernelManager()
        manager.start_kernel()
        self.shell = manager.kernel.shell
        self._manager = manager
        self._client = manager.client()
        self._client.start_channels()
        self.forget()

    def forget(self) -> None:
        """Start anew, as an empty notebook."""
        while self._client.iopub_channel.msg_ready():
            self._client.get_iopub_msg(timeout=5)
        #: Display id to its newest MIME bundle, in order of appearance.
        self.displays: dict[str, dict[str, Any]] = {}
        #: Display id to the cells whose messages changed it.
        self.changed_by: dict[str, list[str]] = {}

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.kernel.iopub_thread.stop()
        self._manager.shutdown_kernel()
        type(self.shell).clear_instance()

    def put(self, **names: object) -> None:
        self.shell.user_ns.update(names)

    def run(self, source: str) -> Cell:
        cell = Cell(self._client.execute(source))
        reply = self._client.get_shell_msg(timeout=30)
        cell.status = reply["content"]["status"]
        cell.messages = self.read()
        return cell

    def read(self) -> list[dict[str, Any]]:
        """Read what has arrived since, and bring the displays up to date."""
        messages = []
        while self._client.iopub_channel.msg_ready():
            message = self._client.get_iopub_msg(timeout=5)
            messages.append(message)
            if message["msg_type"] in ("display_data", "update_display_data"):
                content = message["content"]
                display_id = content["transient"].get("display_id", message["header"]["msg_id"])
                self.displays[display_id] = content["data"]
                sender = message["parent_header"].get("msg_id", "")
                self.changed_by.setdefault(display_id, []).append(sender)
        return messages

    @property
    def shown(self) -> list[dict[str, Any]]:
        self.read()
        return list(self.displays.values())


@pytest.fixture(scope="module")
def kernel() -> Iterator[Notebook]:
    book = Notebook()
    yield book
    book.close()


@pytest.fixture
def notebook(kernel: Notebook) -> Iterator[Notebook]:
    """An empty notebook, with the extension loaded."""
    kernel.shell.reset(new_session=False)
    magics.load_ipython_extension(kernel.shell)
    kernel.forget()
    yield kernel
    for thread in threading.enumerate():
        if thread.name.startswith("view of "):
            thread.join(timeout=30)
    observer_factories.clear()
    for remembered in (live_view._views, static_page._left_in, text_progress._waited_for):
        remembered.clear()


class Steps:
    """Lets the clients of a run train, so many rounds at a time."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.runs: list[lab.Run] = []

    def start(self, cls: type[lab.Experiment] | None = None, **settings: Any) -> lab.Run:
        made = experiment(cls=cls or Stepwise, **({"clients": 2} | settings))
        run = lab.run(made)
        self.runs.append(run)
        return run

    def rounds(self, run: lab.Run, number: int) -> None:
        """Let ``run`` do ``number`` rounds more, and wait until they are recorded."""
        goal = run.round + number
        for _ in range(number * run.clients):
            self.permits.release()
        until(lambda: run.round >= goal)

    def finish(self, run: lab.Run) -> None:
        self.permits.release(10_000)
        until(lambda: run.status.ended)


STEPS = Steps()


class Stepwise(lab.Experiment):
    """An experiment whose clients wait for a permit before they train."""

    def training_loop(self, model, loader):
        STEPS.permits.acquire()
        return super().training_loop(model, loader)


@pytest.fixture
def steps() -> Iterator[Steps]:
    STEPS.permits, STEPS.runs = threading.Semaphore(0), []
    yield STEPS
    for run in STEPS.runs:
        run.stop()
    STEPS.permits.release(10_000)
    for run in STEPS.runs:
        until(lambda run=run: run.status.ended)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
