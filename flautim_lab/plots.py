"""Curves of a run as a picture: one panel per metric, train beside validation.

Drawn with matplotlib's objects alone (a ``Figure`` on an Agg canvas), never with ``pyplot``: the
live view draws off the kernel's main thread, and ``pyplot`` keeps global state there. For the same
reason ``rcParams`` are left alone and every colour is said outright, so that the picture is the
same under any style of the notebook.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart
(Wong, *Points of view: Color blindness*, Nature Methods 8, 2011); train is also thinner.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from PIL import Image

from flautim_lab.errors import UsageError
from flautim_lab.names import unknown

LineStyle = Literal["-", "--", ":"]

DPI = 96
"""Pixels per inch of the figure as it is shown; files have twice as many."""

MAX_CLIENT_LINES = 30
MAX_ROUNDS_WITH_MARKERS = 25

TRAIN = "#0072B2"
VALIDATION = "#D55E00"
CLIENTS = "#b4b9bf"
RUNS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES: tuple[LineStyle, ...] = ("-", "--", ":")
"""The second seven runs are dashed, the third seven dotted."""
INK = "#24292f"
FAINT = "#6e7781"
GRID = "#e6e8eb"

WIDTHS = {"train": 1.1, "validation": 1.9}
"""Line width of each split: thin and thick can be told apart without colours, too."""


class Plot(Figure):
    """A figure that a notebook shows as it is, sharp, whether or not ``pyplot`` was imported."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = self.get_size_inches() * self.dpi
        return to_png(self), {"width": round(width), "height": round(height)}


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
    onto: Plot | None = None,
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
    onto : Plot, optional
        What an earlier call returned, to be drawn anew: cheaper than a new one, where the same
        metrics are drawn again and again.

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
    figure = _blank(metrics) if onto is None else _wiped(onto, metrics)
    legend: dict[str, Line2D] = {}
    for panel, name in zip(figure.axes, metrics, strict=True):
        _limit_rounds(panel, curves, name, rounds)
        if compared:
            legend |= _draw_compared(panel, curves, name)
        else:
            legend |= _draw_alone(panel, next(iter(curves.values())), name)
        _limit_values(panel)
    _arrange(figure, legend, title=title, beside=compared)
    return figure


