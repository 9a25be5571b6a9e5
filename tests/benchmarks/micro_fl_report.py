"""The figures of Micro-FL's evaluation: as a table, as JSON, and as a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from micro_fl_run import CONDITIONS, LOCAL_EPOCHS, MESSAGES_PER_CLIENT_AND_ROUND, STRUCK_AT
from micro_fl_work import HELD_OUT, NOISE, SHIFT

# Okabe and Ito's colours, which those who see some colours alike can tell apart. The lines differ
# in more than colour, since some lie upon one another.
LOOKS = {
    "healthy": {"color": "#0072b2", "linestyle": "-", "marker": "o", "lw": 3.5, "ms": 9},
    "server killed": {"color": "#d55e00", "linestyle": "--", "marker": "s", "lw": 2, "ms": 6},
    "worker killed": {"color": "#009e73", "linestyle": ":", "marker": "^", "lw": 2, "ms": 5},
}
"""How each condition is drawn, the broadest first."""

INTRODUCTION = """
Micro-FL's abstract says that it is fault-tolerant, that it can handle an increasing number of
clients, and that it "proficiently handles component faults, enabling a smooth and uninterrupted
operation". Here the same is asked of `on="processes"`, on one machine. None of the paper's own
figures is at hand, so none stands beside ours.

A perceptron 784-32-10, FedAvg, {local_epochs} local epochs, {rounds} rounds, {rows} rows per
client, a fifth of them for validation. The rows are made: scikit-learn's 1797 digits, scaled up to
28x28, moved by up to {shift} pixels, under noise of {noise}. Of {held_out} % of the digits no
client has a copy: those held out, which are read as they are, neither moved nor under noise.
"Killed" is SIGKILL in the middle of training, in rounds {struck}. Medians, in brackets the lowest
and the highest.

- execution time: from when the server could first be reached until the run had ended; in percent:
  by how much it is longer than the healthy one
- CPU use: CPU seconds of server and workers in `run.resources`, by execution time; what a kill cut
  short (a round of the server, the work that a worker had in hand) is not in them, nor is the start
  of a server
- messages: {messages} per client and round, as Flower's strategy sees them (train and evaluate,
  there and back), by execution time; work that was sent again counts once
- MB (10^6 bytes): what the workers received and sent, from `run.resources`, by execution time
- recovery: from a kill until the process is at work again, over all kills and repetitions
- the same weights, the same metrics: as the healthy run's, bit for bit, in all repetitions
"""


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Attributes
    ----------
    read : callable
        Returns the value of one run.
    form : str
        How a value is written.
    """

    name: str
    read: Callable[[dict], float]
    form: str


MEASURES = (
    Measure("validation accuracy", lambda run: run["accuracy"], ".4f"),
    Measure("validation loss", lambda run: run["loss"], ".4f"),
    Measure("accuracy on digits held out", lambda run: run["held_out_accuracy"], ".4f"),
    Measure("execution time, s", lambda run: run["seconds"], ".1f"),
    Measure("start before it, s", lambda run: run["start_seconds"], ".1f"),
    Measure("CPU use, cores", lambda run: run["cpu_seconds"] / run["seconds"], ".2f"),
    Measure("messages/s", lambda run: run["messages"] / run["seconds"], ".0f"),
    Measure(
        "MB/s",
        lambda run: (run["bytes_received"] + run["bytes_sent"]) / run["seconds"] / 1e6,
        ".2f",
    ),
)


@dataclass(frozen=True)
class Results:
    """All runs: by number of clients, then by condition, one per repetition."""

    runs: dict[int, dict[str, list[dict]]]
    rounds: int
    rows_per_client: int

    def values(self, clients: int, condition: str, measure: Measure) -> list[float]:
        """Return a measure of each repetition."""
        return [measure.read(run) for run in self.runs[clients][condition]]

    def recoveries(self, clients: int, condition: str) -> list[float]:
        """Return the seconds of all faults from which a run recovered."""
        faults = [fault for run in self.runs[clients][condition] for fault in run["faults"]]
        seconds = [fault["recovery_seconds"] for fault in faults]
        return [each for each in seconds if each is not None]

    def same(self, clients: int, condition: str, what: str) -> bool:
        """Return whether ``weights`` or ``metrics`` of every run are those of the healthy one."""
        expected = self.runs[clients]["healthy"][0][what]
        return all(run[what] == expected for run in self.runs[clients][condition])

    def wrong(self) -> list[str]:
        """Return what may not be, in sentences."""
        found = []
        for clients, conditions in self.runs.items():
            for condition, runs in conditions.items():
                which = f"{clients} clients, {condition}"
                found += [
                    f"{which}: {what} differ from those of the healthy run"
                    for what in ("weights", "metrics")
                    if not self.same(clients, condition, what)
                ]
                expected = 0 if condition == "healthy" else len(STRUCK_AT)
                for run in runs:
                    if len(run["faults"]) != expected:
                        found.append(f"{which}: struck {len(run['faults'])} times, not {expected}")
        return found

    def remarks(self) -> list[str]:
        """Return what a reader must know of single runs, in sentences."""
        found = []
        for clients, conditions in self.runs.items():
            for condition, runs in conditions.items():
                which = f"{clients} clients, {condition}"
                away = sum(_struck_while_away(run["faults"]) for run in runs)
                never = sum(f["recovery_seconds"] is None for run in runs for f in run["faults"])
                if away:
                    found.append(f"{which}: in {away} of the faults there was nobody to kill yet")
                if never:
                    found.append(f"{which}: {never} times the run ended before the target was back")
        return found


