"""The loops over batches, in plain PyTorch: what a client does when the researcher leaves it to us.

``Experiment.training_loop`` and ``Experiment.validation_loop`` call these. Where only a ``loss``
is given the loop is ours, and may later be run for all clients of a round as one stacked model;
nothing outside this module may depend on its being a loop.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flautim_lab.errors import DivergedError, ModelError, TrainingError

if TYPE_CHECKING:
    from flautim_lab.experiment.experiment import Experiment

# Keys of Flower's own in the record that carries measures: the rows of an answer, and what
# adaptive clipping tells its strategy.
TAKEN_NAMES = ("num-examples", "norm_bit")

NO_CONTEXT: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


def default_loss(outputs: Tensor, targets: Tensor, task: str | None) -> Tensor:
    """Return the mean loss of a batch for a task.

    Cross entropy for classification (binary cross entropy where the model gives one number per
    row), mean squared error for regression.

    Parameters
    ----------
    outputs : Tensor
        (rows, classes), (rows, 1) or (rows,).
    targets : Tensor
        (rows,) or (rows, 1): class numbers of any whole type or true/false, or values.
    task : {"classification", "regression"} or None

    Raises
    ------
    ModelError
        If the task is not known, so that no loss can be chosen.
    """
    return _loss(outputs, targets, task, "mean")


def row_losses(outputs: Tensor, targets: Tensor, task: str | None) -> Tensor:
    """Return the loss of each row, shape (rows,); their mean is :func:`default_loss`.

    Parameters
    ----------
    outputs : Tensor
        As for :func:`default_loss`.
    targets : Tensor
        One number per row, (rows,) or (rows, 1).
    task : {"classification", "regression"} or None
    """
    return _loss(outputs, targets, task, "none").reshape(len(targets))


def _loss(outputs: Tensor, targets: Tensor, task: str | None, reduction: str) -> Tensor:
    numbers = numbers_of_classes(outputs, targets, task)
    if numbers is not None:
        return F.cross_entropy(outputs, numbers, reduction=reduction)
    if task == "classification":
        flat = outputs.reshape(targets.shape)
        wanted = targets.to(flat.dtype)
        return F.binary_cross_entropy_with_logits(flat, wanted, reduction=reduction)
    if task == "regression":
        flat = outputs.reshape(targets.shape)
        return F.mse_loss(flat, targets.to(outputs.dtype), reduction=reduction)
    raise ModelError(
        "the dataset does not say whether it is a classification or a regression; "
        "pass task='classification' or task='regression', or write your own loss(model, batch)"
    )


def numbers_of_classes(outputs: Tensor, targets: Tensor, task: str | None) -> Tensor | None:
    """Return the targets of cross entropy, (rows,); None where another loss is the default."""
    if task != "classification" or _is_binary(outputs, targets):
        return None
    return class_numbers(_without_column(outputs, targets))


def default_metrics(outputs: Tensor, targets: Tensor, task: str | None) -> dict[str, float]:
    """Return accuracy for classification, the mean absolute error for regression."""
    values = default_metrics_of_rows(outputs, targets, task)
    return {name: of_rows.mean().item() for name, of_rows in values.items()}


def default_metrics_of_rows(
    outputs: Tensor, targets: Tensor, task: str | None
) -> dict[str, Tensor]:
    """Return what :func:`default_metrics` are the means of: float64, of each target."""
    if task == "classification":
        if _is_binary(outputs, targets):
            predicted = (outputs.reshape(targets.shape) > 0).to(targets.dtype)
        else:
            predicted = outputs.argmax(dim=1)
            targets = _without_column(outputs, targets)
        return {"accuracy": (predicted == targets).double()}
    if task == "regression":
        return {"mae": (outputs.reshape(targets.shape) - targets).abs().double()}
    return {}


def class_numbers(targets: Tensor) -> Tensor:
    """Return class numbers as int64, which is what cross entropy takes; other targets as is."""
    whole = not targets.is_floating_point() and not targets.is_complex()
    return targets.long() if whole else targets


def _is_binary(outputs: Tensor, targets: Tensor) -> bool:
    """Return whether each target has one number of the outputs to itself: a score, yes or no."""
    return outputs.ndim == 1 or outputs.shape[1] == 1 or outputs.shape == targets.shape


def _without_column(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets of shape (rows, 1) as (rows,)."""
    return targets.squeeze(1) if targets.ndim == outputs.ndim else targets


def taken_name(names: Iterable[Any]) -> str | None:
    """Return a name of a measure that is taken: given twice, or a key of Flower's; else None."""
    seen = set(TAKEN_NAMES)
    for name in map(str, names):
        if name in seen:
            return name
        seen.add(name)
    return None


def rename(name: str) -> str:
    """Word a name that is taken, after the name of the function that returned it."""
    if name in TAKEN_NAMES:
        return f"returned a measure named {name!r}, which Flower uses itself; choose another name"
    return f"returned {name!r}, which stands for another measure already; choose another name"


