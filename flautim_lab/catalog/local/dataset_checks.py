"""What may be kept of a dataset: its schema, its hash, where it is, how many rows it has."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict

from flautim_lab.catalog.local.base import text
from flautim_lab.catalog.things import Column
from flautim_lab.errors import CatalogError
from flautim_lab.names import choose

KINDS = ("number", "integer", "boolean", "text")
MOST_COLUMNS = 10_000
MOST_SCHEMA_CHARACTERS = 2**22
_HASH = re.compile(r"[0-9a-f]{64}")


def checked_columns(columns: Sequence[Column], target: str) -> str:
    """Return a schema as it is kept."""
    if not 0 < len(columns) <= MOST_COLUMNS:
        raise CatalogError(
            f"a dataset has 1 to {MOST_COLUMNS} columns, and this one has {len(columns)}"
        )
    names = [column.name for column in columns]
    for column in columns:
        choose(column.kind, KINDS, f"kind of column ({column.name})", CatalogError)
        text(column.name, "the name of a column", 1000)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CatalogError(f"two columns are named {twice!r}; each needs a name of its own")
    choose(target, names, "column (the target)", CatalogError)
    try:
        kept = json.dumps([asdict(column) for column in columns], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CatalogError(f"the schema cannot be kept: {error}") from None
    return text(kept, "the schema", MOST_SCHEMA_CHARACTERS)


def checked_hash(sha256: str) -> str:
    """Return a hash as it is kept."""
    if sha256 and not _HASH.fullmatch(text(sha256, "the hash")):
        raise CatalogError(f"{sha256!r} is no SHA-256; give its 64 hexadecimal digits, or nothing")
    return sha256


def checked_path(path: str) -> str:
    """Return a path as it is kept."""
    if not text(path, "the path", 4096).strip():
        raise CatalogError("the path is empty; say where the rows live")
    return path


def checked_rows(rows: int) -> int:
    """Return a number of rows as it is kept."""
    if isinstance(rows, bool) or not isinstance(rows, int) or not 0 <= rows < 2**63:
        raise CatalogError(f"the number of rows must be a whole number from 0, not {rows!r}")
    return rows
