"""A small stacked bar under a picture of curves: what the time of the rounds went into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from flautim_lab.plots.layout import FAINT
from flautim_lab.records.profile import PARTS

__all__ = ["TimeBar", "add_time_bar"]

COLORS = {
    "data": "#F0E442",
    "training": "#0072B2",
    "aggregation": "#009E73",
    "evaluation": "#56B4E9",
    "overhead": "#b4b9bf",
}
HEIGHT = 0.52
"""Inches that the bar and its words add to a figure."""
SHORT = 1e-3
"""A part of less than so much of the time is left out of the words."""


class TimeBar:
    """The bar of one figure.

    Drawn on the figure itself and not in an ``Axes``, so that a figure's axes stay its curves.

    Parameters
    ----------
    figure : Figure
        Laid out already; it becomes higher by :data:`HEIGHT`, and its curves keep their size.
    parts : mapping of str to float
        Seconds by each of ``records.profile.PARTS``.
    """

    def __init__(self, figure: Figure, parts: Mapping[str, float]) -> None:
        width, old = figure.get_size_inches()
        high = old + HEIGHT
        boxes = [(panel, panel.get_position()) for panel in figure.axes]
        figure.set_size_inches(width, high)
        for panel, box in boxes:
            below = (box.y0 * old + HEIGHT) / high
            panel.set_position((box.x0, below, box.width, box.height * old / high))
        for text in figure.texts:
            text.set_y(1 - (1 - text.get_position()[1]) * old / high)
        for legend in figure.legends:
            anchor = legend.get_bbox_to_anchor().transformed(figure.transFigure.inverted())
            corner = (anchor.x0, 1 - (1 - anchor.y0) * old / high)
            legend.set_bbox_to_anchor(corner, figure.transFigure)
        self._left = boxes[0][1].x0
        self._wide = boxes[-1][1].x1 - self._left
        below, tall = 0.3 / high, 0.11 / high
        on_figure: Any = {"transform": figure.transFigure}
        self._boxes = [
            Rectangle(
                (self._left, below),
                0.0,
                tall,
                color=COLORS[part],
                linewidth=0,
                gid=part,
                **on_figure,
            )
            for part in PARTS
        ]
        self._words = Text(
            self._left,
            0.23 / high,
            "",
            va="top",
            fontsize=7.5,
            color=FAINT,
            gid="time",
            **on_figure,
        )
        for artist in self.artists:
            figure.add_artist(artist)
        self.show(parts)

    @property
    def artists(self) -> list[Artist]:
        """What changes when the time goes on, in the order in which it is drawn."""
        return [*self._boxes, self._words]

    def show(self, parts: Mapping[str, float]) -> None:
        """Give the bar its parts, and say them in words."""
        whole = sum(parts.values())
        left = self._left
        for box, part in zip(self._boxes, PARTS, strict=True):
            share = parts.get(part, 0.0) / whole if whole else 0.0
            box.set_x(left)
            box.set_width(share * self._wide)
            left += share * self._wide
        self._words.set_text(in_words(parts))


def in_words(parts: Mapping[str, float]) -> str:
    """Return seconds in all and the share of each part.

    >>> in_words({"data": 0.5, "training": 1.5, "overhead": 0.0})
    'time 2 s: data 25 %, training 75 %'
    """
    whole = sum(parts.values())
    if not whole:
        return ""
    shares = [
        f"{part} {_percent(spent / whole)}"
        for part in PARTS
        if (spent := parts.get(part, 0.0)) / whole >= SHORT
    ]
    return f"time {whole:.3g} s: {', '.join(shares)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"


def add_time_bar(figure: Figure, parts: Mapping[str, float]) -> TimeBar | None:
    """Put a bar under the curves of a figure; none where the time is not known."""
    return TimeBar(figure, parts) if sum(parts.values()) else None
