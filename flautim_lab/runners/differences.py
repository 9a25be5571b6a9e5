"""In what runs differ: settings, data, code, how their numbers are made, and what came of it."""

from __future__ import annotations

import difflib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import BundleError
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.code import difference
from flautim_lab.names import choose, count
from flautim_lab.runners.labels import labels
from flautim_lab.runners.measures import measure
from flautim_lab.runners.settings_of import PLAN_VERSIONS, experiment_json, settings_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from flautim_lab.runners.run import Run

ROWS = "sha256 of the rows"
LONGEST = 40  # of a value in a table


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in all runs.

    Attributes
    ----------
    kind : {"setting", "data", "code", "version", "numerics"}
    name : str
        Which setting, file, package, or entry of the numerics plan.
    values : tuple of str
        What it is in each run, in their order; "" where it is not there.
    """

    kind: str
    name: str
    values: tuple[str, ...]


class Differences:
    """In what runs differ; shown as a table.

    Parameters
    ----------
    runs : sequence of Run
        At least two; the others are told against the first.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = tuple(runs)

    @cached_property
    def found(self) -> tuple[Difference, ...]:
        """Everything that is not the same in all runs; empty where they differ in nothing."""
        return tuple(
            Difference(kind, name, values)
            for kind, facts in (
                ("setting", [settings_of(run) for run in self.runs]),
                ("data", _data(self.runs)),
                ("code", [self._code(run) for run in self.runs]),
                ("version", [_of_plan(run, versions=True) for run in self.runs]),
                ("numerics", [_of_plan(run, versions=False) for run in self.runs]),
            )
            for name in _names(facts)
            if len(set(values := tuple(_shown(one.get(name)) for one in facts))) > 1
        )

    @property
    def table(self) -> pd.DataFrame:
        """A DataFrame with one line per difference: ``kind``, ``name``, and a column per run."""
        import pandas as pd

        lines = [(one.kind, one.name, *one.values) for one in self.found]
        return pd.DataFrame(lines, columns=["kind", "name", *self._columns])

    @property
    def results(self) -> pd.DataFrame:
        """The last value of each metric over all clients: a line per metric, a column per run."""
        import pandas as pd

        columns = {
            name: {metric: known["final"] for metric, known in measured.items()}
            for name, measured in zip(self._columns, self._measures, strict=True)
        }
        return pd.DataFrame(columns, dtype=float)

    @property
    def code(self) -> str:
        """The lines of source that differ from the first run's, as ``diff -u`` tells them."""
        first, *others = self._sources
        return "".join(
            f"{line}\n"
            for run, files in zip(self.runs[1:], others, strict=True)
            for line in difference(first, files, self.runs[0].id, run.id)
        )

    @property
    def code_in_words(self) -> str:
        """The lines of source that differ, or a sentence where there are none."""
        none = "the same code" if any(self._sources) else "the source of these runs was not kept"
        return self.code or f"{none}\n"

    def plot(self, metric: str = "loss") -> Figure:
        """Return the runs' curves of a metric on one plot, as :meth:`Run.plot` does."""
        first, *others = self.runs
        return first.plot(metric, compare=others)

    def check_metric(self, metric: str) -> None:
        """Refuse a metric that :meth:`plot` would refuse.

        Raises
        ------
        ExperimentError
        """
        from flautim_lab.plots import metric_names

        if known := metric_names(self.runs[0].metrics):
            choose(metric, known, "metric")

    def __repr__(self) -> str:
        names = labels([run.record for run in self.runs])
        lines = [f"{run.id}  {names[run.id]}" for run in self.runs]
        short = {run.id: f"...{run.id[-8:]}" for run in self.runs}
        if self.found:
            table = self.table.rename(columns=short)
            lines += ["", table.to_string(index=False, max_colwidth=LONGEST)]
        else:
            lines += ["", "the same settings, data, code and versions"]
        if len(self.results):
            results = self.results.rename(columns=short)
            lines += ["", "at the end", results.to_string(float_format="{:.6g}".format)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        names = labels([run.record for run in self.runs])
        head = "<br>".join(html.escape(f"{run.id}: {names[run.id]}") for run in self.runs)
        table = self.table.to_html(index=False, border=0) if self.found else ""
        same = "" if self.found else "<p>The same settings, data, code and versions.</p>"
        return f"<p>{head}</p>{table}{same}{self.results.to_html(border=0)}"

    @property
    def _columns(self) -> list[str]:
        return [run.id for run in self.runs]

    @cached_property
    def _measures(self) -> list[Mapping[str, Mapping[str, float]]]:
        return [measure(run._records, run.id) for run in self.runs]

    @cached_property
    def _sources(self) -> list[Mapping[str, str]]:
        return [_source(run) for run in self.runs]

    def _code(self, run: Run) -> dict[str, str]:
        """Return for each file whether it is that of the first run, in words."""
        first, own = self._sources[0], self._sources[self.runs.index(run)]
        if not own:
            return {"source": f"not kept: {run.record.settings.get('unbundled', 'none')}"}
        told = {}
        for name in {**first, **own}:
            if name not in own:
                continue
            if own is first or own[name] == first.get(name):
                told[name] = count(len(own[name].splitlines()), "line")
            else:
                told[name] = _changed(first.get(name, ""), own[name])
        return told


def _changed(before: str, after: str) -> str:
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    added, gone = (sum(line.startswith(sign) for line in lines) for sign in ("+ ", "- "))
    return f"{count(len(after.splitlines()), 'line')}: +{added} -{gone}"


def _source(run: Run) -> Mapping[str, str]:
    try:
        return Bundle.read(run.folder / "experiment" / "bundle").files
    except BundleError:
        return {}


def _data(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what is known of the rows of each run, without one of them."""
    facts = []
    for run in runs:
        kept = experiment_json(run).get("dataset")
        known = dict(kept) if isinstance(kept, dict) else {}
        if "sha256" in known:
            known = {ROWS: str(known.pop("sha256"))[:16], **known}
        known = {k: v for k, v in known.items() if k not in ("kind", "role", "name")}
        known["rows of each client"] = run.record.settings.get("client_rows") or None
        facts.append(known)
    different = len({known.get(ROWS) for known in facts}) > 1
    for known in facts:
        # The same rows from elsewhere are the same rows; of others one wants to know from where.
        path = known.pop("path", None) if ROWS in known else None
        if different and path:
            known[ROWS] += f" ({Path(path).name})"
    return facts


def _of_plan(run: Run, *, versions: bool) -> dict[str, Any]:
    plan = {k: v for k, v in run.plan.items() if k != "seed"}  # a setting
    return {k: v for k, v in plan.items() if (k in PLAN_VERSIONS) == versions}


def _names(facts: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for one in facts for name in one))


def _shown(value: object) -> str:
    return "" if value is None else str(value)
