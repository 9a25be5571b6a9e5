"""The ``processes`` runner: Flower's deployment engine on this machine, detached from the kernel.

One server (SuperLink, ServerApp, checkpoints), some workers that host the clients, and a watch
that starts them again when they die. The kernel may die too: the run goes on.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from flautim_lab.errors import ExperimentError, TrainingError
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.names import choose
from flautim_lab.records.store import Records
from flautim_lab.runners.leftovers import reap_leftovers
from flautim_lab.runners.process_files import ProcessFolder, RunFacts
from flautim_lab.training.cores import usable_cores
from flautim_lab.training.keys import make_server_files

HOSTS = ("localhost", "127.0.0.1")  # loopback only
MOST_WORKERS = 8
SETTLED_SECONDS = 1.5  # a watch that is being started takes less until it can be found


def check(experiment: Experiment) -> None:
    """Refuse what cannot leave the kernel: live objects, which have no source.

    Raises
    ------
    ExperimentError
        Naming the object and what to give instead.
    """
    if not isinstance(experiment.dataset, CSVDataset) and experiment.dataset_class is None:
        kind = type(experiment.dataset).__name__
        raise ExperimentError(
            f"the dataset is a live {kind} object, which other processes cannot make again; "
            "give its class (and dataset_args), or a CSVDataset, to run on='processes'"
        )
    if not isinstance(experiment.strategy, str) and not callable(experiment.strategy):
        raise ExperimentError(
            f"the strategy is a live {experiment.strategy_name} object, which other processes "
            "cannot make again; give a function that makes it to run on='processes'"
        )


def worker_count(experiment: Experiment, workers: int | str) -> int:
    """Return how many workers a run gets: one per core, and no more than clients."""
    wanted = min(usable_cores(), MOST_WORKERS) if workers == "auto" else int(workers)
    return max(1, min(wanted, len(experiment.splits)))


def _self() -> tuple[int, float]:
    return os.getpid(), psutil.Process().create_time()


class Processes:
    """The processes of one run, as the kernel (or anybody else) may handle them.

    Parameters
    ----------
    run_folder : Path
        The run's folder of artifacts.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = ProcessFolder(run_folder)

    @classmethod
    def prepare(cls, records: Records, run_id: str, slots: int, clients: int) -> Processes:
        """Write what the processes of a run are told; :meth:`watch` starts them."""
        folder = records.folder(run_id)
        reap_leftovers(records, folder.parent)
        made = cls(folder)
        made._folder.write_facts(RunFacts(run_id, slots, clients, _self()))
        return made

    def watch(self) -> None:
        """Start a watch (and by it all else), with fresh certificates if there are none."""
        if not (self._folder.tls / "server.key").exists():
            make_server_files(self._folder.tls, HOSTS)
        self._folder.start("watch", "flautim_lab.runners.watch")

    def names(self) -> list[str]:
        """Return the names of the processes that live."""
        return sorted(self._folder.alive())

    def kill(self, name: str) -> None:
        """Kill a process of the run (SIGKILL), to see it come back.

        Raises
        ------
        TrainingError
            If there is no such process.
        """
        choose(name, self.names(), "living process", TrainingError)
        self._folder.kill(name)

    def kill_all(self) -> None:
        """Kill everything at once, the watch first: as if the machine had lost its power.

        One that was just being started, by another before it died, is killed as it appears.
        """
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < SETTLED_SECONDS:
            for name in ("watch", *self.names()):
                if self._folder.kill(name):
                    quiet_since = time.monotonic()
            time.sleep(0.02)

    def wait_gone(self, seconds: float) -> bool:
        """Wait until no process of the run lives; returns whether that came true."""
        end = time.monotonic() + seconds
        while self._folder.alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True
