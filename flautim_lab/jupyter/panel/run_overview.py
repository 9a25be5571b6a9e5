"""The first tab of a run: status, time, who and with what, clients, and what processes use."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from flautim_lab.catalog.things import RunLink
from flautim_lab.errors import CatalogError
from flautim_lab.jupyter.panel.context import Context
from flautim_lab.jupyter.panel.parts import column, html, moment, table, title
from flautim_lab.jupyter.style import number
from flautim_lab.names import duration
from flautim_lab.runners.progress import ClientProgress, Progress
from flautim_lab.runners.run import Run

MOST_CLIENTS = 50


class OverviewTab:
    """How a run stands."""

    def __init__(self, context: Context, run: Run, link: RunLink | None) -> None:
        text = context.text
        self._text = text
        self._record = run.record
        self._link = link
        self._registered = _registered(context, link) if link is not None else []
        self._facts = html("")
        self._clients = html("")
        self._usage = html("")
        self._usage_title = title(text("Infrastructure"))
        self.widget = column(
            self._facts,
            title(text("Clients")),
            self._clients,
            self._usage_title,
            self._usage,
        )

    def look(self, progress: Progress) -> None:
        """Show how the run stands now."""
        text, record, link = self._text, self._record, self._link
        left = progress.seconds_left
        plan: Any = record.plan
        places = {
            "local": text("this machine, in a process"),
            "processes": text("Flower processes on this machine"),
            "cluster": text("the Kubernetes cluster"),
        }
        facts = [
            (text("Status"), text.status(progress.status)),
            (text("Duration"), duration(progress.seconds)),
            (text("Progress"), f"{progress.round}/{progress.rounds} {text('rounds')}"),
            (text("Time left"), "" if left is None else duration(left)),
            (text("Clients"), str(record.clients)),
            (text("Runs on"), places.get(record.runner, record.runner)),
            (text("Machine"), record.host),
            (text("Training on"), str(plan.get("device", ""))),
            (text("Started"), moment(text, record.started or record.created)),
            (text("This run"), record.id),
        ]
        if link is not None:
            facts += [
                (text("Experiment"), link.experiment),
                (text("Model"), link.model),
                (text("Dataset"), ", ".join((link.dataset, *link.more_datasets))),
                (text("Started by"), link.started_by),
            ]
        self._facts.value = table([], [list(fact) for fact in facts if fact[1]])
        heads = [text("Client"), text("Rows"), text("Round"), text("Training loss"), ""]
        rows = [
            [
                text.client(client.number, client.name),
                self._rows(client, len(progress.clients)),
                "" if client.round is None else str(client.round),
                "" if client.loss is None else number(client.loss),
                text.sentence(client.error),
            ]
            for client in progress.clients[:MOST_CLIENTS]
        ]
        if len(progress.clients) > MOST_CLIENTS:
            rows.append([text("and {n} more", n=len(progress.clients) - MOST_CLIENTS)] + [""] * 4)
        self._clients.value = table(heads, rows)
        used = [
            [
                one.process,
                f"{one.cpu_seconds:.2f} s",
                f"{one.memory_bytes / 2**20:.0f} MiB" if one.memory_bytes else "",
                f"{one.bytes_received / 1024:.1f} KiB" if one.bytes_received else "",
                f"{one.bytes_sent / 1024:.1f} KiB" if one.bytes_sent else "",
            ]
            for one in progress.processes
        ]
        self._usage_title.layout.display = "" if used else "none"
        self._usage.value = (
            table(
                [
                    text("Process"),
                    text("CPU per round"),
                    text("Memory"),
                    text("Received per round"),
                    text("Sent per round"),
                ],
                used,
            )
            if used
            else ""
        )

    def _rows(self, client: ClientProgress, clients: int) -> str:
        """Return how many rows a client trains on; of those that stay home, what is registered."""
        text, tables = self._text, self._registered
        if client.rows is not None:
            return str(client.rows)
        rows = tables[client.number * len(tables) // clients] if tables else None
        if rows is None:
            return text("not told: they stay home")
        if len(tables) == clients:
            return text("{n} registered", n=rows)
        return text("of {n} registered", n=rows)  # a table is dealt out among its clients


def _registered(context: Context, link: RunLink) -> list[int | None]:
    """Return the size of each table of a run, in the order of its clients; None where not shown."""
    found: list[int | None] = []
    for ref in (link.dataset, *link.more_datasets):
        found.append(None)
        with suppress(CatalogError):  # no longer shown, or removed
            found[-1] = context.catalog.dataset(ref).latest.rows
    return found
