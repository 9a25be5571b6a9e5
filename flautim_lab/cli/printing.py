"""How the commands print: tables, pairs, JSON."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

INTERRUPTED_BY_USER = 130  # a shell's own status for Ctrl-C

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")


def shortened(text: str, length: int) -> str:
    """Return ``text`` in at most ``length`` characters."""
    return text if len(text) <= length else f"{text[: length - 3].rstrip()}..."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines of columns, each as wide as its widest cell."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def pairs(facts: Mapping[str, object]) -> str:
    """Return a line per name and value, indented."""
    width = max((len(name) for name in facts), default=0)
    lines = []
    for name, value in facts.items():
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        lines.append(f"  {name:<{width}}  {text}".rstrip())
    return "\n".join(lines)


def local_time(moment: float | None) -> str:
    """Return seconds since 1970 as a date and time of this machine."""
    if moment is None:
        return "not yet"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def print_json(value: Any) -> None:
    """Print ``value`` as JSON that any parser reads."""
    click.echo(json.dumps(_finite(value), indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    """Return ``value`` with null for what JSON has no number for (nan, infinity)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
