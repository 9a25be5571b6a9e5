"""A thousand small models: ours with both engines, and a plain PyTorch loop on the same batches."""

from __future__ import annotations

import time

import numpy as np
import torch
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
        validation=0.0,
        seed=SEED,
        device="cpu",
        engine=engine,
    )


def save_for_peer(work: Work, data: str, plan: str) -> dict:
    """Write each client's rows, who is asked in which round, and what seeds their batches."""
    import flautim_lab as lab
    from flautim_lab.experiment.streams import stream_seed

    made = _experiment(work, "auto")
    save_clients(data, *made.dataset.tensors, [(s.train, s.validation) for s in made.splits])
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
    losses = frame[frame.client.isna() & (frame.metric == "loss")].value.tolist()
    return {"seconds": seconds, "losses": losses, "engine": run.plan["engine"]}


def plain(work: Work, data: str, plan: str) -> dict:
    """Return the seconds of a careful loop with one model, and its losses."""
    torch.set_num_threads(1)
    clients = load_clients(data)
    with np.load(plan) as file:
        asked, seeds = file["asked"].tolist(), file["seeds"].tolist()
    model = work.make_model()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=work.lr)
    weights = [p.detach().clone() for p in parameters]
    losses = []
    begin = time.perf_counter()
    for numbers, of_round in zip(asked, seeds, strict=True):
        rows = sum(len(clients[number].y) for number in numbers)
        total = [torch.zeros_like(p) for p in weights]
        mean = 0.0
        for number, seed in zip(numbers, of_round, strict=True):
            own = clients[number]
            with torch.no_grad():
                for mine, new in zip(parameters, weights, strict=True):
                    mine.copy_(new)
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(own.y), generator=generator)
            x, y = own.x[order], own.y[order]
            for start in range(0, len(y), work.batch_size):
                targets = y[start : start + work.batch_size]
                optimizer.zero_grad()
                outputs = model(x[start : start + work.batch_size])
                loss = torch.nn.functional.cross_entropy(outputs, targets)
                loss.backward()
                optimizer.step()
                mean += loss.item() * len(targets) / rows
            with torch.no_grad():
                for part, mine in zip(total, parameters, strict=True):
                    part.add_(mine, alpha=len(own.y) / rows)
        weights = total
        losses.append(mean)
    return {"seconds": time.perf_counter() - begin, "losses": losses, "engine": "plain"}
