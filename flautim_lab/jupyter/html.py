"""A run's progress in words and as HTML: pure functions of what is known, nothing is read here.

Everything a person typed (names, messages, errors) is escaped. The HTML keeps its meaning without
any style, since viewers of saved notebooks strip much of it, and it reads well on light and dark
pages: colours are those of the page, and where a background is ours, so is the colour on it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from flautim_lab.jupyter.resources_html import TITLE, resources_table
from flautim_lab.jupyter.style import CELL, FAINT, INK, NUMBERS, number
from flautim_lab.names import count, duration
from flautim_lab.records.event import RunStatus
from flautim_lab.records.faults import Fault
from flautim_lab.runners.progress import ClientProgress, Progress

MAX_CLIENTS_SHOWN = 50
MAX_FAULTS_SHOWN = 3

STATUS_COLORS = {
    RunStatus.WAITING: "#59636e",
    RunStatus.RUNNING: "#0969da",
    RunStatus.FINISHED: "#1a7f37",
    RunStatus.FAILED: "#cf222e",
    RunStatus.STOPPED: "#9a6700",
    RunStatus.INTERRUPTED: "#8250df",
}

BEST, WORST = (255, 247, 236), (253, 163, 91)


def train_loss(progress: Progress) -> float | None:
    """Return the clients' latest training loss, averaged by their rows; None before the first."""
    latest = max((client.round or 0 for client in progress.clients), default=0)
    known = [
        (client.loss, client.rows or 1)
        for client in progress.clients
        if client.loss is not None and client.round == latest
    ]
    if not known:
        return None
    return sum(loss * rows for loss, rows in known) / sum(rows for _, rows in known)


def text_line(progress: Progress) -> str:
    """Return where the run stands, in one line.

    >>> from flautim_lab.records.event import RunStatus
    >>> text_line(Progress(RunStatus.RUNNING, "", 3, 20, 3.0, 12.0, ()))
    'round 3/20, 00:00:03, about 00:00:12 left'
    """
    words = [f"round {progress.round}/{progress.rounds}"]
    loss = train_loss(progress)
    if loss is not None:
        words.append(f"loss {number(loss)}")
    words.append(duration(progress.seconds))
    if progress.seconds_left is not None:
        words.append(f"about {duration(progress.seconds_left)} left")
    line = ", ".join(words)
    if progress.status is not RunStatus.RUNNING:
        line = f"{progress.status}: {line}"
    failing = sum(bool(client.error) for client in progress.clients)
    if failing:
        line += f", {count(failing, 'client')} failing"
    return "; ".join([line, *filter(None, [progress.message, progress.waiting]), *progress.alarms])


def header(name: str, run_id: str, progress: Progress, *, stopping: bool = False) -> str:
    """Return name, status, progress bar, rounds, time left, message, waiting and faults."""
    status = progress.status
    word = "stopping..." if stopping and not status.ended else str(status)
    color = STATUS_COLORS[RunStatus.STOPPED if word == "stopping..." else status]
    done = min(1.0, progress.round / progress.rounds) if progress.rounds else 0.0
    facts = [f"<strong>{progress.round}/{progress.rounds}</strong> rounds"]
    loss = train_loss(progress)
    if loss is not None:
        facts.append(f"train loss <strong>{number(loss)}</strong>")
    facts.append(duration(progress.seconds))
    if progress.seconds_left is not None:
        facts.append(f"about {duration(progress.seconds_left)} left")
    message = ""
    if progress.message:
        message = f'<div style="margin-top:4px">{escape(progress.message)}</div>'
    if progress.waiting:
        message += f'<div style="margin-top:4px">{escape(progress.waiting)}</div>'
    if progress.faults:
        message += f'<div style="margin-top:4px;{FAINT}">{escape(_struck(progress.faults))}</div>'
    return (
        f'<div style="font-size:14px;line-height:1.5;{NUMBERS}">'
        f'<div><strong style="font-size:15px">{escape(name)}</strong> '
        f'<span style="background-color:{color};color:#ffffff;border-radius:9px;'
        f'padding:1px 9px;margin:0 6px;font-size:12px">{escape(word)}</span> '
        f'<code style="background:none;font-size:12px;{FAINT}">{escape(run_id)}</code></div>'
        '<div style="height:6px;border-radius:3px;margin:6px 0 4px;overflow:hidden;'
        'background-color:rgba(128,128,128,0.25)">'
        f'<div style="height:6px;width:{100 * done:.1f}%;background-color:{color}"></div></div>'
        f"<div>{' · '.join(facts)}</div>{message}</div>"
    )


def _struck(faults: Sequence[Fault]) -> str:
    """Return the last faults in words, and how many came before them."""
    last = [f"{fault.words()} (round {fault.round})" for fault in faults[-MAX_FAULTS_SHOWN:]]
    more = len(faults) - len(last)
    return "; ".join([*([f"{count(more, 'earlier fault')}"] if more else []), *last])


def problem(text: str) -> str:
    """Return a line that stands out: what is wrong, with the view or with a client, or nothing."""
    if not text:
        return ""
    return (
        f'<div style="background-color:#fff1e5;color:{INK};border-left:3px solid #bc4c00;'
        f'padding:4px 8px;margin-top:4px">{escape(text)}</div>'
    )


