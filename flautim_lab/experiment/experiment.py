"""The experiment: what is learned, from what, how. Frozen, checked when it is made. Read first."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from flautim_lab.errors import BundleError, ExperimentError, ModelError
from flautim_lab.experiment import archive, loops, settings
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.client_data import Rows, split_rows
from flautim_lab.experiment.datasets import DatasetInfo, column, describe, make_dataset
from flautim_lab.experiment.frozen import frozen_in_words
from flautim_lab.experiment.home_dataset import HomeDataset, check_homes, home_names
from flautim_lab.experiment.model_check import ModelFacts, check_model
from flautim_lab.experiment.partition import Assignment, Evenly, Partition, evenly
from flautim_lab.experiment.strategies import STRATEGIES, check_strategy, client_halves
from flautim_lab.experiment.streams import PrivateGlobals, PrivateRandom, stream_seed
from flautim_lab.names import check_name, choose

TASKS = ("classification", "regression")
SYNONYMS = {"epochs": "local_epochs", "learning_rate": "lr", "num_rounds": "rounds"}
HOOKS = ("loss", "metrics", "training_loop", "validation_loop")


@frozen_in_words
@dataclass(frozen=True, eq=False, repr=False)
class Experiment:
    """What is learned: a dataset, a model, how the rows are spread, and how it is trained.

    Parameters
    ----------
    dataset : CSVDataset, torch Dataset, or a class of one
        A class is made with ``dataset_args``.
    model : class or function
        An ``nn.Module`` class, or a function that returns one; made with ``model_args``.
    name : str, optional
        Any letters, no slash. The model's and the dataset's names by default.
    clients : int, optional
        How many clients take part. May be left out with ``lab.by_column``, which implies it.
    partition : Partition
        Which rows each client holds: ``lab.evenly()`` (default), ``lab.by_label(alpha=)``,
        ``lab.by_size(...)``, ``lab.by_column(name)``.
    strategy : str, Flower Strategy, or a function that returns one
        A name of ``flwr.serverapp.strategy`` (all but FedXgb).
    strategy_args : dict
        The strategy's own arguments, such as ``{"proximal_mu": 0.1}`` for FedProx.
    rounds, local_epochs, batch_size : int
        Rounds of the federation, epochs per client and round, rows per batch.
    optimizer : str, or a class of ``torch.optim``
        The client's optimizer; kept as its name. Override ``make_optimizer`` for one of your own.
    optimizer_args : dict
        Its arguments beside ``lr``, such as ``{"momentum": 0.9}``.
    lr : float
        The client's learning rate.
    seed : int
        Keys every random number of the run.
    clients_per_round : int, optional
        How many clients train in a round, drawn at random; all by default.
    min_clients : int, optional
        How many must answer for a round to count; all that were asked by default when there is a
        ``round_timeout_seconds``, else one.
    round_timeout_seconds : float, optional
        How long a round waits for its clients; without it every client is waited for.
    validation : float
        Share of each client's rows held back for validation.
    evaluate_every : int
        Validate after every so many rounds (and after the last one).
    device : {"auto", "cpu", "cuda"}
        Where the clients train. ``auto`` takes a GPU if there is one.
    engine : {"auto", "loop", "cohort"}
        How the clients of a round train: ``loop`` is one after another, ``cohort`` many as one
        stacked model, the same within rounding. ``auto`` takes the cohort where the loop is ours,
        the model can be stacked, and that is faster; the run's plan says which, and why.
    task : {"classification", "regression"}, optional
        Found from the target by default.
    centralized : bool
        Train one model on the rows of all clients instead: the baseline of this experiment.

    Raises
    ------
    ExperimentError
        For a setting that cannot work, in one sentence with the value, the choices, the next step.
        :class:`DatasetError` and :class:`ModelError` derive from it.

    Notes
    -----
    Subclass it to write your own ``loss(self, model, batch)``, ``metrics(self, outputs, targets)``,
    ``training_loop(self, model, loader)`` or ``validation_loop(self, model, loader)``, as
    Flautim's own API has them. Prefer ``loss``: then the loop stays ours.

    Random numbers that a model, a loss or a loop draws with torch come from the run's own streams,
    keyed by ``seed``, round and client. The functions of ``random`` and ``numpy.random`` share one
    generator in the whole process and are refused there; a generator of your own, such as
    ``numpy.random.default_rng(seed)``, is yours to seed. A dataset may use them: one client reads
    at a time, from a private state, and yours is put back after each batch (what the notebook
    draws from them in that instant is not reproducible). A dataset class is made so too.
    """

    dataset: Any
    model: Any
    _: dataclasses.KW_ONLY
    name: str = ""
    clients: int | None = None
    partition: Partition = dataclasses.field(default_factory=evenly)
    strategy: Any = "FedAvg"
    strategy_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rounds: int = 10
    local_epochs: int = 1
    batch_size: int = 32
    optimizer: Any = "SGD"
    optimizer_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lr: float = 0.01
    seed: int = 0
    clients_per_round: int | None = None
    min_clients: int | None = None
    round_timeout_seconds: float | None = None
    validation: float = 0.2
    evaluate_every: int = 1
    device: str = "auto"
    engine: str = "auto"
    model_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: str | None = None
    centralized: bool = False

    # Derived when it is made; not settings.
    dataset_class: type | None = dataclasses.field(init=False, default=None)
    dataset_draws: bool = dataclasses.field(init=False, default=False)
    info: DatasetInfo = dataclasses.field(init=False)
    client_names: tuple[str, ...] = dataclasses.field(init=False)
    splits: tuple[Rows, ...] = dataclasses.field(init=False)
    facts: ModelFacts = dataclasses.field(init=False)

    def __new__(cls, *_values: Any, **settings: Any) -> Self:
        """Word an unknown setting as everywhere else, before Python does."""
        if cls.__init__ is Experiment.__init__:
            known = [field.name for field in dataclasses.fields(Experiment) if field.init]
            for name in settings:
                meant = SYNONYMS.get(name)
                if meant is not None:
                    raise ExperimentError(f"no setting named {name!r}; it is called {meant!r} here")
                choose(name, known, "setting")
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Warn of a method whose name is nearly that of a hook: it would never be called."""
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if name.startswith("_") or not callable(value) or hasattr(Experiment, name):
                continue
            close = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.7)
            if close:
                warnings.warn(
                    f"{cls.__name__}.{name} is never called by a run; "
                    f"did you mean {close[0]!r}? a run calls {', '.join(HOOKS)}",
                    stacklevel=2,
                )

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_dataset()
        self._check_clients()
        self._check_strategy()
        if not self.name:
            self._set("name", settings.as_name(f"{self.model_name} on {self.info.name}"))
        self._set("name", check_name(self.name))
        self._set("facts", ModelFacts(False, False, 0, False))
        self._set("facts", check_model(self))

    # --- what a researcher may override --------------------------------------------------

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of one batch, a tensor of one number that depends on the model.

        The default takes ``inputs, targets = batch`` and uses cross entropy for classification,
        the mean squared error for regression.
        """
        inputs, targets = batch
        return loops.default_loss(model(inputs), targets, self.task)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return measures beside the loss, over all validation rows of one client.

        The default gives ``accuracy`` for classification and ``mae`` for regression.

        Parameters
        ----------
        outputs : Tensor
            The model's outputs, rows first.
        targets : Tensor
            The targets, rows first.
        """
        return loops.default_metrics(outputs, targets, self.task)

    def training_loop(self, model: nn.Module, loader: Iterable[Any]) -> Any:
        """Train ``model`` in place on one client's batches; return its loss or a dict with it.

        Override it for full control, as in Flautim's own API. ``loader`` gives the client's
        training batches and may be iterated once per epoch; ``self.local_epochs``,
        ``self.make_optimizer(model)`` and ``self.loss(model, batch)`` are there to be used.
        """
        return loops.train(self, model, loader, self.make_optimizer(model))

    def validation_loop(self, model: nn.Module, loader: Iterable[Any]) -> Any:
        """Return the loss, or a dict of measures with ``loss`` in it, on validation batches."""
        return loops.validate(self, model, loader)

    # --- what the runners and loops ask ---------------------------------------------------

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the experiment's optimizer over the model's trainable parameters."""
        maker = getattr(torch.optim, self.optimizer)
        trainable = [p for p in model.parameters() if p.requires_grad]
        made: torch.optim.Optimizer = maker(trainable, lr=self.lr, **self.optimizer_args)
        return made

    def build_model(self) -> nn.Module:
        """Return a fresh model, its initial weights drawn from ``seed`` alone.

        They equal those of ``torch.manual_seed(seed); Model()`` in plain PyTorch, without moving
        the global generator.
        """
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        try:
            with PrivateRandom(generator):
                return self.model(**self.model_args)  # type: ignore[no-any-return]
        except TypeError as error:
            raise ModelError(
                f"{self.model_name} cannot be made with model_args={dict(self.model_args)!r}: "
                f"{error}"
            ) from error
        except ExperimentError:
            raise
        except Exception as error:
            raise ModelError(
                f"{self.model_name} cannot be made: {type(error).__name__}: {error}"
            ) from error

    @property
    def model_name(self) -> str:
        """The name of the model's class or function."""
        return str(getattr(self.model, "__name__", type(self.model).__name__))

    @property
    def strategy_name(self) -> str:
        """The name of the strategy, or of its class."""
        if isinstance(self.strategy, str):
            return self.strategy
        return str(getattr(self.strategy, "__name__", type(self.strategy).__name__))

    @property
    def own_loss(self) -> bool:
        """Whether a subclass brings its own ``loss``."""
        return type(self).loss is not Experiment.loss

    @property
    def own_metrics(self) -> bool:
        """Whether a subclass brings its own ``metrics``."""
        return type(self).metrics is not Experiment.metrics

    @property
    def own_training_loop(self) -> bool:
        """Whether a subclass brings its own ``training_loop``."""
        return type(self).training_loop is not Experiment.training_loop

    @property
    def own_validation_loop(self) -> bool:
        """Whether a subclass brings its own ``validation_loop``."""
        return type(self).validation_loop is not Experiment.validation_loop

    @property
    def measured(self) -> bool:
        """Whether there are metrics beside the loss."""
        return self.facts.measured

    @property
    def asked_per_round(self) -> int:
        """How many clients train in a round."""
        if self.centralized:
            return 1
        return self.clients_per_round or len(self.splits)

    @property
    def enough_answers(self) -> int:
        """How few answers a round may have and still count."""
        if self.centralized:
            return 1
        if self.min_clients is not None:
            return self.min_clients
        return self.asked_per_round if self.round_timeout_seconds is not None else 1

    def replace(self, **changes: Any) -> Experiment:
        """Return this experiment with some settings changed, checked again."""
        allowed = [f.name for f in dataclasses.fields(self) if f.init]
        for key in changes:
            choose(key, allowed, "setting")
        if self.dataset_class is None or "dataset" in changes:
            return dataclasses.replace(self, **changes)
        if "dataset_args" in changes or ("seed" in changes and self.dataset_draws):
            return dataclasses.replace(self, dataset=self.dataset_class, **changes)
        # The dataset is made already, and stays the same one; so does the class it came from.
        made = dataclasses.replace(self, dataset_args={}, **changes)
        made._set("dataset_class", self.dataset_class)
        made._set("dataset_args", self.dataset_args)
        made._set("dataset_draws", self.dataset_draws)
        return made

    def __repr__(self) -> str:
        shown = [f"{self.info.name!r}", self.model_name, f"clients={self.clients}"]
        if self.centralized:
            shown.append("centralized=True")
        else:
            if not isinstance(self.dataset, HomeDataset):
                shown.append(f"partition={self.partition!r}")
            shown.append(f"strategy={self.strategy_name!r}")
        named = ("rounds", "local_epochs", "batch_size", "optimizer", "lr", "seed")
        shown += [f"{key}={getattr(self, key)!r}" for key in named]
        return f"{type(self).__name__}({', '.join(shown)})"

    # --- to and from JSON -------------------------------------------------------------------

    def bundle(self) -> Bundle:
        """Return the source of the classes and functions that this experiment refers to.

        Raises
        ------
        BundleError
            If a class has no source that can be kept, naming it and the next step.
        """
        return archive.make_bundle_of(self)

    def to_json(self) -> str:
        """Return the settings as JSON: plain values, and references into the bundle by role."""
        return archive.to_json(self)

    @classmethod
    def from_json(cls, text: str, folder: str | Path) -> Experiment:
        """Make an experiment from :meth:`to_json` and the folder that :meth:`save` wrote.

        Raises
        ------
        BundleError
            If the bundle lacks what the settings refer to, or the dataset or strategy was a live
            object, of which only the name is kept.
        """
        return archive.from_json(text, Path(folder), Experiment)

    def save(self, folder: str | Path) -> Path:
        """Write settings, bundle and (for data given as a frame) the table to ``folder``.

        Raises
        ------
        BundleError
            If the source of a class cannot be kept.
        """
        return archive.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Experiment:
        """Read an experiment that :meth:`save` wrote."""
        path = Path(folder) / "experiment.json"
        if not path.exists():
            raise BundleError(f"there is no experiment in {folder} (no experiment.json)")
        return cls.from_json(path.read_text(encoding="utf-8"), folder)

    # --- checks -------------------------------------------------------------------------------

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _check_numbers(self) -> None:
        for name in ("rounds", "local_epochs", "batch_size", "evaluate_every"):
            self._set(name, settings.whole(getattr(self, name), name))
        self._set("seed", settings.whole(self.seed, "seed", at_least=0))
        self._set("lr", settings.positive(self.lr, "lr"))
        self._set("validation", settings.share(self.validation, "validation"))
        if self.round_timeout_seconds is not None:
            seconds = settings.positive(self.round_timeout_seconds, "round_timeout_seconds")
            self._set("round_timeout_seconds", seconds)
        for name in ("strategy_args", "optimizer_args", "model_args", "dataset_args"):
            self._set(name, settings.arguments(getattr(self, name), name))
        name = settings.optimizer(self.optimizer, self.optimizer_args, self.lr)
        self._set("optimizer", name)
        settings.device(self.device)
        choose(self.engine, settings.ENGINES, "engine")
        if self.task is not None:
            choose(self.task, TASKS, "task")

    def _check_dataset(self) -> None:
        private = PrivateGlobals(stream_seed(self.seed, "dataset"), with_torch=True)
        with private:
            if isinstance(self.dataset, type):
                self._set("dataset_class", self.dataset)
                self._set("dataset", make_dataset(self.dataset, self.dataset_args))
            elif self.dataset_args:
                raise ExperimentError(
                    "dataset_args go with a dataset class, and this dataset is made already; "
                    "pass the class, or leave dataset_args out"
                )
            self._set("dataset_draws", private.drawn())
            info = describe(self.dataset)
        self._set("info", info)
        if self.task is None:
            self._set("task", info.task)
        if isinstance(self.model, nn.Module):
            name = type(self.model).__name__
            hint = f"the class {name}"
            if isinstance(self.model, (nn.Sequential, nn.ModuleList)):
                hint = f"a class or a function that makes it, such as lambda: nn.{name}(...)"
            raise ModelError(
                f"the model is made already; give {hint}, so that every client makes its own"
            )
        if not callable(self.model):
            raise ModelError(
                f"the model must be an nn.Module class or a function that returns a model, "
                f"not {self.model!r}"
            )
        if inspect.isclass(self.model) and not issubclass(self.model, nn.Module):
            raise ModelError(f"{self.model_name} is no nn.Module; derive it from torch.nn.Module")

    def _check_clients(self) -> None:
        if not isinstance(self.partition, Partition):
            raise ExperimentError(
                f"partition must be lab.evenly(), lab.by_label(alpha=...), lab.by_size(...) or "
                f"lab.by_column(name), not {self.partition!r}"
            )

        def read(name: str) -> Any:
            return column(self.dataset, name)

        at_home = None
        if isinstance(self.dataset, HomeDataset):
            partitioned = not isinstance(self.partition, Evenly)
            at_home = check_homes(self.dataset, self.clients, partitioned, self.centralized)
        implied = at_home or self.partition.count(read)
        if self.clients is None and implied is None:
            raise ExperimentError("say how many clients take part, for example clients=8")
        clients = settings.whole(implied if self.clients is None else self.clients, "clients")
        if isinstance(self.dataset, HomeDataset):
            # Each client has the sample here, and rows of its own where it trains.
            sample = np.arange(self.info.rows)
            assignment = Assignment((sample,) * clients, home_names(self.dataset, clients))
        else:
            assignment = self.partition.assign(
                self.info.rows, clients, self.seed, self.info.targets, read
            )
        self._set("clients", clients)
        splits = tuple(
            split_rows(rows, self.validation, self.seed, client)
            for client, rows in enumerate(assignment.rows)
        )
        if self.centralized:
            splits = (_together(splits),)
        self._set("splits", splits)
        names = ("all rows",) if self.centralized else assignment.names
        self._set("client_names", names)
        if self.clients_per_round is not None:
            asked = settings.whole(self.clients_per_round, "clients_per_round")
            self._set("clients_per_round", asked)
            if asked > clients:
                raise ExperimentError(
                    f"clients_per_round is {asked} and there are {clients} clients; "
                    f"use at most {clients}"
                )
        if self.min_clients is not None:
            fewest = settings.whole(self.min_clients, "min_clients")
            self._set("min_clients", fewest)
            asked = self.clients_per_round or clients
            if fewest > asked:
                raise ExperimentError(
                    f"min_clients is {fewest} and a round asks {asked} clients; use at most {asked}"
                )

    def _check_strategy(self) -> None:
        if isinstance(self.strategy, str):
            # A centralized baseline keeps the strategy's name for its record and does not use it.
            if not self.centralized:
                check_strategy(self.strategy, self.strategy_args, self.asked_per_round)
            else:
                choose(self.strategy, STRATEGIES, "strategy")
            halves = client_halves(self.strategy, self.strategy_args)
            if "proximal" in halves and self.own_training_loop and not self.centralized:
                raise ExperimentError(
                    "FedProx adds its proximal term to the local loss, which a training_loop of "
                    "your own does not have; override loss instead of training_loop, or use "
                    "strategy='FedAvg'"
                )
            return
        is_strategy = hasattr(self.strategy, "configure_train") and not isinstance(
            self.strategy, type
        )
        if not is_strategy and (isinstance(self.strategy, type) or not callable(self.strategy)):
            choose(self.strategy, STRATEGIES, "strategy")
        if self.strategy_args:
            raise ExperimentError(
                "strategy_args go with a strategy's name; give your strategy its arguments itself"
            )


def _together(splits: tuple[Rows, ...]) -> Rows:
    return Rows(
        train=np.sort(np.concatenate([rows.train for rows in splits])),
        validation=np.sort(np.concatenate([rows.validation for rows in splits])),
    )
