"""Tables that stay with their institutions: a sample here, the rows there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_bool_dtype
from torch import Tensor

from flautim_lab.errors import DatasetError
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.table import column_names, is_number, read_table, sha256_of
from flautim_lab.names import check_name, count

__all__ = ["DATA_VARIABLE", "HASHES_VARIABLE", "HomeDataset", "check_home_paths", "on_a_volume"]

#: Where a worker in an institution finds its data volume.
DATA_VARIABLE = "FLAUTIM_LAB_DATA"
#: How few rows of it may be trained on, or validated on, together.
FEWEST_VARIABLE = "FLAUTIM_LAB_FEWEST_ROWS"
FEWEST_ROWS = 10
#: What the tables there must be: JSON, the SHA-256 of a file by its path on the volume.
HASHES_VARIABLE = "FLAUTIM_LAB_DATA_HASHES"


def on_a_volume() -> bool:
    """Whether this process was given an institution's data volume, whatever it makes of it."""
    return bool(os.environ.get(DATA_VARIABLE))


class HomeDataset(CSVDataset):
    """A table of which each institution keeps its own rows.

    One client is one institution, unless there are to be more: then each institution's rows are
    dealt out among as many clients of its own.

    What is given here is a sample with the same columns: rows made up, or rows that may be shown.
    Code is written and checked against it, and where a run has no data volumes (``local``,
    ``processes``) every client trains on the sample, as a rehearsal. On a cluster a client reads
    the table of its institution from that institution's volume, which only its own workers mount,
    read-only (``lab.Cluster(data=...)``).

    Parameters
    ----------
    data : str, path or pandas.DataFrame
        The sample. Its categories and classes are all that there may be; it decides what each
        column means.
    target : str
        The column to predict.
    homes : mapping of str to str
        Where each institution has its table: a relative path on its volume, by the name of the
        institution (on a cluster of one's own: of the namespace). The clients are numbered in this
        order.
    root : str, optional
        A folder of this machine under which all these paths are: then each client reads its own
        table here too, and there is no rehearsal.
    **settings
        Those of :class:`CSVDataset`.

    Raises
    ------
    DatasetError
        If the sample cannot be used, or a home is none.

    Examples
    --------
    >>> telemetry = HomeDataset(  # doctest: +SKIP
    ...     "sample.csv", target="energy", homes={"ufmg": "trips.csv", "ifnmg": "2026/trips.csv"}
    ... )
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | pd.DataFrame,
        target: str | None = None,
        *,
        homes: Mapping[str, str],
        root: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(data, target, **settings)
        self.homes = check_home_paths(homes)
        self.root = root
        self._read_already: dict[str, tuple[Tensor, Tensor]] = {}
        self._digests: dict[str, str] = {}

    def settings(self) -> dict[str, Any]:
        """Return those of a table, and what there is at the homes.

        ``homes`` are pairs: their order numbers the clients. ``columns`` are those of the sample,
        and so those that are read of the tables.
        """
        homes = {"homes": [list(pair) for pair in self.homes.items()]}
        columns = {"columns": self.columns()}
        root = {"root": self.root} if self.root is not None else {}
        return super().settings() | homes | columns | root

    def columns(self) -> list[str]:
        """Return the columns that are read of the tables, the target among them."""
        return [name for name in column_names(self.frame) if name not in self.ignore]

    def place(self, client: int, clients: int) -> tuple[str, int, int]:
        """Return the institution of a client, which of its clients that is, and of how many."""
        share, number = divmod(client, clients // len(self.homes))
        return list(self.homes)[share], number, clients // len(self.homes)

    def folder(self) -> Path | None:
        """Return where the institution's tables are, if this process can read them."""
        volume = os.environ.get(DATA_VARIABLE)
        return Path(volume) if volume else None if self.root is None else Path(self.root)

    def rows_at(self, place: str) -> tuple[Tensor, Tensor]:
        """Return the rows of an institution where they are, else the sample's.

        Returns
        -------
        features : Tensor of float32, shape (rows, n_features)
            As :attr:`CSVDataset.features`.
        targets : Tensor of int64 or float32, shape (rows,)

        Raises
        ------
        DatasetError
            If the institution's table is not there, is not the one that was registered, or is not
            as the sample is. It names columns of the sample, and nothing that is in the table: not
            its own columns either, which are values where a header line is missing.
        """
        folder = self.folder()
        if folder is None:
            return self.features, self.targets
        if place not in self._read_already:  # its clients share one table
            self._read_already[place] = self._table(folder, place)
        return self._read_already[place]

    def split_seed(self, place: str, *settings: object) -> int:
        """Return what deals out and splits the rows of an institution that were read.

        It comes of the bytes of its table, and not of the experiment's seed: else two runs would
        differ by rows that were chosen. With another of the settings it is another, so that the
        rows are dealt anew, and two runs do not differ by one row.

        Parameters
        ----------
        place : str
        *settings : object
            Among how many clients the rows are dealt out, and which share of them is held back.
        """
        told = f"{self._digests[place]} {settings}"
        return int.from_bytes(hashlib.sha256(told.encode()).digest())

    def _table(self, folder: Path, place: str) -> tuple[Tensor, Tensor]:
        path = folder / self.homes[place]
        shown = f"the table of {place}"
        if not path.is_file():
            raise DatasetError(
                f"{shown} cannot be read: {self.homes[place]!r} is not on the volume of {place}"
            )
        self._digests[place] = sha256_of(path)
        wanted = json.loads(os.environ.get(HASHES_VARIABLE) or "{}").get(self.homes[place])
        try:
            if wanted and self._digests[place] != wanted:
                raise _ChangedError
            frame, _ = read_table(path)
            return self._read(frame, shown)
        except _ChangedError:
            raise DatasetError(
                f"{shown} has changed since it was registered, and that one was granted; its "
                "owner may restore it, or register it as a new version"
            ) from None
        except _NotAlikeError as error:
            raise DatasetError(str(error)) from None
        except Exception:  # noqa: BLE001 - whatever pandas, numpy or torch say may be a value
            raise DatasetError(
                f"{shown} cannot be read as the sample is; its owner sees why by "
                "lab.CSVDataset on the file"
            ) from None

    def _read(self, frame: pd.DataFrame, shown: str) -> tuple[Tensor, Tensor]:
        names = self.columns()
        for name in names:
            if name not in frame:
                raise _NotAlikeError(f"{shown} has no column named {name!r}")
        used = frame[names]
        if self.missing == "drop":
            used = used[used.notna().all(axis=1)].reset_index(drop=True)
        if used[self.target].isna().any():
            raise _NotAlikeError(
                f"{shown} lacks the target {self.target!r} in some rows; fill it in, or say "
                "missing='drop'"
            )
        if len(used) < 2:
            raise _NotAlikeError(
                f"{shown} has {count(len(used), 'row')} that can be used, and training and "
                "validation need two"
            )
        self._check_alike(used, shown)
        return self.encode(used), self._encode_targets(used[self.target], shown)

    def _check_alike(self, frame: pd.DataFrame, shown: str) -> None:
        """Refuse a table whose columns hold something else than the sample's."""
        for name in column_names(frame):
            ours, theirs = self.frame[name], frame[name]
            if is_number(ours) != is_number(theirs) and not theirs.isna().all():
                held, wanted = ("numbers", "text") if is_number(theirs) else ("text", "numbers")
                raise _NotAlikeError(
                    f"{shown}: column {name!r} holds {held}, and {wanted} are wanted"
                )
            if name == self.target:
                continue
            if theirs.isna().any() and self.missing != "mean":
                raise _NotAlikeError(
                    f"{shown}: column {name!r} has missing values; fill them first, or say "
                    "missing='drop'"
                )
            if is_number(ours):
                _check_range(theirs, f"{shown}: column {name!r}")
            elif set(theirs.dropna().map(str)) - set(ours.dropna().map(str)):
                raise _NotAlikeError(
                    f"{shown}: column {name!r} has categories that the sample does not have; add "
                    "them to the sample"
                )

    def _encode_targets(self, values: pd.Series[Any], shown: str) -> Tensor:
        what = f"{shown}: the target {self.target!r}"
        if self.classes is None:
            if not is_number(values) and not is_bool_dtype(values.dtype):
                raise _NotAlikeError(f"{what} holds text, and numbers are wanted")
            _check_range(values, what)
            return torch.from_numpy(values.to_numpy(np.float32))
        numbers = {name: number for number, name in enumerate(self.classes)}
        texts = values.map(_class_name)
        if not texts.isin(numbers).all():
            raise _NotAlikeError(
                f"{what} has classes that the sample does not have, which are: "
                f"{', '.join(self.classes)}"
            )
        return torch.from_numpy(texts.map(numbers).to_numpy(np.int64, copy=True))


