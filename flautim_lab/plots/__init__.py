"""Curves of runs as pictures: one panel per metric, train beside validation.

Drawn with matplotlib's objects alone (a ``Figure`` on an Agg canvas), never with ``pyplot``: the
live view draws off the kernel's main thread, and ``pyplot`` keeps global state there. For the same
reason ``rcParams`` are left alone and every colour is said outright, so that a picture is the same
under any style of the notebook.
"""

from flautim_lab.plots.curves import metric_names, plot_metrics
from flautim_lab.plots.faults import mark_faults
from flautim_lab.plots.live import LivePlot, warm_up
from flautim_lab.plots.picture import Plot, shown_size, to_png
from flautim_lab.plots.time_bar import add_time_bar

__all__ = [
    "LivePlot",
    "Plot",
    "add_time_bar",
    "mark_faults",
    "metric_names",
    "plot_metrics",
    "shown_size",
    "to_png",
    "warm_up",
]
