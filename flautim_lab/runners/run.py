"""``Run``: one execution of an experiment, read from the records wherever it runs."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from flautim_lab.errors import BundleError, RecordsError, TrainingError
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.names import choose, duration
from flautim_lab.records.artifacts import load_model
from flautim_lab.records.event import Event, RunRecord, RunStatus, log_line, printed_once
from flautim_lab.records.faults import faults_of
from flautim_lab.records.profile import parts_of, total_of
from flautim_lab.records.store import Records
from flautim_lab.runners.downloads import DOWNLOADS, write_part
from flautim_lab.runners.labels import labels
from flautim_lab.runners.predict import predict
from flautim_lab.runners.profile import Profile, profile_of
from flautim_lab.runners.progress import (
    FOLLOWED,
    Follower,
    Observer,
    Progress,
    alarms,
    observer_factories,
    seconds_left,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from flautim_lab.runners.chaos import Chaos

__all__ = ["DOWNLOADS", "Execution", "Run"]

LOOK_SECONDS = 0.4  # how often wait() looks: a notebook shows at most two pictures a second


class Execution(Protocol):
    """A run that executes in this process."""

    done: threading.Event
    outcome: tuple[RunStatus, str] | None

    def stop(self) -> None:
        """Ask it to end with its next batch."""


class Run:
    """One execution of an experiment.

    Everything is read from the records, so that a run looks the same from the kernel that started
    it, from another one (``lab.attach(id)``) and from the command line. Shown in a cell it is a
    live view.

    Parameters
    ----------
    records : Records
        Where it is recorded.
    run_id : str
        Which run.
    experiment : Experiment, optional
        The live experiment, where this kernel has it.
    here : Execution, optional
        The run itself, where it executes in this process: it hears a stop at once, and wakes
        whoever waits for its end.
    """

    #: Made into observers by :meth:`wait` when no view of the run is shown (see ``jupyter/``).
    observer_factories: ClassVar[list[Callable[[Run], Observer]]] = observer_factories

    def __init__(
        self,
        records: Records,
        run_id: str,
        experiment: Experiment | None = None,
        here: Execution | None = None,
    ) -> None:
        self._records = records
        self._id = run_id
        self._experiment = experiment
        self._here = here
        self._follower = Follower()
        self._read_lock = threading.Lock()
        #: Called by :meth:`wait` in the waiting thread, about twice a second and at the end.
        self.on_wait: list[Observer] = []

    # --- facts -------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The run's id: sorts by time, safe in paths and URLs."""
        return self._id

    @property
    def record(self) -> RunRecord:
        """What the records say of the run now."""
        # Looked at before the records are: a run that ends in between is read once more, not half.
        outcome = None if self._here is None else self._here.outcome
        record = self._records.run(self._id)
        if outcome is not None and not record.status.ended:
            # The disk was full when the run wanted to say how it ended.
            status, message = outcome
            return dataclasses.replace(record, status=status, message=message)
        return record

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.record.name

    @property
    def status(self) -> RunStatus:
        """Waiting, running, finished, failed, stopped or interrupted (its process died)."""
        return self.record.status

    @property
    def message(self) -> str:
        """Why it failed, stopped or waits; "" where there is nothing to say."""
        return self.record.message

    @property
    def rounds(self) -> int:
        """Rounds to do in all."""
        return self.record.rounds

    @property
    def round(self) -> int:
        """Rounds done."""
        return self.record.round

    @property
    def clients(self) -> int:
        """How many clients take part."""
        return self.record.clients

    @property
    def plan(self) -> dict[str, Any]:
        """The numerics plan: how the numbers of this run are made."""
        return self.record.plan

    @property
    def folder(self) -> Path:
        """Where the run's artifacts lie."""
        return self._records.folder(self._id)

    @property
    def metrics(self) -> pd.DataFrame:
        """One line per round, client, split and metric.

        Columns ``round`` (int), ``client`` (Int64; missing: all clients together, weighted by
        rows), ``split`` (train or validation), ``metric`` (loss, accuracy, ...), ``value``.
        """
        return self._records.metrics(self._id)

    @property
    def resources(self) -> pd.DataFrame:
        """What each process used, round by round: where a round's time goes.

        Columns ``round`` (int), ``process`` (``kernel``, ``server``, ``client-0``, ...),
        ``client`` (Int64; missing: all of the process), ``resource`` (its unit at the end:
        ``cpu_seconds``, ``memory_bytes``, ``training_seconds``, ...), ``value``.
        """
        return self._records.resources(self._id)

    @property
    def faults(self) -> pd.DataFrame:
        """What was done to the run on purpose, one line per fault, by time.

        Columns ``time`` (seconds since the run started), ``round`` (the one under way),
        ``target``, ``what``, ``recovery_seconds`` (NaN: not back at work yet).
        """
        return self._records.faults(self._id)

    @property
    def chaos(self) -> Chaos:
        """Ways to strike the run on purpose, to see it come back: ``run.chaos.kill("server")``.

        Raises
        ------
        TrainingError
            If the run has no processes of its own to strike.
        """
        from flautim_lab.runners.chaos import Chaos

        return Chaos.of(self)

    @property
    def experiment(self) -> Experiment:
        """The experiment, made again from its settings and bundle where this kernel lacks it.

        Raises
        ------
        BundleError
            If its source could not be kept when it ran.
        """
        if self._experiment is None:
            self._experiment = Experiment.load(self.folder / "experiment")
        return self._experiment

    def events(self, after: int = 0) -> list[Event]:
        """Return what happened after the event of sequence number ``after``."""
        return self._records.events(self._id, after=after)

    def progress(self) -> Progress:
        """Return how far the run is."""
        with self._read_lock:
            self._follower.read(
                self._records.events(
                    self._id, after=self._follower.seen, kinds=FOLLOWED, each_validation=False
                )
            )
        record = self.record
        names = record.settings.get("client_names") or [
            f"client {number}" for number in range(record.clients)
        ]
        clients = self._follower.clients(names, record.settings.get("client_rows") or [])
        return Progress(
            status=record.status,
            message=record.message,
            round=record.round,
            rounds=record.rounds,
            seconds=record.seconds,
            seconds_left=seconds_left(record.status, record.seconds, record.round, record.rounds),
            clients=clients,
            waiting="" if record.status.ended else self._follower.waiting(time.time()),
            alarms=alarms(clients),
            faults=self._follower.faults(),
            processes=self._follower.processes(),
            parts=self._follower.parts(),
        )

    # --- verbs --------------------------------------------------------------------------------

    def wait(self, timeout_seconds: float | None = None) -> Run:
        """Wait until the run has ended, and return it.

        Ctrl-C (or the kernel's stop button) ends the waiting, not the run; a script that ends by
        it ends its ``local`` run too.

        Parameters
        ----------
        timeout_seconds : float, optional
            How long to wait; the run goes on after it.

        Raises
        ------
        TrainingError
            If the run failed or was interrupted, with its reason.
        TimeoutError
            If it has not ended in time.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        observers = self.on_wait or [make(self) for make in self.observer_factories]
        if not observers and sys.stderr.isatty():
            observers = [_terminal_line]
        while True:
            progress = self.progress()
            for observer in observers or self.on_wait:
                observer(progress)
            if progress.status.ended:
                break
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(
                    f"run {self._id} is in round {progress.round} of {progress.rounds} after "
                    f"{timeout_seconds:g} s; it goes on, wait again or stop it with run.stop()"
                )
            self._pause(LOOK_SECONDS if end is None else min(LOOK_SECONDS, end - time.monotonic()))
        if progress.status in (RunStatus.FAILED, RunStatus.INTERRUPTED):
            raise TrainingError(f"run {self._id} {progress.status}: {progress.message}")
        return self

    def profile(self) -> Profile:
        """Return what the time of the rounds went into, and how clients were trained.

        Data (reading, ordering and cutting batches), training, aggregation (the strategy),
        evaluation, and overhead: all the rest, which is messages on their way, workers that are
        waited for, records and checkpoints. Where several threads or workers train at once, the
        clients' part is that of the busiest.

        Returns
        -------
        Profile
            ``rounds`` (a table, seconds), ``total``, ``engine``; printed, it is a few lines.

        Raises
        ------
        RecordsError
            If no round was measured: none is over yet, or an earlier version recorded the run.
        """
        return profile_of(self.record, self._records.events(self._id, kinds=("resource",)))

    def stop(self) -> Run:
        """Ask the run to stop; it ends with its next batch and keeps its last whole round."""
        if not self.status.ended:
            self._records.request_stop(self._id)
            if self._here is not None:
                self._here.stop()
        return self

    def scale(self, workers: int | Mapping[str, int]) -> str:
        """Change how many worker pods train, while the run goes; its numbers do not change.

        The clients are dealt anew among the workers that are meant to be there. The work of pods
        that are taken away is done by others.

        Parameters
        ----------
        workers : int or mapping of str to int
            As in :class:`Cluster`, such as ``2`` or ``{"ufmg": 1}``; a namespace that is not named
            stays as it is. At most one worker per client, and 64 per namespace or as many as the
            run began with.

        Returns
        -------
        str
            What was done, such as "4 workers -> 2".

        Raises
        ------
        ExperimentError
            For a number that cannot be, or a run that has ended or is not on a cluster.
        ClusterError
            If the cluster or the run's server cannot be reached now, or refuses.
        """
        from flautim_lab.runners.scale import scale

        return scale(self.record, self.folder, workers)

    def logs(self, client: int | str | None = None, last: int | None = None) -> str:
        """Return the run's log as text, one line per entry; tracebacks are kept whole.

        What the clients' own code prints is in it, as ``PRINT``, wherever they train.

        Parameters
        ----------
        client : int or str, optional
            Only what concerns this client: its number, or its name.
        last : int, optional
            Only so many entries, the newest.
        """
        if isinstance(client, str):
            names = self.record.settings.get("client_names") or []
            client = names.index(choose(client, names, "client", RecordsError))
        if client is not None and not 0 <= client < self.clients:
            raise RecordsError(
                f"run {self._id} has no client {client}; its clients are 0 to {self.clients - 1}"
            )
        events = list(
            printed_once(self._records.events(self._id, kinds=("log", "failure", "status")))
        )
        if client is not None:
            events = [event for event in events if event.client == client]
        if last is not None:
            events = events[-last:] if last > 0 else []
        return "\n".join(log_line(event) for event in events)

    def model(self) -> nn.Module:
        """Return the trained model, in evaluation mode.

        Raises
        ------
        RecordsError
            If the run has not ended yet, or ended before its first round.
        BundleError
            If this kernel lacks the model's class and its source was not kept.
        """
        path = self.folder / "model.safetensors"
        if not path.exists():
            raise RecordsError(
                f"run {self._id} ({self.status}) has no model yet; wait for it with run.wait()"
            )
        if self._experiment is not None:
            model = self._experiment.build_model()
        else:
            folder = self.folder / "experiment"
            settings = folder / "experiment.json"
            if not settings.exists():
                raise BundleError(
                    f"the source of run {self._id} was not kept "
                    f"({self.record.settings.get('unbundled', 'unknown reason')}); "
                    f"its weights are in {path}"
                )
            made: Any = Bundle.read(folder / "bundle").load("model")
            model = made(**json.loads(settings.read_text(encoding="utf-8"))["model_args"])
        model.load_state_dict(load_model(self.folder))
        return model.eval()

    def predict(self, features: Any) -> Tensor:
        """Return the trained model's outputs for rows in the units of the dataset.

        A table's rows are scaled as they were in training before they go into the model, so
        ``run.predict(dataset.features)`` is what ``run.model()`` alone is not.

        Parameters
        ----------
        features : DataFrame, Tensor or array-like
            Rows first: a frame with the table's columns, or ``(rows, features)`` in the order of
            ``dataset.feature_names``; without a table, whatever the model takes.

        Returns
        -------
        Tensor
            The model's outputs, rows first (class scores, or values).

        Raises
        ------
        RecordsError
            If the run has no model yet.
        TrainingError
            If each client had a scale of its own, or the rows do not fit the model.
        """
        return predict(self, features)

    def final(self, metric: str = "loss", split: str = "validation") -> float:
        """Return the last value of a metric over all clients, weighted by rows.

        Parameters
        ----------
        metric : str
            ``loss``, ``accuracy``, or any other name in ``run.metrics``.
        split : {"validation", "train"}

        Raises
        ------
        RecordsError
            If there is no such number (yet).
        """
        frame = self.metrics
        mean = frame[frame.client.isna()]
        known = sorted({f"{s} {m}" for s, m in zip(mean["split"], mean["metric"], strict=True)})
        if not known:
            raise RecordsError(f"run {self._id} ({self.status}) has measured nothing yet")
        choose(f"{split} {metric}", known, "measure", RecordsError)
        chosen = mean[(mean["metric"] == metric) & (mean["split"] == split)]
        return float(chosen["value"].iloc[-1])

    def plot(self, metric: str = "loss", compare: Run | Sequence[Run] = ()) -> Figure:
        """Return a picture of a metric over the rounds, of this run and of others.

        A thin vertical line marks each fault that was struck on purpose, at its round. A bar under
        the picture of one run shows where its time went, as :meth:`profile` has it.

        Parameters
        ----------
        metric : str
            ``loss``, ``accuracy``, or any other name in ``run.metrics``.
        compare : Run or sequence of Run
            Other runs on the same plot, such as a centralized baseline.
        """
        from flautim_lab.plots import add_time_bar, mark_faults, metric_names, plot_metrics

        runs = [self, *([compare] if isinstance(compare, Run) else compare)]
        frames = {run.id: run.metrics for run in runs}
        known = metric_names(frames[self.id])
        if known:
            choose(metric, known, "metric")
        names = labels([run.record for run in runs])
        curves = {names[run.id]: frames[run.id] for run in runs}
        figure = plot_metrics(
            curves,
            metric=metric,
            # Rounds that are still to come are shown as room; those that never come are not.
            rounds=max(run.round if run.status.ended else run.rounds for run in runs) or None,
            title=self.name if len(runs) == 1 else "",
        )
        if len(runs) == 1:
            events = self._records.events(self._id, kinds=("resource",))
            add_time_bar(figure, total_of(parts_of(events).values()))
        for run in runs:
            struck = run._records.events(run.id, kinds=("fault", "recovery"))
            mark_faults(figure, faults_of(struck))
        return figure

    def download(self, what: str, to: str | Path | None = None) -> Path:
        """Write a part of the run to a file and return its path.

        Parameters
        ----------
        what : {"model", "metrics", "log", "plot", "experiment"}
            The trained weights (safetensors), the metrics (CSV), the log, the loss plot (PNG), or
            the experiment's settings (JSON).
        to : path, optional
            A file, or a folder (one that exists, or a name that ends in a slash); the working
            folder by default. A file that exists is not overwritten.

        Raises
        ------
        RecordsError
            If the file exists or cannot be written, or the run has no such part.
        """
        return write_part(self, what, to)

    def __repr__(self) -> str:
        record = self.record
        message = f": {record.message}" if record.message else ""
        return (
            f"<Run {self._id} {record.status}{message}, "
            f"{record.round}/{record.rounds} rounds, {duration(record.seconds)}>"
        )

    def _pause(self, seconds: float) -> None:
        if self._here is not None:
            self._here.done.wait(max(seconds, 0.0))
        else:
            time.sleep(max(seconds, 0.0))


def _terminal_line(progress: Progress) -> None:
    """Show progress on a terminal, in one line that is written over."""
    left = (
        f", about {duration(progress.seconds_left)} left"
        if progress.seconds_left is not None
        else ""
    )
    line = (
        f"{progress.status}: round {progress.round}/{progress.rounds}, "
        f"{duration(progress.seconds)}{left}"
    )
    end = "\n" if progress.status.ended else ""
    sys.stderr.write(f"\r\x1b[2K{line}{end}")
    sys.stderr.flush()
