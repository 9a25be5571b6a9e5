import ast
import string
from pathlib import Path

import pytest

from flautim_lab.jupyter import panel
from flautim_lab.jupyter.panel.text import Text, language_of_environment, messages

SOURCES = sorted(Path(panel.__file__).parent.rglob("*.py"))
VARIABLES = ("FLAUTIM_LAB_LANGUAGE", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")


def said():
    """Every message that the panel's code says, with the file and line where it does."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name.split(".")[-1] == "text" or name.endswith("text.count"):
                most = 2 if name.endswith("text.count") else 1
                for argument in node.args[:most]:
                    # text("a" if x else "b") says two.
                    for part in ast.walk(argument):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield part.value, f"{path.name}:{node.lineno}"


def fields(message):
    return {field for _, field, _, _ in string.Formatter().parse(message) if field is not None}


def test_every_message_has_a_translation_with_the_same_fields():
    known = messages("pt_BR")
    missing = []
    for message, where in said():
        found = known.get(message)
        if found is None or not found.string:
            missing.append((message, where))
        else:
            assert fields(found.string) == fields(message), (message, where)
    assert not missing


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "pt_BR.UTF-8"}, "pt_BR"),
        ({"LANG": "pt_PT.UTF-8"}, "pt_BR"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8", "LANGUAGE": "pt:de"}, "pt_BR"),
        ({"LANG": "pt_BR.UTF-8", "FLAUTIM_LAB_LANGUAGE": "en"}, "en"),
        ({"LANG": "not a language"}, "en"),
    ],
)
def test_language_of_environment(monkeypatch, environment, language):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language_of_environment() == language
    assert Text().language == language


def test_what_has_no_translation_is_said_in_english():
    assert Text("pt_BR")("no such message {n}", n=3) == "no such message 3"


def test_count():
    text = Text("en")
    assert text.count("{n} project", "{n} projects", 1) == "1 project"
    assert text.count("{n} project", "{n} projects", 0) == "0 projects"
