"""What is kept as JSON: settings of an experiment, and what the panel remembers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flautim_lab.errors import CatalogError


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
        return json.dumps(dict(value), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise CatalogError(f"{what} cannot be kept as JSON: {error}") from None
