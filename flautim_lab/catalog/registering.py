"""Registering a table: its schema, its size and its hash go into the catalog; its rows do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flautim_lab.catalog import opening
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.sources import class_named
from flautim_lab.catalog.things import Column, DatasetVersion
from flautim_lab.errors import DatasetError
from flautim_lab.experiment.table import kind_of, read_table, sha256_of
from flautim_lab.home import data_volume
from flautim_lab.names import choose

MOST_CATEGORIES = 100  # a text column with more is free text: its values would be rows


@dataclass(frozen=True)
class Schema:
    """What is told of a table.

    Attributes
    ----------
    columns : tuple of Column
    rows : int
    sha256 : str
        Of the file's bytes.
    """

    columns: tuple[Column, ...]
    rows: int
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)


def schema_of(path: str | Path) -> Schema:
    """Return the schema of a CSV file, read as :class:`CSVDataset` reads it.

    Raises
    ------
    DatasetError
        If it is no table.
    """
    frame, _ = read_table(path)
    columns = tuple(_column(str(name), values) for name, values in frame.items())
    return Schema(columns, len(frame), sha256_of(path))


def register_dataset(
    institution: str,
    path: str | Path,
    *,
    target: str,
    name: str = "",
    key: str = "",
    description: str | None = None,
    source: str = "",
    class_name: str = "",
    catalog: Catalog | None = None,
) -> DatasetVersion:
    """Register a CSV file of this machine as a dataset, or as a new version of one.

    Parameters
    ----------
    institution : str
        Its key, such as ``"ufmg"``.
    path : str or Path
        The file. It stays where it is, and must not change. On the institution's volume (in a hub's
        notebook of a data owner) it is known by its path there, and read by workers there alone.
    target : str
        The column to learn.
    name, key : str, optional
        The file's name by default.
    description : str, optional
    source, class_name : str, optional
        Python source of a Dataset class of its own, which is made with the path; its class.
    catalog : Catalog, optional
        ``lab.open_catalog()`` by default.

    Raises
    ------
    DatasetError
        If the file is no table, or has no such column.
    CatalogError
        If it cannot be registered.
    """
    place = Path(path).expanduser().absolute()
    schema = schema_of(place)
    choose(target, schema.names, "column (the target)", DatasetError)
    if source:
        class_name = class_named(source, "dataset", "the dataset's source", class_name)
    return (catalog or opening.open_catalog()).add_dataset_version(
        institution,
        name or place.stem,
        key=key,
        columns=schema.columns,
        target=target,
        rows=schema.rows,
        sha256=schema.sha256,
        path=_registered_path(place),
        description=description,
        source=source,
        class_name=class_name,
    )


def _registered_path(place: Path) -> str:
    """Return where rows are: on the institution's volume, or a file of this machine."""
    volume = data_volume()
    if volume is not None and place.is_relative_to(volume):
        return str(place.relative_to(volume))
    return str(place)


def _column(name: str, values: pd.Series) -> Column:
    missing = bool(values.isna().any())
    there = values.dropna()
    kind = kind_of(values)
    if kind == "boolean":
        return Column(name, kind, missing=missing)
    if kind in ("integer", "number"):
        low, high = (float(there.min()), float(there.max())) if len(there) else (None, None)
        return Column(name, kind, low=low, high=high, missing=missing)
    distinct = sorted({str(value) for value in there.unique()})
    # Text that is another one in most rows names rows: it is not told.
    told = len(distinct) <= MOST_CATEGORIES and 2 * len(distinct) <= max(len(there), 4)
    return Column(name, kind, values=tuple(distinct) if told else (), missing=missing)
