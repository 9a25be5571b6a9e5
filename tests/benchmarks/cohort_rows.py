"""The promises about a thousand small models, trained as cohorts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fresh_process import MeasurementError
from report import Row, Sample, ratio
from work import CROWD, FLUTE, Work

if TYPE_CHECKING:
    from run import Bench

LONGEST_SECONDS = 1.0  # FLUTE's workload, start included
SAME = 1e-3  # how far a round's mean losses of two sides may be apart, relatively


def flute(bench: Bench) -> Iterator[Row]:
    """FLUTE's workload: 1,000 clients, 10 a round, 100 rounds."""
    mine, peers, notes = _sides(bench, FLUTE)
    value, text = ratio(mine, peers["plain"])
    yield Row("FLUTE's workload", mine, None, "", "< 1 s", mine.median < LONGEST_SECONDS, notes)
    yield Row("FLUTE's workload", mine, peers["plain"], text, "<= 0.5 x", value <= 0.5)
    yield Row("FLUTE's workload", mine, peers["loop"], ratio(mine, peers["loop"])[1])


def crowd(bench: Bench) -> Iterator[Row]:
    """1,000 clients x 100 rows, a small perceptron, all of them in each of five rounds."""
    mine, peers, notes = _sides(bench, CROWD)
    value, text = ratio(mine, peers["plain"])
    name = "1,000 clients, all in each round"
    yield Row(name, mine, peers["plain"], text, "<= 0.2 x", value <= 0.2, notes)
    yield Row(name, mine, peers["loop"], ratio(mine, peers["loop"])[1])


def _sides(bench: Bench, work: Work) -> tuple[Sample, dict[str, Sample], list[str]]:
    """Return our sample, those of our loop and the plain one, and that all learned the same.

    Raises
    ------
    MeasurementError
        If some side's losses are others, or ours was no cohort.
    """
    go = bench.processes.measure
    data = str(bench.processes.scratch / f"{work.name}.npz")
    plan = str(bench.processes.scratch / f"{work.name}-plan.npz")
    go("cohorts", "save_for_peer", work.name, data, plan)
    results = bench.interleave(
        work.name,
        {
            "cohort": lambda: go("cohorts", "ours", work.name, "auto"),
            "loop": lambda: go("cohorts", "ours", work.name, "loop"),
            "plain": lambda: go("cohorts", "plain", work.name, data, plan),
        },
        bench.repeats,
    )
    if any(result["engine"] != "cohort" for result in results["cohort"]):
        raise MeasurementError(f"{work.name} was not trained as cohorts")
    curve = results["plain"][0]["losses"]
    apart = max(
        abs(mine - theirs) / theirs
        for side in results.values()
        for result in side
        for mine, theirs in zip(result["losses"], curve, strict=True)
    )
    if apart > SAME:
        raise MeasurementError(f"{work.name}: the losses of two sides are {apart:.2g} apart")
    samples = {
        side: Sample(side, [result["seconds"] for result in found])
        for side, found in results.items()
    }
    notes = [
        f"loss {curve[0]:.4f} at first and {curve[-1]:.4f} at the end on every side; in no round "
        f"are two of them more than {apart:.1e} of it apart"
    ]
    return samples.pop("cohort"), samples, notes
