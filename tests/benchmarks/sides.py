"""What the results of several sides say together."""

from __future__ import annotations

import statistics

from fresh_process import MeasurementError
from report import Sample


def rounds(label: str, results: list[dict]) -> Sample:
    """Return the median round of each repetition."""
    return Sample(label, [statistics.median(result["rounds"]) for result in results])


def same_work(results: dict[str, list[dict]]) -> list[str]:
    """Return what shows that all sides did the same work.

    Raises
    ------
    MeasurementError
        If they took different numbers of optimizer steps.
    """
    steps = {side: {result["steps"] for result in found} for side, found in results.items()}
    if len(set.union(*steps.values())) != 1:
        raise MeasurementError(f"the sides did not take equally many steps: {steps}")
    losses = {side: statistics.median(r["loss"] for r in found) for side, found in results.items()}
    shown = ", ".join(f"{side} {loss:.3f}" for side, loss in losses.items())
    return [f"{next(iter(steps['ours']))} steps a round each; training loss at the end: {shown}"]
