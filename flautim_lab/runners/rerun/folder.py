"""Where the points of a batch lie, and which of them are done.

::

    <folder>/
      points/*.ipynb   each executed notebook, whole, with its stamp; its name says its parameters
      running/         what is being executed now; nothing of a batch that was cut off is kept
      summary.csv      a row a point
      summary.ipynb    tables and curves, where something was measured
      cluster.json     what there is of it on a cluster, while there is
      lock             held by the batch that works here
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flautim_lab.errors import NotebookError
from flautim_lab.runners.content import Content, differences
from flautim_lab.runners.rerun.points import Point
from flautim_lab.runners.stamp import read_stamp, stamp
from flautim_lab.runners.stamped import FINISHED

LONGEST_NAME = 90


@dataclass(frozen=True)
class Task:
    """One point to execute, or the summary.

    Attributes
    ----------
    notebook : Path
        Which notebook.
    number : int
        From 1 on, as in the summary; 0 for the summary itself.
    point : dict
        Its parameters.
    label : str
        Those of them that tell it from the others, for people.
    name : str
        Name of its file, without a folder.
    """

    notebook: Path
    number: int
    point: Point
    label: str
    name: str


class BatchFolder:
    """The files of one batch.

    Parameters
    ----------
    path : Path
        The folder; made when it is locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.points = path / "points"
        self.running = path / "running"
        self.summary = path / "summary.csv"
        self.summary_notebook = path / "summary.ipynb"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep any other batch out of this folder.

        Raises
        ------
        NotebookError
            If one works there, or the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / "lock", "w")  # noqa: SIM115 - closed below
        except OSError as error:
            raise NotebookError(
                f"the folder of the batch cannot be used: {error.strerror} ({self.path})"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise NotebookError(
                    f"another batch works in {self.path}; wait until it has ended, or name another "
                    "folder"
                ) from error
            shutil.rmtree(self.running, ignore_errors=True)
            for folder in (self.points, self.running):
                folder.mkdir(exist_ok=True)
            try:
                yield
            finally:
                shutil.rmtree(self.running, ignore_errors=True)

    def known(self, task: Task, content: Content) -> tuple[dict[str, Any], str]:
        """Return the stamp of a point that is done, or the reason to do it again.

        Returns
        -------
        (dict, str)
            The stamp, empty where there is none; the reason, empty for what is done.
        """
        try:
            found = read_stamp(self.points / task.name)
        except NotebookError:
            return {}, "it was never done"
        if found.get("notebook") != task.notebook.name or found.get("parameters") != _plain(
            task.point
        ):
            return {}, "it was never done"
        if found.get("status") != FINISHED:
            return found, f"it ended as {found.get('status')}"
        changed = differences(found, content, task.notebook.parent)
        return found, f"changed: {', '.join(changed)}" if changed else ""

    def keep(self, task: Task, facts: dict[str, Any]) -> None:
        """Stamp what was executed, and put it in place of what was there."""
        executed = self.running / task.name
        with contextlib.suppress(NotebookError):
            stamp(executed, facts)
            executed.replace(self.points / task.name)
            return
        # It ended before it wrote anything, or in the middle of writing: the cells as they are.
        shutil.copyfile(task.notebook, executed)
        stamp(executed, facts)
        executed.replace(self.points / task.name)


def file_name(point: Point, notebook: Path) -> str:
    """Return the name of a point's file: the same for the same parameters, at any time.

    >>> file_name({"lr": 0.1, "seed": 7}, Path("a.ipynb"))
    'lr-0.1_seed-7-9c8e4a93.ipynb'
    """
    content = json.dumps([notebook.name, _plain(point)], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    words = [f"{name}-{value}" for name, value in sorted(point.items())]
    shown = re.sub(r"[^\w.\-]+", "-", "_".join(words), flags=re.ASCII).strip("-.")
    return f"{shown[:LONGEST_NAME] or notebook.stem}-{digest}.ipynb"


def _plain(point: Point) -> Any:
    """Return the parameters as they come back from JSON."""
    return json.loads(json.dumps(point, default=str))
