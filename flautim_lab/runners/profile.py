"""Where the time of a run went: what ``run.profile()`` returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flautim_lab.errors import RecordsError
from flautim_lab.names import count
from flautim_lab.records.event import Event, RunRecord
from flautim_lab.records.profile import PARTS, Parts, engine_in_words, parts_of, total_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Profile", "profile_of"]


@dataclass(frozen=True, repr=False)
class Profile:
    """What the time of a run's rounds went into.

    Attributes
    ----------
    of_rounds : dict of int to dict
        Seconds by part (data, training, aggregation, evaluation, overhead), by round.
    engine : str
        How its clients were trained, and why not together, in a sentence without a full stop.
    """

    of_rounds: dict[int, Parts]
    engine: str

    @property
    def total(self) -> Parts:
        """Seconds of all rounds, by part."""
        return total_of(self.of_rounds.values())

    @property
    def seconds(self) -> float:
        """Seconds of all rounds: the first begins with the run."""
        return sum(self.total.values())

    @property
    def rounds(self) -> pd.DataFrame:
        """A line per round: its number as the index, seconds by part, and ``seconds`` in all."""
        import pandas as pd

        index = pd.Index(list(self.of_rounds), name="round", dtype="int64")
        frame = pd.DataFrame(list(self.of_rounds.values()), index=index, columns=list(PARTS))
        return frame.assign(seconds=frame.sum(axis="columns"))

    def __repr__(self) -> str:
        head = f"{count(len(self.of_rounds), 'round')} in {self.seconds:.3g} s"
        width = max(map(len, PARTS))
        lines = [
            f"  {part:<{width}}  {spent:8.3f} s  {spent / (self.seconds or 1.0):4.0%}"
            for part, spent in self.total.items()
        ]
        return "\n".join([head, *lines, *([self.engine] if self.engine else [])])


def profile_of(record: RunRecord, events: Iterable[Event]) -> Profile:
    """Return what the time of a run went into, from what the records hold of it.

    Raises
    ------
    RecordsError
        If no round was measured.
    """
    rounds = parts_of(events)
    if not rounds and record.round:
        raise RecordsError(
            f"run {record.id} was recorded by a version that did not measure its rounds; "
            "run.resources has what it measured, and the same experiment run again has a profile"
        )
    if not rounds:
        raise RecordsError(
            f"run {record.id} ({record.status}) has no round that is over, so there is no profile "
            "of its time yet"
        )
    plan = record.plan
    words = engine_in_words(plan["engine"], plan.get("cohorts", "")) if "engine" in plan else ""
    return Profile(rounds, words)