def measures(final: Mapping[str, Mapping[str, float]]) -> str:
    """Return the last value of each metric, validation beside train, as a small table.

    Parameters
    ----------
    final : mapping of str to mapping of str to float
        Metric to split to value.
    """
    splits = [split for split in ("train", "validation") if any(split in m for m in final.values())]
    if not splits:
        return ""
    head = "".join(f'<th style="text-align:right;{CELL}">{split}</th>' for split in splits)
    rows = [
        f'<tr><td style="text-align:left;{CELL}">{escape(metric)}</td>'
        + "".join(
            f'<td style="text-align:right;{CELL}">'
            f"{number(values[split]) if split in values else '–'}</td>"
            for split in splits
        )
        + "</tr>"
        for metric, values in final.items()
    ]
    return (
        f'<table style="{NUMBERS}"><thead><tr>'
        f'<th style="text-align:left;{CELL}">last round</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def clients_title(clients: Sequence[ClientProgress]) -> str:
    """Return the title of the table of clients."""
    failing = sum(bool(client.error) for client in clients)
    return count(len(clients), "client") + (f", {failing} failing" if failing else "")


def clients_table(clients: Sequence[ClientProgress]) -> str:
    """Return a row per client, failures first: rows, last loss with a colour, last error.

    At most 50 clients are shown, those with the highest loss, and how many are not is said.
    """
    shown = sorted(clients, key=lambda client: (not client.error, client.number))
    if len(clients) > MAX_CLIENTS_SHOWN:
        shown = sorted(clients, key=lambda client: (not client.error, *_height(client)))
    shown = shown[:MAX_CLIENTS_SHOWN]
    losses = [c.loss for c in clients if c.loss is not None and math.isfinite(c.loss)]
    low, high = (min(losses), max(losses)) if losses else (0.0, 0.0)
    head = "".join(
        f'<th style="text-align:{side};{CELL}">{title}</th>'
        for title, side in (
            ("client", "left"),
            ("rows", "right"),
            ("train loss", "right"),
            ("round", "right"),
            ("", "left"),
        )
    )
    body = "".join(_client_row(client, low, high) for client in shown)
    hidden = len(clients) - len(shown)
    note = ""
    if hidden:
        note = (
            f'<div style="{FAINT}">{count(hidden, "more client")} with a lower loss '
            f"{'is' if hidden == 1 else 'are'} not shown.</div>"
        )
    return (
        f'<table style="{NUMBERS};border-collapse:collapse">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"
    )


def page(
    name: str,
    run_id: str,
    progress: Progress,
    *,
    final: Mapping[str, Mapping[str, float]],
    png: bytes | None,
    width: int,
) -> str:
    """Return the whole view of a run as HTML that needs no kernel, no widgets and no script.

    Parameters
    ----------
    name, run_id : str
    progress : Progress
    final : mapping of str to mapping of str to float
        Metric to split to last value.
    png : bytes or None
        The picture of its curves, ``width`` CSS pixels wide.
    width : int
    """
    parts = [header(name, run_id, progress), *map(problem, progress.alarms)]
    if png is not None:
        parts.append(
            f'<img width="{width}" style="max-width:100%;margin-top:8px;background-color:#ffffff" '
            f'alt="curves of run {escape(run_id)}" '
            f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        )
    parts.append(measures(final))
    if progress.clients:
        failing = any(client.error for client in progress.clients)
        parts.append(
            f"<details{' open' if failing else ''}>"
            f"<summary>{clients_title(progress.clients)}</summary>"
            f"{clients_table(progress.clients)}</details>"
        )
    if progress.processes:
        table = resources_table(progress.processes)
        parts.append(f"<details><summary>{TITLE}</summary>{table}</details>")
    return f"<div>{''.join(parts)}</div>"


def _height(client: ClientProgress) -> tuple[float, int]:
    """Sort key: the highest loss first, one that is no number above all, none at all last."""
    if client.loss is None:
        return math.inf, client.number
    return (-client.loss if math.isfinite(client.loss) else -math.inf), client.number


def _client_row(client: ClientProgress, low: float, high: float) -> str:
    ours = client.name == f"client {client.number}"
    name = client.name if ours else f"{client.number}: {client.name}"
    loss = "–" if client.loss is None else number(client.loss)
    error = ""
    if client.error:
        error = (
            f'<span style="background-color:#ffebe9;color:#82071e;padding:1px 6px">'
            f"failed: {escape(client.error)}</span>"
        )
    return (
        f'<tr><td style="text-align:left;{CELL}">{escape(name)}</td>'
        f'<td style="text-align:right;{CELL}">{"–" if client.rows is None else client.rows}</td>'
        f'<td style="text-align:right;{CELL}{_shade(client.loss, low, high)}">{loss}</td>'
        f'<td style="text-align:right;{CELL}">{client.round or "–"}</td>'
        f'<td style="text-align:left;{CELL}">{error}</td></tr>'
    )


def _shade(loss: float | None, low: float, high: float) -> str:
    """Return the colours of a loss between the lowest (pale) and the highest (orange)."""
    if loss is None:
        return ""
    if not math.isfinite(loss):
        return ";background-color:#ffebe9;color:#82071e"
    part = (loss - low) / (high - low) if high > low else 0.0
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(BEST, WORST, strict=True))
    return f";background-color:rgb({red},{green},{blue});color:{INK}"
