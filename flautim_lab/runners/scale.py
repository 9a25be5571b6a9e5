"""``run.scale``: more or fewer workers while a run goes; its numbers stay what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flautim_lab.errors import ClusterError, ExperimentError
from flautim_lab.names import choose, count
from flautim_lab.records.event import RunRecord, RunStatus
from flautim_lab.runners.cluster import ClusterRun, check_workers
from flautim_lab.runners.service import ServiceRun

if TYPE_CHECKING:
    from flautim_lab.pods.manifests import RunPods


def scale(record: RunRecord, folder: Path, workers: int | Mapping[str, int]) -> str:
    """Change how many workers a run has; returns what was done.

    Parameters
    ----------
    record : RunRecord
    folder : Path
        The run's folder of artifacts.
    workers : int or mapping of str to int
        As in :class:`Cluster`; a namespace (at a hub: an institution) that is not named stays as
        it is.

    Raises
    ------
    ExperimentError
        For a number that cannot be, or a run that has ended or has no pods.
    ClusterError
        If the cluster, the run's server or the hub's service cannot be reached, or refuses.
    """
    if record.runner != "cluster":
        where = {"local": "inside its kernel", "processes": "in processes on one machine"}
        raise ExperimentError(
            f"run {record.id} is {where[record.runner]}, where the number of workers stays as it "
            "began; only a run on='cluster' can be scaled"
        )
    if record.status is RunStatus.INTERRUPTED:
        raise ExperimentError(
            f"nothing follows run {record.id} now; let it go on first, with "
            f"lab.resume({record.id!r})"
        )
    if record.status.ended:
        raise ExperimentError(f"run {record.id} has {record.status}; there is nothing to scale")
    check_workers(workers)
    if ServiceRun.is_one(folder):
        return ServiceRun(folder).scale(workers)
    return scale_pods(ClusterRun(folder), workers)


def scale_pods(run: ClusterRun, workers: int | Mapping[str, int]) -> str:
    """Change how many pods train; returns what was done.

    First the server is told which slots are meant to have a worker, then the cluster: whoever is
    too many gets no more work before its pod is told to end, and ends what it has in hand.

    Parameters
    ----------
    run : ClusterRun
    workers : int or mapping of str to int

    Raises
    ------
    ExperimentError
        For more workers than the run has room for, or a namespace without any.
    ClusterError
        If the cluster or the run's server cannot be reached now, or refuses.
    """
    from flautim_lab.runners.cluster_line import line_to

    pods, api = run.pods(), run.api()
    now = api.workers(pods)
    wanted = now | _numbers(pods, workers)
    said = _said(now, wanted)
    with line_to(run) as line:
        line.ask("POST", "/workers", {"slots": pods.taken(wanted), "text": said})
        try:
            for space, number in wanted.items():
                if number != now[space]:
                    api.scale(pods, space, number)
        except ClusterError as error:
            kept = api.workers(pods)
            text = f"{_said(wanted, kept)}: {error}"
            line.ask("POST", "/workers", {"slots": pods.taken(kept), "text": text})
            raise
    run.folder.write_workers(pods.taken(wanted))
    return said


def _numbers(pods: RunPods, workers: int | Mapping[str, int]) -> dict[str, int]:
    """Return how many workers are asked for in each namespace that is named.

    Raises
    ------
    ExperimentError
        For one without workers of this run, or more than there is room for.
    """
    spaces = list(pods.workers)
    if not isinstance(workers, Mapping):
        if len(spaces) > 1:
            example = ", ".join(f'"{space}": {workers}' for space in spaces[:2])
            raise ExperimentError(
                f"this run has workers in {', '.join(map(repr, spaces))}; say how many in each, as "
                f"in workers={{{example}}}"
            )
        workers = {spaces[0]: workers}
    for space, number in workers.items():
        choose(space, spaces, "namespace with workers of this run")
        room = pods.blocks[space]
        if number > room:
            why = (
                f"it has {count(pods.clients, 'client')}, and more workers would have nothing to do"
                if room == pods.clients
                else "for more, start it anew with that number in lab.Cluster(workers=...)"
            )
            raise ExperimentError(
                f"this run has room for {count(room, 'worker')} in {space!r}, not for {number}; "
                f"{why}"
            )
    return dict(workers)


def _said(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Return a change in words; where there are several namespaces, those that change."""
    changed = [space for space in after if after[space] != before[space]]
    if not changed:
        return f"{count(sum(after.values()), 'worker')}, as before"
    several = len(after) > 1
    return ", ".join(
        f"{count(before[space], 'worker')}{f' in {space}' if several else ''} -> {after[space]}"
        for space in changed
    )
