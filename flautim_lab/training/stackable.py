"""May the clients of a round be trained as one stacked model, and how? A rule of the numerics plan.

The rule looks at the experiment and at nothing else: not at the machine's load, the number of
threads, workers or pods. So everybody who takes part comes to the same answer, and what is learned
does not depend on who trains whom.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flautim_lab.errors import ExperimentError
from flautim_lab.experiment.datasets import tensors
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.home_dataset import HomeDataset
from flautim_lab.experiment.loops import class_numbers
from flautim_lab.experiment.model_state import can_be_copied
from flautim_lab.experiment.side_effects import keeps_something, state_beside_weights
from flautim_lab.experiment.streams import PrivateRandom
from flautim_lab.training.cohort import Stack
from flautim_lab.training.one_thread import by_one_thread
from flautim_lab.training.printed import printed_here
from flautim_lab.training.stacked_layers import Layers, read_layers

__all__ = ["Engine", "choose_engine", "make_stack"]

# Fewer clients in a round are trained one after another: what a stack saves is soon too little,
# and each of several workers has clients of its own.
FEWEST = 10
# A cohort is at most so large: the stacked weights and what an optimizer keeps beside them stay in
# a core's cache, beyond which a stack is no faster than the loop.
MOST_CLIENTS = 128
MOST_NUMBERS = 2**19
WORTH_IT = 4  # clients; a cohort of fewer saves nothing
# Multiply-adds of one batch, forward, beyond which a core is busy with the numbers themselves. To
# torch.func.vmap a stack of convolutions is a grouped one, which is slower than as many plain ones.
MOST_WORK = {"cpu": 2**22, "cuda": 2**30}
MOST_CONVOLVED = {"cpu": 2**19, "cuda": 2**30}
# As steps of a stack they are plain ones, client after client, and are quicker for what is saved
# around them, with large batches too. But what each client keeps for the way back grows with them:
# of LeNet some 7 MB here.
MOST_CONVOLVED_AS_STEPS = 2**26
# More clients than this save no more. Beside convolutions, weights that leave a core's cache do not
# matter; their number is bounded for the memory that the stack takes.
MOST_CONVOLVING = 16
MOST_NUMBERS_CONVOLVING = 2**23
PARTS = 4  # a round has so many cohorts at least, for as many threads or workers, if large enough
# Threads and workers are most often even in number. So are cohorts, as long as they keep this share
# of the clients that they may have: else some wait for the one that trains a cohort more.
FULL_ENOUGH = 0.75
# All that are evaluated have one model, whose size says nothing of how many go together. Twice as
# many parts as that leave a notebook's threads with a tenth more to do for small models.
EVALUATED_PARTS = 8

_known: weakref.WeakKeyDictionary[Experiment, dict[str, Engine]] = weakref.WeakKeyDictionary()
_choosing = threading.RLock()


@dataclass(frozen=True)
class Engine:
    """How the clients of a round are trained.

    Attributes
    ----------
    name : str
        ``loop``: one after another. ``cohort``: many together.
    clients : int
        How many at most are together in one cohort.
    products : bool
        The layers are run as products of stacks; else by ``torch.func.vmap``.
    filled : bool
        Batches of unequal size are filled up; else those of one size go together.
    layers : Layers
        What was read from the model's ``forward``.
    measures : bool
        Rows of several clients are measured as one batch of the model.
    why : str
        Why it is the loop, in words that go on after "since".
    """

    name: str = "loop"
    clients: int = 1
    products: bool = False
    filled: bool = False
    layers: Layers = field(default=Layers(False), compare=False, repr=False)
    measures: bool = False
    why: str = ""

    @property
    def rule(self) -> str:
        """How cohorts are made, for the numerics plan; why there are none where it is the loop."""
        if self.name == "loop":
            return f"none, since {self.why}"
        how = "products of stacks" if self.products else "torch.func.vmap"
        fill = "filled up" if self.filled else "grouped by size"
        told = (
            f"at most {self.clients} clients in their order, cohorts even in number if they can "
            f"be, {how}, uneven batches {fill}"
        )
        if not self.measures:
            return told
        parts, most = EVALUATED_PARTS, MOST_CLIENTS
        return f"{told}; evaluated as one batch: a part of {parts}, {FEWEST} to {most} clients"

    def blocks(
        self, experiment: Experiment, clients: Sequence[int], *, evaluated: bool = False
    ) -> list[list[int]]:
        """Return clients, sorted, as cohorts: those of one place together, by number.

        All cohorts of a place are as large, or larger by one. Those that are ``evaluated`` may be
        larger than those that are trained: there is one model for all of their clients.
        """
        dataset, of = experiment.dataset, len(experiment.splits)
        most = self.clients
        if evaluated and self.measures:
            most = min(MOST_CLIENTS, max(FEWEST, -(-len(clients) // EVALUATED_PARTS)))
        at: dict[str, list[int]] = {}
        for client in clients:
            place = dataset.place(client, of)[0] if isinstance(dataset, HomeDataset) else ""
            at.setdefault(place, []).append(client)
        return [
            [int(client) for client in part]
            for there in at.values()
            for part in np.array_split(there, _number_of_cohorts(len(there), most))
        ]


def choose_engine(experiment: Experiment, device: torch.device) -> Engine:
    """Return how the clients of ``experiment`` are trained on a device; the same for everybody.

    Raises
    ------
    ExperimentError
        If ``engine="cohort"`` was asked for and cannot be.
    """
    with _choosing:
        known = _known.setdefault(experiment, {})
        if device.type not in known:
            known[device.type] = _choose(experiment, device)
    engine = known[device.type]
    if experiment.engine == "cohort" and engine.name == "loop":
        raise ExperimentError(
            f"engine='cohort' cannot be, since {engine.why}; leave it out, or use engine='loop'"
        )
    return engine


def make_stack(experiment: Experiment, engine: Engine, model: nn.Module) -> Stack:
    """Return what trains cohorts, around a model that nobody else uses."""
    return Stack(
        experiment,
        model.train(),
        engine.layers,
        products=engine.products,
        filled=engine.filled,
    )


def _number_of_cohorts(clients: int, most: int) -> int:
    """Return into how many cohorts clients are divided, with so many in one at most."""
    fewest = -(-clients // most)
    for of in (PARTS, 2):
        even = -(-fewest // of) * of
        if clients // even >= FULL_ENOUGH * most:
            return even
    return fewest


def _choose(experiment: Experiment, device: torch.device) -> Engine:
    if experiment.engine == "loop":
        return Engine(why="engine='loop' was asked for")
    for why in _outside_the_model(experiment):
        return Engine(why=why)
    model = experiment.build_model().train()
    for why in _of_the_model(experiment, model):
        return Engine(why=why)
    layers = read_layers(model)
    default = not experiment.own_loss
    products = default and layers.steps is not None and _one_target(experiment)
    if layers.convolves and device.type != "cpu":
        products = False  # one client after another would leave a GPU idle
    if experiment.facts.draws and not _draws_in_layers_alone(experiment, layers, products, device):
        return Engine(why="the model or the loss draws random numbers outside of nn.Dropout layers")
    forced = experiment.engine == "cohort"
    clients = _most(experiment, convolving=products and layers.convolves)
    if not forced and clients < WORTH_IT:
        count = sum(p.numel() for p in model.parameters())
        return Engine(why=f"its {count} weights keep a core busy by themselves")
    filled = default and layers.row_by_row and _one_target(experiment)
    engine = Engine(
        "cohort",
        max(clients, 2 if forced else WORTH_IT),
        products=products,
        filled=filled,
        layers=layers,
        # Metrics of the researcher's own may draw, from a stream of each client.
        measures=filled
        and not experiment.own_validation_loop
        and not (experiment.facts.draws and experiment.own_metrics),
    )
    why = by_one_thread(lambda: _tried(experiment, engine, device, forced))
    return engine if not why else Engine(why=why)


def _outside_the_model(experiment: Experiment) -> Iterator[str]:
    asked = experiment.asked_per_round
    if experiment.own_training_loop:
        yield "the experiment has a training_loop of its own"
    if type(experiment).make_optimizer is not Experiment.make_optimizer:
        yield "the experiment makes an optimizer of its own"
    if experiment.centralized:
        yield "one model is trained on all rows"
    if asked < (2 if experiment.engine == "cohort" else FEWEST):
        yield f"a round asks {asked} clients, and a cohort is worth it from {FEWEST}"
    if experiment.round_timeout_seconds is not None:
        yield "a round has a time limit, and each client answers for itself"
    if tensors(experiment.dataset) is None:
        yield "the dataset's own code reads each row"


def _of_the_model(experiment: Experiment, model: nn.Module) -> Iterator[str]:
    if experiment.facts.has_batch_norm:
        yield "batch normalization keeps statistics of each client's batches"
    for module in model.modules():
        kind = type(module).__name__
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            if module.sparse:
                yield f"the gradients of {kind} are sparse"
            if module.padding_idx is not None or module.scale_grad_by_freq:
                # torch.func.vmap gives the padding a gradient.
                yield f"{kind} leaves some gradients out (padding_idx, scale_grad_by_freq)"
            if module.max_norm is not None:
                yield f"{kind} changes its weights when it is called (max_norm)"
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            yield f"{kind} keeps statistics of each client's batches"
    if not can_be_copied(model) or any(_hooks(module) for module in model.modules()):
        yield "the model has hooks, or functions that hold on to it"
    kinds = dict.fromkeys(type(module) for module in model.modules())
    own = [type(experiment)] if experiment.own_loss else []
    where = keeps_something([*kinds, *own])
    if where is not None:
        yield f"{where} keeps something beside the weights"
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            shown = str(parameter.dtype).removeprefix("torch.")
            yield f"the weight {name!r} is of type {shown}"
    if experiment.facts.draws_in_backward:
        yield "gradients draw random numbers"


def _hooks(module: nn.Module) -> bool:
    return any(value for name, value in vars(module).items() if name.endswith("_hooks") and value)


def _one_target(experiment: Experiment) -> bool:
    """Return whether each row has one number as its target, so that a mean is one over rows."""
    whole = tensors(experiment.dataset)
    return (
        whole is not None
        and experiment.info.targets is not None
        and whole[1].ndim <= 2
        and whole[1].numel() == len(whole[1])
    )


def _draws_in_layers_alone(
    experiment: Experiment, layers: Layers, products: bool, device: torch.device
) -> bool:
    """Return whether training draws in nn.Dropout layers that are run as products, or not at all.

    Their draws can be made one client after another, each from its own stream.
    """
    if layers.steps is None or experiment.own_loss or not products:
        return False
    return not layers.drops or device.type == "cpu"


def _most(experiment: Experiment, *, convolving: bool) -> int:
    """Return how many clients a cohort has at most."""
    numbers, most = MOST_NUMBERS, MOST_CLIENTS
    if convolving:
        numbers, most = MOST_NUMBERS_CONVOLVING, MOST_CONVOLVING
    fits = numbers // max(experiment.facts.parameters, 1)
    shared = max(FEWEST, -(-experiment.asked_per_round // PARTS))
    return min(most, fits, shared)


def _keeps_busy(engine: Engine, device: str, work: int, convolved: int) -> bool:
    """Return whether a batch of one client is enough for a core.

    ``work`` and ``convolved`` are multiply-adds, forward: in all, and those of convolutions.
    """
    most, most_convolved = (
        limits.get(device, limits["cpu"]) for limits in (MOST_WORK, MOST_CONVOLVED)
    )
    if engine.products and engine.layers.convolves:
        return work - convolved > most or convolved > MOST_CONVOLVED_AS_STEPS
    return work > most or convolved > most_convolved


def _tried(experiment: Experiment, engine: Engine, device: torch.device, forced: bool) -> str:
    """Try a cohort beside the loop, on a few rows; return why it cannot be, or "".

    What the rules above have not foreseen is seen here: operators that cannot be stacked, control
    flow that depends on numbers, state that changes, printing.
    """
    trial = _Trial(experiment, engine)
    try:
        with printed_here() as printed, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            work, convolved = trial.work()
            if not forced and _keeps_busy(engine, device.type, work, convolved):
                return "each batch keeps a core busy by itself"
            different = trial.different()
    except Exception as error:  # noqa: BLE001 - whatever it is, the loop does not meet it
        lines = str(error).strip().splitlines() or [""]
        return f"it cannot be stacked ({type(error).__name__}: {lines[0][:200]})"
    if printed.text:
        return "its code prints"
    if any("performance drop" in str(warning.message) for warning in warned):
        return "torch.func.vmap has no stacked form of one of its operators"
    return different


class _Trial:
    """A few clients with a few rows each, trained as a cohort and in the loop."""

    def __init__(self, experiment: Experiment, engine: Engine) -> None:
        self._experiment = experiment
        self._engine = engine
        whole = tensors(experiment.dataset)
        if whole is None:  # the rule has been asked before
            raise TypeError("the dataset's own code reads each row")
        rows = min(8, experiment.batch_size, len(whole[1]))
        self._x, y = whole[0][: 2 * rows], whole[1][: 2 * rows]
        self._y = class_numbers(y) if y.dtype is not torch.bool else y
        if experiment.task != "classification":
            self._y = y
        if self._x.is_floating_point():
            self._x = self._x.nan_to_num(0.0)
        # Of unequal size, where there is more than one row: what mixes rows is seen by that.
        self._counts = np.array([rows, rows, max(rows - 1, 1)])
        generator = torch.Generator().manual_seed(experiment.seed)
        self._places = torch.stack(
            [torch.randperm(len(self._y), generator=generator)[:rows] for _ in self._counts]
        )
        self._models = [experiment.build_model().train() for _ in self._counts]
        with torch.no_grad():
            for model in self._models:
                for parameter in model.parameters():
                    # Weights that are zero at first would hide what they are multiplied with.
                    noise = torch.randn(parameter.shape, generator=generator) * 0.05
                    parameter.add_(noise.to(parameter.dtype))

    def work(self) -> tuple[int, int]:
        """Return the multiply-adds of one batch, forward: in all, and those of convolutions."""
        if self._engine.products and self._x.ndim <= 2 and not self._engine.layers.convolves:
            # One for each weight, and no import.
            return self._experiment.facts.parameters * self._experiment.batch_size, 0
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter, PrivateRandom(torch.Generator()):
            self._experiment.loss(self._models[0], self._batch(0))
        counts = counter.get_flop_counts()["Global"]
        share = self._experiment.batch_size / int(self._counts[0])
        work = sum(counts.values()) // 2
        convolved = sum(n for name, n in counts.items() if "conv" in str(name)) // 2
        return int(work * share), int(convolved * share)

    def different(self) -> str:
        """Return what differs between the cohort and the loop, in words; "" if nothing does."""
        stack = make_stack(self._experiment, self._engine, self._experiment.build_model())
        names = [n for n, p in self._models[0].named_parameters() if p.requires_grad]
        weights = {
            name: torch.stack([dict(m.named_parameters())[name].detach() for m in self._models])
            for name, _ in self._models[0].named_parameters()
        }
        for name in names:
            weights[name].requires_grad_()
        before = [state_beside_weights(model) for model in self._models]
        buffers = [self._buffers(model) for model in self._models]
        own = dict(vars(self._experiment))
        ours = [torch.Generator().manual_seed(1 + place) for place in range(len(self._models))]
        theirs = [torch.Generator().manual_seed(1 + place) for place in range(len(self._models))]
        for _ in range(2):  # twice: a counter is another one by then
            x, y = self._x[self._places], self._y[self._places]
            losses, found = stack.gradients(weights, names, x, y, self._counts, ours)
            for place, model in enumerate(self._models):
                with PrivateRandom(theirs[place]):
                    loss = self._experiment.loss(model, self._batch(place))
                model.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                if not _near(losses[place], loss.reshape(())):
                    return "a stack of clients has other losses than the loop"
                own_weights = dict(model.named_parameters())
                for name, gradient in zip(names, found, strict=True):
                    wanted = own_weights[name].grad
                    if (gradient is None) != (wanted is None):
                        return f"the weight {name!r} has a gradient at times only"
                    if gradient is not None and not _near(gradient[place], wanted):
                        return "a stack of clients has other gradients than the loop"
        if [state_beside_weights(model) for model in self._models] != before:
            return "the model keeps something beside its weights"
        if not all(
            torch.equal(a, b)
            for old, model in zip(buffers, self._models, strict=True)
            for a, b in zip(old, self._buffers(model), strict=True)
        ):
            return "the model changes its buffers while it trains"
        if dict(vars(self._experiment)) != own:
            return "the loss keeps something"
        return ""

    def _batch(self, place: int) -> tuple[Tensor, Tensor]:
        rows = self._places[place][: self._counts[place]]
        return self._x[rows], self._y[rows]

    @staticmethod
    def _buffers(model: nn.Module) -> list[Tensor]:
        return [buffer.clone() for buffer in model.buffers()]


def _near(ours: Tensor, theirs: Any) -> bool:
    """Return whether two tensors agree within what rounding may do, on the scale of the larger."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    scale = max(float(theirs.abs().max()), float(ours.abs().max())) if theirs.numel() else 0.0
    return bool(((ours - theirs).abs() <= 1e-3 * scale + 1e-7).all())
