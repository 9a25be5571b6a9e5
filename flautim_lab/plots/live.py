"""The curves of one run, drawn again and again while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection

from flautim_lab.plots.curves import (
    MAX_ROUNDS_WITH_MARKERS,
    WIDTHS,
    client_lines,
    plot_metrics,
    split_line,
)
from flautim_lab.plots.faults import mark_faults
from flautim_lab.plots.layout import joined
from flautim_lab.plots.picture import Plot, canvas_png, shown_size
from flautim_lab.plots.time_bar import TimeBar, add_time_bar
from flautim_lab.records.faults import Fault

SCALE = 1.5
"""Pixels per CSS pixel: fine enough for a picture that is soon replaced."""
FIRST_ROUNDS = 20
"""Rounds that the axis spans at first; it doubles when they are done, until it spans them all."""
ROOM = 0.25
"""Part of the span that is left free, so that axes seldom have to be drawn anew."""


class LivePlot:
    """A picture whose axes and letters are drawn once, and its lines each time.

    That takes a third of the time of a whole picture, beside a training that needs the processor.
    Not for several threads at once.

    Parameters
    ----------
    metrics : sequence of str
        A panel each.
    rounds : int
        How many rounds there will be.
    """

    def __init__(self, metrics: Sequence[str], rounds: int) -> None:
        self.metrics = tuple(metrics)
        self._rounds = rounds
        self._figure: Plot | None = None
        self._canvas: Any = None  # its methods ship no types
        self._background: Any = None
        self._shape: tuple[object, ...] = ()
        self._bar: TimeBar | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height with which the picture is shown, in CSS pixels."""
        return (0, 0) if self._figure is None else shown_size(self._figure)

    def png(
        self,
        frame: pd.DataFrame,
        faults: Sequence[Fault] = (),
        parts: Mapping[str, float] | None = None,
    ) -> bytes:
        """Return the picture of the run so far as PNG.

        Parameters
        ----------
        frame : DataFrame
            Its metrics.
        faults : sequence of Fault
            Those it met.
        parts : mapping of str to float, optional
            Seconds by what they went into.
        """
        parts = parts or {}
        rows = [frame[frame["metric"] == metric] for metric in self.metrics]
        shape = (tuple(faults), bool(parts), *(_shape(table) for table in rows))
        if self._figure is None or shape != self._shape or not self._move(self._figure, rows):
            self._shape = shape
            self._figure = self._draw_all(frame, faults, parts)
        self._canvas.restore_region(self._background)
        if self._bar is not None:
            self._bar.show(parts)
            for artist in self._bar.artists:
                self._figure.draw_artist(artist)
        for panel in self._figure.axes:
            for artist in _moving(panel):
                panel.draw_artist(artist)
        return canvas_png(self._canvas)

    def _draw_all(
        self, frame: pd.DataFrame, faults: Sequence[Fault], parts: Mapping[str, float]
    ) -> Plot:
        """Draw what stays, and keep it as the background."""
        rounds = FIRST_ROUNDS
        while rounds < frame["round"].max():
            rounds *= 2
        figure = plot_metrics(
            {"": frame}, metric=self.metrics, rounds=min(rounds, self._rounds), room=ROOM
        )
        mark_faults(figure, faults)
        self._bar = add_time_bar(figure, parts)
        for artist in [] if self._bar is None else self._bar.artists:
            artist.set_animated(True)
        figure.dpi = SCALE * figure.dpi
        self._canvas = FigureCanvasAgg(figure)
        for panel in figure.axes:
            for artist in _moving(panel):
                artist.set_animated(True)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(figure.bbox)
        return figure

    def _move(self, figure: Plot, rows: Sequence[pd.DataFrame]) -> bool:
        """Give the lines their new values; return whether they still fit the axes."""
        for panel, table in zip(figure.axes, rows, strict=True):
            low, high = panel.get_ylim()
            if len(table) and table["round"].max() > panel.get_xlim()[1]:
                return False
            _, clients = client_lines(table)
            each = joined([line[:, 1] for line in clients])
            values = [np.quantile(each, [0.05, 0.95])] if each.size else []
            for line in panel.lines:
                if line.get_gid() in WIDTHS:
                    points = split_line(table, str(line.get_gid()))
                    line.set_data(points[:, 0], points[:, 1])
                    values.append(points[:, 1])
            for item in panel.collections:
                if isinstance(item, LineCollection):
                    item.set_segments(clients)
            shown = joined(values)
            if (shown < low).any() or (shown > high).any():
                return False
        return True


def warm_up() -> None:
    """Draw a picture for nobody: the first one in a process finds and loads the fonts."""
    lines = [
        (number, client, split, "loss", 1.0 / number)
        for number in (1, 2)
        for client in (None, 0, 1)
        for split in WIDTHS
    ]
    frame = pd.DataFrame(lines, columns=["round", "client", "split", "metric", "value"])
    LivePlot(("loss",), rounds=2).png(frame.astype({"client": "Int64"}))


def _moving(panel: Axes) -> list[Any]:
    """Return what changes from picture to picture, in the order in which it is drawn."""
    return sorted([*panel.collections, *panel.lines], key=lambda artist: artist.get_zorder())


def _shape(rows: pd.DataFrame) -> tuple[object, ...]:
    """Return what must be the same for the same axes and legend to do."""
    lengths = [len(split_line(rows, split)) for split in WIDTHS]
    split, clients = client_lines(rows)
    return (
        *(length > 0 for length in lengths),
        *(length > 1 for length in lengths),
        *(length > MAX_ROUNDS_WITH_MARKERS for length in lengths),
        split if clients else "",
        max(map(len, clients), default=0) > 1,
    )
