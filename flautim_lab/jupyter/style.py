"""What all our tables look like: the page's own colours, digits of one width."""

from __future__ import annotations

import math

INK = "#1f2328"
FAINT = "opacity:0.72"
NUMBERS = "font-variant-numeric:tabular-nums"
CELL = "padding:2px 12px 2px 8px"


def number(value: float) -> str:
    """Return a measured value with four digits, however large it is."""
    return f"{value:.4g}" if math.isfinite(value) else str(value)
