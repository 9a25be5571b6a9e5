"""``lab.run``: write a run to the records and hand it to a runner; the one verb for all."""

from __future__ import annotations

import os
import shutil
import socket
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from flautim_lab.errors import BundleError, ClusterError, ExperimentError, FlautimError
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.home_dataset import HomeDataset
from flautim_lab.names import check_name, choose, duration, make_run_id
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners import processes, service
from flautim_lab.runners.chaos import Chaos
from flautim_lab.runners.cluster import Cluster, ClusterRun
from flautim_lab.runners.local import LocalExecution
from flautim_lab.runners.pod_files import pack
from flautim_lab.runners.run import Run
from flautim_lab.runners.service import ServiceRun
from flautim_lab.training.numerics import make_plan, pick_device
from flautim_lab.training.strategies import make_strategy

RUNNERS = ("local", "processes", "cluster")
BATCH_VARIABLE = "FLAUTIM_LAB_BATCH"

_live: weakref.WeakValueDictionary[str, Run] = weakref.WeakValueDictionary()


def run(
    experiment: Experiment,
    *,
    on: str | Cluster = "local",
    centralized: bool = False,
    name: str | None = None,
    workers: int | str = "auto",
    chaos: Callable[[Chaos], object] | None = None,
) -> Run:
    """Run an experiment; returns at once with a :class:`Run`, the kernel stays free.

    Parameters
    ----------
    experiment : Experiment
        What to learn.
    on : {"local", "processes", "cluster"} or Cluster
        Where: ``local`` is inside this kernel; ``processes`` is Flower's deployment engine on this
        machine, in processes that outlive the kernel and come back when they are killed;
        ``cluster`` is the same as pods on Kubernetes, and ``lab.Cluster(...)`` says with what.
    centralized : bool
        Train one model on the rows of all clients instead: the baseline to compare with.
    name : str, optional
        Another name than the experiment's.
    workers : int or "auto"
        How many clients train at once. The numbers do not depend on it; ``auto`` uses all cores
        where that is faster, in the kernel as threads or, for big models, as processes.
    chaos : callable, optional
        Plans faults, on ``processes`` and ``cluster``: called with the run's :class:`Chaos` before
        anything starts, as in ``chaos=lambda chaos: chaos.kill("server", round=3)``.

    Returns
    -------
    Run
        In batch (``flautim-lab run``), where a kernel's threads end with its notebook, it has
        ended already.

    Raises
    ------
    ExperimentError
        For what cannot be run, before anything is recorded.
    RecordsError
        If the run cannot be recorded (disk full, not a database).
    ClusterError
        If the cluster cannot be reached, or refuses.
    """
    if not isinstance(experiment, Experiment):
        raise ExperimentError(
            f"lab.run takes an Experiment, not {type(experiment).__name__}; "
            "make one with lab.Experiment(dataset, Model, clients=...)"
        )
    cluster = on if isinstance(on, Cluster) else None
    on = "cluster" if isinstance(on, Cluster) else choose(on, RUNNERS, "runner")
    if workers != "auto" and (
        isinstance(workers, bool) or not isinstance(workers, int) or workers < 1
    ):
        raise ExperimentError(f"workers must be 'auto' or a whole number from 1, not {workers!r}")
    if chaos is not None and (on == "local" or not callable(chaos)):
        raise ExperimentError(
            "chaos is a function that plans faults for a run on='processes' or 'cluster', such as "
            "lambda chaos: chaos.kill('server', round=3)"
        )
    if centralized and not experiment.centralized:
        experiment = experiment.replace(centralized=True)
    strategy = make_strategy(experiment)
    if on != "local":
        processes.check(experiment)
    if on == "cluster" and cluster is None:
        cluster = Cluster() if workers == "auto" else Cluster(workers=int(workers))
    shown = check_name(name) if name is not None else experiment.name
    records = Records.default()
    run_id = make_run_id(shown)
    plan = make_plan(experiment, pick_device(experiment.device))
    settings = _settings(experiment)
    folder = records.folder(run_id)
    pods: ClusterRun | ServiceRun | None = None
    if cluster is not None:
        if isinstance(experiment.dataset, HomeDataset):
            cluster = _at_homes(experiment.dataset, cluster, len(experiment.splits))
        pods = (ServiceRun if service.is_at_hand(cluster) else ClusterRun)(folder)
        try:
            pods.prepare(run_id, pack(experiment), len(experiment.splits), cluster)
        except FlautimError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    try:
        experiment.save(folder / "experiment")
    except BundleError as error:
        if on != "local":
            raise
        # The local runner has the live classes; only another kernel will miss them.
        settings["unbundled"] = str(error)
    at_home = isinstance(experiment.dataset, HomeDataset) and (
        cluster is not None or experiment.dataset.folder() is not None
    )
    if at_home:
        settings["client_rows"] = []  # how many there are is known there
    if on != "local":
        settings["kernel"] = [socket.gethostname(), os.getpid()]  # whose it is; it owns no process
    about: dict[str, Any] = {
        "name": shown,
        "rounds": experiment.rounds,
        "settings": settings,
        "plan": plan.as_dict(),
    }
    records.create_run(
        run_id,
        runner=on,
        clients=len(experiment.splits),
        detached=on != "local",
        **about,
    )
    if pods is not None:
        run_there = Run(records, run_id, experiment)
        if chaos is not None:
            _plan(chaos, run_there, records)
        return _detached(_on_cluster(pods, about, records, run_there))
    if on == "processes":
        slots = processes.worker_count(experiment, workers)
        prepared = processes.Processes.prepare(records, run_id, slots, len(experiment.splits))
        detached = Run(records, run_id, experiment)
        if chaos is not None:
            _plan(chaos, detached, records)
        prepared.watch()
        return _detached(detached)
    execution = LocalExecution(experiment, strategy, records, run_id, workers)
    started = Run(records, run_id, experiment, execution)
    _live[run_id] = started
    execution.start()
    if os.environ.get(BATCH_VARIABLE):
        started.wait()
    return started


