"""The peer that is hardest to beat: federated averaging as a careful plain PyTorch loop."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

import torch
from torch import Tensor, nn
from work import SEED, ClientRows, Work, load_clients, usable_cores

VARIANTS = ("threads", "in turn", "processes")


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


def _serve(
    work: Work, data: str, shared: list[Tensor], total: list[Tensor], pipe: Connection
) -> None:
    """Be one of the processes: train the clients that are named, and add them to a sum."""
    torch.set_num_threads(1)
    clients = load_clients(data)
    rows = sum(len(client.y) for client in clients)
    generators = [torch.Generator().manual_seed(SEED + number) for number in range(len(clients))]
    worker = Worker(work)
    worker.total = total
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        if number < 0:
            pipe.send((worker.loss, worker.steps))
            worker.begin()
            continue
        own = clients[number]
        worker.client(shared, own, generators[number], len(own.y) / rows)
        pipe.send(number)


def in_processes(work: Work, data: str, cores: int) -> dict:
    """Run all rounds in a process per core, weights and sums in memory that they share.

    They are there, with their rows loaded, before the clock starts; each takes the next client.
    """
    clients = len(load_clients(data))
    processes = torch.multiprocessing.get_context("spawn")
    weights = [p.detach().clone().share_memory_() for p in work.make_model().parameters()]
    totals = [[torch.zeros_like(p).share_memory_() for p in weights] for _ in range(cores)]
    pipes, running, seconds, loss, steps = [], [], [], 0.0, 0
    for total in totals:
        ours, theirs = processes.Pipe()
        running.append(
            processes.Process(target=_serve, args=(work, data, weights, total, theirs), daemon=True)
        )
        running[-1].start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    for _ in range(work.rounds):
        begin = time.perf_counter()
        todo = iter(range(clients))
        at_work = [pipe for pipe in pipes if _next(pipe, todo)]
        while at_work:
            for pipe in wait(at_work):
                pipe.recv()
                if not _next(pipe, todo):
                    at_work.remove(pipe)
        for weight, parts in zip(weights, zip(*totals, strict=True), strict=True):
            weight.copy_(torch.stack(parts).sum(0))
        for pipe in pipes:
            pipe.send(-1)
        told = [pipe.recv() for pipe in pipes]
        loss, steps = sum(part[0] for part in told), sum(part[1] for part in told)
        seconds.append(time.perf_counter() - begin)
    for pipe, process in zip(pipes, running, strict=True):
        pipe.send(None)
        process.join()
    return {"rounds": seconds[1:], "loss": loss, "steps": steps}


def _next(pipe: Connection, todo: Iterator[int]) -> bool:
    number = next(todo, None)
    if number is not None:
        pipe.send(number)
    return number is not None


def lenet_round(work: Work, data: str, variant: str) -> dict:
    """Return the seconds of each round but the first, for one way to use the cores.

    Parameters
    ----------
    work : Work
    data : str
        A path, written by :func:`work.save_clients`.
    variant : {"threads", "in turn", "processes"}
        A Python thread per core, each with one torch thread; or client after client, with as many
        torch threads as cores; or a process per core, each with one torch thread.
    """
    cores = usable_cores()
    clients = load_clients(data)
    if variant == "processes":
        return in_processes(work, data, cores)
    if variant == "threads":
        return federate(work, clients, threads=cores, torch_threads=1)
    return federate(work, clients, threads=1, torch_threads=cores)
