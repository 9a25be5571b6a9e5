"""Curves of one run, or of several compared.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart
(Wong, *Points of view: Color blindness*, Nature Methods 8, 2011); train is also thinner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from flautim_lab.errors import UsageError
from flautim_lab.names import unknown
from flautim_lab.plots.layout import FAINT, arrange, blank, limit_rounds, limit_values
from flautim_lab.plots.picture import Plot

LineStyle = Literal["-", "--", ":"]

MAX_CLIENT_LINES = 30
MAX_ROUNDS_WITH_MARKERS = 25

WIDTHS = {"train": 1.1, "validation": 1.9}
"""Line width of each split: thin and thick can be told apart without colours, too."""
TRAIN = "#0072B2"
VALIDATION = "#D55E00"
CLIENTS = "#b4b9bf"
RUNS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES: tuple[LineStyle, ...] = ("-", "--", ":")
"""The second seven runs are dashed, the third seven dotted."""


def metric_names(frame: pd.DataFrame) -> list[str]:
    """Return the metrics in ``frame``: loss first, then accuracy, then by name.

    Parameters
    ----------
    frame : DataFrame
        The metrics of a run: columns ``round``, ``client``, ``split``, ``metric``, ``value``.
    """
    names = {str(name) for name in frame["metric"].unique()}
    first = [name for name in ("loss", "accuracy") if name in names]
    return first + sorted(names.difference(first))


def plot_metrics(
    curves: Mapping[str, pd.DataFrame],
    *,
    metric: str | Sequence[str] = "loss",
    rounds: int | None = None,
    title: str = "",
    room: float = 0.0,
) -> Plot:
    """Draw one metric, or several side by side, over the rounds.

    One curve shows train and validation in two colours, and each client as a thin grey line while
    there are at most 30. Several curves are compared: a colour each, validation thick and train
    thin. A value that is not finite leaves a gap.

    Parameters
    ----------
    curves : mapping of str to DataFrame
        Label to the metrics of a run: columns ``round``, ``client`` (missing for all clients
        together), ``split``, ``metric``, ``value``.
    metric : str or sequence of str
        What to draw; a panel each.
    rounds : int, optional
        How many rounds there will be, so that the axis does not grow while a run is going on.
    title : str
        Stands above the panels.
    room : float
        Part of the values' span that is left free below and above, for values to come.

    Returns
    -------
    Plot
        A ``Figure`` on an Agg canvas, in no window and unknown to ``pyplot``.

    Raises
    ------
    UsageError
        If there is no curve, or none of them has that metric.
    """
    if not curves:
        raise UsageError("there is nothing to plot; name at least one run")
    metrics = [metric] if isinstance(metric, str) else list(metric)
    if not metrics:
        raise UsageError("there is nothing to plot; name at least one metric")
    known = metric_names(pd.concat(curves.values()))
    for name in metrics:
        if known and name not in known:
            raise UsageError(unknown(name, known, "metric"))

    compared = len(curves) > 1
    figure = blank(metrics)
    legend: dict[str, Line2D] = {}
    for panel, name in zip(figure.axes, metrics, strict=True):
        limit_rounds(panel, curves, name, rounds)
        if compared:
            legend |= _draw_compared(panel, curves, name)
        else:
            legend |= _draw_alone(panel, next(iter(curves.values())), name)
        limit_values(panel, room=room)
    arrange(figure, legend, title=title, beside=compared)
    return figure


def split_line(rows: pd.DataFrame, split: str) -> np.ndarray:
    """Return rounds and values, shape (rounds, 2), of all clients together; NaN for a gap."""
    line = rows[rows["client"].isna() & (rows["split"] == split)].sort_values("round")
    return np.column_stack([line["round"].to_numpy(float), _finite(line["value"])])


def client_lines(rows: pd.DataFrame) -> tuple[str, list[np.ndarray]]:
    """Return the split that is shown for each client, and their lines as :func:`split_line` does.

    No lines where there is one client, or more than can be told apart.
    """
    each = rows[rows["client"].notna()]
    split = "validation" if (each["split"] == "validation").any() else "train"
    each = each[each["split"] == split].sort_values(["client", "round"])
    points = np.column_stack([each["round"].to_numpy(float), _finite(each["value"])])
    clients = each["client"].to_numpy(int)
    starts = np.flatnonzero(np.diff(clients)) + 1
    if not 1 < len(starts) + bool(len(clients)) <= MAX_CLIENT_LINES:
        return split, []
    return split, np.split(points, starts)


def _draw_alone(panel: Axes, frame: pd.DataFrame, metric: str) -> dict[str, Line2D]:
    """Draw both splits of one run and its clients; return what the legend shows."""
    rows = frame[frame["metric"] == metric]
    drawn: dict[str, Line2D] = {}
    for split, color in (("train", TRAIN), ("validation", VALIDATION)):
        line = _draw_line(panel, rows, split, color)
        if line is not None:
            drawn[split] = line
    split, lines = client_lines(rows)
    if lines:
        panel.add_collection(LineCollection(lines, colors=CLIENTS, linewidths=0.7, zorder=1))
        if max(map(len, lines)) == 1:
            points = np.concatenate(lines)
            panel.plot(points[:, 0], points[:, 1], "o", color=CLIENTS, markersize=3, zorder=1)
        drawn[f"each client ({split})"] = Line2D([], [], color=CLIENTS, linewidth=1.0)
    if not drawn:
        panel.text(
            0.5,
            0.5,
            "nothing measured yet",
            transform=panel.transAxes,
            ha="center",
            va="center",
            color=FAINT,
            fontsize=9.5,
        )
    return drawn


def _draw_compared(
    panel: Axes, curves: Mapping[str, pd.DataFrame], metric: str
) -> dict[str, Line2D]:
    """Draw several runs, a colour each; return what the legend shows."""
    drawn: dict[str, Line2D] = {}
    splits: dict[str, Line2D] = {}
    for number, (label, frame) in enumerate(curves.items()):
        color = RUNS[number % len(RUNS)]
        style = STYLES[number // len(RUNS) % len(STYLES)]
        rows = frame[frame["metric"] == metric]
        for split in WIDTHS:
            line = _draw_line(panel, rows, split, color, style)
            if line is not None:
                drawn[label] = Line2D([], [], color=color, linewidth=2.2, linestyle=style)
                splits[split] = Line2D([], [], color=FAINT, linewidth=WIDTHS[split])
    return drawn | splits


def _draw_line(
    panel: Axes, rows: pd.DataFrame, split: str, color: str, style: LineStyle = "-"
) -> Line2D | None:
    """Draw the line of all clients together, if there is one."""
    line = split_line(rows, split)
    if not len(line):
        return None
    train = split == "train"
    few = len(line) <= MAX_ROUNDS_WITH_MARKERS
    (drawn,) = panel.plot(
        line[:, 0],
        line[:, 1],
        gid=split,
        color=color,
        linewidth=WIDTHS[split],
        linestyle=style,
        marker=("o" if train else "s") if few else "",
        markerfacecolor="white" if train else color,
        markersize=5.5 if len(line) == 1 else 3.6,
        # Thin over thick: both are seen where they lie on one another.
        zorder=3 if train else 2,
    )
    return drawn


def _finite(values: pd.Series) -> np.ndarray:
    """Return the values with a gap (NaN) for each that cannot be drawn."""
    array = values.to_numpy(float)
    return np.where(np.isfinite(array), array, np.nan)
