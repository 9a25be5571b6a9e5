"""How a batch goes, on an error stream: bars at a terminal, a line a point elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from flautim_lab.names import duration
from flautim_lab.runners.rerun.batch import Entry
from flautim_lab.runners.rerun.schedule import Going

POINTS = "|{bar:24}| {postfix[0]} of {total:.0f} points, {elapsed}, {postfix[1]} left"
ROUNDS = "  {desc} |{bar:16}| {postfix[0]}"
NAME_WIDTH = 34


class Progress:
    """Tells how far a batch is.

    Parameters
    ----------
    total : int
        How many points it has.
    done : int
        How many of them need not be done again.
    jobs : int
        How many are executed at once.
    shown : bool
        Whether anything is told at all.
    """

    def __init__(self, total: int, done: int, jobs: int, *, shown: bool) -> None:
        self._bars = shown and sys.stderr.isatty()
        self._lines = shown and not self._bars
        self._total, self._ended, self._skipped = total, done, done
        self._points: Any = None
        self._rounds: list[Any] = []
        if self._bars:
            self._points = _bar(total, 0, POINTS, [str(done), "?"], done)
            self._rounds = [_bar(1, 1 + i, ROUNDS, [""]) for i in range(min(jobs, total - done))]

    def watch(self, going: Sequence[Going]) -> None:
        """Show what is being executed."""
        if not self._bars:
            return
        done = self._ended + sum(each.share for each in going)
        elapsed = self._points.format_dict["elapsed"]
        new = done - self._skipped
        left = duration(elapsed * (self._total - done) / new) if new > 0 else "?"
        self._points.n = done
        self._points.postfix = [str(self._ended), left]
        self._points.refresh()
        for number, bar in enumerate(self._rounds):
            each = going[number] if number < len(going) else None
            bar.set_description_str(_short(each.task.label) if each else "", refresh=False)
            bar.n = each.share if each else 0
            bar.postfix = [_where(each) if each else ""]
            bar.refresh()

    def ended(self, entry: Entry) -> None:
        """Tell of a point that has ended."""
        self._ended += 1
        seconds = duration(entry.stamp.get("seconds", 0.0))
        error = entry.stamp.get("error", "")
        text = f"{self._ended} of {self._total}: {entry.label}: {entry.status} in {seconds}"
        if error:
            text += f": {error}"
        if self._lines:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        elif self._bars and error:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Take the bars of single points away, and leave that of all."""
        for bar in reversed(self._rounds):
            bar.close()
        if self._points is not None:
            self._points.n = self._ended
            self._points.postfix = [str(self._ended), duration(0)]
            self._points.close()


def _bar(total: float, place: int, form: str, postfix: list[str], initial: float = 0) -> Any:
    return tqdm(
        total=total, initial=initial, position=place, leave=place == 0, bar_format=form,
        postfix=postfix, file=sys.stderr, mininterval=0, dynamic_ncols=True,
    )  # fmt: skip


def _short(text: str) -> str:
    shown = text if len(text) <= NAME_WIDTH else f"{text[: NAME_WIDTH - 3]}..."
    return shown.ljust(NAME_WIDTH)


def _where(going: Going) -> str:
    again = f", attempt {going.attempt}" if going.attempt > 1 else ""
    if going.rounds:
        return f"round {going.round} of {going.rounds}{again}"
    if going.cells:
        return f"cell {going.cell} of {going.cells}{again}"
    return f"starts{again}"
