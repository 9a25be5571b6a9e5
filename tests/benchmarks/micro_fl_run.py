"""One run of Micro-FL's evaluation, in a process of its own: ``micro_fl_run.py FACTS`` (JSON)."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable

import pandas as pd
import torch
from fresh_process import MARK
from micro_fl_work import Digits, Perceptron

import flautim_lab as lab

SEED = 7
LOCAL_EPOCHS = 5
STRUCK_AT = (0.2, 0.4, 0.6, 0.8)  # of the rounds
TARGETS = {"healthy": None, "server killed": "server", "worker killed": "client-0"}
CONDITIONS = tuple(TARGETS)
# A client is sent a model and sends one back, is sent the mean and sends back how good it is.
MESSAGES_PER_CLIENT_AND_ROUND = 4


def make_experiment(data: str, clients: int, rounds: int) -> lab.Experiment:
    """Return what is learned: all clients in every round, FedAvg, on the CPU."""
    return lab.Experiment(
        Digits,
        Perceptron,
        dataset_args={"path": data},
        clients=clients,
        rounds=rounds,
        local_epochs=LOCAL_EPOCHS,
        batch_size=32,
        optimizer="SGD",
        lr=0.1,
        seed=SEED,
        device="cpu",
    )


def faults(target: str | None, rounds: int) -> Callable | None:
    """Return the plan that kills a target in training, at four rounds; none without a target."""
    if target is None:
        return None

    def plan(chaos: object) -> None:
        for share in STRUCK_AT:
            chaos.kill(target, round=round(share * rounds), during="training")

    return plan


def measure(data: str, clients: int, rounds: int, condition: str) -> dict:
    """Run it once under a condition, and return what was seen.

    Parameters
    ----------
    data : str
        A file of :func:`micro_fl_work.make_digits`.
    clients, rounds : int
    condition : str
        One of :data:`CONDITIONS`.

    Returns
    -------
    dict
        ``seconds`` are the run's own, from when its server could be reached until it had ended;
        ``start_seconds`` those before. CPU and bytes are what the run's records hold: what a
        process used between the last that it told and its death is in neither.
    """
    made = make_experiment(data, clients, rounds)
    run = lab.run(made, on="processes", chaos=faults(TARGETS[condition], rounds))
    run.wait()
    record, metrics, struck = run.record, run.metrics, run.faults
    losses = metrics[(metrics.metric == "loss") & metrics.client.notna()]
    if len(losses) != 2 * clients * rounds:  # in training and in validation
        raise RuntimeError(f"clients are missing in some rounds:\n{run.logs()}")
    held_out = Digits(data, held_out=True)
    right = run.predict(held_out.images).argmax(dim=1) == held_out.targets
    resources = run.resources
    used = resources[resources.client.isna()].groupby("resource").value.sum()
    processes = resources.process.unique()
    return {
        "accuracy": run.final("accuracy"),
        "loss": run.final("loss"),
        "held_out_accuracy": right.double().mean().item(),
        "start_seconds": record.started - record.created,
        "seconds": record.finished - record.started,
        "cpu_seconds": used["cpu_seconds"],
        "bytes_received": used["bytes_received"],
        "bytes_sent": used["bytes_sent"],
        "messages": MESSAGES_PER_CLIENT_AND_ROUND * clients * rounds,
        "faults": json.loads(struck.to_json(orient="records", double_precision=6)),
        "weights": _digest_of_weights(run.model()),
        "metrics": _digest_of_table(metrics),
        "workers": sum(name.startswith("client-") for name in processes),
    }


def _digest_of_weights(model: torch.nn.Module) -> str:
    """Return what is the same only if every bit of every weight is."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest_of_table(frame: pd.DataFrame) -> str:
    # Python writes a float so that reading it gives the same one.
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()


if __name__ == "__main__":
    print(MARK + json.dumps(measure(**json.loads(sys.argv[1]))))
