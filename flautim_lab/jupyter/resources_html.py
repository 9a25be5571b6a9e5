"""Where a round's time goes, as HTML: a row per process with its bar. Pure functions.

The bars are plain boxes of one page-wide scale, and every number of theirs stands beside them in
words, since viewers of saved notebooks strip styles. Colours are those of Okabe and Ito, which
colour-blind readers can tell apart, on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from flautim_lab.jupyter.style import CELL, FAINT, NUMBERS, number
from flautim_lab.names import count
from flautim_lab.runners.usage import ACTIVITIES, LAST_ROUNDS, ProcessUsage

TITLE = "Where the time goes"
MAX_PROCESSES_SHOWN = 40
BAR_WIDTH = 220

COLORS = {
    "data": "#F0E442",
    "training": "#0072B2",
    "evaluating": "#56B4E9",
    "transfer": "#E69F00",
    "aggregating": "#009E73",
    "storing": "#CC79A7",
    "waiting": "rgba(128,128,128,0.45)",
}
MEGABYTE = 1e6


def resources_table(processes: Sequence[ProcessUsage]) -> str:
    """Return a row per process: CPU seconds, memory, megabytes and a bar of the round's time.

    Parameters
    ----------
    processes : sequence of ProcessUsage
        Means of the last rounds; nothing is returned where there are none.
    """
    if not processes:
        return ""
    shown = processes[:MAX_PROCESSES_SHOWN]
    longest = max(sum(spent for _, spent in one.seconds) for one in shown)
    head = "".join(
        f'<th style="text-align:{side};{CELL}">{title}</th>'
        for title, side in (
            ("process", "left"),
            ("CPU s", "right"),
            ("memory MB", "right"),
            ("MB in", "right"),
            ("MB out", "right"),
            ("seconds of a round", "left"),
        )
    )
    used = [what for what in ACTIVITIES if any(what in dict(one.seconds) for one in shown)]
    legend = " &nbsp; ".join(f"{_box(what)} {what}" for what in used)
    notes = [f"Per round, as the mean of the last {LAST_ROUNDS}."]
    if any(one.process == "server" for one in shown):
        notes.append("For the server, training lasts until the clients have answered.")
    if len(processes) > len(shown):
        more = len(processes) - len(shown)
        verb = "is" if more == 1 else "are"
        notes.append(f"{count(more, 'more process', 'more processes')} {verb} not shown.")
    return (
        f'<table style="{NUMBERS};border-collapse:collapse"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_row(one, longest) for one in shown)}</tbody></table>"
        f'<div style="font-size:12px;margin-top:4px">{legend}</div>'
        f'<div style="font-size:12px;{FAINT}">{" ".join(notes)}</div>'
    )


def _row(one: ProcessUsage, longest: float) -> str:
    numbers = [
        number(one.cpu_seconds),
        f"{one.memory_bytes / MEGABYTE:.0f}" if one.memory_bytes else "–",
        _megabytes(one.bytes_received),
        _megabytes(one.bytes_sent),
    ]
    cells = "".join(f'<td style="text-align:right;{CELL}">{shown}</td>' for shown in numbers)
    return (
        f'<tr><td style="text-align:left;{CELL}">{escape(one.process)}</td>{cells}'
        f'<td style="text-align:left;{CELL}">{_bar(one, longest)}'
        f'<div style="font-size:11px;{FAINT}">{_in_words(one)}</div></td></tr>'
    )


def _bar(one: ProcessUsage, longest: float) -> str:
    """Return the seconds as boxes side by side, on a scale that all processes share."""
    parts = "".join(
        f'<div title="{what} {_seconds(spent)}" style="display:inline-block;height:10px;'
        f'width:{BAR_WIDTH * spent / longest:.1f}px;background-color:{COLORS[what]}"></div>'
        for what, spent in one.seconds
    )
    return f'<div style="width:{BAR_WIDTH + 8}px;line-height:10px;white-space:nowrap">{parts}</div>'


def _in_words(one: ProcessUsage) -> str:
    return ", ".join(f"{what} {_seconds(spent)}" for what, spent in one.seconds) or "–"


def _box(what: str) -> str:
    return (
        '<div style="display:inline-block;width:10px;height:10px;'
        f'background-color:{COLORS[what]}"></div>'
    )


def _seconds(value: float) -> str:
    """Return seconds with two digits: a round is not measured finer than that."""
    return f"{value * 1000:.2g} ms" if value < 0.0995 else f"{value:.3g} s"


def _megabytes(size: float) -> str:
    return f"{size / MEGABYTE:.3g}" if size else "–"
