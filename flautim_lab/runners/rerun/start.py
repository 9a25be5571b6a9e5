"""``lab.rerun``: check what is asked, skip what is done, do the rest, sum it up."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flautim_lab.errors import NotebookError
from flautim_lab.names import choose, count
from flautim_lab.runners.cluster import Cluster
from flautim_lab.runners.content import content_of
from flautim_lab.runners.parameters import find_notebook, read_notebook, read_parameters
from flautim_lab.runners.rerun.batch import Batch, Entry, label
from flautim_lab.runners.rerun.folder import BatchFolder, Task, file_name
from flautim_lab.runners.rerun.on_cluster import ClusterSchedule
from flautim_lab.runners.rerun.points import Points, make_points, read_points
from flautim_lab.runners.rerun.progress import Progress
from flautim_lab.runners.rerun.schedule import Schedule
from flautim_lab.runners.rerun.summary import write_notebook, write_summary
from flautim_lab.runners.stamped import Outcome, facts_of

WHERE = ("local", "cluster")


def rerun(
    notebook: str | os.PathLike[str],
    *,
    parameters: Mapping[str, object] | None = None,
    grid: Mapping[str, Iterable[object]] | None = None,
    zip: Mapping[str, Iterable[object]] | None = None,  # noqa: A002 - what the command calls it
    points: str | os.PathLike[str] | Iterable[Mapping[str, object]] | None = None,
    seeds: int | None = None,
    jobs: int = 1,
    output: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    retries: int = 0,
    on: str | Cluster = "local",
    progress: bool = True,
) -> Batch:
    """Execute a notebook once for each combination of values, and sum up what came of it.

    Each execution is a notebook of its own in ``output``, kept when it fails too. Called again, it
    does what is missing: what failed, was cut off, or whose code, data or packages have changed.

    Parameters
    ----------
    notebook : path
        It is not changed. Names and types of the values are those of its cell tagged
        ``parameters``.
    parameters : mapping, optional
        Values of all points.
    grid : mapping of str to iterable, optional
        Each value with each of the others.
    zip : mapping of str to iterable, optional
        The first values together, the second ones together, and so on.
    points : path or iterable of mapping, optional
        Values of one point each, or a CSV, YAML or JSON file of them.
    seeds : int, optional
        So many values for ``seed``: the one in the notebook, and those after it.
    jobs : int
        How many at once; on this machine they share the cores.
    output : path, optional
        A folder.  [default: NAME-rerun, here]
    timeout : float, optional
        Seconds that one point may take.
    retries : int
        How often a point that does not finish is tried again.
    on : {"local", "cluster"} or Cluster
        Where: on this machine, or each point as a pod of one Indexed Job. With a :class:`Cluster`,
        each pod gets its ``cpu``, ``memory`` and ``gpu``. A pod sees the notebook, its own modules
        and the files that it names in its folder, and reaches nobody; its runs are ``local`` ones.
        In a notebook of a hub, the hub's service makes the pods.
    progress : bool
        Show how it goes, on the error stream.

    Returns
    -------
    Batch
        Its ``summary`` is a DataFrame with a row a point; ``plot()`` draws the curves.

    Raises
    ------
    NotebookError
        Before anything starts, for what cannot be done. A point that fails raises nothing; the
        summary has its error.
    ClusterError
        If there is no cluster, or it refuses.
    """
    if isinstance(on, Cluster):
        cluster: Cluster | None = on
    else:
        place = choose(on, WHERE, "place to execute a batch", NotebookError)
        cluster = Cluster() if place == "cluster" else None
    _check_whole("jobs", jobs, 1)
    _check_whole("retries", retries, 0)
    if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
        raise NotebookError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    source = find_notebook(notebook)
    content = read_notebook(source)
    if isinstance(points, str | os.PathLike):
        points = read_points(Path(points).expanduser())
    asked = make_points(
        content, source.name, parameters=parameters, grid=grid, zipped=zip,
        points=points or (), seeds=seeds,
    )  # fmt: skip
    folder = BatchFolder(Path(output or f"{source.stem}-rerun").expanduser().absolute())
    with folder.locked():
        work = _Work(source, content, asked, folder, say=progress)
        return work.do(jobs=jobs, timeout=timeout, retries=retries, cluster=cluster)


class _Work:
    """One call of :func:`rerun`, after its checks."""

    def __init__(
        self, source: Path, notebook: Any, asked: Points, folder: BatchFolder, *, say: bool
    ) -> None:
        self._source = source
        self._folder = folder
        self._say = say
        self._notes = asked.notes
        self._defaults = read_parameters(notebook, source.name)
        varied = asked.varied or asked.names
        self._tasks = [
            Task(source, n, point, label(point, varied) or source.stem, file_name(point, source))
            for n, point in enumerate(asked.points, start=1)
        ]
        # As they are now: what points write is no reason to do others again.
        self._contents = [content_of(notebook, source.parent, point) for point in asked.points]
        entries = [Entry(task.number, task.point, task.label, task.name) for task in self._tasks]
        self._batch = Batch(folder.path, source.name, asked.names, entries)
        self._summary_error = ""

    def do(
        self, *, jobs: int, timeout: float | None, retries: int, cluster: Cluster | None
    ) -> Batch:
        """Execute what is not done, and sum up."""
        waiting = self._look()
        self._batch.write()
        write_summary(self._folder, self._batch)
        done = len(self._tasks) - len(waiting)
        self._progress = Progress(len(self._tasks), done, jobs, shown=self._say and bool(waiting))
        how: dict[str, Any] = {
            "jobs": min(jobs, max(1, len(waiting))),
            "timeout": timeout,
            "retries": retries,
            "settle": self._settle,
            "watch": self._progress.watch,
        }
        with Schedule(self._folder, **how) as schedule:
            try:
                if cluster is None:
                    schedule.run(waiting)
                else:
                    contents = {t.name: c for t, c in zip(self._tasks, self._contents, strict=True)}
                    ClusterSchedule(self._folder, cluster, contents, **how).run(waiting)
            finally:
                self._progress.close()
            if not self._batch.metrics:  # there is nothing to draw
                self._folder.summary_notebook.unlink(missing_ok=True)
            elif waiting or not self._folder.summary_notebook.exists():
                self._sum_up(schedule)
        return self._batch

    def _look(self) -> list[Task]:
        """Return what is not done, and tell why what was done is done again."""
        waiting: list[Task] = []
        again: dict[str, int] = {}
        for task, entry, content in zip(
            self._tasks, self._batch.entries, self._contents, strict=True
        ):
            entry.stamp, reason = self._folder.known(task, content)
            if reason:
                waiting.append(task)
                if entry.stamp:
                    again[reason] = again.get(reason, 0) + 1
        done = len(self._tasks) - len(waiting)
        lines = [f"note: {note}" for note in self._notes]
        lines += [f"{done} of {count(len(self._tasks), 'point')} done before"] if done else []
        lines += [f"{count(number, 'point')} done again: {why}" for why, number in again.items()]
        if self._say:
            sys.stderr.write("".join(f"{line}\n" for line in lines))
        return waiting

    def _sum_up(self, schedule: Schedule) -> None:
        source = write_notebook(self._folder, self._batch)
        try:
            schedule.run([Task(source, 0, {}, "the summary", "summary.ipynb")])
        finally:
            source.unlink(missing_ok=True)
        if self._summary_error:
            raise NotebookError(
                f"the points are done and their table is {self._folder.summary}, but the notebook "
                f"beside it cannot be made: {self._summary_error}"
            )

    def _settle(self, task: Task, outcome: Outcome) -> None:
        """Stamp what was executed, put it in its place, and write the summary again."""
        if not task.number:
            self._summary_error = outcome.error
            if outcome.status == "finished":
                (self._folder.running / task.name).replace(self._folder.summary_notebook)
            return
        entry = self._batch.entries[task.number - 1]
        content = self._contents[task.number - 1]
        entry.stamp = facts_of(self._source, self._defaults, task.point, content, outcome)
        self._folder.keep(task, entry.stamp)
        write_summary(self._folder, self._batch)
        self._progress.ended(entry)


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise NotebookError(f"{name} must be a whole number from {least}, not {value!r}")
