"""What one client holds: its rows, their split, their scale, and batches of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flautim_lab.errors import DatasetError
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.datasets import tensors
from flautim_lab.experiment.home_dataset import HomeDataset, fewest_rows
from flautim_lab.experiment.loops import NO_CONTEXT, class_numbers, is_pair
from flautim_lab.experiment.streams import numpy_stream
from flautim_lab.names import count

if TYPE_CHECKING:
    from flautim_lab.experiment.experiment import Experiment

# When nothing is trained only memory bounds a batch: so many rows, and so many numbers.
EVALUATION_ROWS = 1024
EVALUATION_NUMBERS = 2**22

_reading = threading.Lock()


@dataclass(frozen=True)
class Rows:
    """Row numbers of one client, sorted: ``train`` and ``validation``, int64 arrays."""

    train: np.ndarray
    validation: np.ndarray


def split_rows(rows: np.ndarray, validation: float, seed: int, client: int) -> Rows:
    """Hold ``validation`` of a client's rows back, at random, keyed by seed and client.

    At home the seed is the table's (:meth:`HomeDataset.split_seed`), and not the experiment's.

    At least one row is left to train on; a client of one row has none to validate on.
    """
    held = min(round(len(rows) * validation), len(rows) - 1)
    if validation > 0 and len(rows) > 1:
        held = max(held, 1)
    order = numpy_stream(seed, "validation", client=client).permutation(len(rows))
    return Rows(train=np.sort(rows[order[held:]]), validation=np.sort(rows[order[:held]]))


def deal_rows(rows: int, number: int, of: int, seed: int) -> np.ndarray:
    """Return which of a table's rows one of some clients holds: all of a sole one.

    Raises
    ------
    DatasetError
        If there are fewer than two for each.
    """
    if of > 1 and rows < 2 * of:
        raise DatasetError(
            f"{count(rows, 'row')} cannot be dealt out among {of} clients, which need two each; "
            "ask for fewer clients"
        )
    return np.sort(numpy_stream(seed, "home").permutation(rows)[number::of])


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation per feature, float64 arrays of shape (features,)."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class Sums:
    """What a client tells of its rows so that all can be scaled alike: no row leaves it.

    Attributes
    ----------
    count : ndarray of shape (features,)
        Rows with a value.
    total, squares : ndarray of shape (features,)
        .
    """

    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray

    def scale(self) -> Scale:
        """Return mean and standard deviation; a constant feature gets 1 as its deviation."""
        count = np.maximum(self.count, 1)
        mean = self.total / count
        variance = np.maximum(self.squares / count - mean**2, 0.0)
        # Below this the variance is rounding of the two sums, not spread.
        constant = variance <= 1e-14 * np.maximum(self.squares / count, 1e-300)
        return Scale(mean=mean, std=np.where(constant, 1.0, np.sqrt(variance)))


def pooled(sums: Sequence[Sums]) -> Sums:
    """Return the sums of all clients together, added in the order given."""
    first, *others = sums
    count, total, squares = first.count.copy(), first.total.copy(), first.squares.copy()
    for other in others:
        count += other.count
        total += other.total
        squares += other.squares
    return Sums(count, total, squares)


class Batches:
    """Batches of some rows; each pass draws a new order from ``generator`` (none: in order).

    Iterating twice goes on with the generator, as epochs do. ``check`` is called before every
    batch and may raise to end the training of a client at once (a run that was stopped).
    With ``classes`` whole targets come as int64, whatever whole type the dataset keeps them in;
    true/false stays, since code of the researcher's own may use it as a mask. ``reading`` is
    entered around each batch that is read by a dataset's own code. With ``rows`` the tensors hold
    more than this client's rows, whose numbers those are: nothing is copied but a pass's batches.

    Attributes
    ----------
    seconds : float
        What it has taken so far to read, order and cut the batches.
    """

    def __init__(
        self,
        data: tuple[Tensor, Tensor] | tuple[Dataset[Any], np.ndarray],
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        drop_single: bool = False,
        check: Callable[[], None] | None = None,
        device: torch.device | None = None,
        classes: bool = False,
        reading: contextlib.AbstractContextManager[Any] = NO_CONTEXT,
        rows: Tensor | None = None,
    ) -> None:
        self._data = data
        self._numbers = rows
        self._reading = reading
        self._classes = classes
        self._rows = len(data[1] if rows is None else rows)
        self.batch_size = batch_size
        self._generator = generator
        self._device = device
        self._check = check
        # Batch normalization cannot train on one row: a last batch of one is left out.
        self._drop = drop_single and self._rows > 1 and self._rows % batch_size == 1
        if batch_size == 1:
            self._drop = False
        self.seconds = 0.0

    @property
    def rows(self) -> int:
        """Rows in one pass before a last single row is left out."""
        return self._rows

    def __len__(self) -> int:
        """Batches in one pass."""
        return -(-self._rows // self.batch_size) - int(self._drop)

    def __iter__(self) -> Iterator[Any]:
        first, second = self._data
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            batches: Iterator[Any] = self._from_tensors(first, second)
        else:
            batches = self._from_dataset(first, second)  # type: ignore[arg-type]
        begin = time.perf_counter()
        for batch in batches:
            self.seconds += time.perf_counter() - begin
            if self._check is not None:
                self._check()
            yield batch
            begin = time.perf_counter()

    def _from_tensors(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        shuffled = self._generator is not None
        if shuffled:
            order = torch.randperm(self._rows, generator=self._generator)
            order = (order if self._numbers is None else self._numbers[order]).to(x.device)
            x, y = x[order], y[order]
        elif self._numbers is not None:
            x, y = x[self._numbers], y[self._numbers]
        end = self._rows - int(self._drop)
        for start in range(0, end, self.batch_size):
            inputs, targets = (part[start : start + self.batch_size] for part in (x, y))
            # Always a copy: code that writes into its inputs (an in-place activation on them) must
            # not write into the data, which other rounds read again.
            yield (inputs, targets) if shuffled else (inputs.clone(), targets.clone())

    def _from_dataset(self, dataset: Dataset[Any], rows: np.ndarray) -> Iterator[Any]:
        order = torch.arange(self._rows)
        if self._generator is not None:
            order = torch.randperm(self._rows, generator=self._generator)
        end = self._rows - int(self._drop)
        numbers = rows[order.numpy()[:end]].tolist()
        parts = [numbers[i : i + self.batch_size] for i in range(0, end, self.batch_size)]
        # The loader draws a seed for workers it does not have; keep it off the global generator.
        loader = DataLoader(dataset, batch_sampler=parts, generator=torch.Generator())
        batches: Iterator[Any] = iter(loader)
        end_of_pass = object()
        while True:
            # A dataset is not written to be read by several threads at once.
            with _reading, self._reading:
                batch: Any = next(batches, end_of_pass)
            if batch is end_of_pass:
                return
            if self._classes and is_pair(batch):
                batch = _of_kind(batch, (batch[0], _widened(batch[1])))
            yield _to(batch, self._device) if self._device is not None else batch


def _widened(targets: Tensor) -> Tensor:
    return targets if targets.dtype is torch.bool else class_numbers(targets)


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        if device.type == "cuda" and batch.device.type == "cpu" and batch.layout is torch.strided:
            # From memory that is not swapped, a copy goes on beside what is computed.
            return batch.pin_memory().to(device, non_blocking=True)
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: _to(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return _of_kind(batch, [_to(value, device) for value in batch])
    return batch


def _of_kind(batch: Any, parts: Sequence[Any]) -> Any:
    """Return parts as a tuple, list or named tuple, as ``batch`` is."""
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


class ClientData:
    """The data of one client, loaded once and kept from round to round.

    Parameters
    ----------
    experiment : Experiment
        Whose dataset and splits are used.
    client : int
        The client's number.
    device : torch.device, optional
        Where tensors are kept; the CPU by default.
    at_home : bool
        Whether rows that stay with institutions are read, rather than the sample of them.
    """

    def __init__(
        self,
        experiment: Experiment,
        client: int,
        device: torch.device | None = None,
        *,
        at_home: bool = True,
    ) -> None:
        self.client = client
        self._experiment = experiment
        self._device = device
        self._rows = experiment.splits[client]
        #: Inputs and targets of which ``_rows`` are numbers; None where items are read one by one.
        self._whole = tensors(experiment.dataset)
        dataset = experiment.dataset
        #: Whose rows these are, where they stay at home, and how few may be counted together.
        self._home, self._fewest = "", 0
        if at_home and isinstance(dataset, HomeDataset) and dataset.folder() is not None:
            self._home, number, of = dataset.place(client, len(experiment.splits))
            self._whole = dataset.rows_at(self._home)
            seed = dataset.split_seed(self._home, of, experiment.validation)
            own = deal_rows(len(self._whole[1]), number, of, seed)
            self._rows = split_rows(own, experiment.validation, seed, number)
            self._fewest = fewest_rows()
            self._check_enough()
        self._scale: Scale | None = None
        self._parts: dict[str, Any] = {}

    def rows(self, split: str) -> int:
        """Return how many rows a split holds."""
        return len(self._rows.train if split == "train" else self._rows.validation)

    def _check_enough(self) -> None:
        """Refuse to train or validate on so few rows that what is told of them tells of one."""
        for what, rows in (("train", self._rows.train), ("validate", self._rows.validation)):
            if len(rows) < self._fewest and (what == "train" or self._experiment.validation > 0):
                name = self._experiment.client_names[self.client]
                raise DatasetError(
                    f"{name} has {count(len(rows), 'row')} to {what} on, and the rows of "
                    f"{self._home} may be counted together from {self._fewest} on; ask for fewer "
                    "clients, for another validation, or for a larger table"
                )

    def _check_counted(self, counted: Tensor) -> None:
        """Refuse sums of a column that has a value in so few rows that they tell of one."""
        names = [
            name
            for name, number in zip(
                self._experiment.dataset.feature_names, counted.tolist(), strict=True
            )
            if 0 < number < self._fewest
        ]
        if names:
            raise DatasetError(
                f"{', '.join(map(repr, names))} of {self._home} has values in fewer than "
                f"{self._fewest} rows to train on, and so few may not be counted together; leave "
                "it out with ignore=[...]"
            )

    def sums(self) -> Sums:
        """Return what this client's training rows add up to (per-client or federated scaling).

        Of rows that stay at home, numbers alone: nothing else is scaled, and nothing else is told.

        Raises
        ------
        DatasetError
            If a column of rows that stay at home has a value in too few of them.
        """
        whole: Any = self._whole  # only tables are scaled, and those are whole
        features = whole[0][torch.from_numpy(self._rows.train)].double()
        if self._home:
            features[:, ~self._experiment.dataset.numeric] = torch.nan
        present = ~features.isnan()
        if self._home:
            self._check_counted(present.sum(0))
        filled = features.nan_to_num(0.0)
        return Sums(
            count=present.sum(0).double().numpy(),
            total=filled.sum(0).numpy(),
            squares=(filled**2).sum(0).numpy(),
        )

    @property
    def has_scale(self) -> bool:
        """Whether a scale was set."""
        return self._scale is not None

    def use_scale(self, scale: Scale | None) -> None:
        """Scale this client's rows; parts made with another scale are made anew."""
        changed = scale is not self._scale and not (
            scale is not None
            and self._scale is not None
            and np.array_equal(scale.mean, self._scale.mean)
            and np.array_equal(scale.std, self._scale.std)
        )
        if changed:
            self._scale = scale
            self._parts.clear()

    def batches(
        self,
        split: str,
        *,
        generator: torch.Generator | None = None,
        drop_single: bool = False,
        check: Callable[[], None] | None = None,
        reading: contextlib.AbstractContextManager[Any] = NO_CONTEXT,
    ) -> Batches:
        """Return batches of a split; shuffled by ``generator`` where one is given."""
        data, numbers = self._of(split)
        size = self._experiment.batch_size
        first = data[0]
        if split != "train" and isinstance(first, Tensor) and len(first):
            size = max(size, min(EVALUATION_ROWS, EVALUATION_NUMBERS // max(first[0].numel(), 1)))
        return Batches(
            data,
            size,
            generator=generator,
            drop_single=drop_single,
            check=check,
            device=self._device,
            classes=self._experiment.task == "classification",
            reading=reading,
            rows=None if numbers is None else torch.from_numpy(numbers),
        )

    def _of(self, split: str) -> tuple[Any, np.ndarray | None]:
        """Return a split's rows; as numbers of rows in the dataset's own tensors where they can be.

        Those that lie together are a view of them, too.
        """
        if self._whole is not None and self._as_they_are and split not in self._parts:
            numbers = self._numbers(split)
            if not _together(numbers):
                return self._whole, numbers
        if split not in self._parts:
            self._parts[split] = self._part(split)
        return self._parts[split], None

    @property
    def _as_they_are(self) -> bool:
        """Whether rows are used as the dataset's own tensors have them."""
        classes = self._experiment.task == "classification"
        targets: Any = None if self._whole is None else self._whole[1]
        return (
            self._scale is None
            and self._device is None
            and (not classes or _widened(targets) is targets)
        )

    def _numbers(self, split: str) -> np.ndarray:
        return self._rows.train if split == "train" else self._rows.validation

    def pool(self, split: str) -> tuple[Tensor, Tensor, np.ndarray]:
        """Return tensors of inputs and targets, and the numbers of a split's rows in them.

        The dataset's own tensors where its rows need not be scaled, so that nothing is copied.

        Raises
        ------
        TypeError
            If the dataset's own code reads each row.
        """
        whole = self._whole
        if whole is None:
            raise TypeError("the dataset's own code reads each row")
        if self._as_they_are:
            return *whole, self._numbers(split)
        if split not in self._parts:
            self._parts[split] = self._part(split)
        x, y = self._parts[split]
        return x, y, np.arange(len(y))

    def _part(self, split: str) -> Any:
        numbers = self._numbers(split)
        dataset = self._experiment.dataset
        whole = self._whole
        if whole is None:
            return dataset, numbers
        x, y = _rows_of(whole[0], numbers), _rows_of(whole[1], numbers)
        if self._experiment.task == "classification":
            y = _widened(y)
        if isinstance(dataset, CSVDataset) and self._scale is not None:
            x = scaled(x, self._scale, dataset.numeric)
        return (x.to(self._device), y.to(self._device)) if self._device is not None else (x, y)


def _rows_of(whole: Tensor, numbers: np.ndarray) -> Tensor:
    """Return rows by their sorted numbers: a view where they lie together, else a copy."""
    if _together(numbers):
        return whole[int(numbers[0]) : int(numbers[-1]) + 1]
    return whole[torch.from_numpy(numbers)]


def _together(numbers: np.ndarray) -> bool:
    """Return whether rows, by their sorted numbers, lie together."""
    return bool(len(numbers)) and bool(numbers[-1] - numbers[0] + 1 == len(numbers))


def scaled(features: Tensor, scale: Scale, numeric: Tensor) -> Tensor:
    """Return features of shape (rows, features) in standard units, missing values at the mean."""
    mean = torch.from_numpy(scale.mean).to(features.dtype)
    std = torch.from_numpy(scale.std).to(features.dtype)
    result = torch.where(numeric, (features - mean) / std, features)
    return result.nan_to_num(0.0)