def rows_of(batch: Any) -> int:
    """Return how many rows a batch holds: those of its first part, a tensor or a list of texts."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0])
    if isinstance(batch, Mapping):
        return rows_of(next(iter(batch.values())))
    if isinstance(batch, (tuple, list)) and batch:
        parts = isinstance(batch[0], (Tensor, Mapping, tuple, list))
        return rows_of(batch[0]) if parts else len(batch)
    return 1


def is_pair(batch: Any) -> bool:
    """Return whether a batch is (inputs, targets)."""
    return isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor)


def train(
    experiment: Experiment,
    model: nn.Module,
    loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    draw: Callable[[], contextlib.AbstractContextManager[Any]] = lambda: NO_CONTEXT,
) -> dict[str, float]:
    """Train ``model`` in place for the experiment's local epochs.

    Parameters
    ----------
    experiment : Experiment
        Gives ``loss`` and ``local_epochs``.
    model : nn.Module
        Trained in place.
    loader : iterable
        Batches; iterated once per epoch.
    optimizer : torch.optim.Optimizer
        Over the model's parameters.
    draw : callable
        Returns the context in which a batch is fetched and its loss computed (the client's private
        random stream).

    Returns
    -------
    dict
        ``{"loss": mean loss over all rows and epochs}``.

    Raises
    ------
    TrainingError
        If the loss is no longer finite.
    """
    model.train()
    total, rows = 0.0, 0
    for _ in range(experiment.local_epochs):
        for batch in _fetched(loader, draw):
            optimizer.zero_grad()
            with draw():
                loss = experiment.loss(model, batch)
            # Outside the context they are faster; few draw in their gradients.
            with draw() if experiment.facts.draws_in_backward else NO_CONTEXT:
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            count = rows_of(batch)
            value = loss.item()
            if not math.isfinite(value):
                raise DivergedError(why_not_finite(experiment, batch, value))
            total += value * count
            rows += count
    if rows == 0:
        raise TrainingError("there was no batch to train on; lower batch_size or validation")
    return {"loss": total / rows}


def why_not_finite(experiment: Experiment, batch: Any, value: float) -> str:
    """Return the sentence for a loss that is no longer finite."""
    parts = batch if isinstance(batch, (tuple, list)) else [batch]
    for name, part in zip(("inputs", "targets"), parts, strict=False):
        if isinstance(part, Tensor) and part.is_floating_point() and not part.isfinite().all():
            return f"the loss became {value}, since the {name} hold NaN or infinity; mend the data"
    return (
        f"the loss became {value}; lower lr (now {experiment.lr:g}), "
        "or scale the data and the targets"
    )


def check_trained(experiment: Experiment, model: nn.Module, loss: float) -> None:
    """Refuse what a client learned if it is no longer finite: averaged, it would spoil all.

    Frozen weights are not looked at: a mask may hold infinity.

    Raises
    ------
    DivergedError
        If the loss or a trained weight is NaN or infinite.
    """
    advice = f"lower lr (now {experiment.lr:g}), or scale the data and the targets"
    if not math.isfinite(loss):
        raise DivergedError(f"training_loop returned the loss {loss}; {advice}")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter.detach()).all()):
            raise DivergedError(
                f"the weight {name!r} became NaN or infinite while training; {advice}"
            )


def _fetched(
    loader: Iterable[Any], draw: Callable[[], contextlib.AbstractContextManager[Any]]
) -> Iterator[Any]:
    """Give the loader's batches, each fetched inside the context: a dataset may augment."""
    end = object()
    batches = iter(loader)
    while True:
        with draw():
            batch = next(batches, end)
        if batch is end:
            return
        yield batch


def validate(experiment: Experiment, model: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
    """Return loss and metrics of ``model`` over all batches; the model is not changed.

    The loss is the mean over rows; metrics are computed once over all rows together, so that one
    that is no mean (F1, R2) is exact for the client.

    Raises
    ------
    TrainingError
        If a metric has a name that is taken (``loss``, or a key of Flower's).
    """
    model.eval()
    total, rows = 0.0, 0
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    with torch.no_grad():
        for batch in loader:
            if experiment.own_loss:
                loss = experiment.loss(model, batch)
                if experiment.measured:
                    outputs.append(model(batch[0]))
            else:
                outputs.append(model(batch[0]))
                loss = default_loss(outputs[-1], batch[1], experiment.task)
            if experiment.measured:
                targets.append(batch[1])
            count = rows_of(batch)
            total += loss.item() * count
            rows += count
        if rows == 0:
            return {}
        result = {"loss": total / rows}
        if experiment.measured:
            result |= measured(experiment, torch.cat(outputs), torch.cat(targets))
    return result


def measured(experiment: Experiment, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the experiment's metrics over all rows of a client, as numbers.

    Raises
    ------
    TrainingError
        If one has a name that is taken (``loss``, or a key of Flower's).
    """
    measures = experiment.metrics(outputs, targets)
    taken = taken_name(["loss", *measures])
    if taken is not None:
        raise TrainingError(f"metrics(outputs, targets) {rename(taken)}")
    return {str(name): float(value) for name, value in measures.items()}
