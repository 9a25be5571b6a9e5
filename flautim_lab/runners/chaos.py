"""``run.chaos``: strike a run's processes on purpose, and see that it goes on.

The promise of the ``processes`` runner is that anything may be killed at any moment: the run ends
with the weights it would have had. This is how a researcher, or a test, puts it to the test.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING
from uuid import uuid4

from flautim_lab.errors import ExperimentError
from flautim_lab.names import choose, count
from flautim_lab.runners import faults
from flautim_lab.runners.process_files import ProcessFolder

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

HALF = "half"
LONGEST_SECONDS = 3600.0
_SYNONYMS = {"supervisor": faults.WATCH, "superlink": faults.SERVER, "notebook": faults.KERNEL}


class Chaos:
    """Faults for one run.

    Parameters
    ----------
    run : Run
        On ``processes``, not ended.

    Raises
    ------
    ExperimentError
        If the run is inside a kernel, or has ended.

    Notes
    -----
    Targets are ``"server"`` (SuperLink, ServerApp, checkpoints), ``"watch"`` (or
    ``"supervisor"``: it starts the others again), ``"template"`` (they are forks of it),
    ``"client-0"`` and so on (the workers, each the host of some clients), ``"half"`` of the
    workers, ``"kernel"`` (whatever called ``lab.run``) and ``"machine"`` (all at once;
    ``lab.resume`` goes on). ``client=3`` means the worker at home with client 3.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._folder = ProcessFolder(run.folder)

    @classmethod
    def of(cls, run: Run) -> Chaos:
        """Return what strikes a run: its processes, or its pods."""
        runner = run.record.runner
        if runner == "cluster":
            from flautim_lab.runners.cluster_chaos import ClusterChaos, ServiceChaos
            from flautim_lab.runners.service import ServiceRun

            return (ServiceChaos if ServiceRun.is_one(run.folder) else ClusterChaos)(run)
        if runner != "processes":
            raise ExperimentError(
                f"run {run.id} is inside its kernel, where nothing can be struck by itself; "
                "run it with lab.run(experiment, on='processes')"
            )
        return cls(run)

    @property
    def targets(self) -> tuple[str, ...]:
        """What can be named."""
        workers = tuple(f"client-{slot}" for slot in self._folder.workers())
        return (faults.SERVER, faults.WATCH, "template", *workers, HALF, *_EVERYTHING)

    @property
    def planned(self) -> list[faults.Fault]:
        """What is still to come."""
        return faults.planned(self._folder)

    def kill(
        self,
        *targets: str,
        client: int | None = None,
        round: int | None = None,  # noqa: A002 - the field's word
        during: str = "training",
    ) -> str:
        """Kill processes (SIGKILL), now or at a moment of a round; returns what was done.

        Parameters
        ----------
        targets : str
            One or several names, see the class.
        client : int, optional
            Instead of a name: the worker at home with this client.
        round : int, optional
            Strike when this round comes; now by default.
        during : {"starting", "training", "aggregating", "storing", "ended"}
            The moment of that round; ``ended`` is after the last round.

        Raises
        ------
        ExperimentError
            For a target, a round or a moment that there is not.
        """
        return self._do("kill", targets, client, 0.0, round, during)

    def pause(
        self,
        *targets: str,
        client: int | None = None,
        seconds: float = 5.0,
        round: int | None = None,  # noqa: A002
        during: str = "training",
    ) -> str:
        """Stop processes for some seconds (SIGSTOP), as a machine that is overloaded.

        Parameters are those of :meth:`kill`, and ``seconds``. The watch cannot be paused: it wakes
        the others.
        """
        return self._do("pause", targets, client, seconds, round, during)

    def partition(
        self,
        *targets: str,
        client: int | None = None,
        seconds: float = 5.0,
        round: int | None = None,  # noqa: A002
        during: str = "training",
    ) -> str:
        """Cut workers off from the network for some seconds.

        The worker itself lets nothing in or out: its connection breaks, without a goodbye, and
        cannot be made again until the time is over. Parameters are those of :meth:`pause`.
        """
        return self._do("partition", targets, client, seconds, round, during)

    def _do(
        self,
        action: str,
        targets: tuple[str, ...],
        client: int | None,
        seconds: float,
        round_number: int | None,
        moment: str,
    ) -> str:
        record = self._run.record
        if record.status.ended:
            raise ExperimentError(
                f"run {record.id} has {record.status}; there is nothing to {action}"
            )
        names = self._names(action, targets, client)
        if action != "kill" and not (
            isinstance(seconds, (int, float)) and 0 < seconds <= LONGEST_SECONDS
        ):
            raise ExperimentError(
                f"seconds must be a number above 0 and at most {LONGEST_SECONDS:g}, not {seconds!r}"
            )
        choose(moment, faults.MOMENTS, "moment of a round")
        fault = faults.Fault(uuid4().hex, action, names, float(seconds), record.round + 1, moment)
        shown = f"{fault.target} {fault.words}"
        if round_number is None:
            self._strike(fault, record.round + 1)
            return f"{shown}{self._hosts(names)}"
        if not isinstance(round_number, int) or not record.round < round_number <= record.rounds:
            raise ExperimentError(
                f"round {round_number!r} does not come (any more): the run has "
                f"{count(record.rounds, 'round')}, and {record.round} are done"
            )
        if moment == "ended" and round_number != record.rounds:
            raise ExperimentError(
                f"'ended' is a moment of the last round alone; say round={record.rounds}"
            )
        self._plan(dataclasses.replace(fault, round=round_number))
        return f"to be {fault.words} in round {round_number} ({moment}): {fault.target}"

    def _strike(self, fault: faults.Fault, round_number: int) -> None:
        if not self._folder.alive():
            raise ExperimentError(
                f"no process of run {self._run.id} lives now; say in which round to "
                f"{fault.action} it, as in round={round_number}"
            )
        faults.strike(self._folder, fault, round_number)

    def _plan(self, fault: faults.Fault) -> None:
        faults.plan(self._folder, fault)

    def _names(self, action: str, targets: tuple[str, ...], client: int | None) -> tuple[str, ...]:
        facts, slots = self._folder.facts(), self._folder.workers()
        wanted = [_SYNONYMS.get(name, name) for name in targets]
        if client is not None:
            whole = isinstance(client, int) and not isinstance(client, bool)
            if not whole or not 0 <= client < facts.clients:
                raise ExperimentError(
                    f"there is no client {client!r}; clients are 0 to {facts.clients - 1}"
                )
            wanted.append(f"client-{slots[client % len(slots)]}")
        if not wanted:
            raise ExperimentError(f"say what to {action}: {', '.join(self.targets)}, or client=0")
        names: list[str] = []
        for name in wanted:
            choose(name, self.targets, "process")
            if name == HALF:
                names += [f"client-{slot}" for slot in slots[: math.ceil(len(slots) / 2)]]
            else:
                names.append(name)
        for name in names:
            if not _may(action, name):
                why = (
                    "only workers (client-0, ...) can be cut off from the server"
                    if action == "partition"
                    else f"the {name} cannot be paused, only killed"
                )
                raise ExperimentError(why)
        return tuple(dict.fromkeys(names))

    def _hosts(self, names: tuple[str, ...]) -> str:
        slots = self._folder.workers()
        clients = [
            client
            for client in range(self._folder.facts().clients)
            if f"client-{slots[client % len(slots)]}" in names
        ]
        if not clients:
            return ""
        shown = ", ".join(map(str, clients[:10])) + (", ..." if len(clients) > 10 else "")
        return f" (at home there: {'client' if len(clients) == 1 else 'clients'} {shown})"


_EVERYTHING = (faults.KERNEL, faults.MACHINE)


def _may(action: str, name: str) -> bool:
    if action == "partition":
        return name.startswith("client-")
    return action == "kill" or name not in (faults.WATCH, *_EVERYTHING)
