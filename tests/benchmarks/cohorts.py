"""A thousand small models: ours with both engines, and a plain PyTorch loop on the same batches."""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from plain_pytorch import make_optimizer, train
from work import SEED, Work, load_clients, rows_of, save_clients


def _experiment(work: Work, engine: str):
    import work as models

    import flautim_lab as lab

    return lab.Experiment(
        torch.utils.data.TensorDataset(*rows_of(work)),
        getattr(models, work.model),
        clients=work.clients,
        clients_per_round=work.clients_per_round,
        rounds=work.rounds,
        batch_size=work.batch_size,
        lr=work.lr,
        optimizer=work.optimizer,
        local_epochs=work.local_epochs,
        validation=work.validation,
        seed=SEED,
        device="cpu",
        engine=engine,
    )


def save_rows(work: Work, data: str) -> dict:
    """Write each client's rows."""
    _save_rows(work, data)
    return {}


def _save_rows(work: Work, data: str):
    made = _experiment(work, "auto")
    save_clients(data, *made.dataset.tensors, [(s.train, s.validation) for s in made.splits])
    return made


def save_for_peer(work: Work, data: str, plan: str) -> dict:
    """Write each client's rows, who is asked in which round, and what seeds their batches."""
    import flautim_lab as lab
    from flautim_lab.experiment.streams import stream_seed

    made = _save_rows(work, data)
    frame = lab.run(made).wait().metrics
    frame = frame[frame.client.notna() & (frame.metric == "loss")]
    asked = np.stack([np.sort(part.client.to_numpy(int)) for _, part in frame.groupby("round")])
    seeds = [
        [stream_seed(SEED, "batches", number, client) for client in clients]
        for number, clients in enumerate(asked.tolist(), start=1)
    ]
    np.savez(plan, asked=asked, seeds=np.array(seeds))
    return {}


def ours(work: Work, engine: str) -> dict:
    """Return the seconds from ``lab.run`` until the run has ended, and its losses."""
    import flautim_lab as lab

    made = _experiment(work, engine)
    run_now = lab.run
    begin = time.perf_counter()
    run = run_now(made).wait()
    seconds = time.perf_counter() - begin
    frame = run.metrics
    of_all = frame[frame.client.isna() & (frame.metric == "loss")]
    each = frame[frame.client.notna() & (frame.metric == "loss") & (frame.split == "validation")]
    return {
        "seconds": seconds,
        "losses": of_all[of_all.split == "train"].value.tolist(),
        "validation_losses": of_all[of_all.split == "validation"].value.tolist(),
        "evaluated": len(each),  # clients, each in each round that it was evaluated in
        "engine": run.plan["engine"],
    }


def growth(work: Work, clients: str) -> dict:
    """Return what rounds with so many clients take, and the memory that is held beyond the rows.

    ``rounds``: seconds of each but the first. ``bytes``: the most that the process held at the end
    of a round, less what it held before there were rows, and less the rows. ``peak``: the same of
    the most that it held at any moment.
    """
    import resource

    import psutil

    import flautim_lab as lab

    work = replace(work, clients=int(clients))
    run_now = lab.run  # the package is lazy: this loads what runs an experiment
    _experiment(
        replace(work, clients=20, clients_per_round=None), "auto"
    )  # and this, what makes it
    before = psutil.Process().memory_info().rss
    made = _experiment(work, "auto")
    held = sum(part.nbytes for part in made.dataset.tensors)
    run = run_now(made).wait()
    used = run.resources
    most = used[used.resource == "memory_bytes"].value.max()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    frame = run.metrics
    losses = frame[frame.client.isna() & (frame.metric == "loss")].value.tolist()
    rounds = run.profile().rounds["seconds"].tolist()[1:]
    return {
        "rounds": rounds,
        "bytes": float(most - before - held),
        "peak": float(peak - before - held),
        "data_bytes": held,
        "losses": losses,
        "engine": run.plan["engine"],
    }


def plain(work: Work, data: str, plan: str) -> dict:
    """Return the seconds of a careful loop with one model, and its losses."""
    torch.set_num_threads(1)
    clients = load_clients(data)
    with np.load(plan) as file:
        asked, seeds = file["asked"].tolist(), file["seeds"].tolist()
    model = work.make_model()
    parameters = list(model.parameters())
    optimizer = make_optimizer(work, model)
    weights = [p.detach().clone() for p in parameters]
    losses, ends = [], [time.perf_counter()]
    for numbers, of_round in zip(asked, seeds, strict=True):
        rows = sum(len(clients[number].y) for number in numbers)
        total = [torch.zeros_like(p) for p in weights]
        mean = 0.0
        for number, seed in zip(numbers, of_round, strict=True):
            own = clients[number]
            with torch.no_grad():
                for mine, new in zip(parameters, weights, strict=True):
                    mine.copy_(new)
            if work.optimizer != "SGD":  # it keeps something, which is each client's own
                optimizer = make_optimizer(work, model)
            loss, _ = train(work, model, optimizer, own, torch.Generator().manual_seed(seed))
            mean += loss * len(own.y) / rows
            with torch.no_grad():
                for part, mine in zip(total, parameters, strict=True):
                    part.add_(mine, alpha=len(own.y) / rows)
        weights = total
        losses.append(mean)
        ends.append(time.perf_counter())
    return {
        "seconds": ends[-1] - ends[0],
        "rounds": [end - before for before, end in itertools.pairwise(ends)][1:],
        "losses": losses,
        "engine": "plain",
    }
