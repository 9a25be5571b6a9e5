"""Rows made up to a schema: to write code against data that one may not see."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pandas as pd

from flautim_lab.catalog.things import Column, DatasetVersion

ROWS = 200
MISSING = 0.05  # of the rows, where a column has missing values


def made_up_rows(version: DatasetVersion, rows: int = ROWS) -> pd.DataFrame:
    """Return a table with the columns of a dataset and values that it could have.

    The same version gives the same rows. They follow the kind, the range and the categories of
    each column, and nothing else: no relation between columns is that of the real ones.

    Parameters
    ----------
    version : DatasetVersion
    rows : int
        At most; never more than the dataset has.
    """
    seed = hashlib.sha256(f"{version.ref} {version.sha256}".encode()).digest()
    rng = np.random.default_rng(list(seed))
    number = max(min(rows, version.rows), 1)
    return pd.DataFrame({column.name: _values(column, number, rng) for column in version.columns})


def _values(column: Column, rows: int, rng: np.random.Generator) -> pd.Series:
    low = 0.0 if column.low is None else column.low
    high = low + 1.0 if column.high is None else column.high
    if column.kind == "boolean":
        values = pd.Series(rng.random(rows) < 0.5)
    elif column.kind == "integer":
        values = pd.Series(rng.integers(math.ceil(low), math.floor(high), rows, endpoint=True))
    elif column.kind == "number":
        values = pd.Series(rng.uniform(low, high, rows))
    elif column.values:
        # Every category is there if the rows suffice: else a model would have fewer outputs.
        cycle = np.resize(np.arange(len(column.values)), rows)
        values = pd.Series(np.array(column.values, dtype=object)[rng.permutation(cycle)])
    else:
        values = pd.Series([f"text {number}" for number in rng.integers(0, 10**6, rows)])
    if column.missing and rows > 1:
        gaps = rng.random(rows) < MISSING
        gaps[int(rng.integers(rows))] = True
        values = values.astype(object if values.dtype == bool else values.dtype).mask(gaps)
    return values
