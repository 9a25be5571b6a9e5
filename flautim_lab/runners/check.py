"""Check an experiment before it is saved, and say what it will cost; in a process with limits.

The panel's form asks here: the same checks as ``lab.Experiment(...)``, on code that nobody has
read yet. ``python -m flautim_lab.runners.check`` reads the question as JSON, and answers it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flautim_lab.catalog.things import Column, DatasetVersion, ModelVersion
from flautim_lab.errors import FlautimError
from flautim_lab.runners.apart import answer, ask_apart

if TYPE_CHECKING:
    from flautim_lab.experiment.experiment import Experiment

LIMIT_SECONDS = 120.0
LIMIT_CPU_SECONDS = 100
LIMIT_FILE_BYTES = 2**28  # that the code may write
LIMIT_MEMORY_BYTES = 16 * 2**30  # of addresses, of which torch alone takes some
MEASURED_SECONDS = 0.5
MEASURED_BATCHES = 20
SHOWN_CLIENTS = 50


@dataclass(frozen=True)
class Estimate:
    """What an experiment will be.

    Attributes
    ----------
    parameters : int
        Trainable ones of the model.
    rows, clients : int
    task : {"classification", "regression"}
    classes : tuple of str
        Empty for regression.
    held : tuple of (str, tuple of int)
        Of each client (the first 50) its name, and how many rows of each class it holds; of
        regression how many rows.
    seconds_per_round : float
        Of training, on one core like this one; measured on some batches of the first client.
    memory_bytes : int
        That a process needs which trains a client.
    """

    parameters: int
    rows: int
    clients: int
    task: str
    classes: tuple[str, ...]
    held: tuple[tuple[str, tuple[int, ...]], ...]
    seconds_per_round: float
    memory_bytes: int


def check_apart(
    data: Sequence[DatasetVersion],
    net: ModelVersion,
    settings: Mapping[str, Any],
    name: str = "",
    *,
    rows: str = "real",
) -> Estimate:
    """Check an experiment in a process of its own; on made-up rows before the data are granted.

    Parameters are those of :func:`flautim_lab.catalog.loading.assemble`.

    Raises
    ------
    FlautimError
        If it cannot be made, in the sentence that ``lab.Experiment`` would raise; if it takes more
        than two minutes, or dies.
    """
    question = {
        "data": [asdict(each) for each in data],
        "net": asdict(net),
        "settings": dict(settings),
        "name": name,
        "rows": rows,
    }
    told = ask_apart("flautim_lab.runners.check", question, LIMIT_SECONDS)
    held = tuple((name, tuple(rows)) for name, rows in told.pop("held"))
    return Estimate(held=held, classes=tuple(told.pop("classes")), **told)


def estimate(experiment: Experiment) -> Estimate:
    """Measure an experiment: some batches of one client, and what all clients hold."""
    import numpy as np

    seconds = _seconds_per_row(experiment) * experiment.local_epochs
    asked = experiment.asked_per_round
    trained = sum(len(split.train) for split in experiment.splits)
    share = trained if experiment.centralized else trained * asked / len(experiment.splits)
    targets = experiment.info.targets
    classes = experiment.info.classes if experiment.task == "classification" else None
    number = len(classes) if classes else 1
    held = []
    for name, split in list(zip(experiment.client_names, experiment.splits, strict=True))[
        :SHOWN_CLIENTS
    ]:
        rows = np.concatenate([split.train, split.validation])
        if classes and targets is not None:
            counts = np.bincount(np.asarray(targets)[rows].astype(int), minlength=number)
        else:
            counts = np.array([len(rows)])
        held.append((name, tuple(int(one) for one in counts)))
    return Estimate(
        parameters=sum(p.numel() for p in experiment.build_model().parameters() if p.requires_grad),
        rows=experiment.info.rows,
        clients=len(experiment.splits),
        task=str(experiment.task),
        classes=tuple(classes or ()),
        held=tuple(held),
        seconds_per_round=seconds * share,
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _seconds_per_row(experiment: Experiment) -> float:
    """Return what training on one row takes: the experiment's own loop on some batches."""
    import torch

    from flautim_lab.experiment.client_data import ClientData, pooled

    torch.set_num_threads(1)
    data = ClientData(experiment, 0)
    if _is_scaled(experiment):
        data.use_scale(pooled([data.sums()]).scale())
    model = experiment.build_model()
    rows, spent, first = 0, 0.0, 0.0
    for number, batch in enumerate(data.batches("train", drop_single=True)):
        began = time.perf_counter()
        experiment.training_loop(model, [batch])
        seconds = time.perf_counter() - began
        if not number:  # it loads what later ones find
            first = seconds / _length(batch)
            continue
        spent += seconds
        rows += _length(batch)
        if spent > MEASURED_SECONDS or number >= MEASURED_BATCHES:
            break
    return (spent / rows if rows else first) / experiment.local_epochs


def _is_scaled(experiment: Experiment) -> bool:
    return getattr(experiment.dataset, "standardize", None) is not None


def _length(batch: Any) -> int:
    first = batch[0] if isinstance(batch, tuple | list) else batch
    return len(first)


def _limit() -> None:
    """Bound what uploaded code may take."""
    for what, most in (
        (resource.RLIMIT_CPU, LIMIT_CPU_SECONDS),
        (resource.RLIMIT_FSIZE, LIMIT_FILE_BYTES),
        (resource.RLIMIT_AS, LIMIT_MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (soft, hard))


def main() -> int:
    """Answer the question on the input."""
    question = json.loads(sys.stdin.read())
    said, sys.stdout = sys.stdout, sys.stderr  # what the code prints is no answer of ours
    try:
        _limit()
        from flautim_lab.catalog.loading import assemble

        experiment = assemble(
            [_version(each) for each in question["data"]],
            ModelVersion(**question["net"]),
            question["settings"],
            question["name"],
            rows=question["rows"],
        )
        found = asdict(estimate(experiment))
    except FlautimError as error:
        found = {"error": str(error)}
    except MemoryError:
        found = {"error": "there is not memory enough to make this experiment; use fewer rows"}
    except Exception as error:  # noqa: BLE001 - code of somebody else
        found = {"error": f"the experiment fails: {type(error).__name__}: {error}"}
    finally:
        sys.stdout = said
    answer(found)
    return 0


def _version(told: Mapping[str, Any]) -> DatasetVersion:
    columns = [Column(**(one | {"values": tuple(one["values"])})) for one in told["columns"]]
    return DatasetVersion(**{**told, "columns": tuple(columns)})


if __name__ == "__main__":
    sys.exit(main())
