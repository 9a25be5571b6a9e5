"""How a figure of curves is laid out: quiet axes, limits that fit, places in inches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from flautim_lab.plots.picture import DPI, Plot

INK = "#24292f"
FAINT = "#6e7781"
GRID = "#e6e8eb"


def blank(metrics: Sequence[str]) -> Plot:
    """Return a figure with an empty panel per metric."""
    figure = Plot(dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for panel, name in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        _style(panel, name)
    return figure


def _style(panel: Axes, metric: str) -> None:
    """Give ``panel`` its name, its grid and its quiet axes."""
    panel.set_facecolor("white")
    # Fixed places for title and label, so that matplotlib need not measure all the ticks for them.
    panel.set_title(plain(metric), loc="left", y=1.0, fontsize=10.5, fontweight="bold", color=INK)
    panel.set_xlabel("round", fontsize=9, color=FAINT)
    panel.xaxis.set_label_coords(0.5, -0.11)
    panel.tick_params(labelsize=9, colors=FAINT, labelcolor=INK, length=0)
    panel.grid(visible=True, color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#c4c9cf")
    panel.xaxis.set_major_locator(
        MaxNLocator(nbins=8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )


def limit_rounds(
    panel: Axes, curves: Mapping[str, pd.DataFrame], metric: str, rounds: int | None
) -> None:
    """Let the axis span all rounds there will be."""
    seen = [frame.loc[frame["metric"] == metric, "round"] for frame in curves.values()]
    first = min([1, *(int(column.min()) for column in seen if len(column))])
    last = max([first, rounds or 1, *(int(column.max()) for column in seen if len(column))])
    margin = max(0.5 if last == first else 0.02 * (last - first), 0.15)
    panel.set_xlim(first - margin, last + margin)


def limit_values(panel: Axes, *, room: float = 0.0) -> None:
    """Fit the value axis to the lines, and to the clients but for the few that are far away.

    Parameters
    ----------
    panel : Axes
    room : float
        Part of the span that is left free below and above, for values to come.
    """
    values = joined([np.asarray(line.get_ydata(), dtype=float) for line in panel.lines])
    each = joined(client_values(panel))
    if not values.size and not each.size:
        panel.set_yticks([])
        return
    low, high = span(values if values.size else each)
    if each.size:
        usual_low, usual_high = span(np.quantile(each, [0.05, 0.95]))
        more = max(high - low, usual_high - usual_low)
        least, most = span(each)
        low, high = min(low, max(least, low - more)), max(high, min(most, high + more))
    margin = (0.07 + room) * (high - low) or 0.05 * abs(high) or 0.5
    panel.set_ylim(low - margin, high + margin)
    panel.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    ticks = [tick for tick in panel.get_yticks() if low - margin <= tick <= high + margin]
    panel.set_yticks(ticks, _tick_labels(ticks))


def client_values(panel: Axes) -> list[np.ndarray]:
    """Return the values of each client's line in ``panel``."""
    collections = [item for item in panel.collections if isinstance(item, LineCollection)]
    segments = [segment for item in collections for segment in item.get_segments()]
    # A line without any number has lost its second dimension.
    return [np.reshape(segment, (-1, 2))[:, 1] for segment in segments]


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    """Word the ticks alike: as many digits as the step needs, or powers of ten."""
    largest = max(map(abs, ticks), default=0.0) or 1.0
    step = ticks[1] - ticks[0] if len(ticks) > 1 else largest
    if largest >= 1e5 or step < 1e-7:
        digits = 1 + math.ceil(math.log10(max(largest / step, 1.0)))
        return [f"{tick:.{max(digits, 2)}g}" for tick in ticks]
    digits = next(d for d in range(9) if abs(round(step, d) - step) < 1e-3 * step)
    return [f"{tick:.{digits}f}" for tick in ticks]


def arrange(
    figure: Figure,
    drawn: dict[str, Line2D],
    *,
    title: str,
    beside: bool,
) -> None:
    """Lay out title, panels and legend: a legend beside the panels, else a row above them.

    By hand, in inches: matplotlib's own layout engine draws everything twice to measure it, and
    live pictures are drawn beside a running training.
    """
    panels = figure.axes
    labels = [label.get_text() for panel in panels for label in panel.get_yticklabels()]
    left = 0.18 + 0.07 * max(map(len, labels), default=0)
    wide, high = (4.0 if len(panels) > 1 else 5.9), 2.25
    above = 0.3 + (0.32 if title else 0) + (0.28 if drawn and not beside else 0)
    names = [plain(label) for label in drawn]
    columns = 1 + (len(names) - 1) // 12 if beside else len(names)
    legend_width = columns * (0.55 + 0.075 * max(map(len, names), default=0)) if beside else 0.1
    width = len(panels) * (left + wide) + 0.12 + legend_width
    height = above + high + 0.52
    figure.set_size_inches(width, height)
    for number, panel in enumerate(panels):
        start = left + number * (left + wide)
        panel.set_position((start / width, 0.52 / height, (wide - 0.1) / width, high / height))
    if title:
        place = 1 - 0.1 / height
        figure.text(
            left / width,
            place,
            plain(title),
            va="top",
            fontsize=11.5,
            fontweight="bold",
            color=INK,
        )
    if not drawn:
        return
    row = 1 - (0.36 if title else 0.06) / height
    corner = (1 - legend_width / width, row - 0.2 / height) if beside else (left / width, row)
    figure.legend(
        list(drawn.values()),
        names,
        loc="upper left",
        bbox_to_anchor=corner,
        ncols=columns,
        fontsize=9,
        labelcolor=INK,
        frameon=False,
        handlelength=2.2,
        columnspacing=1.6,
        borderpad=0.0 if not beside else 0.4,
        borderaxespad=0.25,
    )


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the finite values of all ``arrays`` as one."""
    values = np.concatenate(arrays) if arrays else np.empty(0)
    return values[np.isfinite(values)]


def span(values: np.ndarray) -> tuple[float, float]:
    """Return the lowest and the highest value."""
    return float(values.min()), float(values.max())


def plain(text: str) -> str:
    """Return ``text`` as it is to be read: a dollar sign starts no formula."""
    shown = text if len(text) <= 40 else text[:37] + "..."
    return shown.replace("$", r"\$")
