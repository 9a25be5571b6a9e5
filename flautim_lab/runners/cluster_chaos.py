"""``run.chaos`` for a run on a cluster: its pods are deleted, and come back."""

from __future__ import annotations

import dataclasses
import http.client
import time
from typing import TYPE_CHECKING

from flautim_lab.errors import ClusterError, ExperimentError
from flautim_lab.names import choose
from flautim_lab.runners import faults
from flautim_lab.runners.chaos import HALF, Chaos
from flautim_lab.runners.cluster import BEGUN, ClusterRun
from flautim_lab.runners.cluster_line import line_to
from flautim_lab.runners.service import ServiceRun

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run


class ClusterChaos(Chaos):
    """Faults for a run whose server and workers are pods.

    Notes
    -----
    Targets are ``"server"``, ``"client-0"`` and so on (the workers, by slot) and ``"half"`` of the
    workers. A pod that is killed is deleted without grace. In a round (``round=3``) only the
    server can be struck: its own process is killed then, and started again in the same pod.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._cluster = ClusterRun(run.folder)

    @property
    def targets(self) -> tuple[str, ...]:
        """What can be named."""
        return (faults.SERVER, *(f"client-{slot}" for slot in self._folder.workers()), HALF)

    @property
    def planned(self) -> list[faults.Fault]:
        """Not told by the server."""
        return []

    def strike(self, fault: faults.Fault) -> None:
        """Do what a hub's service was asked to do, now or when its round comes.

        Raises
        ------
        ExperimentError
            For what cannot be done to pods.
        """
        for name in fault.targets:
            choose(name, self.targets, "process")
        if fault.time:
            self._strike(fault, fault.round)
        else:
            self._plan(fault)

    def _strike(self, fault: faults.Fault, round_number: int) -> None:
        _check_kill(fault)
        struck = dataclasses.replace(fault, time=time.time(), round=round_number)
        self._tell(struck, "struck")
        pods, api = self._cluster.pods(), self._cluster.api()
        for name in fault.targets:
            if name == faults.SERVER:
                api.kill(pods, "server")
            else:
                space, index = pods.place(int(name.removeprefix("client-")))
                api.kill(pods, "worker", index, space)

    def _plan(self, fault: faults.Fault) -> None:
        if fault.action != "kill" or fault.targets != (faults.SERVER,):
            raise ExperimentError(
                "on a cluster only the server can be killed in a given round; leave round out to "
                "kill a worker's pod now"
            )
        if (self._folder.path / BEGUN).exists():
            self._tell(fault, "planned")
        else:
            faults.plan(self._folder, fault)  # goes with the pods

    def _tell(self, fault: faults.Fault, what: str) -> None:
        body = dataclasses.asdict(fault)
        with line_to(self._cluster) as line:
            try:
                line.ask("POST", f"/faults/{what}", body)
            except http.client.HTTPException as error:
                raise ClusterError(f"the run's server refuses ({error})") from error


def _check_kill(fault: faults.Fault) -> None:
    if fault.action != "kill":
        raise ExperimentError(f"a pod cannot be {fault.words.split()[0]}, only killed")


class ServiceChaos(ClusterChaos):
    """The same for a run whose pods a hub's service made: it is asked to strike them."""

    def _strike(self, fault: faults.Fault, round_number: int) -> None:
        _check_kill(fault)
        self._tell(dataclasses.replace(fault, time=time.time(), round=round_number), "struck")

    def _tell(self, fault: faults.Fault, what: str) -> None:
        del what  # a fault that has a time is struck now
        run = ServiceRun(self._run.folder)
        with run.service() as service:
            service.ask("POST", run.path("/faults"), dataclasses.asdict(fault))
