"""The peer that is hardest to beat: federated averaging as a careful plain PyTorch loop."""

from __future__ import annotations

import queue
import threading
import time

import torch
from torch import Tensor, nn
from work import SEED, ClientRows, Work, load_clients, usable_cores

VARIANTS = ("threads", "in turn")


def train(
    work: Work,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: ClientRows,
    generator: torch.Generator,
) -> tuple[float, int]:
    """Train ``model`` in place on one client's rows; return (mean loss, steps)."""
    loss_of = nn.functional.cross_entropy
    total, steps, count = 0.0, 0, len(rows.y)
    model.train()
    for _ in range(work.local_epochs):
        order = torch.randperm(count, generator=generator)
        x, y = rows.x[order], rows.y[order]
        for start in range(0, count, work.batch_size):
            targets = y[start : start + work.batch_size]
            optimizer.zero_grad()
            loss = loss_of(model(x[start : start + work.batch_size]), targets)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(targets)
            steps += 1
    return total / (count * work.local_epochs), steps


def make_optimizer(work: Work, model: nn.Module) -> torch.optim.Optimizer:
    """Return the work's optimizer."""
    made: torch.optim.Optimizer = getattr(torch.optim, work.optimizer)(
        model.parameters(), lr=work.lr
    )
    return made


class Worker:
    """One thread's model, optimizer and running sum: made once, used for all its clients."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.model = work.make_model()
        self.parameters = list(self.model.parameters())
        # SGD without momentum keeps nothing, so that one optimizer serves all clients.
        self.optimizer = make_optimizer(work, self.model)
        self.total = [torch.zeros_like(p) for p in self.parameters]
        self.loss = 0.0
        self.steps = 0

    def begin(self) -> None:
        """Begin a round."""
        for part in self.total:
            part.zero_()
        self.loss, self.steps = 0.0, 0

    @torch.no_grad()
    def _take(self, weights: list[Tensor]) -> None:
        for mine, new in zip(self.parameters, weights, strict=True):
            mine.copy_(new)

    @torch.no_grad()
    def _add(self, share: float) -> None:
        for part, mine in zip(self.total, self.parameters, strict=True):
            part.add_(mine, alpha=share)

    def client(
        self, weights: list[Tensor], rows: ClientRows, generator: torch.Generator, share: float
    ) -> None:
        """Train one client from ``weights`` and add its share to the sum."""
        self._take(weights)
        loss, steps = train(self.work, self.model, self.optimizer, rows, generator)
        self._add(share)
        self.loss += loss * share
        self.steps += steps


def federate(work: Work, clients: list[ClientRows], threads: int, torch_threads: int) -> dict:
    """Run all rounds; return the seconds of each but the first, the last loss, steps per round."""
    torch.set_num_threads(torch_threads)
    rows = sum(len(client.y) for client in clients)
    shares = [len(client.y) / rows for client in clients]
    generators = [torch.Generator().manual_seed(SEED + number) for number in range(len(clients))]
    workers = [Worker(work) for _ in range(threads)]
    weights = [p.detach().clone() for p in work.make_model().parameters()]
    seconds = []

    def drain(worker: Worker, todo: queue.SimpleQueue[int]) -> None:
        torch.set_num_threads(torch_threads)
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            worker.client(weights, clients[number], generators[number], shares[number])

    for _ in range(work.rounds):
        begin = time.perf_counter()
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(clients)):
            todo.put(number)
        for worker in workers:
            worker.begin()
        if threads == 1:
            drain(workers[0], todo)
        else:
            running = [threading.Thread(target=drain, args=(w, todo)) for w in workers]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
        totals = [worker.total for worker in workers]
        weights = [torch.stack(parts).sum(0) for parts in zip(*totals, strict=True)]
        seconds.append(time.perf_counter() - begin)
    return {
        "rounds": seconds[1:],
        "loss": sum(worker.loss for worker in workers),
        "steps": sum(worker.steps for worker in workers),
    }


def lenet_round(work: Work, data: str, variant: str) -> dict:
    """Return the seconds of each round but the first, for one way to use the cores.

    Parameters
    ----------
    work : Work
    data : str
        A path, written by :func:`work.save_clients`.
    variant : {"threads", "in turn"}
        A Python thread per core, each with one torch thread; or client after client, with as many
        torch threads as cores.
    """
    cores = usable_cores()
    clients = load_clients(data)
    if variant == "threads":
        return federate(work, clients, threads=cores, torch_threads=1)
    return federate(work, clients, threads=1, torch_threads=cores)
