"""Faults on a picture of curves: a thin line at the round that was struck, and what happened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from flautim_lab.plots.curves import WIDTHS
from flautim_lab.plots.layout import FAINT
from flautim_lab.records.faults import Fault

GID = "fault"
"""Of the lines and letters drawn here."""
NEAREST = 0.03
"""Part of the width that two labels must be apart; one that is nearer is left out."""
LONGEST = 44
"""Letters of a label: more of them would not fit into the panel's height."""


def mark_faults(figure: Figure, faults: Sequence[Fault]) -> None:
    """Draw a vertical line at the round of each fault, in every panel, with a label in the first.

    Parameters
    ----------
    figure : Figure
        Curves over rounds, their axes as they will stay.
    faults : sequence of Fault
        Those of one round share a line. A fault before the first or after the last round that the
        axis spans is drawn at its end.
    """
    of_round: dict[int, list[Fault]] = {}
    for fault in faults:
        of_round.setdefault(fault.round, []).append(fault)
    for first, panel in enumerate(figure.axes):
        low, high = panel.get_xlim()
        labelled = -float("inf")
        for number in sorted(of_round):
            at = min(max(number, low), high)
            panel.axvline(at, gid=GID, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
            place = (at - low) / (high - low)
            if first > 0 or place - labelled < NEAREST:
                continue
            labelled = place
            above = _height(panel, at) <= 0.5  # there is more room over the curves than under them
            panel.text(
                at,
                0.98 if above else 0.02,
                _label(of_round[number]),
                transform=panel.get_xaxis_transform(),
                gid=GID,
                rotation=90,
                ha="left" if place < NEAREST else "right",
                va="top" if above else "bottom",
                fontsize=6.5,
                color=FAINT,
                zorder=5,
                path_effects=[withStroke(linewidth=2.0, foreground="white")],
            )


def _height(panel: Axes, at: float) -> float:
    """Return how high the curves are at a round, as a part of the panel's height."""
    near = [np.empty(0)]
    for line in panel.lines:
        if line.get_gid() in WIDTHS:
            x, y = (np.asarray(data, dtype=float) for data in line.get_data())
            near.append(y[(np.abs(x - at) <= 1.0) & np.isfinite(y)])
    values = np.concatenate(near)
    low, high = panel.get_ylim()
    return (float(values.mean()) - low) / (high - low) if values.size else 0.0


def _label(faults: Sequence[Fault]) -> str:
    text = "; ".join(fault.words() for fault in faults)
    shown = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return shown.replace("$", r"\$")
