"""Put one small batch through a model before anything runs: what does not fit is said at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flautim_lab.errors import DatasetError, ExperimentError, FlautimError, ModelError
from flautim_lab.experiment import loops
from flautim_lab.experiment.client_data import ClientData
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.draws import may_draw, reads_global_random, refuse_global_random
from flautim_lab.experiment.loops import is_pair
from flautim_lab.experiment.model_state import check_own_weights, check_state
from flautim_lab.experiment.strategies import client_halves
from flautim_lab.experiment.streams import PrivateGlobals, PrivateRandom, stream, stream_seed

if TYPE_CHECKING:
    from flautim_lab.experiment.experiment import Experiment

CHECKED_ROWS = 8


@dataclass(frozen=True)
class ModelFacts:
    """What one batch told of a model.

    Attributes
    ----------
    draws : bool
        Its training draws random numbers (dropout, noise, augmentation).
    measured : bool
        Metrics beside the loss can be computed.
    parameters : int
        How many numbers are trained.
    has_batch_norm : bool
        It cannot train on a batch of one row.
    data_draws_globally : bool
        The dataset's code draws from ``random`` or ``numpy.random``.
    draws_in_backward : bool
        Gradients or the optimizer's step draw random numbers (noise in a hook).
    """

    draws: bool
    measured: bool
    parameters: int
    has_batch_norm: bool
    data_draws_globally: bool = False
    draws_in_backward: bool = False


def check_model(experiment: Experiment) -> ModelFacts:
    """Build the model, put a batch through it and its loss, and say what does not fit.

    Raises
    ------
    ModelError
        If it cannot be built, fails on the batch, or its output does not fit the target.
    """
    name = experiment.model_name
    model = experiment.build_model()
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}() gave {type(model).__name__}, not an nn.Module; return a model")
    refuse_global_random(experiment, model)
    check_state(model, name)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if parameters == 0:
        raise ModelError(f"{name} has no parameters to train")
    check_own_weights(experiment, model)
    has_batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    own_loops = experiment.own_training_loop or experiment.own_validation_loop
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        PrivateRandom(stream(experiment.seed, "check")) as random,
    ):
        if has_batch_norm and not experiment.own_training_loop:
            _check_batches_of_one(experiment, model, name)
        batch, globally = _small_batch(experiment)
        if experiment.own_training_loop and not experiment.own_loss and not is_pair(batch):
            return ModelFacts(True, False, parameters, has_batch_norm, globally)
        outputs = _outputs(experiment, model, batch, name)
        if outputs is not None and not experiment.own_loss and not experiment.own_training_loop:
            _check_outputs(experiment, outputs, batch[1], name)
        own_loop = experiment.own_training_loop
        loss = outputs if own_loop else _check_loss(experiment, model, batch)
        draws = random.draws
        if loss is not None and loss.requires_grad:
            _check_gradients(experiment, model, loss.sum(), random, name)
        draws_in_backward = random.draws > draws
        measured = outputs is not None and _check_metrics(experiment, outputs, batch[1])
        if is_pair(batch) and outputs is not None:
            model.eval()  # some draw only when they do not train
            model(batch[0])
        draws = random.draws
        if not own_loop:
            _check_step(experiment, model, name)
        draws_in_backward = draws_in_backward or random.draws > draws
    return ModelFacts(
        draws=random.draws > 0 or own_loops or may_draw(experiment, model),
        measured=measured,
        parameters=parameters,
        has_batch_norm=has_batch_norm,
        data_draws_globally=globally,
        draws_in_backward=draws_in_backward,
    )


def _small_batch(experiment: Experiment, rows: int = CHECKED_ROWS) -> tuple[Any, bool]:
    """Return a batch, and whether reading it draws from the process-wide generators."""
    largest = max(range(len(experiment.splits)), key=lambda c: len(experiment.splits[c].train))
    # A worker has the rows of its own institution alone: the sample is the same everywhere.
    data = ClientData(experiment, largest, at_home=False)
    if isinstance(experiment.dataset, CSVDataset) and experiment.dataset.standardize:
        data.use_scale(data.sums().scale())
    private = PrivateGlobals(stream_seed(experiment.seed, "check"))
    batches = data.batches("train", reading=private)
    batches.batch_size = rows
    try:
        batch = next(iter(batches))
        return batch, private.moved or reads_global_random(experiment.dataset)
    except FlautimError:
        raise
    except Exception as error:
        raise DatasetError(
            f"the first rows cannot be made a batch ({type(error).__name__}: "
            f"{_first_line(error)}); every row must have the same shape"
        ) from error


def _outputs(experiment: Experiment, model: nn.Module, batch: Any, name: str) -> Tensor | None:
    """Return the model's outputs on (inputs, targets); None where that is not how it is used."""
    if not is_pair(batch):
        if experiment.own_loss:
            return None
        raise ModelError(
            f"the dataset gives {_shown(batch)}, not (inputs, targets); "
            "write your own loss(model, batch)"
        )
    model.train()
    try:
        outputs = model(batch[0])
    except FlautimError:
        raise
    except Exception as error:
        if experiment.own_loss:
            return None
        inputs = batch[0]
        if not isinstance(inputs, Tensor):
            texts = isinstance(inputs, (tuple, list)) and isinstance(inputs[0], str)
            what = "texts" if texts else "inputs"
            raise ModelError(
                f"{name} fails on a batch of {loops.rows_of(batch)} {what}: {_first_line(error)}"
            ) from error
        raise ModelError(
            f"{name} fails on a batch of shape {tuple(inputs.shape)}: {_first_line(error)}; "
            f"one row of the dataset has shape {tuple(inputs.shape[1:])}"
        ) from error
    return outputs if isinstance(outputs, Tensor) else None


