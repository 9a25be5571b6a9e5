"""A run: how it stands, its curves, its model, its log; live while it goes, and the same after."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from html import escape
from typing import Protocol

import ipywidgets as widgets

from flautim_lab.catalog.things import RunLink
from flautim_lab.errors import CatalogError
from flautim_lab.jupyter.html import STATUS_COLORS
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.context import Context, Place
from flautim_lab.jupyter.panel.parts import (
    CodeBox,
    Tabs,
    button,
    column,
    html,
    row,
    while_disabled,
)
from flautim_lab.jupyter.panel.run_log import LogTab
from flautim_lab.jupyter.panel.run_outputs import ModelsTab, OutputsTab
from flautim_lab.jupyter.panel.run_overview import OverviewTab
from flautim_lab.names import duration
from flautim_lab.runners.launch import attach
from flautim_lab.runners.progress import Progress
from flautim_lab.runners.run import Run
from flautim_lab.runners.saved import start_apart

LOOK_SECONDS = 0.5
MOST_PAUSE_SECONDS = 10.0
SHARE = 0.15
"""Part of the time that following a run may take from the kernel."""


class RunTab(Protocol):
    """One tab of the page."""

    widget: widgets.Widget

    def look(self, progress: Progress) -> None:
        """Show how the run stands now."""


class RunPage:
    """The page of a run, in tabs; a thread keeps the one that is shown true."""

    def __init__(self, context: Context, place: Place) -> None:
        text = context.text
        self._context = context
        self._place = place
        self._run: Run = attach(place.ref)
        self._link = self._find_link()
        self._progress = self._run.progress()
        self._seen_end = False
        self._tab: RunTab | None = None
        self._closed = threading.Event()
        self._head = html("")
        self._stop = button(context, text("Stop"), self._ask_stop, icon="stop")
        self._more = again = button(context, text("Run again"), self._again, icon="repeat")
        clone = button(context, text("Clone"), self._clone, icon="copy")
        for each in (again, clone):
            each.layout.display = "" if self._link else "none"
        makers: dict[str, Callable[[], RunTab]] = {
            "overview": lambda: OverviewTab(context, self._run, self._link),
            "outputs": lambda: OutputsTab(context, self._run, place.more),
            "models": lambda: ModelsTab(context, self._run),
            "log": lambda: LogTab(context, self._run),
        }

        def make(name: str) -> widgets.Widget:
            self._tab = tab = makers[name]()
            tab.look(self._progress)
            return tab.widget

        tabs = Tabs(
            context,
            {
                "overview": text("Overview"),
                "outputs": text("Outputs"),
                "models": text("Models"),
                "log": text("Log"),
            },
            make,
            place.tab,
            lambda name: context.note(Place("run", place.ref, name, place.more)),
        )
        self._code = CodeBox(context, self._as_code)
        self.widget = column(
            self._head, row(self._stop, again, clone), tabs.widget, self._code.widget
        )
        self._set_head()
        if not self._progress.status.ended:
            threading.Thread(
                target=self._follow, name=f"panel of {self._run.id}", daemon=True
            ).start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _find_link(self) -> RunLink | None:
        with suppress(CatalogError):
            return self._context.catalog.run(self._run.id)
        return None  # it was started in a cell

    def _who_stopped(self) -> str:
        """Return which data owner asked for the end, if one did; looked up once it has ended."""
        if not self._progress.status.ended or self._link is None:
            return ""
        if not self._seen_end:
            self._seen_end = True
            self._link = self._find_link() or self._link
        user, text = self._link.stop_asked_by, self._context.text
        return text("its end was asked for by a data owner, {user}", user=user) if user else ""

    def _follow(self) -> None:
        """Look again and again until the run has ended; this is the thread."""
        pause = LOOK_SECONDS
        while not self._closed.wait(pause):
            began = time.thread_time()
            # Not under the lock: reading takes time in which a click must be handled.
            progress = self._run.progress()

            def show(progress: Progress = progress) -> None:
                if self._closed.is_set():
                    return
                self._progress = progress
                self._set_head()
                if self._tab is not None:
                    self._tab.look(progress)

            self._context.attempt(show)
            if progress.status.ended:
                return
            spent = time.thread_time() - began
            pause = min(max(LOOK_SECONDS, spent / SHARE), MOST_PAUSE_SECONDS)

    def _set_head(self) -> None:
        text, progress = self._context.text, self._progress
        color = STATUS_COLORS[progress.status]
        done = min(1.0, progress.round / progress.rounds) if progress.rounds else 0.0
        facts = [
            f"{progress.round}/{progress.rounds} {text('rounds')}",
            duration(progress.seconds),
        ]
        if progress.seconds_left is not None:
            facts.append(text("about {time} left", time=duration(progress.seconds_left)))
        said = (progress.message, self._who_stopped(), progress.waiting, *progress.alarms)
        notes = [text.sentence(one) for one in said if one]
        self._head.value = (
            f"<div class='lab-big'>{escape(self._run.name)} <span style='background:{color};"
            "color:#fff;border-radius:9px;padding:1px 9px;font-size:13px'>"
            f"{escape(text.status(progress.status))}</span></div>"
            "<div role='progressbar' aria-valuemin='0' aria-valuemax='100' aria-valuenow="
            f"'{100 * done:.0f}' style='height:6px;border-radius:3px;margin:6px 0;"
            "background:rgba(128,128,128,.25)'><div style='height:6px;border-radius:3px;width:"
            f"{100 * done:.1f}%;background:{color}'></div></div>"
            f"<div>{escape(' · '.join(facts))}</div>"
            + "".join(f"<div class='lab-wrong'>{escape(note)}</div>" for note in notes)
        )
        self._stop.disabled = progress.status.ended

    def _ask_stop(self) -> None:
        self._run.stop()
        self._context.say(self._context.text("The run was asked to stop"))

    def _again(self) -> None:
        link, text = self._link, self._context.text
        if link is None:
            return
        self._context.say(text("{name} is being started…", name=self._run.name))
        more = self._place.more or link.project
        while_disabled(
            self._context,
            self._more,
            lambda: start_apart(link.experiment),
            lambda run: self._context.go(Place("run", run, more=more)),
        )

    def _clone(self) -> None:
        if self._link is not None:
            self._context.go(
                Place("new experiment", self._link.project, more=self._link.experiment)
            )

    def _as_code(self) -> str:
        lines = [
            f"run = {code.call('lab.attach', self._run.id)}",
            "run.progress()          # Overview",
            "run.plot('loss')        # Outputs",
            "run.metrics",
            "run.model()             # Models",
            "print(run.logs())       # Log",
            "run.download('metrics')",
            "run.stop()",
        ]
        if self._link is not None:
            lines.append(f"again = {code.call('lab.run_saved', self._link.experiment)}")
        return code.cell(*lines, catalog=False)