def to_png(figure: Figure, scale: float = 2.0) -> bytes:
    """Return ``figure`` as PNG, by default at twice its own resolution: sharp on any screen.

    With a palette of 256 colours, which is all that lines and letters need: a fourth of the bytes,
    in every message to a browser and in every saved notebook.
    """
    shown_on, dpi = figure.canvas, figure.dpi
    canvas: Any = FigureCanvasAgg(figure)  # its methods ship no types
    try:
        figure.dpi = scale * dpi
        canvas.draw()
        size = canvas.get_width_height(physical=True)
        picture = Image.frombuffer("RGBA", size, canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    finally:
        figure.dpi = dpi
        figure.set_canvas(shown_on)
    picture = picture.convert("RGB").quantize(
        256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    )
    # The octree ends at 254; white is to be white.
    picture.putpalette([255 if value >= 253 else value for value in picture.getpalette() or ()])
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()


def _blank(metrics: Sequence[str]) -> Plot:
    """Return a figure with an empty panel per metric."""
    figure = Plot(dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for panel, name in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        _style(panel, name)
    return figure


def _wiped(figure: Plot, metrics: Sequence[str]) -> Plot:
    """Return ``figure`` without what was drawn; a new one if its panels are other metrics."""
    if [panel.get_title(loc="left") for panel in figure.axes] != [*map(_plain, metrics)]:
        return _blank(metrics)
    for panel in figure.axes:
        for artist in (*panel.lines, *panel.collections, *panel.texts):
            artist.remove()
        panel.yaxis.set_major_locator(_value_ticks())
        panel.yaxis.set_major_formatter(ScalarFormatter())
    for artist in (*figure.legends, *figure.texts):
        artist.remove()
    return figure


def _draw_alone(panel: Axes, frame: pd.DataFrame, metric: str) -> dict[str, Line2D]:
    """Draw both splits of one run and its clients; return what the legend shows."""
    rows = frame[frame["metric"] == metric]
    drawn: dict[str, Line2D] = {}
    for split, color in (("train", TRAIN), ("validation", VALIDATION)):
        line = _draw_line(panel, rows, split, color)
        if line is not None:
            drawn[split] = line
    split = "validation" if "validation" in drawn else "train"
    each = rows[rows["client"].notna() & (rows["split"] == split)]
    if 1 < each["client"].nunique() <= MAX_CLIENT_LINES:
        lines = [
            np.column_stack([one["round"].to_numpy(float), _finite(one["value"])])
            for _, one in each.groupby("client", sort=True)
        ]
        panel.add_collection(LineCollection(lines, colors=CLIENTS, linewidths=0.7, zorder=1))
        if len(lines[0]) == 1:
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
    line = rows[rows["client"].isna() & (rows["split"] == split)].sort_values("round")
    if line.empty:
        return None
    train = split == "train"
    few = len(line) <= MAX_ROUNDS_WITH_MARKERS
    (drawn,) = panel.plot(
        line["round"].to_numpy(float),
        _finite(line["value"]),
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


def _style(panel: Axes, metric: str) -> None:
    """Give ``panel`` its name, its grid and its quiet axes."""
    panel.set_facecolor("white")
    # Fixed places for title and label, so that matplotlib need not measure all the ticks for them.
    panel.set_title(_plain(metric), loc="left", y=1.0, fontsize=10.5, fontweight="bold", color=INK)
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
    panel.yaxis.set_major_locator(_value_ticks())
    panel.margins(x=0.02, y=0.08)


def _value_ticks() -> MaxNLocator:
    return MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10])


def _limit_rounds(
    panel: Axes, curves: Mapping[str, pd.DataFrame], metric: str, rounds: int | None
) -> None:
    """Let the axis span all rounds there will be."""
    seen = [frame.loc[frame["metric"] == metric, "round"] for frame in curves.values()]
    first = min([1, *(int(column.min()) for column in seen if len(column))])
    last = max([first, rounds or 1, *(int(column.max()) for column in seen if len(column))])
    margin = max(0.5 if last == first else 0.02 * (last - first), 0.15)
    panel.set_xlim(first - margin, last + margin)


def _limit_values(panel: Axes) -> None:
    """Fit the value axis to the lines, and to the clients but for the few that are far away."""
    values = _joined([np.asarray(line.get_ydata(), dtype=float) for line in panel.lines])
    lines = [item for item in panel.collections if isinstance(item, LineCollection)]
    each = _joined(
        [segment.reshape(-1, 2)[:, 1] for item in lines for segment in item.get_segments()]
    )
    if not values.size and not each.size:
        panel.set_yticks([])
        return
    low, high = _range(values if values.size else each)
    if each.size:
        usual_low, usual_high = _range(np.quantile(each, [0.05, 0.95]))
        room = max(high - low, usual_high - usual_low)
        least, most = _range(each)
        low, high = min(low, max(least, low - room)), max(high, min(most, high + room))
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 0.5
    panel.set_ylim(low - margin, high + margin)
    ticks = [tick for tick in panel.get_yticks() if low - margin <= tick <= high + margin]
    panel.set_yticks(ticks, _tick_labels(ticks))


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    """Word the ticks alike: as many digits as the step needs, or powers of ten."""
    largest = max(map(abs, ticks), default=0.0) or 1.0
    step = ticks[1] - ticks[0] if len(ticks) > 1 else largest
    if largest >= 1e5 or step < 1e-7:
        digits = 1 + math.ceil(math.log10(max(largest / step, 1.0)))
        return [f"{tick:.{max(digits, 2)}g}" for tick in ticks]
    digits = next(d for d in range(9) if abs(round(step, d) - step) < 1e-3 * step)
    return [f"{tick:.{digits}f}" for tick in ticks]


def _arrange(
    figure: Figure,
    drawn: dict[str, Line2D],
    *,
    title: str,
    beside: bool,
) -> None:
    """Lay out title, panels and legend: a legend beside the panels, else a row above them.

    By hand, in inches: matplotlib's own layout engine draws everything twice to measure it, and
    this is drawn again and again beside a running training.
    """
    panels = figure.axes
    labels = [label.get_text() for panel in panels for label in panel.get_yticklabels()]
    left = 0.18 + 0.07 * max(map(len, labels), default=0)
    wide, high = (4.0 if len(panels) > 1 else 5.9), 2.25
    above = 0.3 + (0.32 if title else 0) + (0.28 if drawn and not beside else 0)
    names = [_plain(label) for label in drawn]
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
            _plain(title),
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


def _finite(values: pd.Series) -> np.ndarray:
    """Return the values with a gap (NaN) for each that cannot be drawn."""
    array = values.to_numpy(float)
    return np.where(np.isfinite(array), array, np.nan)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the finite values of all ``arrays`` as one."""
    values = np.concatenate(arrays) if arrays else np.empty(0)
    return values[np.isfinite(values)]


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _plain(text: str) -> str:
    """Return ``text`` as it is to be read: a dollar sign starts no formula."""
    shown = text if len(text) <= 40 else text[:37] + "..."
    return shown.replace("$", r"\$")
