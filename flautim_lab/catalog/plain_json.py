"""What is kept as JSON: settings of an experiment, and what the panel remembers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from flautim_lab.errors import CatalogError

_NOT_KEPT = re.compile("[\0\ud800-\udfff]")


def to_json(value: Mapping[str, Any], what: str) -> str:
    """Return a mapping as JSON, its keys in order, so that equal ones are equal.

    Raises
    ------
    CatalogError
        If JSON does not hold it: tuples become lists, but anything else must come back as it was.
    """
    try:
        if any(not isinstance(key, str) for key in value):
            raise TypeError("keys must be text")  # json makes text of numbers
        told = json.dumps(dict(value), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise CatalogError(f"{what} cannot be kept as JSON: {error}") from None
    if not _can_be_kept(value):
        raise CatalogError(f"{what} holds a character that cannot be kept (a zero or half of one)")
    return told


def _can_be_kept(value: Any) -> bool:
    """Return whether databases and JSON keep every text: JSON's own escapes would hide some."""
    if isinstance(value, str):
        return _NOT_KEPT.search(value) is None
    if isinstance(value, Mapping):
        return all(_can_be_kept(part) for pair in value.items() for part in pair)
    return not isinstance(value, (list, tuple)) or all(map(_can_be_kept, value))
