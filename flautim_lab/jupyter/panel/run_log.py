"""What a run and its clients said: filtered, live, and all of it as a file."""

from __future__ import annotations

from html import escape

import ipywidgets as widgets

from flautim_lab.jupyter.panel.context import Context
from flautim_lab.jupyter.panel.downloads import link
from flautim_lab.jupyter.panel.parts import WIDE, column, html, row
from flautim_lab.records.event import Event, log_line, printed_once
from flautim_lab.runners.progress import Progress
from flautim_lab.runners.run import Run

SHOWN = 500  # entries, the newest
MOST_LINES = 200_000  # of the file in the link
KINDS = ("log", "failure", "status")


class LogTab:
    """The log, by client and by level."""

    def __init__(self, context: Context, run: Run) -> None:
        text = context.text
        self._context = context
        self._run = run
        names = run.record.settings.get("client_names") or [
            f"client {number}" for number in range(run.clients)
        ]
        self._client = widgets.Dropdown(
            options=[
                (text("all"), None),
                *((text.client(at, name), at) for at, name in enumerate(names)),
            ],
            description=text("Client"),
            style=WIDE,
            layout={"width": "260px"},
        )
        levels = {
            "debug": text("debug"),
            "info": text("info"),
            "print": text("print"),
            "warning": text("warning"),
            "error": text("error"),
        }
        self._level = widgets.Dropdown(
            options=[(text("all"), ""), *((word, level) for level, word in levels.items())],
            description=text("Level"),
            style=WIDE,
            layout={"width": "200px"},
        )
        self._words = html("")
        self._link = html("")
        self.widget = column(row(self._client, self._level, self._link), self._words)
        self._events: list[Event] = []
        self._seq = 0
        for each in (self._client, self._level):
            each.observe(lambda _: context.attempt(self._show), "value")

    def look(self, progress: Progress) -> None:
        """Read what was said since the last look."""
        fresh = [
            event
            for event in self._context.records.events(self._run.id, after=self._seq)
            if event.seq > self._seq
        ]
        if fresh:
            self._seq = fresh[-1].seq
            self._events += [event for event in fresh if event.kind in KINDS]
        if fresh or not self._words.value:
            self._show()
        if progress.status.ended and not self._link.value:
            lines = [log_line(event) for event in printed_once(self._events)][-MOST_LINES:]
            content = "\n".join([*lines, ""]).encode()
            self._link.value = link(f"{self._run.id}.log", content, self._context.text("Whole log"))

    def _show(self) -> None:
        client, level = self._client.value, self._level.value
        chosen = [
            event
            for event in printed_once(self._events)
            if (client is None or event.client == client)
            and (not level or _level_of(event) == level)
        ]
        lines = [log_line(event) for event in chosen[-SHOWN:]]
        text = self._context.text
        if not lines:
            lines = [text("Nothing was said yet")]
        elif len(chosen) > SHOWN:
            lines.insert(0, text("… {n} entries before these", n=len(chosen) - SHOWN))
        words = escape("\n".join(lines))
        # One child in a box that fills from below: its last lines are in sight.
        self._words.value = f"<pre class='lab-log' tabindex='0'><span>{words}</span></pre>"


def _level_of(event: Event) -> str:
    return "error" if event.kind == "failure" else (event.name or "info").lower()
