"""``flautim-lab doctor --cluster``: what one may not do there, and what runs have left behind.

A run is removed when it has ended. What is still there is either a run that goes on, or what
nobody came to remove: a laptop that never woke up, records that were deleted, a job that failed
while nobody followed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import ClusterError, RunNotFoundError
from flautim_lab.names import choose, count, duration
from flautim_lab.records.store import Records
from flautim_lab.runners.cluster import ClusterRun

if TYPE_CHECKING:
    from flautim_lab.pods.api import Api
    from flautim_lab.pods.found import FoundRun

VERSION_SECONDS = 3.0
YOUNG_SECONDS = 120.0  # one that is being made right now has no job yet


@dataclass(frozen=True)
class Finding:
    """One run of which something is on the cluster.

    Attributes
    ----------
    found : FoundRun
    state : str
        ``running``, ``finished``, ``job failed`` or ``nobody's``.
    leftover : bool
        Whether it may be removed without being named.
    advice : str
        What it is to this user, and what to do, in a few words.
    """

    found: FoundRun
    state: str
    leftover: bool
    advice: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "run": self.found.run_id,
            "state": self.state,
            "reason": self.found.reason,
            "age_seconds": round(time.time() - self.found.created, 1),
            "namespaces": self.found.namespaces,
            "pods": self.found.pods,
            "volumes": self.found.volumes,
            "leftover": self.leftover,
            "advice": self.advice,
        }

    def as_row(self) -> tuple[str, str, str, str, str]:
        """Return it as a line of a table: run, state, age, what it holds, and what to do."""
        held = [count(len(self.found.pods), "pod")]
        held += [f"volume {volume}" for volume in self.found.volumes]
        state = f"{self.state}: {self.found.reason}" if self.found.reason else self.state
        age = duration(time.time() - self.found.created)
        return self.found.run_id, state, age, ", ".join(held), self.advice


class ClusterDoctor:
    """Looks at some namespaces of a cluster.

    Parameters
    ----------
    context : str, optional
        Of the kubeconfig; its current one by default.
    namespaces : sequence of str
        The kubeconfig's own one where none is given.

    Raises
    ------
    ClusterError
        If there is no cluster, or it does not answer.
    """

    def __init__(self, context: str | None = None, namespaces: Sequence[str] = ()) -> None:
        try:
            from flautim_lab.pods.api import Api
        except ImportError as error:
            raise ClusterError(
                "the client of Kubernetes is not installed; pip install 'flautim-lab[cluster]'"
            ) from error

        self._api: Api = Api(context)
        self._records = Records.default()
        self.namespaces = list(dict.fromkeys(namespaces)) or [self._api.namespace]
        version = self._api.version(VERSION_SECONDS)
        self.cluster = f"Kubernetes {version} at {self._api.address}"
        #: By namespace, what the current user may not do there of what a run needs.
        self.denied = {space: self._api.denied(space) for space in self.namespaces}

    def lines(self) -> list[str]:
        """Return, in sentences, which cluster it is and what one may not do there."""
        said = [self.cluster]
        for space, lacking in self.denied.items():
            if lacking:
                advice = "ask who runs the cluster for the role flautim-lab-runs there"
                said.append(f"{space}: you may not {', '.join(lacking)}; {advice}")
            else:
                said.append(f"{space}: you may do all that a run needs")
        return said

    def find(self) -> list[Finding]:
        """Return what there is of runs, the oldest first, in the namespaces where one may look."""
        seen = [
            space
            for space, lacking in self.denied.items()
            if not any(each.startswith("list ") for each in lacking)
        ]
        return [self._judge(found) for found in self._api.found(seen)]

    def remove(self, findings: Sequence[Finding]) -> list[str]:
        """Remove runs; returns the pods that have not ended in a minute.

        Raises
        ------
        ClusterError
            If the cluster refuses.
        """
        left = []
        for finding in findings:
            left += self._api.remove_found(finding.found)
            with contextlib.suppress(ClusterError, OSError, ValueError, KeyError):
                # Known here: parts of it may be in namespaces that were not looked at.
                left += self._api.remove(self._here(finding.found.run_id).pods())
        return left

    def named(self, findings: Sequence[Finding], run_ids: Sequence[str]) -> list[Finding]:
        """Return the runs of these ids.

        Raises
        ------
        ClusterError
            If there is nothing of one of them.
        """
        by_id = {finding.found.run_id: finding for finding in findings}
        where = f"run in {', '.join(self.namespaces)}"
        if run_ids and not by_id:
            raise ClusterError(f"there is nothing of any {where}; name others with --namespace")
        return [by_id[choose(run_id, by_id, where, ClusterError)] for run_id in run_ids]

    def _here(self, run_id: str) -> ClusterRun:
        return ClusterRun(self._records.folder(run_id))

    def _judge(self, found: FoundRun) -> Finding:
        """Tell a leftover from a run that goes on, by the cluster and by this user's records."""
        at_work = found.server == "running" or (found.server == "elsewhere" and found.workers > 0)
        state: str = "running" if at_work else found.server
        if state in ("gone", "elsewhere"):
            state = "nobody's"
        if found.batch:
            advice = "a batch; the same flautim-lab rerun fetches it, and --run removes it"
            return Finding(found, state, False, advice)
        try:
            status = self._records.run(found.run_id).status
        except RunNotFoundError:
            if at_work:
                return Finding(found, state, False, "not yours, or its records are elsewhere")
            if time.time() - found.created < YOUNG_SECONDS:
                return Finding(found, state, False, "it may just have begun")
            return Finding(found, state, True, "unknown here, and over")
        if self._here(found.run_id).folder.is_watched():
            return Finding(found, state, False, "yours, and followed")
        if status.over:
            return Finding(found, state, True, f"yours, and {status}")
        if at_work or found.server == "finished":
            advice = f"nobody follows it; lab.resume({found.run_id!r}) fetches the rest"
            return Finding(found, state, False, advice)
        return Finding(found, state, True, "yours; it cannot go on")
