"""Curves of points over their seeds: the mean, and the band between the lowest and highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from flautim_lab.plots.curves import RUNS, STYLES, WIDTHS
from flautim_lab.plots.layout import arrange, blank, limit_rounds, limit_values
from flautim_lab.plots.picture import Plot
from flautim_lab.records.store import Records


def draw(groups: Mapping[str, Sequence[str]], records: Records, metric: str, split: str) -> Plot:
    """Draw a metric over the rounds, a line for each group of runs.

    Parameters
    ----------
    groups : mapping of str to sequence of str
        Label to the ids of runs that differ in their seed alone.
    records : Records
    metric, split : str
    """
    frames = {
        label: pd.concat([records.metrics(run).assign(run=run) for run in runs])
        for label, runs in groups.items()
    }
    figure = blank([f"{metric} ({split})"])
    (panel,) = figure.axes
    limit_rounds(panel, frames, metric, None)
    legend: dict[str, Line2D] = {}
    for number, (label, frame) in enumerate(frames.items()):
        rows = frame[frame["client"].isna() & (frame["metric"] == metric)]
        rows = rows[rows["split"] == split]
        values = rows.assign(value=rows["value"].where(np.isfinite(rows["value"])))
        by_round = values.groupby("round")["value"].agg(["mean", "min", "max"])
        color, style = RUNS[number % len(RUNS)], STYLES[number // len(RUNS) % len(STYLES)]
        rounds = by_round.index.to_numpy(float)
        (line,) = panel.plot(
            rounds, by_round["mean"], color=color, linestyle=style, linewidth=WIDTHS["validation"]
        )
        if len(groups[label]) > 1:
            low, high = by_round["min"], by_round["max"]
            panel.fill_between(rounds, low, high, color=color, alpha=0.15, linewidth=0)
            for edge in (low, high):  # lines, to which the value axis is fitted
                panel.plot(rounds, edge, color=color, linewidth=0.6, alpha=0.4)
            label = f"{label} ({len(groups[label])} seeds)"
        legend[label] = line
    limit_values(panel)
    arrange(figure, legend, title="", beside=True)
    return figure
