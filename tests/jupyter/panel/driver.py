"""The panel without a browser: its widgets are found by what is written on them, and used."""

from __future__ import annotations

import datetime
import html
import re
import time

import ipywidgets as widgets

from flautim_lab.jupyter.panel.shell import Panel
from flautim_lab.records.store import Records


class Driver:
    """Uses a panel as a person does, and reads what it shows."""

    def __init__(self, catalog):
        self.panel = Panel(catalog, Records.default())

    def all(self, kind=widgets.Widget, label=None):
        """Every widget of a kind that is in the panel now, or those of one label."""
        found, left = [], [self.panel.widget]
        while left:
            one = left.pop(0)
            left = [*getattr(one, "children", ()), *left]
            named = label is None or label in (
                getattr(one, "description", None),
                getattr(one, "tooltip", None),
            )
            if isinstance(one, kind) and named:
                found.append(one)
        return found

    def press(self, label, nth=0):
        self.all(widgets.Button, label)[nth].click()

    def set(self, label, value, nth=0):
        self.all(widgets.ValueWidget, label)[nth].value = value

    def get(self, label, nth=0):
        return self.all(widgets.ValueWidget, label)[nth]

    def upload(self, label, name, content):
        content = content.encode() if isinstance(content, str) else content
        one = {
            "name": name,
            "type": "",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": datetime.datetime.now(),
        }
        self.set(label, (one,))

    @property
    def markup(self):
        """All HTML that is shown, but for the style."""
        shown = [one.value for one in self.all(widgets.HTML) if one.layout.display != "none"]
        return "\n".join(value for value in shown if "<style>" not in value)

    @property
    def words(self):
        """What can be read."""
        return html.unescape(re.sub(r"<[^>]*>", " ", self.markup))

    @property
    def buttons(self):
        return [one.description for one in self.all(widgets.Button) if one.layout.display != "none"]

    @property
    def code(self):
        """What the last of the boxes shows, once they are all open."""
        for one in self.all(widgets.ToggleButton):
            one.value = True
        found = re.findall(r"<pre class='lab-code'>(.*?)</pre>", self.markup, re.DOTALL)
        return [html.unescape(each) for each in found]

    def until(self, what, seconds=60):
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.words
            time.sleep(0.05)

    def close(self):
        self.panel.close()
