"""A picture of what each client holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flautim_lab.plots.layout import plain
from flautim_lab.plots.picture import Plot

MOST_NAMES = 40  # of clients that are written out
MOST_CLASSES = 12  # in the legend


def plot_partition(held: Sequence[tuple[str, Sequence[int]]], classes: Sequence[str] = ()) -> Plot:
    """Return a bar for each client: how many rows it holds, by class.

    Parameters
    ----------
    held : sequence of (str, sequence of int)
        Each client's name, and its rows of each class (of regression: its rows).
    classes : sequence of str
        Their names; none for regression.
    """
    figure = Plot(figsize=(6.4, min(1.2 + 0.22 * len(held), 8)), layout="constrained")
    panel = figure.add_subplot()
    counts = np.array([rows for _, rows in held], dtype=float)
    left = np.zeros(len(held))
    places = np.arange(len(held))
    for number in range(counts.shape[1]):
        label = plain(classes[number]) if number < len(classes) else None
        panel.barh(
            places,
            counts[:, number],
            left=left,
            height=0.8,
            label=label if number < MOST_CLASSES else None,
            color=f"C{number % 10}",
        )
        left += counts[:, number]
    shown = places if len(held) <= MOST_NAMES else places[:: len(held) // MOST_NAMES + 1]
    panel.set_yticks(shown, [plain(held[place][0]) for place in shown], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("rows")
    panel.spines[["top", "right"]].set_visible(False)
    if classes:
        panel.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