class _ChangedError(Exception):
    """A table is another one than was registered."""


class _NotAlikeError(Exception):
    """A table is not as the sample is; with a sentence in which no value of it is."""


def _check_range(values: pd.Series[Any], what: str) -> None:
    with np.errstate(over="ignore"):
        if np.isinf(values.to_numpy(np.float32)).any():
            raise _NotAlikeError(f"{what} has numbers that are infinite or beyond 3.4e38")


def _class_name(value: Any) -> str:
    """Return a class as ``CSVDataset.classes`` names it."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        number = float(value)
        return str(int(number)) if number.is_integer() else str(number)
    return str(value)


def check_home_paths(homes: Any) -> dict[str, str]:
    """Return where each institution has its table, by its name.

    Raises
    ------
    DatasetError
        If that is no mapping of names to relative paths.
    """
    if not isinstance(homes, Mapping) or not homes:
        raise DatasetError(
            "homes must say where each institution has its table, such as "
            f"{{'ufmg': 'trips.csv'}}, not {homes!r}"
        )
    checked = {}
    for name, path in homes.items():
        place = check_name(name, "institution")
        parts = PurePosixPath(path).parts if isinstance(path, str) else ()
        if not parts or PurePosixPath(path).is_absolute() or ".." in parts:
            raise DatasetError(
                f"the home of {place!r} must be a relative path on its volume, such as "
                f"'trips.csv', not {path!r}"
            )
        checked[place] = path
    return checked


def fewest_rows() -> int:
    """Return how few rows may be trained on, or validated on, together where rows are at home.

    Raises
    ------
    DatasetError
        If who keeps the rows said something else than a number from 1.
    """
    told = os.environ.get(FEWEST_VARIABLE, "") or str(FEWEST_ROWS)
    if not told.isascii() or not told.isdigit() or int(told) < 1:
        raise DatasetError(f"{FEWEST_VARIABLE} must be a whole number from 1, not {told!r}")
    return int(told)


def check_homes(dataset: HomeDataset, clients: Any, partitioned: bool, centralized: bool) -> int:
    """Return how many clients there are; refuse what would move rows between homes.

    Each home has the same number of clients, one by default.

    Raises
    ------
    DatasetError
        If another number of clients than a multiple of the homes, a partition, or a centralized
        baseline is asked for.
    """
    homes = len(dataset.homes)
    several = isinstance(clients, int) and clients > 0 and clients % homes == 0
    if clients is not None and not several:
        raise DatasetError(
            f"the rows stay in {count(homes, 'home')}, each with as many clients; give a multiple "
            f"of {homes}, or leave clients out (it is {clients!r})"
        )
    if partitioned:
        raise DatasetError(
            "the rows stay with their institutions, where they are dealt out evenly; leave "
            "partition out, or use lab.CSVDataset to share out rows that are here"
        )
    if centralized:
        raise DatasetError(
            "the rows stay with their institutions, so there is no centralized baseline; use "
            "lab.CSVDataset on the sample for one"
        )
    return homes if clients is None else int(clients)


def home_names(dataset: HomeDataset, clients: int) -> tuple[str, ...]:
    """Return the names of the clients: of the institution, and a number where it has several."""
    places = [dataset.place(client, clients) for client in range(clients)]
    return tuple(f"{home} {number + 1}" if of > 1 else home for home, number, of in places)
