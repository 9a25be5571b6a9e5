"""The code of a request, as its data owner reads it: what is new in it, then all of it."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from flautim_lab.catalog.things import GrantRequest
from flautim_lab.experiment.code import Code, difference
from flautim_lab.jupyter.panel.parts import table
from flautim_lab.jupyter.panel.text import Text

_KINDS = {"+": "lab-new", "-": "lab-gone", "@": "lab-where"}


def code_as_html(text: Text, request: GrantRequest) -> str:
    """Return the source and the settings of a request, and how they differ from the last yes.

    Where the model and so on are defined is shown as a setting is; what may be changed without
    another yes (:data:`~flautim_lab.experiment.code.FREE`) is among all settings alone.

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
        parts.append(_changed(text, request.before, request.code))
    for name, source in request.code.files.items():
        parts.append(
            f"<details {'open' if request.before is None else ''}><summary>{escape(name)}</summary>"
            f"<pre class='lab-code'>{escape(source)}</pre></details>"
        )
    heads = [text("Setting"), text("Value")]
    rows = [[name, _shown(value)] for (_, name), value in _counted(text, request.code).items()]
    parts.append(
        f"<details open><summary>{escape(text('What counts as code with it'))}</summary>"
        f"{table(heads, rows)}</details>"
    )
    rows = [[name, _shown(value)] for name, value in sorted(request.settings.items())]
    parts.append(
        f"<details><summary>{escape(text('All settings'))}</summary>{table(heads, rows)}</details>"
    )
    return "".join(parts)


def _counted(text: Text, code: Code) -> dict[tuple[int, str], Any]:
    """Return what counts beside the source: where each role is defined, and then the settings."""
    places = {
        (0, text("Where the {role} is", role=role)): at for role, at in code.references.items()
    }
    return {**places, **{(1, name): value for name, value in sorted(code.guards.items())}}


def _lines(changes: list[str]) -> str:
    spans = (
        f"<span class='{_KINDS.get(line[:1], '')}'>{escape(line) or ' '}</span>" for line in changes
    )
    return f"<pre class='lab-code'>{''.join(spans)}</pre>"


def _changed(text: Text, before: Code, after: Code) -> str:
    """Return what counts beside the source and is another than in the last yes."""
    granted, now = _counted(text, before), _counted(text, after)
    changed = [
        [key[1], _shown(granted.get(key)), _shown(now.get(key))]
        for key in sorted({**granted, **now})
        if json.dumps(granted.get(key)) != json.dumps(now.get(key))
    ]
    if not changed:
        return _faint(text("The settings are the same"))
    return table([text("Setting"), text("Granted"), text("Now")], changed)


def _shown(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _faint(words: str) -> str:
    return f"<div class='lab-faint'>{escape(words)}</div>"
