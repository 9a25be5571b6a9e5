"""The numerics plan: how the numbers of a run are made. Same plan, same bits."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from flautim_lab.experiment.experiment import Experiment
from flautim_lab.training.pooling import takes_means
from flautim_lab.training.stackable import choose_engine


@dataclass(frozen=True)
class NumericsPlan:
    """How the numbers of a run are made.

    Two runs of one experiment with equal plans end with the same weights, bit for bit, whatever
    the number of worker threads. With different plans they agree within rounding of the types
    used.

    Attributes
    ----------
    engine : str
        ``loop``: each client is trained by itself. ``cohort``: many as one stacked model.
    cohorts : str
        The rule by which clients are put together; why they are not where the engine is the loop.
    threads_per_client : int
        Threads that torch uses for one client.
    aggregation : str
        The order and the type in which answers are added up.
    streams : str
        What random numbers are keyed by.
    device : str
    cpu_capability : str
        The vector instructions torch uses (such as AVX512): another set rounds differently.
    matmul_precision : {"highest", "high", "medium"}
        How torch may round inside products of float32 matrices.
    mkldnn : bool
        Whether torch uses oneDNN, whose convolutions and products round differently.
    default_dtype : str
        The type of weights and numbers that are given none.
    deterministic_algorithms : bool
        Whether torch was told to use deterministic algorithms alone.
    machine, torch, numpy, flwr, seed
    """

    engine: str
    cohorts: str
    threads_per_client: int
    aggregation: str
    streams: str
    device: str
    cpu_capability: str
    matmul_precision: str
    mkldnn: bool
    default_dtype: str
    deterministic_algorithms: bool
    machine: str
    torch: str
    numpy: str
    flwr: str
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return asdict(self)


def make_plan(experiment: Experiment, device: torch.device) -> NumericsPlan:
    """Return the plan by which a run of ``experiment`` makes its numbers here.

    Raises
    ------
    ExperimentError
        If ``engine="cohort"`` was asked for and cannot be.
    """
    engine = choose_engine(experiment, device)
    aggregation = "client order, types of the parameters"
    if takes_means(experiment):
        of_each = "the mean of each cohort, those in " if engine.name == "cohort" else ""
        aggregation = f"{of_each}client order, a running mean in double precision"
    return NumericsPlan(
        engine=engine.name,
        cohorts=engine.rule,
        threads_per_client=1,
        aggregation=aggregation,
        streams="seed, purpose, round, client",
        device=device.type,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        matmul_precision=torch.get_float32_matmul_precision(),
        mkldnn=bool(torch.backends.mkldnn.enabled),
        default_dtype=str(torch.get_default_dtype()).removeprefix("torch."),
        deterministic_algorithms=torch.are_deterministic_algorithms_enabled(),
        machine=platform.machine(),
        torch=torch.__version__,
        numpy=np.__version__,
        flwr=version("flwr"),
        seed=experiment.seed,
    )


def pick_device(name: str) -> torch.device:
    """Return the device of a setting: ``auto`` is a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