def _struck_while_away(faults: list[dict]) -> int:
    """Return how many faults came before the target was back from the one before."""
    back, count = 0.0, 0
    for fault in faults:
        count += fault["time"] < back
        seconds = fault["recovery_seconds"]
        back = max(back, float("inf") if seconds is None else fault["time"] + seconds)
    return count


def write(folder: Path, results: Results, facts: dict[str, str], failures: list[str]) -> str:
    """Write ``micro_fl.md``, ``micro_fl.json`` and ``micro_fl.png`` and return the markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Micro-FL's evaluation, repeated", "", _introduction(results), ""]
    lines += [", ".join(f"{key}: {value}" for key, value in facts.items()), ""]
    lines += [_table(results), ""]
    lines += [f"- {line}" for line in (*failures, *results.wrong(), *results.remarks())]
    text = "\n".join(lines).rstrip() + "\n"
    (folder / "micro_fl.md").write_text(text, encoding="utf-8")
    content = {
        "machine": facts,
        "rounds": results.rounds,
        "rows_per_client": results.rows_per_client,
        "local_epochs": LOCAL_EPOCHS,
        "struck_at": STRUCK_AT,
        "failures": failures,
        "wrong": results.wrong(),
        "remarks": results.remarks(),
        "runs": results.runs,
    }
    (folder / "micro_fl.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    draw(folder / "micro_fl.png", results)
    return text


def _introduction(results: Results) -> str:
    text = INTRODUCTION.format(
        local_epochs=LOCAL_EPOCHS,
        rounds=results.rounds,
        rows=results.rows_per_client,
        shift=SHIFT,
        noise=f"{NOISE:g}",
        held_out=f"{100 * HELD_OUT:.0f}",
        struck=", ".join(str(round(share * results.rounds)) for share in STRUCK_AT),
        messages=MESSAGES_PER_CLIENT_AND_ROUND,
    )
    return text.strip()


def _table(results: Results) -> str:
    lines = [["clients", "measure", *CONDITIONS]]
    for clients in results.runs:
        per_condition = [
            [_cell(results, clients, condition, measure) for condition in CONDITIONS]
            for measure in MEASURES
        ]
        names = [measure.name for measure in MEASURES]
        for name, cells in zip(names, per_condition, strict=True):
            lines.append([str(clients), name, *cells])
        recoveries = [results.recoveries(clients, condition) for condition in CONDITIONS]
        lines.append(
            [str(clients), "recovery, s", *(_spread(r, ".2f") if r else "-" for r in recoveries)]
        )
        for what in ("weights", "metrics"):
            same = [results.same(clients, condition, what) for condition in CONDITIONS]
            lines.append([str(clients), f"the same {what}", *("yes" if s else "NO" for s in same)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))} |"
        for line in lines
    )


def _cell(results: Results, clients: int, condition: str, measure: Measure) -> str:
    values = results.values(clients, condition, measure)
    text = _spread(values, measure.form)
    if measure.name.startswith("execution") and condition != "healthy":
        healthy = statistics.median(results.values(clients, "healthy", measure))
        text += f", {100 * (statistics.median(values) / healthy - 1):+.0f} %"
    return text


def _spread(values: list[float], form: str) -> str:
    median, low, high = (f"{of(values):{form}}" for of in (statistics.median, min, max))
    return median if low == high else f"{median} ({low} to {high})"


def draw(path: Path, results: Results) -> None:
    """Draw four panels over the number of clients: medians, and the range as a thin line."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    accuracy, _, _, seconds, _, cores, messages, _ = MEASURES
    alike = "" if results.wrong() else " (the same weights in all three)"
    panels = (
        (accuracy, f"Validation accuracy{alike}"),
        (seconds, "Execution time (s)"),
        (cores, "CPU use (cores)"),
        (messages, "Throughput (messages/s)"),
    )
    numbers = list(results.runs)
    if not numbers:
        return
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    for axes, (measure, title) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for side, (condition, look) in enumerate(LOOKS.items(), start=-1):
            values = [results.values(clients, condition, measure) for clients in numbers]
            middle = [statistics.median(each) for each in values]
            reach = [
                [m - min(each) for m, each in zip(middle, values, strict=True)],
                [max(each) - m for m, each in zip(middle, values, strict=True)],
            ]
            beside = [number * 1.02**side for number in numbers]  # or one range hides another
            axes.errorbar(beside, middle, reach, label=condition, elinewidth=1, **look)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xscale("log")
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("clients")
        axes.set_xlim(numbers[0] / 1.15, numbers[-1] * 1.15)
        if measure is seconds and numbers[-1] >= 8 * numbers[0]:
            axes.set_yscale("log")  # as the clients: twice as many and twice as long is a line
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            low, high = axes.get_ylim()
            axes.set_ylim(low / 1.3, high * 1.2)
        else:
            axes.set_ylim(0, 1 if measure is accuracy else 1.05 * axes.get_ylim()[1])
        axes.grid(axis="y", color="#dddddd", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=120)
