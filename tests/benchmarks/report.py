"""The figures of one run of the benchmarks: as a table, as JSON, and as a picture."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from work import usable_cores

PACKAGES = ("flautim-lab", "torch", "flwr", "ray", "numpy", "ipykernel")


@dataclass(frozen=True)
class Sample:
    """What one side took, once per repetition, in seconds."""

    label: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """The median over the repetitions."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        return f"{_shown(self.median)} s ({_shown(low)} to {_shown(high)})"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    compared : str
        How ours stands to the peer's, by the medians.
    met : bool or None
        Whether the goal is met; None where there is none.
    """

    work: str
    ours: Sample | None
    peer: Sample | None
    compared: str
    goal: str = ""
    met: bool | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The goal's end in one word."""
        return {True: "met", False: "NOT MET", None: "-"}[self.met]


def ratio(ours: Sample, peer: Sample) -> tuple[float, str]:
    """Return the ratio of the medians, and it as text with the range over the repetitions.

    Repetition by repetition the two sides ran one after the other, so a drift of the machine
    moves both.
    """
    by_pair = [a / b for a, b in zip(ours.seconds, peer.seconds, strict=True)]
    value = ours.median / peer.median
    return value, f"{_shown(value)} x ({_shown(min(by_pair))} to {_shown(max(by_pair))})"


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    facts = {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": _processor(),
        "cores": str(usable_cores()),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    if hasattr(os, "getloadavg"):
        # Above 0 before anything ran: somebody else uses these cores, and the figures are rough.
        facts["load before"] = f"{os.getloadavg()[0]:.1f}"
    return facts


def table(rows: list[Row]) -> str:
    """Return the rows as a markdown table."""
    head = ["work", "ours", "peer", "peer took", "compared", "goal", "met"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append(
            [
                row.work,
                str(row.ours or "-"),
                row.peer.label if row.peer else "-",
                str(row.peer or "-"),
                row.compared,
                row.goal or "-",
                row.verdict,
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    padded = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    ]
    padded[1] = ["-" * width for width in widths]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def write(folder: Path, rows: list[Row], facts: dict[str, str], raw: dict) -> str:
    """Write ``bench.md``, ``bench.json`` and ``bench.png`` and return the markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Benchmarks", "", ", ".join(f"{key}: {value}" for key, value in facts.items()), ""]
    lines += [
        "Medians, in brackets the lowest and the highest of all repetitions.",
        "",
        table(rows),
    ]
    notes = [f"- {row.work}: {note}" for row in rows for note in row.notes]
    if notes:
        lines += ["", *dict.fromkeys(notes)]
    text = "\n".join(lines) + "\n"
    (folder / "bench.md").write_text(text, encoding="utf-8")
    content = {"machine": facts, "rows": [asdict(row) for row in rows], "raw": raw}
    (folder / "bench.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    draw(folder / "bench.png", rows)
    return text


def draw(path: Path, rows: list[Row]) -> None:
    """Draw a panel per row: a bar for each median, a dot for each repetition."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.ours and row.peer]
    if not shown:
        return
    figure = Figure(figsize=(9, 1.5 * len(shown)), layout="constrained")
    for axes, row in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        samples = [row.peer, row.ours]
        axes.barh([0, 1], [s.median for s in samples], color=["#999999", "#0072b2"], height=0.6)
        for line, sample in enumerate(samples):
            axes.plot(sample.seconds, [line] * len(sample.seconds), "o", color="black", ms=3)
        axes.set_yticks([0, 1], [row.peer.label, row.ours.label])
        axes.set_title(f"{row.work}: {row.compared}", loc="left", fontsize=10)
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("seconds")
    figure.savefig(path, dpi=120)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _shown(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
