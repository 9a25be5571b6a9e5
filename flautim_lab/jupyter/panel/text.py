"""What the panel says, in English and Brazilian Portuguese.

Messages are written in English where they are used, ``text("Run experiment")``, and translated by
``locale/pt_BR/panel.po``, in gettext's format: what is missing there is shown in English, and a
test names it. Sentences about wrong input are raised all over the package, in English and filled
in; ``text.sentence(error)`` finds their form among those of ``sentences.po``.
"""

from __future__ import annotations

import os
import re
import string
from functools import cache
from pathlib import Path

from babel.core import UnknownLocaleError, negotiate_locale
from babel.messages.catalog import Catalog as Messages
from babel.messages.pofile import read_po

from flautim_lab.records.event import RunStatus

LANGUAGES = {"en": "English", "pt_BR": "Português"}
LANGUAGE_VARIABLE = "FLAUTIM_LAB_LANGUAGE"
_COUNTED = re.compile(r"([0-9]+) ([a-z]+)")  # "3 rows", as flautim_lab.names.count writes it
_VARIABLES = (LANGUAGE_VARIABLE, "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
LOCALE = Path(__file__).parent / "locale"


def language_of_environment() -> str:
    """Return the language that the environment asks for, of those there are; else ``"en"``.

    ``FLAUTIM_LAB_LANGUAGE`` goes before what the system is set to.
    """
    for variable in _VARIABLES:
        # LANGUAGE may list several; an encoding (pt_BR.UTF-8) says nothing about words.
        asked = [one.split(".")[0].split("@")[0] for one in os.environ.get(variable, "").split(":")]
        if not any(asked):
            continue
        try:
            found = negotiate_locale([one for one in asked if one], [*LANGUAGES, "pt"])
        except (UnknownLocaleError, ValueError):
            found = None
        if found is not None:
            return "pt_BR" if found == "pt" else found
        if any(one.lower().startswith("pt") for one in asked):
            return "pt_BR"
        return "en"
    return "en"


@cache
def messages(language: str) -> Messages:
    """Return the translations of what the panel itself says, read once."""
    with (LOCALE / language / "panel.po").open("rb") as file:
        return read_po(file, locale=language)


@cache
def sentences(language: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return the sentences that are raised elsewhere: a pattern, and what it is in a language.

    In the order of the file: what suits several is the first that it suits.
    """
    with (LOCALE / language / "sentences.po").open("rb") as file:
        known = [message for message in read_po(file, locale=language) if message.id]
    return tuple((_pattern(str(message.id)), str(message.string)) for message in known)


def _pattern(template: str) -> re.Pattern[str]:
    parts = [
        re.escape(words) + (f"(?P<{field}>.+?)" if field else "")
        for words, field, _, _ in string.Formatter().parse(template)
    ]
    return re.compile("".join(parts), re.DOTALL)


class Text:
    """The panel's words in one language.

    Parameters
    ----------
    language : {"en", "pt_BR"}, optional
        Default: what the environment asks for.
    """

    def __init__(self, language: str = "") -> None:
        self.language = language if language in LANGUAGES else language_of_environment()

    def __call__(self, message: str, /, **values: object) -> str:
        """Return a message with its ``{values}`` filled in; they are text, never HTML."""
        return self._translated(message).format(**values)

    def count(self, one: str, many: str, number: int, /, **values: object) -> str:
        """Return the one of two messages that suits a number, which both may show as ``{n}``.

        >>> Text("en").count("{n} project", "{n} projects", 2)
        '2 projects'
        """
        chosen = one if number == 1 else many
        return self._translated(chosen).format(n=number, **values)

    def sentence(self, error: object) -> str:
        """Return the sentence of an error in this language; in English where it is not known.

        >>> Text("pt_BR").sentence("rounds must be at least 1, not 0")
        'rounds deve ser no mínimo 1, e não 0'
        """
        said = str(error)
        if self.language == "en":
            return said
        for pattern, translated in sentences(self.language):
            if found := pattern.fullmatch(said):
                values = found.groupdict()
                for name, value in values.items():
                    if name.startswith("what"):  # words of ours, and not what somebody typed
                        values[name] = self.sentence(value)
                    elif counted := _COUNTED.fullmatch(value):
                        values[name] = self._translated(f"{{n}} {counted[2]}").format(n=counted[1])
                return translated.format(**values)
        return said

    def status(self, status: RunStatus) -> str:
        """Return where a run stands, as a word."""
        return self._translated(str(status))

    def client(self, number: int, name: str) -> str:
        """Return a client's name; one that is only its number is said in this language."""
        return self("client {n}", n=number) if name == f"client {number}" else name

    def _translated(self, message: str) -> str:
        if self.language == "en":
            return message
        found = messages(self.language).get(message)
        string = found.string if found is not None else ""
        return str(string) if string else message
