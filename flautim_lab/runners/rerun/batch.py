"""A batch as it is looked at: its points, what came of each, and curves over seeds."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import NotebookError, UsageError
from flautim_lab.names import count, duration, unknown
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.store import Records
from flautim_lab.runners.measures import lower_is_better, number
from flautim_lab.runners.rerun.points import Point
from flautim_lab.runners.stamp import read_stamp
from flautim_lab.runners.stamped import FINISHED, SEED

if TYPE_CHECKING:
    import pandas as pd

INDEX = "batch.json"
WAITING = "waiting"
OURS = ("point", "status", "attempts", "seconds", "run", "notebook", "error")
"""Columns of the summary beside those of parameters and metrics."""
USUAL = "validation_accuracy"
"""The metric by which a batch is sorted, where it was measured."""


@dataclass
class Entry:
    """One point of a batch: its parameters, its file, and the stamp of its last execution."""

    number: int
    point: Point
    label: str
    name: str
    stamp: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """How its last execution ended; ``waiting`` before the first one."""
        return str(self.stamp.get("status") or WAITING)


class Batch:
    """The points of one notebook, and what came of them; shown as a table.

    Parameters
    ----------
    path : Path
        Its folder.
    notebook : str
        The name of its notebook.
    names : sequence of str
        The parameters that are set.
    entries : list of Entry
        Its points.
    """

    def __init__(
        self, path: Path, notebook: str, names: Sequence[str], entries: list[Entry]
    ) -> None:
        self.path = path
        self.notebook = notebook
        self.names = tuple(names)
        self.entries = entries

    @classmethod
    def read(cls, folder: str | Path = ".") -> Batch:
        """Return the batch in a folder, as it stands now.

        Raises
        ------
        NotebookError
            If there is none.
        """
        path = Path(folder).expanduser().resolve()
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            entries = [Entry(**entry) for entry in index["points"]]
            batch = cls(path, index["notebook"], index["names"], entries)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotebookError(
                f"there is no batch in {path}; flautim-lab rerun NOTEBOOK --output {path} makes one"
            ) from error
        for entry in entries:
            file = path / "points" / entry.name
            if file.is_file():
                entry.stamp = read_stamp(file)
        return batch

    def write(self) -> None:
        """Write which points it has, for :meth:`read`."""
        points = [
            {"number": e.number, "point": e.point, "label": e.label, "name": e.name}
            for e in self.entries
        ]
        index = {"notebook": self.notebook, "names": self.names, "points": points}
        text = json.dumps(index, indent=1, ensure_ascii=False, default=str)
        write_atomic(self.path / INDEX, text.encode())

    # --- what came of it --------------------------------------------------------------------

    @property
    def points(self) -> list[Point]:
        """The parameters of each point."""
        return [dict(entry.point) for entry in self.entries]

    @property
    def runs(self) -> list[str]:
        """The run that counts of each point, where there is one."""
        return [entry.stamp["run"] for entry in self.entries if entry.stamp.get("run")]

    @property
    def failed(self) -> list[Entry]:
        """The points that did not finish, for whatever reason."""
        return [entry for entry in self.entries if entry.status not in (FINISHED, WAITING)]

    @property
    def finished(self) -> bool:
        """Whether every point has finished."""
        return all(entry.status == FINISHED for entry in self.entries)

    @property
    def metrics(self) -> list[str]:
        """The metrics that were measured, such as ``validation_accuracy``."""
        found: dict[str, None] = {}
        for entry in self.entries:
            found |= dict.fromkeys(entry.stamp.get("metrics") or {})
        return list(found)

    def rows(self, metric: str | None = None) -> list[dict[str, Any]]:
        """Return one row a point, with the best of ``metric`` first (see :meth:`table`).

        ``validation_loss`` is the last value, ``validation_loss_best`` the best of all rounds.
        A parameter that has the name of a column of ours is ``parameter_NAME``.
        """
        rows = self.in_order()
        if (chosen := self.sorted_by(metric)) is not None:
            sign = 1 if lower_is_better(chosen) else -1
            # What did not finish comes last, however good it looked by then.
            rows.sort(
                key=lambda row: (
                    row["status"] != FINISHED,
                    math.isnan(row[chosen]),
                    sign * row[chosen],
                )
            )
        return rows

    def in_order(self) -> list[dict[str, Any]]:
        """Return one row a point, in the order of the points, as in ``summary.csv``."""
        metrics = self.metrics
        return [self._row(entry, metrics) for entry in self.entries]

    def _row(self, entry: Entry, metrics: Sequence[str]) -> dict[str, Any]:
        stamp = entry.stamp
        ours: dict[str, Any] = {
            "status": entry.status,
            "attempts": stamp.get("attempts", 0),
            "seconds": round(number(stamp.get("seconds", 0.0)), 3),
            "run": stamp.get("run", ""),
        }
        for name in metrics:
            known = (stamp.get("metrics") or {}).get(name, {})
            ours[name] = number(known.get("final"))
            ours[f"{name}_best"] = number(known.get("best"))
            ours[f"{name}_best_round"] = int(known.get("best_round") or 0)
        ours |= {"notebook": f"points/{entry.name}", "error": stamp.get("error", "")}
        own = {column(name): entry.point.get(name) for name in self.names}
        return {"point": entry.number, **own, **ours}

    @property
    def summary(self) -> pd.DataFrame:
        """A DataFrame with one row a point, in their order."""
        import pandas as pd

        return pd.DataFrame(self.in_order())

    def table(self, metric: str | None = None) -> pd.DataFrame:
        """Return the summary with the best point first.

        Parameters
        ----------
        metric : str, optional
            By which, such as ``validation_accuracy``.  [default: the accuracy of validation, or
            whatever was measured first]

        Raises
        ------
        UsageError
            If no point has that metric.
        """
        import pandas as pd

        return pd.DataFrame(self.rows(metric))

    def plot(self, metric: str = "loss", split: str = "validation") -> Any:
        """Return a picture of a metric over the rounds: a line a point, seeds as one with a band.

        Parameters
        ----------
        metric : str
            ``loss``, ``accuracy``, or any other that was measured.
        split : {"validation", "train"}

        Raises
        ------
        UsageError
            If no point has such a metric.
        """
        from flautim_lab.runners.rerun.curves import draw

        wanted = f"{split}_{metric}"
        if wanted not in self.metrics:
            raise UsageError(
                f"{unknown(wanted, self.metrics, 'metric')}"
                if self.metrics
                else "nothing is measured yet, so there is nothing to plot"
            )
        return draw(self.groups(), Records.default(), metric, split)

    def groups(self) -> dict[str, list[str]]:
        """Return the runs of points that differ in their seed alone, by what tells them apart."""
        found: dict[str, list[str]] = {}
        varied = _varied([entry.point for entry in self.entries])
        for entry in self.entries:
            if entry.stamp.get("run") and entry.status == FINISHED:
                words = label({k: v for k, v in entry.point.items() if k != SEED}, varied)
                found.setdefault(words or self.notebook, []).append(entry.stamp["run"])
        return found

    def sorted_by(self, metric: str | None = None) -> str | None:
        """Return the column that a table is sorted by; None where nothing was measured."""
        known = self.metrics
        if metric is None:
            return USUAL if USUAL in known else next(iter(known), None)
        for name in (metric, f"validation_{metric}"):
            if name in known:
                return name
        raise UsageError(unknown(metric, known, "metric") if known else "nothing is measured yet")

    # --- shown ------------------------------------------------------------------------------

    def __repr__(self) -> str:
        states: dict[str, int] = {}
        for entry in self.entries:
            states[entry.status] = states.get(entry.status, 0) + 1
        told = ", ".join(f"{number} {state}" for state, number in states.items())
        seconds = sum(number(entry.stamp.get("seconds", 0.0)) for entry in self.entries)
        lines = [
            f"{count(len(self.entries), 'point')} of {self.notebook}: {told}; "
            f"{duration(seconds)} of execution"
        ]
        if (chosen := self.sorted_by()) is not None:
            best = self.rows(chosen)[0]
            entry = self.entries[int(best["point"]) - 1]
            lines.append(f"best {chosen}: {best[chosen]:.4g} with {entry.label}")
        lines += [f"  {entry.label}: {entry.stamp.get('error')}" for entry in self.failed[:5]]
        if len(self.failed) > 5:
            lines.append(f"  and {len(self.failed) - 5} more, in the summary")
        return "\n".join([*lines, str(self.path / "summary.csv")])

    def _repr_html_(self) -> str:
        first = html.escape(repr(self).splitlines()[0])
        return f"<p>{first}</p>{self.table().to_html(index=False, border=0)}"


def column(parameter: str) -> str:
    """Return the name of a parameter's column in the summary."""
    ours = parameter in OURS or parameter.startswith(("train_", "validation_"))
    return f"parameter_{parameter}" if ours else parameter


def label(point: Mapping[str, object], varied: Sequence[str] | None = None) -> str:
    """Return the parameters of a point in words, only those in ``varied`` if it is given."""
    shown = {k: v for k, v in point.items() if varied is None or k in varied}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _varied(points: Sequence[Point]) -> list[str]:
    names = dict.fromkeys(name for point in points for name in point)
    return [name for name in names if len({repr(point.get(name)) for point in points}) > 1]