def _at_homes(dataset: HomeDataset, cluster: Cluster, clients: int) -> Cluster:
    """Return where rows that stay at home are trained on; refuse a place without workers."""
    if dataset.root is not None:
        raise ExperimentError(
            f"the rows are files of this machine (under {dataset.root!r}), which pods do not see; "
            "run on='local' or 'processes', or register them on their institutions' volumes"
        )
    if service.is_at_hand(cluster):
        return service.at_homes(cluster, dataset.homes, clients)
    cluster.check_homes(dataset.homes)
    return cluster


def _on_cluster(
    pods: ClusterRun | ServiceRun, about: Mapping[str, Any], records: Records, run: Run
) -> Run:
    """Make a run's pods, or let the hub's service make them; a refusal is the run's end."""
    try:
        pods.start(about)
    except ClusterError as error:
        records.set_status(run.id, RunStatus.FAILED, message=str(error))
        pods.clean()
        raise
    return run


def _detached(run: Run) -> Run:
    """Wait for a run in batch, where the kernel ends with its notebook."""
    if os.environ.get(BATCH_VARIABLE):
        run.wait()
    return run


def _plan(chaos: Callable[[Chaos], object], run: Run, records: Records) -> None:
    """Let faults be planned, before anything starts; with a plan that cannot be nothing does."""
    try:
        chaos(run.chaos)
    except BaseException as error:
        records.set_status(run.id, RunStatus.FAILED, message=f"its faults: {error}")
        raise


class RunList(list[Run]):
    """Runs, newest first; shown as a table."""

    def to_frame(self) -> Any:
        """Return a DataFrame with one line per run."""
        import pandas as pd

        columns = ["id", "name", "status", "rounds", "duration", "strategy", "message"]
        rows = [
            [
                record.id,
                record.name,
                str(record.status),
                f"{record.round}/{record.rounds}",
                duration(record.seconds),
                str(record.settings.get("strategy", "")),
                record.message,
            ]
            for record in (run.record for run in self)
        ]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        if not self:
            return "no runs yet; start one with lab.run(experiment)"
        return str(self.to_frame().to_string(index=False))

    def _repr_html_(self) -> str:
        if not self:
            return f"<em>{self!r}</em>"
        return str(self.to_frame().to_html(index=False, border=0))


def runs(limit: int | None = 20, status: str | None = None) -> RunList:
    """Return the newest runs of this user, whatever kernel started them.

    Parameters
    ----------
    limit : int, optional
        At most so many; ``None`` for all.
    status : str, optional
        Only runs of this status, such as ``"running"``.
    """
    if status is not None:
        choose(status, [str(known) for known in RunStatus], "status")
    records = Records.default()
    wanted = None if status is None else RunStatus(status)
    return RunList(_known(records, r.id) for r in records.runs(limit=limit, status=wanted))


def attach(run_id: str = "last") -> Run:
    """Return a run by its id, the beginning of its id, a part of its name, or ``"last"``.

    Raises
    ------
    RunNotFoundError
        If no run, or more than one, answers to it.
    """
    records = Records.default()
    return _known(records, records.find(run_id))


def resume(run_id: str | Run = "last") -> Run:
    """Let a run go on whose processes are all gone (a machine that was restarted).

    It goes on from its last checkpoint and ends with the weights that it would have had.

    Parameters
    ----------
    run_id : str or Run
        A run on ``processes`` or ``cluster``, by id as in :func:`attach`.

    Raises
    ------
    ExperimentError
        If the run has ended, or was inside a kernel.
    """
    run = run_id if isinstance(run_id, Run) else attach(run_id)
    record = run.record
    if record.runner == "local":
        raise ExperimentError(
            f"run {run.id} was inside its kernel and ended with it; run it again with lab.run"
        )
    if record.status.over:
        raise ExperimentError(f"run {run.id} has {record.status}; there is nothing to resume")
    Records.default().heartbeat(run.id)
    if record.runner == "cluster":
        (ServiceRun if ServiceRun.is_one(run.folder) else ClusterRun)(run.folder).watch()
    else:
        processes.Processes(run.folder).watch()
    return run


def _known(records: Records, run_id: str) -> Run:
    """Return the live object of a run that this kernel started, else one over the records."""
    live = _live.get(run_id)
    if live is not None and live._records is records:
        return live
    return Run(records, run_id)


def _shown(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else repr(value)


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Return what faces show of an experiment, as plain values."""
    return {
        "model": experiment.model_name,
        "dataset": experiment.info.name,
        "strategy": "centralized" if experiment.centralized else experiment.strategy_name,
        "strategy_args": {k: _shown(v) for k, v in experiment.strategy_args.items()},
        "partition": repr(experiment.partition),
        "centralized": experiment.centralized,
        "clients_per_round": experiment.asked_per_round,
        "rounds": experiment.rounds,
        "local_epochs": experiment.local_epochs,
        "batch_size": experiment.batch_size,
        "optimizer": experiment.optimizer,
        "lr": experiment.lr,
        "seed": experiment.seed,
        "task": experiment.task,
        "parameters": experiment.facts.parameters,
        "client_names": list(experiment.client_names),
        "client_rows": [len(rows.train) for rows in experiment.splits],
    }
