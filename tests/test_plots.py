"""Curves: what is drawn, that it is drawn without pyplot, and that it can be seen."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

import flautim_lab as lab
from flautim_lab.plots import (
    LivePlot,
    add_time_bar,
    live,
    mark_faults,
    metric_names,
    plot_metrics,
    to_png,
)
from flautim_lab.plots.curves import TRAIN, VALIDATION, WIDTHS
from flautim_lab.records.event import Event
from flautim_lab.records.faults import Fault
from tests.federations import experiment


def frame(rounds=5, clients=3, metrics=("loss", "accuracy"), splits=("train", "validation")):
    rows = [
        (number, client, split, metric, (2.0 if split == "train" else 2.5) / number + (client or 0))
        for number in range(1, rounds + 1)
        for split in splits
        for metric in metrics
        for client in [None, *range(clients)]
    ]
    made = pd.DataFrame(rows, columns=["round", "client", "split", "metric", "value"])
    return made.astype({"client": "Int64"})


def lines(panel):
    """The lines of a panel by colour; those of single clients are a collection."""
    return {to_hex(line.get_color()).upper(): line for line in panel.lines}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def pixels(figure, **how):
    return Image.open(io.BytesIO(to_png(figure, **how))).convert("RGB")


def colours(image):
    return {colour for _, colour in image.getcolors(1 << 20)}


def test_a_real_run():
    run = lab.run(experiment(rounds=2)).wait()
    figure = plot_metrics({"iris": run.metrics}, metric=["loss", "accuracy"], rounds=2)
    loss, accuracy = figure.axes
    seen = run.metrics[run.metrics.client.isna() & (run.metrics.metric == "loss")]
    for split, colour in (("train", TRAIN), ("validation", VALIDATION)):
        line = lines(loss)[colour]
        expected = seen[seen.split == split].value
        np.testing.assert_array_equal(line.get_ydata(), expected)
        np.testing.assert_array_equal(line.get_xdata(), [1, 2])
    # Accuracy is measured in validation only.
    assert list(lines(accuracy)) == [VALIDATION]
    assert legend(figure) == ["train", "validation", "each client (validation)"]


def test_metric_names():
    made = frame(1, metrics=("rmse", "accuracy", "mae", "loss"))
    assert metric_names(made) == ["loss", "accuracy", "mae", "rmse"]
    assert metric_names(made[made.metric == "rmse"]) == ["rmse"]
    assert metric_names(made.iloc[:0]) == []


def test_train_and_validation_differ_in_more_than_colour():
    (panel,) = plot_metrics({"a": frame()}).axes
    train, validation = lines(panel)[TRAIN], lines(panel)[VALIDATION]
    assert train.get_linewidth() < validation.get_linewidth()
    assert train.get_marker() != validation.get_marker()
    assert train.get_markerfacecolor() == "white"
    # Where they lie on one another the thin one is seen on the thick one.
    assert train.get_zorder() > validation.get_zorder()


def test_each_client_is_a_thin_line_up_to_thirty():
    (panel,) = plot_metrics({"a": frame(clients=30)}).axes
    (collection,) = panel.collections
    segments = collection.get_segments()
    assert len(segments) == 30
    np.testing.assert_allclose(segments[2][:, 1], [2.5 / n + 2 for n in range(1, 6)])
    figure = plot_metrics({"a": frame(clients=31)})
    assert len(figure.axes[0].collections) == 0
    assert legend(figure) == ["train", "validation"]


def test_the_clients_of_train_are_shown_where_there_is_no_validation():
    figure = plot_metrics({"a": frame(splits=("train",))})
    assert legend(figure) == ["train", "each client (train)"]


def test_several_runs_have_a_colour_each_and_no_client_lines():
    figure = plot_metrics({"FedAvg": frame(), "FedProx": frame()}, metric=["loss", "accuracy"])
    assert legend(figure) == ["FedAvg", "FedProx", "train", "validation"]
    for panel in figure.axes:
        assert len(panel.lines) == 4
        assert len(lines(panel)) == 2
        assert len(panel.collections) == 0
        assert {line.get_linewidth() for line in panel.lines} == set(WIDTHS.values())


def test_more_runs_than_colours_differ_in_their_dashes():
    figure = plot_metrics({f"run {n}": frame(30) for n in range(16)})
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 16


@pytest.mark.parametrize("rounds", [1, 2, 12, 400])
def test_rounds_are_whole_numbers(rounds):
    figure = plot_metrics({"a": frame(rounds)})
    to_png(figure)
    (panel,) = figure.axes
    low, high = panel.get_xlim()
    ticks = [tick for tick in panel.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == int(tick) for tick in ticks)
    assert low < 1
    assert high > rounds


def test_the_axis_spans_the_rounds_to_come():
    (panel,) = plot_metrics({"a": frame(2)}, rounds=20).axes
    assert panel.get_xlim()[1] > 20
    (panel,) = plot_metrics({"a": frame(2)}, rounds=1).axes
    assert panel.get_xlim()[1] > 2


def test_a_single_round_is_seen():
    image = pixels(plot_metrics({"a": frame(1)}))
    for colour in (TRAIN, VALIDATION):
        wanted = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        near = [c for c in colours(image) if max(abs(np.subtract(c, wanted))) <= 4]
        assert near, colour


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_leaves_a_gap(value):
    made = frame(4)
    made.loc[made["round"] == 2, "value"] = value
    figure = plot_metrics({"a": made})
    to_png(figure)
    (panel,) = figure.axes
    gap = [np.isnan(y) for y in lines(panel)[VALIDATION].get_ydata()]
    assert gap == [False, True, False, False]
    assert np.isfinite(panel.get_ylim()).all()


def test_nothing_but_what_is_no_number():
    made = frame(2)
    made["value"] = np.nan
    to_png(plot_metrics({"a": made}))


def test_rounds_without_validation_are_no_gap():
    made = frame(6)
    made = made[(made.split == "train") | (made["round"] % 3 == 0)]
    (panel,) = plot_metrics({"a": made}).axes
    np.testing.assert_array_equal(lines(panel)[VALIDATION].get_xdata(), [3, 6])


def test_a_client_far_away_does_not_flatten_the_others():
    made = frame(10, clients=20)
    made.loc[(made.client == 4) & (made["round"] > 5), "value"] = 1e9
    (panel,) = plot_metrics({"a": made}).axes
    assert panel.get_ylim()[1] < 100


def test_nothing_measured_yet():
    figure = plot_metrics({"a": frame(0)}, rounds=20)
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.texts] == ["nothing measured yet"]
    assert figure.legends == []
    to_png(figure)


@pytest.mark.parametrize(
    ("curves", "metric", "message"),
    [
        ({}, "loss", "there is nothing to plot; name at least one run"),
        ({"a": frame(1)}, [], "there is nothing to plot; name at least one metric"),
        (
            {"a": frame(1)},
            "acuracy",
            "no metric named 'acuracy'; did you mean 'accuracy'? choose one of: loss, accuracy",
        ),
    ],
)
def test_bad_questions(curves, metric, message):
    with pytest.raises(lab.UsageError) as caught:
        plot_metrics(curves, metric=metric)
    assert str(caught.value) == message


def test_labels_are_shown_as_they_are():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = ["_private", "$5 and $6", "x" * 100]
        figure = plot_metrics({name: frame() for name in names}, title="50 $ or $x$?")
        to_png(figure)
    assert legend(figure)[:3] == ["_private", r"\$5 and \$6", "x" * 37 + "..."]
    assert figure.texts[0].get_text() == r"50 \$ or \$x\$?"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 0.1, 0.2, 0.3], ["0.0", "0.1", "0.2", "0.3"]),
        ([0.0, 25.0, 50.0, 75.0], ["0", "20", "40", "60", "80"]),
        ([0.6931, 0.69312], ["0.693100", "0.693105", "0.693110", "0.693115", "0.693120"]),
        ([1e6, 1e6 + 2], ["1000000", "1000000.5", "1000001", "1000001.5", "1000002"]),
        ([0.0, 2e9, 4e9], ["0", "1e+09", "2e+09", "3e+09", "4e+09"]),
    ],
)
def test_value_ticks_have_the_digits_they_need(values, labels):
    made = frame(len(values), clients=0, metrics=("loss",), splits=("train",))
    made["value"] = values
    (panel,) = plot_metrics({"a": made}).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == labels


def test_png_is_twice_as_fine_white_and_small():
    figure = plot_metrics({"a": frame(30, clients=20)}, metric=["loss", "accuracy"], rounds=30)
    width, height = figure.get_size_inches() * figure.dpi
    data = to_png(figure)
    image = Image.open(io.BytesIO(data))
    assert abs(image.size[0] - 2 * width) <= 1
    assert abs(image.size[1] - 2 * height) <= 1
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert len(data) < 100_000
    # The figure is as it was.
    assert figure.dpi == 96
    assert abs(pixels(figure, scale=1).size[0] - width) <= 1


PARTS = {"data": 0.5, "training": 1.5, "aggregation": 0.0, "evaluation": 1.996, "overhead": 0.004}


def test_a_bar_shows_what_the_time_went_into_and_the_curves_keep_their_size():
    plain = plot_metrics({"a": frame()}, metric=["loss", "accuracy"], title="A")
    figure = plot_metrics({"a": frame()}, metric=["loss", "accuracy"], title="A")
    bar = add_time_bar(figure, PARTS)
    for before, after in zip(plain.axes, figure.axes, strict=True):
        old = before.get_window_extent()
        assert after.get_window_extent().size == pytest.approx(old.size)
    widths = {box.get_gid(): box.get_width() for box in bar.artists[:-1]}
    whole = sum(widths.values())
    assert {part: width / whole * 4 for part, width in widths.items()} == pytest.approx(PARTS)
    words = "time 4 s: data 12 %, training 38 %, evaluation 50 %, overhead < 1 %"
    assert bar.artists[-1].get_text() == words
    # What is above the bar is what is there without it.
    small, large = np.asarray(pixels(plain)), np.asarray(pixels(figure))
    assert small.shape[1] == large.shape[1]
    assert (small != large[: len(small)]).mean() < 0.02
    assert add_time_bar(figure, {}) is None


def test_the_live_bar_moves_with_the_time():
    plot = LivePlot(("loss",), rounds=5)
    first = plot.png(frame(), parts=PARTS)
    high = plot.size[1]
    assert plot.png(frame(), parts={**PARTS, "overhead": 4.0}) != first
    assert plot.png(frame(), parts=PARTS) == first
    plot.png(frame())
    assert plot.size[1] < high  # no bar where the time is not known


def test_a_notebook_shows_the_figure_sharp_whether_or_not_pyplot_is_there():
    figure = plot_metrics({"a": frame()})
    data, size = figure._repr_png_()
    assert data == to_png(figure)
    width, height = figure.get_size_inches() * figure.dpi
    assert size == {"width": round(width), "height": round(height)}


class TestLivePlot:
    """A live picture shows what a whole one shows, with axes that have room for more."""

    metrics = ("loss", "accuracy")

    def grown(self, rounds, **how):
        return frame(20, **how)[lambda table: table["round"] <= rounds]

    def check(self, plot, table):
        """Draw ``table`` live; compare with the figure drawn whole, and with another figure."""
        png = plot.png(table)
        figure = plot._figure
        moving = [item for panel in figure.axes for item in (*panel.lines, *panel.collections)]
        for artist in moving:
            artist.set_animated(False)
        assert png == to_png(figure, scale=1)
        for artist in moving:
            artist.set_animated(True)
        other = plot_metrics({"a": table}, metric=self.metrics, rounds=20)
        for panel, expected in zip(figure.axes, other.axes, strict=True):
            assert panel.get_xlim() == expected.get_xlim()
            low, high = expected.get_ylim()
            assert panel.get_ylim()[0] <= low
            assert panel.get_ylim()[1] >= high
            assert len(panel.lines) == len(expected.lines)
            for line, same in zip(panel.lines, expected.lines, strict=True):
                np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())
                assert line.get_marker() == same.get_marker()
            for lines, same in zip(panel.collections, expected.collections, strict=True):
                for one, two in zip(lines.get_segments(), same.get_segments(), strict=True):
                    np.testing.assert_array_equal(one, two)
        assert legend(figure) == legend(other)

    @pytest.mark.parametrize("clients", [0, 1, 5, 31])
    def test_is_the_same_picture(self, clients):
        plot = LivePlot(self.metrics, 20)
        for rounds in (1, 2, 3, 7, 8, 20):
            table = self.grown(rounds, clients=clients)
            self.check(plot, table)

    def test_draws_axes_and_letters_only_when_they_change(self):
        plot = LivePlot(self.metrics, 20)
        plot.png(self.grown(3))
        figure = plot._figure
        for rounds in range(4, 8):
            plot.png(self.grown(rounds))
        assert plot._figure is figure
        worse = self.grown(8)
        worse.loc[worse["round"] == 8, "value"] = 1000.0
        plot.png(worse)
        assert plot._figure is not figure
        assert plot._figure.axes[0].get_ylim()[1] > 1000

    def test_gaps_and_validation_that_comes_later(self):
        plot = LivePlot(self.metrics, 20)
        table = self.grown(6)
        table.loc[table["round"] == 2, "value"] = np.nan
        for rounds in (1, 2, 3, 6):
            now = table[(table["round"] <= rounds) & ((table.split == "train") | (rounds > 2))]
            self.check(plot, now)

    def test_size_is_that_of_the_page(self):
        plot = LivePlot(self.metrics, 20)
        assert plot.size == (0, 0)
        image = Image.open(io.BytesIO(plot.png(self.grown(3))))
        assert np.abs(np.subtract(image.size, np.multiply(plot.size, live.SCALE))).max() <= 2

    def test_the_axis_of_many_rounds_grows_with_them(self):
        plot = LivePlot(("loss",), 500)
        ends = []
        for rounds in (1, 20, 21, 40, 41, 300, 500):
            plot.png(frame(rounds, clients=0))
            ends.append(int(plot._figure.axes[0].get_xlim()[1]))
        assert ends == [20, 20, 40, 40, 81, 326, 509]

    def test_more_rounds_than_were_announced(self):
        plot = LivePlot(("loss",), 2)
        plot.png(self.grown(2))
        plot.png(self.grown(5))
        assert plot._figure.axes[0].get_xlim()[1] > 5


class TestFaults:
    killed = Fault(10.0, 2, "server", "killed", 1.24)

    def drawn(self, figure):
        return [
            [line.get_xdata()[0] for line in panel.lines if line.get_gid() == "fault"]
            for panel in figure.axes
        ]

    def labels(self, figure):
        return [[text.get_text() for text in panel.texts] for panel in figure.axes]

    def test_a_line_at_its_round_in_each_panel_and_a_label_in_the_first(self):
        figure = plot_metrics({"a": frame()}, metric=["loss", "accuracy"])
        limits = [(panel.get_xlim(), panel.get_ylim()) for panel in figure.axes]
        again = Fault(20.0, 2, "watch", "killed")
        mark_faults(figure, [self.killed, again, Fault(30.0, 4, "$half", "killed")])
        assert self.drawn(figure) == [[2, 4], [2, 4]]
        assert self.labels(figure) == [
            ["server killed, back after 1.2 s; watch ki...", r"\$half killed"],
            [],
        ]
        assert limits == [(panel.get_xlim(), panel.get_ylim()) for panel in figure.axes]

    def test_what_is_before_or_after_the_rounds_is_drawn_at_their_end(self):
        figure = plot_metrics({"a": frame()})
        low, high = figure.axes[0].get_xlim()
        mark_faults(figure, [Fault(1.0, 0, "server", "killed"), Fault(2.0, 9, "watch", "killed")])
        assert self.drawn(figure) == [[low, high]]

    def test_labels_that_would_cover_each_other_are_left_out(self):
        figure = plot_metrics({"a": frame(200, clients=0)})
        mark_faults(figure, [Fault(1.0, n, f"client-{n}", "killed") for n in (50, 51, 100)])
        assert self.drawn(figure) == [[50, 51, 100]]
        assert self.labels(figure) == [["client-50 killed", "client-100 killed"]]

    def test_a_label_stands_where_the_curves_are_not(self):
        falling = frame(20, clients=0)  # high at first, low at the end
        figure = plot_metrics({"a": falling})
        mark_faults(figure, [Fault(1.0, n, "server", "killed") for n in (1, 15)])
        first, last = figure.axes[0].texts
        assert (first.get_va(), last.get_va()) == ("bottom", "top")

    def test_a_live_picture_marks_them_as_they_come(self):
        plot = LivePlot(("loss",), 20)
        before = plot.png(frame(5))
        figure = plot._figure
        struck = plot.png(frame(5), (self.killed,))
        assert struck != before
        assert plot._figure is not figure
        assert self.labels(plot._figure) == [["server killed, back after 1.2 s"]]
        figure = plot._figure
        plot.png(frame(6), (self.killed,))
        assert plot._figure is figure  # only the curves are drawn again

    def test_the_plot_of_a_run_has_those_of_its_records(self):
        run = lab.run(experiment(rounds=3)).wait()
        assert self.drawn(run.plot()) == [[]]
        seq, start = run._records.last_seq(run.id), run.record.started
        run._records.append(
            run.id,
            [
                Event(seq + 1, start + 1.0, "fault", 2, name="server", text="killed"),
                Event(seq + 2, start + 2.2, "recovery", 2, name="server", value=1.2),
            ],
        )
        figure = run.plot()
        assert self.drawn(figure) == [[2]]
        assert self.labels(figure) == [["server killed, back after 1.2 s"]]


def test_drawn_without_pyplot_and_without_touching_its_settings():
    code = """
import sys, threading
import matplotlib, pandas as pd
matplotlib.rcParams.update({"text.color": "red", "axes.facecolor": "black", "font.size": 40})
kept = [key for key in matplotlib.rcParams if key != "backend"]
before = [matplotlib.rcParams[key] for key in kept]
from flautim_lab.plots import plot_metrics, to_png
frame = pd.DataFrame({"round": [1, 2], "client": pd.array([None, None], "Int64"),
                      "split": "train", "metric": "loss", "value": [2.0, 1.0]})
done = []
thread = threading.Thread(target=lambda: done.append(to_png(plot_metrics({"a": frame}))))
thread.start(); thread.join()
assert done[0].startswith(b"\\x89PNG")
print("matplotlib.pyplot" in sys.modules)
assert [matplotlib.rcParams[key] for key in kept] == before
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("False", "")
