"""Partitions: which rows of a table each client holds.

Pure and seeded: the same rows, targets, number of clients and seed give the same assignment,
whatever else the process draws. Each row goes to exactly one client, and no client is left
without rows.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flautim_lab.errors import DatasetError, ExperimentError
from flautim_lab.experiment.settings import positive, whole
from flautim_lab.experiment.streams import numpy_stream
from flautim_lab.names import choose, count

__all__ = ["Assignment", "Partition", "by_column", "by_label", "by_size", "evenly"]

Column = Callable[[str], NDArray[Any]]
# Flower's partitioner gives up after 11 draws; ours cost microseconds, so rare draws may be met.
MAX_DRAWS = 1000


@dataclass(frozen=True)
class Assignment:
    """Which rows each client holds, and what the client is called.

    Attributes
    ----------
    rows : tuple of numpy.ndarray of int64
        For each client its row numbers, ascending. Each row is in exactly one of them.
    names : tuple of str
        ``"client 0"``, or the value of the column for :func:`by_column`.
    """

    rows: tuple[NDArray[np.int64], ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """What is shared out: ``rows`` rows to ``clients`` clients, and where to look for reasons."""

    rows: int
    clients: int
    rng: np.random.Generator
    targets: NDArray[Any] | None
    column: Column


@dataclass(frozen=True, repr=False)
class Partition(ABC):
    """How rows are shared out to clients; made by the functions of this module."""

    kind: ClassVar[str]

    @abstractmethod
    def owners(self, table: Table) -> NDArray[np.int64]:
        """Return the client number of each row, shape (rows,); no client is left out."""

    def names(self, clients: int, column: Column) -> tuple[str, ...]:
        """Return what each client is called."""
        return tuple(f"client {number}" for number in range(clients))

    def count(self, column: Column) -> int | None:
        """Return the number of clients that the partition implies, or None."""
        return None

    def assign(
        self,
        rows: int,
        clients: int,
        seed: int,
        targets: NDArray[Any] | None,
        column: Column,
    ) -> Assignment:
        """Share ``rows`` rows out to ``clients`` clients.

        Parameters
        ----------
        rows, clients : int
            How many there are.
        seed : int
            The experiment's.
        targets : numpy.ndarray or None
            Target of each row, shape (rows,): integers are class numbers.
        column : callable
            Name of a column to its values, shape (rows,); raises DatasetError for a wrong name.

        Raises
        ------
        DatasetError
            If there are more clients than rows, if a client would be left without rows, or if
            the data have not what the partition needs. The sentence says what to change.
        """
        if clients < 1:
            raise DatasetError(f"{clients} clients cannot share the rows; use at least 1 client")
        if clients > rows:
            raise DatasetError(
                f"{count(rows, 'row')} cannot be shared by {count(clients, 'client')}, since each "
                f"needs at least one; use at most {count(rows, 'client')}"
            )
        table = Table(rows, clients, numpy_stream(seed, "partition"), targets, column)
        owners = self.owners(table)
        held = np.bincount(owners, minlength=clients)
        # A stable sort keeps the row numbers of each client ascending.
        order = np.argsort(owners, kind="stable").astype(np.int64)
        return Assignment(tuple(np.split(order, np.cumsum(held)[:-1])), self.names(clients, column))

    def settings(self) -> dict[str, Any]:
        """Return the kind and the arguments, ready for JSON."""
        arguments = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
        }
        return {"kind": self.kind, **arguments}

    @staticmethod
    def from_settings(settings: Mapping[str, Any]) -> Partition:
        """Return the partition that :meth:`settings` described.

        Raises
        ------
        ExperimentError
            If the kind or an argument is unknown, missing or wrong.
        """
        kind = choose(str(settings.get("kind")), _KINDS, "partition")
        arguments = {key: value for key, value in settings.items() if key != "kind"}
        fields = {field.name: field for field in dataclasses.fields(_KINDS[kind])}
        for key in arguments:
            choose(key, fields, f"argument of {kind}()")
        for key, field in fields.items():
            if key not in arguments and field.default is dataclasses.MISSING:
                raise ExperimentError(f"the settings of {kind}() lack {key!r}; add it")
        return _KINDS[kind](**arguments)

    def __repr__(self) -> str:
        # As it is typed in a cell: by_label(alpha=0.3, min_rows=2).
        arguments = (f"{k}={v!r}" for k, v in vars(self).items() if v is not None)
        return f"{self.kind}({', '.join(arguments)})"


@dataclass(frozen=True, repr=False)
class Evenly(Partition):
    """See :func:`evenly`."""

    kind: ClassVar[str] = "evenly"

    def owners(self, table: Table) -> NDArray[np.int64]:
        """Deal the shuffled rows like cards."""
        owners = np.empty(table.rows, dtype=np.int64)
        owners[table.rng.permutation(table.rows)] = np.arange(table.rows) % table.clients
        return owners


@dataclass(frozen=True, repr=False)
class ByLabel(Partition):
    """See :func:`by_label`."""

    alpha: float
    min_rows: int = 2
    kind: ClassVar[str] = "by_label"

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", positive(self.alpha, "alpha"))
        why = ", since no client may be without rows"
        object.__setattr__(self, "min_rows", whole(self.min_rows, "min_rows", why=why))

    def owners(self, table: Table) -> NDArray[np.int64]:
        """Draw each class's shares until every client has ``min_rows``."""
        rows, clients, rng = table.rows, table.clients, table.rng
        labels = _class_of_each_row(table.targets)
        if clients * self.min_rows > rows:
            raise DatasetError(
                f"{count(rows, 'row')} cannot give {count(clients, 'client')} at least "
                f"{self.min_rows} each; use at most {max(1, rows // self.min_rows)} clients, or "
                f"by_label(alpha={self.alpha:g}, min_rows={rows // clients})"
            )
        totals = np.bincount(labels)
        for _ in range(MAX_DRAWS):
            counts = self._draw_counts(totals, clients, rng)
            held = counts.sum(axis=0)
            if held.min() >= self.min_rows:
                break
        else:
            raise DatasetError(
                f"by_label(alpha={self.alpha:g}) left a client with fewer than {self.min_rows} of "
                f"the {rows} rows in each of {MAX_DRAWS} draws (in the last one client "
                f"{int(held.argmin())} had {held.min()}); raise alpha, use fewer clients than "
                f"{clients}, or lower min_rows"
            )
        # Rows of a class are shuffled before they are cut up: a table is often ordered (by time,
        # by place), and a client should differ in its labels, not by a hidden second reason.
        shuffled = rng.permutation(rows)
        order = shuffled[np.argsort(labels[shuffled], kind="stable")]
        owners = np.empty(rows, dtype=np.int64)
        owners[order] = np.repeat(np.tile(np.arange(clients), len(totals)), counts.ravel())
        return owners

    def _draw_counts(
        self, totals: NDArray[np.int64], clients: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return how many rows of each class each client gets, shape (classes, clients).

        The same draws and the same arithmetic as flwr_datasets' DirichletPartitioner with
        ``self_balancing=True``, so that equal generators give equal counts (a test compares),
        except that a draw in which that one divides by zero is a failed one here.
        """
        even = totals.sum() / clients
        held = np.zeros(clients, dtype=np.int64)
        counts = np.zeros((len(totals), clients), dtype=np.int64)
        for number, total in enumerate(totals):
            shares = rng.dirichlet(np.full(clients, self.alpha))
            shares[held > even] = 0.0
            # cumsum adds from left to right on every machine; sum() may not.
            given = np.cumsum(shares)[-1]
            if not given > 0:  # a tiny alpha gave all to clients that are full: a failed draw
                return np.zeros_like(counts)
            cuts = (np.cumsum(shares / given) * total).astype(np.int64)[:-1]
            counts[number] = np.diff(cuts, prepend=0, append=total)
            held += counts[number]
        return counts


@dataclass(frozen=True, repr=False)
class BySize(Partition):
    """See :func:`by_size`."""

    sizes: Sequence[float] | None = None
    alpha: float | None = None
    kind: ClassVar[str] = "by_size"

    def __post_init__(self) -> None:
        if (self.sizes is None) == (self.alpha is None):
            raise ExperimentError(
                "by_size needs either sizes or alpha, and not both; "
                "for example by_size([3, 2, 1]) or by_size(alpha=0.5)"
            )
        if self.alpha is not None:
            object.__setattr__(self, "alpha", positive(self.alpha, "alpha"))
        if self.sizes is not None:
            if (
                not isinstance(self.sizes, list | tuple | range | np.ndarray)
                or len(self.sizes) == 0
            ):
                raise ExperimentError(
                    f"sizes must be a list of numbers, one per client, not {self.sizes!r}; "
                    "for example by_size([3, 2, 1])"
                )
            sizes = tuple(
                positive(size, f"the size of client {number}")
                for number, size in enumerate(self.sizes)
            )
            object.__setattr__(self, "sizes", sizes)

    def count(self, column: Column) -> int | None:
        """Return the number of sizes, if sizes were given."""
        return None if self.sizes is None else len(self.sizes)

    def owners(self, table: Table) -> NDArray[np.int64]:
        """Cut the shuffled rows into pieces of the wanted sizes."""
        rows, clients, rng = table.rows, table.clients, table.rng
        if self.sizes is None:
            shares = rng.dirichlet(np.full(clients, self.alpha))
        elif len(self.sizes) == clients:
            largest = max(self.sizes)  # first, so that the sum of huge sizes stays finite
            shares = np.asarray(self.sizes) / largest
            shares /= np.cumsum(shares)[-1]
        else:
            raise DatasetError(
                f"by_size was given {count(len(self.sizes), 'size')} for "
                f"{count(clients, 'client')}; give one size per client, or say "
                f"clients={len(self.sizes)}"
            )
        owners = np.empty(rows, dtype=np.int64)
        pieces = _largest_remainder(shares, rows)
        owners[rng.permutation(rows)] = np.repeat(np.arange(clients), pieces)
        return owners


@dataclass(frozen=True, repr=False)
class ByColumn(Partition):
    """See :func:`by_column`."""

    name: str
    kind: ClassVar[str] = "by_column"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ExperimentError(
                f"by_column needs the name of a column, not {self.name!r}; "
                "for example by_column('institution')"
            )

    def names(self, clients: int, column: Column) -> tuple[str, ...]:
        """Return the distinct values, as text."""
        return self._groups(column)[0]

    def count(self, column: Column) -> int:
        """Return the number of distinct values."""
        return len(self._groups(column)[0])

    def owners(self, table: Table) -> NDArray[np.int64]:
        """Give each distinct value a client."""
        names, owners = self._groups(table.column)
        if len(names) != table.clients:
            raise DatasetError(
                f"the column {self.name!r} has {count(len(names), 'distinct value')}, one client "
                f"each, but clients={table.clients}; say clients={len(names)}, or leave clients out"
            )
        return owners

    def _groups(self, column: Column) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Return the names in order, and the number of the name of each row."""
        values = np.asarray(column(self.name))
        missing = pd.isna(values)
        if missing.any():
            raise DatasetError(
                f"the column {self.name!r} has no value in {count(int(missing.sum()), 'row')}, "
                f"first in row {int(missing.argmax())} (counted from 0), so that it belongs to "
                "no client; fill the gap, or leave those rows out"
            )
        found, values = pd.factorize(values)
        if values.dtype.kind == "f" and all(value.is_integer() for value in values.tolist()):
            values = values.astype(np.int64)  # 3.0 is institution 3
        if values.dtype.kind not in "biuf":
            values = np.array([str(value) for value in values], dtype=object)
        distinct, place = np.unique(values, return_inverse=True)
        return tuple(str(value) for value in distinct), place[found].astype(np.int64)


_KINDS: dict[str, type[Partition]] = {
    part.kind: part for part in (Evenly, ByLabel, BySize, ByColumn)
}


def evenly() -> Partition:
    """Share shuffled rows out so that clients differ by at most one row (IID clients)."""
    return Evenly()


def by_label(alpha: float, min_rows: int = 2) -> Partition:
    """Give each client its own mix of classes (label skew), by Dirichlet draws.

    For each class the clients' shares are drawn from Dirichlet(alpha, ..., alpha). A client that
    already has more than rows/clients rows gets no more, and all is drawn again until each client
    has ``min_rows``. How many rows of each class each client gets is what Flower Datasets'
    ``DirichletPartitioner(self_balancing=True)`` gives with the same generator; which ones is
    random within the class, as in the code of Yurochkin et al.

    Parameters
    ----------
    alpha : float
        Above 0. 0.1 is very uneven (a client sees few classes), 1 uneven, 100 almost alike.
    min_rows : int
        The fewest rows of a client, at least 1.

    Raises
    ------
    ExperimentError
        If an argument is wrong; when rows are assigned, DatasetError if the targets are no class
        numbers or if no draw gave each client ``min_rows``.

    References
    ----------
    Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019,
    https://arxiv.org/abs/1905.12022; Hsu, Qi and Brown, "Measuring the Effects of Non-Identical
    Data Distribution for Federated Visual Classification", 2019,
    https://arxiv.org/abs/1909.06335.
    """
    return ByLabel(alpha, min_rows)


def by_size(sizes: Sequence[float] | None = None, *, alpha: float | None = None) -> Partition:
    """Give clients different numbers of shuffled rows (quantity skew).

    Parameters
    ----------
    sizes : sequence of float, optional
        Relative size of each client, above 0: ``[3, 1]`` gives the first client three quarters.
        Rounded to whole rows by largest remainders; each client gets at least one row.
    alpha : float, optional
        Instead of ``sizes``: draw them from Dirichlet(alpha, ..., alpha) over the clients. Small is
        uneven.

    Raises
    ------
    ExperimentError
        If both or neither are given, or one is not above 0; when rows are assigned, DatasetError
        if there is not one size per client.
    """
    return BySize(sizes, alpha)


def by_column(name: str) -> Partition:
    """Make one client of each distinct value of a column (an institution, a vehicle, a person).

    Clients are numbered in the order of the values (numbers by size, text by alphabet) and named
    after them.

    Parameters
    ----------
    name : str
        A column of the table. Say ``ignore=[name]`` to CSVDataset if it should not be a feature.

    Raises
    ------
    ExperimentError
        If ``name`` is no name; when rows are assigned, DatasetError if there is no such column, if
        it has gaps, or if another number of clients was asked for.
    """
    return ByColumn(name)


def _class_of_each_row(targets: NDArray[Any] | None) -> NDArray[np.int64]:
    """Return class numbers 0, 1, ... without gaps, or raise if ``targets`` are no classes."""
    if targets is None:
        raise DatasetError(
            "by_label needs one class per row, and none was found in the dataset; give it an "
            "attribute 'targets', or use by_size(alpha=...) or evenly()"
        )
    if targets.ndim != 1 or targets.dtype.kind == "f":
        raise DatasetError(
            "by_label needs classes, but the targets are not whole numbers; give class numbers "
            "(as in `return x, int(y)`), or use by_size(alpha=...), by_column(...) or evenly()"
        )
    return np.unique(targets, return_inverse=True)[1].astype(np.int64)


def _largest_remainder(shares: NDArray[np.float64], rows: int) -> NDArray[np.int64]:
    """Round ``shares * rows`` to whole rows that add up to ``rows``, each at least 1."""
    exact = shares * rows
    pieces = np.floor(exact).astype(np.int64)
    left_over = rows - int(pieces.sum())
    pieces[np.argsort(pieces - exact, kind="stable")[:left_over]] += 1
    for empty in np.flatnonzero(pieces == 0):
        pieces[np.argmax(pieces)] -= 1  # with rows >= clients the largest has two or more
        pieces[empty] = 1
    return pieces
