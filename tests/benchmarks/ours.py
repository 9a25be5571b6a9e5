"""Our side: experiments run by ``lab.run`` inside this process."""

from __future__ import annotations

import itertools
import time

import torch
from torch.utils.data import TensorDataset
from work import IRIS_CSV, SEED, Work, images, save_clients

import flautim_lab as lab
from flautim_lab.experiment.client_data import ClientData, pooled, scaled
from flautim_lab.records.event import ALL_CLIENTS

POLL_SECONDS = 0.005


def make_experiment(work: Work, **changes: object) -> lab.Experiment:
    """Return the work as an experiment."""
    import work as models

    if work.name == "iris":
        dataset = lab.CSVDataset(IRIS_CSV, target="species")
    else:
        dataset = TensorDataset(*images())
    settings = {
        "clients": work.clients,
        "rounds": work.rounds,
        "local_epochs": work.local_epochs,
        "batch_size": work.batch_size,
        "optimizer": work.optimizer,
        "lr": work.lr,
        "validation": work.validation,
        "seed": SEED,
        "device": "cpu",
        "engine": work.engine,
    }
    return lab.Experiment(dataset, getattr(models, work.model), **(settings | changes))


def save_for_peers(work: Work, data: str) -> dict:
    """Write the rows of each client, scaled as our runs scale them; it costs the peers nothing."""
    made = make_experiment(work)
    if work.name == "iris":
        x, y = made.dataset.features, made.dataset.targets
        sums = pooled([ClientData(made, client).sums() for client in range(work.clients)])
        x = scaled(x, sums.scale(), made.dataset.numeric)
    else:
        x, y = made.dataset.tensors
    save_clients(data, x, y, [(rows.train, rows.validation) for rows in made.splits])
    return {}


def first_round(work: Work) -> dict:
    """Return the seconds from ``lab.run`` until both losses of round 1 can be read.

    Inside: the strategy, the source of the model's class as a bundle, a new records database, the
    threads, the query by which clients scale alike, training, evaluation, and the events stored.
    Outside: imports, reading the CSV, making the experiment (its checks put a batch through the
    model).
    """
    made = make_experiment(work)
    run_now = lab.run  # the package is lazy: this loads what runs an experiment
    wanted = {"train", "validation"}
    begin = time.perf_counter()
    run = run_now(made)
    while True:
        ended = run.status.ended  # asked first: whatever was recorded before it is seen below
        losses = {
            event.split: event.value
            for event in run.events()
            if (event.kind, event.round, event.client, event.name)
            == ("metric", 1, ALL_CLIENTS, "loss")
        }
        if losses.keys() >= wanted:
            break
        if ended:
            raise RuntimeError(f"the run ended without its losses: {run.logs()}")
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - begin
    run.wait()
    return {
        "seconds": seconds,
        "loss": losses["train"],
        "validation_loss": losses["validation"],
        "steps": _steps(made),
    }


def lenet_round(work: Work) -> dict:
    """Return the seconds of each round but the first, from the times in the records."""
    made = make_experiment(work)
    run = lab.run(made).wait()
    events = run.events()
    ends = [event.time for event in events if event.kind == "round"]
    losses = [
        event.value
        for event in events
        if (event.kind, event.client, event.name) == ("metric", ALL_CLIENTS, "loss")
    ]
    return {
        "rounds": [end - before for before, end in itertools.pairwise(ends)],
        "loss": losses[-1],
        "steps": _steps(made),
        "log": run.logs(),
    }


def _steps(made: lab.Experiment) -> int:
    """Return how many optimizer steps a round takes, counted from the loader of each client."""
    return made.local_epochs * sum(
        len(ClientData(made, client).batches("train", generator=torch.Generator()))
        for client in range(len(made.splits))
    )
