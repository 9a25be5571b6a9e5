"""What a data's owner reads of a request: all that counts, and what is new in it."""

import dataclasses
import re

from flautim_lab.catalog.things import GrantRequest
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.code import Code
from flautim_lab.jupyter.panel.reading import code_as_html
from flautim_lab.jupyter.panel.text import Text

FILES = {"a.py": "class Net:\n    pass\n"}
BEFORE = Code.of_bundle(
    Bundle(FILES, {"model": "a.py:Net", "strategy": "a.py:make"}),
    {"strategy": {"kind": "function", "role": "strategy"}},
)


def read(code, before=None, **settings):
    """The rows of its tables, each as text, one table after the other."""
    request = GrantRequest(
        1, "i/d", "u/p", "", code.hash, "", "ana", 0.0, code=code, before=before, settings=settings
    )
    shown = code_as_html(Text("en"), request)
    tables = re.findall(r"<table.*?</table>", shown, re.DOTALL)
    return shown, [
        [re.sub("<[^>]*>", "\0", line).split("\0") for line in re.findall("<tr>.*?</tr>", one)]
        for one in tables
    ]


def cells(lines):
    return [[cell for cell in line if cell] for line in lines]


def test_where_the_model_is_and_every_setting_that_counts_are_shown():
    shown, (counted, free) = read(BEFORE, rounds=3)
    assert "This project was granted nothing of this dataset before" in shown
    assert "class Net" in shown
    lines = cells(counted)
    assert ["Where the model is", "a.py:Net"] in lines
    assert ["Where the strategy is", "a.py:make"] in lines  # and not the setting of that name
    assert {line[0] for line in lines} >= set(BEFORE.guards)
    assert ["validation", "0.2"] in lines
    assert ["rounds", "3"] in cells(free)


def test_what_is_new_since_the_last_yes():
    shown, (counted, _) = read(BEFORE, BEFORE)
    assert "The source is the same" in shown
    assert "The settings are the same" in shown
    now = dataclasses.replace(
        BEFORE,
        references=BEFORE.references | {"model": "a.py:Net.other"},
        guards=BEFORE.guards | {"validation": 0.9, "centralized": 0, "Where the model is": "a.py"},
    )
    shown, (changed, counted, _) = read(now, BEFORE)
    assert cells(changed)[1:] == [
        ["Where the model is", "a.py:Net", "a.py:Net.other"],
        ["Where the model is", "–", "a.py"],
        ["centralized", "false", "0"],
        ["validation", "0.2", "0.9"],
    ]
    assert ["Where the model is", "a.py:Net.other"] in cells(counted)
