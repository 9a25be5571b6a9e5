"""The ServerApp of the apps that ``flower_engine.py`` writes: FedAvg, which notes its times."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    """FedAvg that notes when each round's evaluation was aggregated, in seconds since 1970."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.noted: dict = {"evaluated": [], "losses": [], "validation_losses": [], "steps": 0}

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple:
        replies = list(replies)
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(reply.error.reason)
        self.noted["steps"] = sum(int(reply.content["metrics"]["steps"]) for reply in replies)
        result = super().aggregate_train(server_round, replies)
        self.noted["losses"].append(float(result[1]["train_loss"]))
        return result

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> object:
        result = super().aggregate_evaluate(server_round, replies)
        if result is None:
            raise RuntimeError("no client has evaluated")
        self.noted["validation_losses"].append(float(result["loss"]))
        self.noted["evaluated"].append(time.time())
        return result


def _initial(work: str) -> ArrayRecord:
    """Return the initial weights; those that nobody computes with are zeros, without torch."""
    if work != "nothing":
        from work import WORKS

        return ArrayRecord(WORKS[work].make_model().state_dict())
    # The shapes of IrisNet's weights, as on our side.
    shapes = ((16, 4), (16,), (3, 16), (3,))
    return ArrayRecord([np.zeros(shape, dtype=np.float32) for shape in shapes])


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds, and leave what was noted (or what went wrong) in the file ``result``."""
    asked = context.run_config
    clients, result = int(asked["clients"]), Path(str(asked["result"]))
    strategy = Timed(
        min_train_nodes=clients, min_evaluate_nodes=clients, min_available_nodes=clients
    )
    settings = {"work": str(asked["work"]), "data": str(asked["data"])}
    try:
        strategy.start(
            grid,
            _initial(settings["work"]),
            num_rounds=int(asked["rounds"]),
            train_config=ConfigRecord(dict(settings)),
            evaluate_config=ConfigRecord(dict(settings)),
        )
        noted = strategy.noted
    except Exception:
        noted = {"error": traceback.format_exc()}
    # Whoever waits for the file finds all of it or nothing.
    part = result.with_suffix(".part")
    part.write_text(json.dumps(noted), encoding="utf-8")
    os.replace(part, result)
