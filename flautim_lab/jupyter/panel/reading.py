"""The code of a request, as its data owner reads it: what is new in it, then all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from flautim_lab.catalog.things import GrantRequest
from flautim_lab.experiment.code import difference
from flautim_lab.jupyter.panel.parts import table
from flautim_lab.jupyter.panel.text import Text

_KINDS = {"+": "lab-new", "-": "lab-gone", "@": "lab-where"}


def code_as_html(text: Text, request: GrantRequest) -> str:
    """Return the source and the settings of a request, and how they differ from the last yes.

    Parameters
    ----------
    text : Text
    request : GrantRequest
        With its code.
    """
    if request.code is None:
        return ""
    parts = []
    if request.before is None:
        parts.append(_faint(text("This project was granted nothing of this dataset before")))
    else:
        changes = difference(request.before.files, request.code.files, "granted", "asked")
        parts.append(f"<div class='lab-name'>{escape(text('Since the last grant'))}</div>")
        parts.append(_lines(changes) if changes else _faint(text("The source is the same")))
        parts.append(_settings(text, request.before_settings, request.settings))
    for name, source in request.code.files.items():
        parts.append(
            f"<details {'open' if request.before is None else ''}><summary>{escape(name)}</summary>"
            f"<pre class='lab-code'>{escape(source)}</pre></details>"
        )
    rows = [[name, _shown(value)] for name, value in sorted(request.settings.items())]
    heads = [text("Setting"), text("Value")]
    parts.append(
        f"<details><summary>{escape(text('All settings'))}</summary>{table(heads, rows)}</details>"
    )
    return "".join(parts)


def _lines(changes: list[str]) -> str:
    spans = (
        f"<span class='{_KINDS.get(line[:1], '')}'>{escape(line) or ' '}</span>" for line in changes
    )
    return f"<pre class='lab-code'>{''.join(spans)}</pre>"


def _settings(text: Text, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the settings that are others than those of the last yes."""
    changed = [
        [name, _shown(before.get(name)), _shown(after.get(name))]
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    if not changed:
        return _faint(text("The settings are the same"))
    return table([text("Setting"), text("Granted"), text("Now")], changed)


def _shown(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _faint(words: str) -> str:
    return f"<div class='lab-faint'>{escape(words)}</div>"
