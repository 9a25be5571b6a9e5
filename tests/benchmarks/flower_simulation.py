"""The peer: Flower's own simulation, as its documentation has it (``run_simulation``, with Ray)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable

import ray  # noqa: F401 - a cost of importing, not of running: it is done before the clock starts
from flower_app import app as client_app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.server.superlink.fleet.vce.backend import raybackend  # noqa: F401 - as above
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from work import Work, usable_cores


class Timed(FedAvg):
    """FedAvg that notes when each round's answers were aggregated."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.trained: list[float] = []
        self.evaluated: list[float] = []
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.steps = 0

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple:
        replies = list(replies)
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(reply.error.reason)
        self.steps = sum(int(reply.content["metrics"]["steps"]) for reply in replies)
        result = super().aggregate_train(server_round, replies)
        self.losses.append(float(result[1]["train_loss"]))
        self.trained.append(time.perf_counter())
        return result

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> object:
        result = super().aggregate_evaluate(server_round, replies)
        if result is not None:
            self.validation_losses.append(float(result["loss"]))
        self.evaluated.append(time.perf_counter())
        return result


def _simulate(work: Work, data: str) -> tuple[float, Timed]:
    """Return when ``run_simulation`` was called, and what the strategy noted."""
    asked = work.clients_per_round or work.clients
    strategy = Timed(
        fraction_train=asked / work.clients,
        fraction_evaluate=1.0 if work.validation else 0.0,
        min_train_nodes=asked,
        min_evaluate_nodes=work.clients if work.validation else 0,
        min_available_nodes=work.clients,
    )
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        settings = {"work": work.name, "data": data}
        strategy.start(
            grid,
            ArrayRecord(work.make_model().state_dict()),
            num_rounds=work.rounds,
            train_config=ConfigRecord(dict(settings)),
            evaluate_config=ConfigRecord(dict(settings)),
        )

    begin = time.perf_counter()
    run_simulation(
        server_app,
        client_app,
        num_supernodes=work.clients,
        backend_config={
            # One core per client and all cores at work: an actor for each core.
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": usable_cores(), "log_to_driver": False},
        },
    )
    return begin, strategy


def first_round(work: Work, data: str) -> dict:
    """Return the seconds from the call to the first round's aggregated evaluation."""
    begin, noted = _simulate(work, data)
    return {
        "seconds": noted.evaluated[0] - begin,
        "loss": noted.losses[0],
        "validation_loss": noted.validation_losses[0],
        "steps": noted.steps,
    }


def lenet_round(work: Work, data: str) -> dict:
    """Return the seconds of each round but the first, in which Ray and its actors get warm."""
    _, noted = _simulate(work, data)
    ends = noted.trained
    return {
        "rounds": [end - before for before, end in itertools.pairwise(ends)],
        "loss": noted.losses[-1],
        "losses": noted.losses,
        "validation_losses": noted.validation_losses,
        "steps": noted.steps,
    }
