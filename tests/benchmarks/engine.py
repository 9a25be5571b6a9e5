"""Our side of Flower's deployment engine: experiments run by ``lab.run(..., on="processes")``."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import ours
import work as common
from engine_models import Idle, IrisNet
from work import IRIS_CSV, SEED, Work

import flautim_lab as lab
from flautim_lab.records.event import ALL_CLIENTS, Event
from flautim_lab.runners.process_files import ProcessFolder
from flautim_lab.runners.processes import Processes

RUN = lab.run  # the package is lazy: this loads what runs an experiment, before any clock starts
IDLE_ROUNDS = 21
GROWTH_ROUNDS = 6  # with every worker at work
ENDLESS = 10_000  # such a run is stopped when it was measured
LIMIT_SECONDS = 200  # less than a process is given: what ends by itself says why
GONE_SECONDS = 15
POLL_SECONDS = 0.005
LOOK_SECONDS = 0.2
BESIDE_WORKERS = 3  # server, watch, template


def save_for_peers(work: Work, clients: str, data: str) -> dict:
    """Write the rows of so many clients, scaled as our runs scale them."""
    return ours.save_for_peers(replace(work, clients=int(clients)), data)


def overhead(_: Work, clients: str) -> dict:
    """Return the seconds of each round but the first, of clients that compute nothing.

    From the times in the records: training, evaluation, the records themselves and a checkpoint.
    """
    made = Idle(
        lab.CSVDataset(IRIS_CSV, target="species"),
        IrisNet,
        clients=int(clients),
        rounds=IDLE_ROUNDS,
        validation=0.2,
        seed=SEED,
        device="cpu",
    )
    with _started(made, int(clients)) as run:
        run.wait(LIMIT_SECONDS)
    ends = [event.time for event in run.events() if event.kind == "round"]
    return {"rounds": [end - before for before, end in itertools.pairwise(ends)]}


def start(work: Work, clients: str) -> dict:
    """Return the seconds from ``lab.run`` until both losses of round 1 can be read.

    Inside: certificates and keys, the watch, the template with its imports, the server and the
    workers, and all that is inside a run in the kernel. Outside: imports of this process, making
    the experiment.
    """
    made = _experiment(work, clients=int(clients))
    losses: dict[str, float] = {}

    def look(event: Event) -> None:
        named = (event.kind, event.round, event.client, event.name)
        if named == ("metric", 1, ALL_CLIENTS, "loss"):
            losses[event.split] = event.value

    begin = time.perf_counter()
    with _started(made) as run:
        _follow(run, look, lambda: losses.keys() >= {"train", "validation"}, POLL_SECONDS)
        seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "loss": losses["train"],
        "validation_loss": losses["validation"],
        "steps": ours._steps(made),
    }


def growth(work: Work, clients: str, workers: str) -> dict:
    """Return the memory of a run's processes, in bytes, and the seconds of its rounds.

    Of the rounds in which every worker took part; the memory is read after them, while the run
    goes on. A page that several processes share counts once, divided among them (PSS).
    """
    made = _experiment(work, clients=int(clients), rounds=ENDLESS)
    at_work: dict[int, set[str]] = {}
    ends: dict[int, float] = {}

    def look(event: Event) -> None:
        if event.kind == "resource" and event.split.startswith("client-"):
            at_work.setdefault(event.round, set()).add(event.split)
        if event.kind == "round" and len(at_work.get(event.round, ())) == int(workers):
            ends[event.round] = event.time

    with _started(made, int(workers)) as run:
        _follow(run, look, lambda: len(ends) > GROWTH_ROUNDS, LOOK_SECONDS)
        processes = ProcessFolder(run.folder).alive()
        held = {name: found.memory_full_info().pss for name, found in processes.items()}
    if len(held) != int(workers) + BESIDE_WORKERS:
        raise RuntimeError(f"not all of the run's processes were there: {sorted(held)}")
    return {
        "rounds": [ends[n] - ends[n - 1] for n in sorted(ends) if n - 1 in ends],
        "bytes": sum(held.values()),
        "held": held,
    }


def _experiment(work: Work, **changes: object) -> lab.Experiment:
    """Return the work as an experiment that can leave this process."""
    if _methods(IrisNet) != _methods(common.IrisNet):
        raise RuntimeError("engine_models.IrisNet is not that of work.py any more")
    return ours.make_experiment(work, **changes).replace(model=IrisNet)


def _methods(model: type) -> list[str]:
    return [inspect.getsource(method) for method in (model.__init__, model.forward)]


@contextlib.contextmanager
def _started(made: lab.Experiment, workers: int | str = "auto") -> Iterator[lab.Run]:
    """Run an experiment as processes; whatever happens inside, none of them is left after it."""
    run = RUN(made, on="processes", workers=workers)
    try:
        yield run
    finally:
        run.stop()  # nothing, for one that has ended
        processes = Processes(run.folder)
        while not processes.wait_gone(GONE_SECONDS):
            processes.kill_all()


def _follow(
    run: lab.Run, look: Callable[[Event], None], enough: Callable[[], bool], pause: float
) -> None:
    """Look at each event of a run, once, until there were enough of them."""
    end, seen = time.monotonic() + LIMIT_SECONDS, 0
    while True:
        ended = run.status.ended  # asked first: whatever was recorded before it is seen below
        for event in run.events(after=seen):
            seen = event.seq
            look(event)
        if enough():
            return
        if ended or time.monotonic() > end:
            raise RuntimeError(f"no results, the run is {run.status}: {run.logs()}")
        time.sleep(pause)
