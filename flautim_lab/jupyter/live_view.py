"""A run shown in a cell: live while it runs, a static page once it has ended.

One view per run, however often it is shown: widgets are models that may have many views. Its one
daemon thread looks twice a second, off the kernel's main thread, and only sets values; nothing is
printed. Pictures are drawn as seldom as keeps the whole view under a share of the time.

When the run has ended each display is replaced by a static page, so that a saved notebook shows
its result in any viewer. The widgets stay, in their last state: a page that was reloaded in the
middle knows the widgets but no longer which display they came from.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

import ipywidgets as widgets

from flautim_lab.jupyter import html
from flautim_lab.jupyter.resources_html import TITLE, resources_table
from flautim_lab.jupyter.static_page import (
    Artist,
    MimeBundle,
    in_kernel,
    is_left_here,
    mark_left,
    plain_text,
    this_cell,
)
from flautim_lab.runners.progress import ClientProgress, Progress
from flautim_lab.runners.usage import ProcessUsage

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

LOOK_SECONDS = 0.5
SHARE = 0.02
"""Part of the time that the view may take from the run."""
BURST_SECONDS = 0.05
"""What it may take beyond its share, so that short runs are seen, too."""
GIVE_UP_AFTER = 20
"""Errors in a row after which the view stops trying; with growing pauses, minutes."""

_views: dict[str, LiveView] = {}


def show(run: Run) -> None:
    """Show ``run`` in the cell that runs now: live, or at once as it ended.

    Parameters
    ----------
    run : Run
        Of this kernel or of another one; it is read from the records either way.
    """
    progress = run.progress()
    if not in_kernel():
        MimeBundle({"text/plain": plain_text(run, progress)}).display()
    elif not progress.status.ended:
        view = _views.get(run.id)
        if view is None or not view.alive:
            view = _views[run.id] = LiveView(run)
        view.display()
    elif not is_left_here(run):
        Artist(run).page(progress).display()


def view_of(run: Run) -> LiveView | None:
    """Return the view of ``run``, if it was shown while it was running."""
    return _views.get(run.id)


class LiveView:
    """The widgets of a run and the thread that keeps them true."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._name = run.name
        self._artist = Artist(run)
        self._page: MimeBundle | None = None
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._displays: list[str] = []
        self._cells: set[str] = set()
        self._shown_clients: tuple[ClientProgress, ...] | None = None
        self._shown_processes: tuple[ProcessUsage, ...] = ()
        self._drawn: tuple[object, ...] | None = None
        self._spent = 0.0
        self._born = time.monotonic()
        self._stopping = False
        self._left_by_wait = False

        self.header = widgets.HTML()
        self.problem = widgets.HTML()
        self.stop_button = widgets.Button(
            description="Stop",
            icon="stop",
            tooltip="Ask the run to stop; it keeps its last whole round",
            layout=widgets.Layout(width="auto", flex="0 0 auto"),
        )
        self.stop_button.on_click(self._ask_stop)
        _answer_while_busy(self.stop_button)
        self.picture = widgets.Image(
            format="png", layout=widgets.Layout(display="none", max_width="100%", height="auto")
        )
        self.clients = widgets.HTML()
        self.clients_box = widgets.Accordion([self.clients], selected_index=None)
        self.usage = widgets.HTML()
        self.usage_box = widgets.Accordion(
            [self.usage], selected_index=None, titles=(TITLE,), layout={"display": "none"}
        )
        top = widgets.HBox(
            [self.header, self.stop_button],
            layout=widgets.Layout(justify_content="space-between", align_items="flex-start"),
        )
        self.header.layout.flex = "1 1 auto"
        parts = [top, self.problem, self.picture, self.clients_box, self.usage_box]
        self.box = widgets.VBox(parts)
        self._thread = threading.Thread(target=self._follow, name=f"view of {run.id}", daemon=True)
        self._look()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it is kept true: not given up, and its widgets not closed by somebody."""
        return self._thread.is_alive() and self.box.comm is not None

    @property
    def ended(self) -> bool:
        """Whether the static page has replaced the displays."""
        return self._page is not None

    def display(self) -> None:
        """Show the widgets in the cell that runs now."""
        with self._lock:
            data = {
                **self.box._repr_mimebundle_(),
                "text/plain": plain_text(self.run, self.run.progress()),
            }
            self._displays.append(MimeBundle(data).with_picture(self._artist.picture).display())
            self._cells.add(this_cell())

    def finish(self, progress: Progress | None = None) -> None:
        """Leave the final page in every display of the run, in the calling thread.

        ``run.wait()`` calls this in the kernel's main thread: under papermill a message counts
        for the cell that runs when it is sent, and threads end with the notebook.

        Parameters
        ----------
        progress : Progress, optional
            Where the run stands; read anew by default. Nothing happens while it has not ended.
        """
        progress = progress or self.run.progress()
        with self._lock:
            if not progress.status.ended or self._left_by_wait:
                return
            self._left_by_wait = True
            self._end(progress)
            if this_cell() in self._cells:
                mark_left(self.run)

    def _follow(self) -> None:
        """Look again and again until the run has ended; this is the thread."""
        failures = 0
        pause = 0.0
        while not self._wake.wait(pause):
            began, first = time.thread_time(), "flautim_lab.plots" not in sys.modules
            try:
                self._look()
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, the view has to show it
                failures += 1
                self._show_failure(error, last=failures == GIVE_UP_AFTER)
                if failures == GIVE_UP_AFTER:
                    return
            # The first picture in a kernel loads matplotlib and its fonts; the next ones will not.
            self._spent += 0.0 if first else time.thread_time() - began
            pause = min(LOOK_SECONDS * 2 ** max(0, failures - 1), 30.0)

    def _look(self) -> None:
        """Read where the run stands and set what changed."""
        with self._lock:
            if self.ended:
                return
            progress = self.run.progress()
            if progress.status.ended:
                self._end(progress)
                return
            self._set_words(progress)
            state = (progress.round, progress.clients, progress.faults)
            if state != self._drawn and self._may_draw():
                self._artist.draw_live(progress)
                self._set_picture()
                self._drawn = state
            self.problem.value = _alarms(progress)

    def _may_draw(self) -> bool:
        """Return whether a picture may be drawn now: in the view's own thread, within its share."""
        seconds = time.monotonic() - self._born
        own = threading.current_thread() is self._thread
        return own and self._spent <= SHARE * seconds + BURST_SECONDS

    def _set_words(self, progress: Progress) -> None:
        """Set header and table; a widget sends its value only where it differs."""
        self.header.value = html.header(self._name, self.run.id, progress, stopping=self._stopping)
        if progress.clients != self._shown_clients:
            self._shown_clients = progress.clients
            self.clients.value = html.clients_table(progress.clients)
            self.clients_box.titles = (html.clients_title(progress.clients),)
        if progress.processes != self._shown_processes:
            self._shown_processes = progress.processes
            self.usage.value = resources_table(progress.processes)
            self.usage_box.layout.display = ""

    def _set_picture(self) -> None:
        picture = self._artist.picture
        if picture is not None:
            self.picture.value = picture.png
            self.picture.layout.width = f"{picture.width}px"
            self.picture.layout.display = ""

    def _end(self, progress: Progress) -> None:
        """Set the last state, and replace each display by the static page."""
        if self._page is None:
            page = self._artist.page(progress)
            self._set_picture()
            self._set_words(progress)
            self.stop_button.disabled = True
            self.stop_button.description = "Stop"
            self.problem.value = _alarms(progress)
        else:
            page = self._page
        for display_id in self._displays:
            page.replace(display_id)
        self._page = page
        self._wake.set()

    def _ask_stop(self, _: widgets.Button) -> None:
        """Ask the run to stop, once, whatever thread the click arrives in."""
        self.stop_button.disabled = True
        self.stop_button.description = "stopping..."
        self._stopping = True
        try:
            self.run.stop()
        except Exception as error:  # noqa: BLE001 - a click has nobody to raise to
            self._stopping = False
            self.stop_button.disabled = False
            self.stop_button.description = "Stop"
            self.problem.value = html.problem(f"The run could not be stopped ({_words(error)}).")

    def _show_failure(self, error: Exception, *, last: bool) -> None:
        """Say in the view why it is not up to date."""
        then = "the view has given up; show the run again" if last else "trying again"
        self.problem.value = html.problem(
            f"This view could not be brought up to date ({_words(error)}); {then}."
        )


def _answer_while_busy(button: widgets.Button) -> None:
    """Let clicks be handled while a cell runs: above all while it waits for the run.

    JupyterLab (from 4.4) sends them to a subshell of the kernel, a thread that is free then.
    ipykernel 7.4 sends them on to the shell that made the button, which is the busy one; this
    takes JupyterLab's choice instead. Other versions and front ends do not look at it, and there
    a click without a subshell waits until the cell has ended.
    """
    if button.comm is not None:
        button.comm._reply_subshell_for = lambda data, asked_for: asked_for


def _alarms(progress: Progress) -> str:
    return "".join(map(html.problem, progress.alarms))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