def _check_outputs(experiment: Experiment, outputs: Tensor, targets: Tensor, name: str) -> None:
    rows = targets.shape[0]
    if outputs.ndim == 0 or outputs.shape[0] != rows:
        raise ModelError(
            f"{name} gives an output of shape {tuple(outputs.shape)} for {rows} rows; "
            f"its first dimension must be {rows}"
        )
    per_row = outputs.numel() // rows
    if experiment.task == "classification":
        classes = experiment.info.n_classes or int(targets.max()) + 1
        if outputs.ndim == 1 or outputs.shape[1] == 1:
            if classes > 2:
                raise ModelError(
                    f"{name} gives 1 number per row and the target has {classes} classes; "
                    f"make its last layer give {classes}"
                )
        elif outputs.shape[1] < classes:
            raise ModelError(
                f"{name} gives {outputs.shape[1]} numbers per row and the target has "
                f"{classes} classes; make its last layer give {classes}"
            )
    elif experiment.task == "regression" and per_row != targets.numel() // rows:
        wanted = targets.numel() // rows
        raise ModelError(
            f"{name} gives {per_row} numbers per row and the target has {wanted}; "
            f"make its last layer give {wanted}"
        )


def _check_loss(experiment: Experiment, model: nn.Module, batch: Any) -> Tensor:
    try:
        loss = experiment.loss(model, batch)
    except FlautimError:
        raise
    except Exception as error:
        raise ModelError(
            f"the loss fails on a first batch: {type(error).__name__}: {_first_line(error)}"
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shown = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ModelError(f"loss(model, batch) must return one number as a tensor, not {shown}")
    if not loss.requires_grad:
        raise ModelError(
            "the loss does not depend on the model's parameters; "
            "compute it from model(...) without detach() or .item()"
        )
    return loss


def _check_gradients(
    experiment: Experiment, model: nn.Module, loss: Tensor, random: PrivateRandom, name: str
) -> None:
    """Refuse gradients that cannot be repeated, or that FedProx cannot add its term to."""
    recorded = random.recorded
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except FlautimError:
        raise
    except Exception as error:
        if experiment.own_training_loop:
            return  # which need not want the gradients of these outputs
        raise ModelError(
            f"the gradients of {name} fail on a first batch: {type(error).__name__}: "
            f"{_first_line(error)}"
        ) from error
    # With gradients recorded, something is computed forward once more. It would draw other numbers
    # than the first time: torch's checkpoint brings back the state of the global generator alone.
    if random.recorded > recorded:
        raise ModelError(
            f"{name} draws random numbers (dropout) in a part that activation checkpointing "
            "computes again for its gradients, which would then be of other numbers; leave "
            "torch.utils.checkpoint out, or take the dropout out of that part"
        )
    proximal = isinstance(experiment.strategy, str) and "proximal" in client_halves(
        experiment.strategy, experiment.strategy_args
    )
    sparse = _sparse_gradient(model)
    if proximal and sparse and not experiment.centralized:
        raise ModelError(
            f"the gradient of {sparse!r} in {name} is sparse, and FedProx adds a dense term to "
            "it; leave sparse=True out, or use strategy='FedAvg'"
        )


def _sparse_gradient(model: nn.Module) -> str | None:
    named = model.named_parameters()
    return next((name for name, p in named if p.grad is not None and p.grad.is_sparse), None)


def _check_step(experiment: Experiment, model: nn.Module, name: str) -> None:
    """Take one step with the experiment's optimizer: some refuse sparse gradients."""
    kind = experiment.optimizer
    try:
        optimizer = experiment.make_optimizer(model)
        kind = type(optimizer).__name__
        optimizer.step()
    except FlautimError:
        raise
    except Exception as error:
        sparse = _sparse_gradient(model)
        hint = ""
        if sparse is not None:
            hint = f"; the gradient of {sparse!r} is sparse: leave sparse=True out, or use 'SGD'"
        raise ModelError(f"{kind} cannot train {name}: {_first_line(error)}{hint}") from error


def _check_batches_of_one(experiment: Experiment, model: nn.Module, name: str) -> None:
    """Refuse batch normalization that is to train on one row: it has no variance to divide by."""
    fewest = min(range(len(experiment.splits)), key=lambda c: len(experiment.splits[c].train))
    if experiment.batch_size > 1 and len(experiment.splits[fewest].train) > 1:
        return
    model.train()
    try:
        experiment.loss(model, _small_batch(experiment, rows=1)[0])
    except Exception as error:
        if "more than 1 value per channel" not in str(error):
            return  # whatever it is, the checks that follow have words for it
        if experiment.batch_size == 1:
            where = "batch_size is 1; use batch_size=2 or more"
        else:
            named = experiment.client_names[fewest]
            where = f"{named} has one row to train on; use fewer clients"
        raise ModelError(
            f"{name} has batch normalization, which cannot train on a batch of one row, and "
            f"{where}, or another normalization such as nn.GroupNorm"
        ) from error


def _check_metrics(experiment: Experiment, outputs: Tensor, targets: Tensor) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # eight rows may lack a class; the run's rows may not
            measures = experiment.metrics(outputs.detach(), targets)
    except Exception as error:
        if experiment.own_metrics:
            raise ExperimentError(
                f"metrics(outputs, targets) fails on a first batch: {type(error).__name__}: "
                f"{_first_line(error)}"
            ) from error
        return False  # the default measures do not suit a loss of the researcher's own
    if not isinstance(measures, dict):
        raise ExperimentError(
            f"metrics(outputs, targets) must return a dict of numbers, not {measures!r}"
        )
    taken = loops.taken_name(["loss", *measures])
    if taken is not None:
        raise ExperimentError(f"metrics(outputs, targets) {loops.rename(taken)}")
    for key, value in measures.items():
        try:
            float(value)
        except (TypeError, ValueError):
            raise ExperimentError(f"the metric {key!r} must be one number, not {value!r}") from None
    return bool(measures)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _shown(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"batches of one tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, (tuple, list)):
        return f"batches of {len(batch)} parts"
    return f"batches of type {type(batch).__name__}"
