"""References and keys, and how names are compared when somebody searches."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

from flautim_lab.errors import CatalogError
from flautim_lab.names import slug

MOST_KEY_CHARACTERS = 40
_KEY = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_FORMS = {
    1: "an institution, such as ufmg",
    2: "of an institution, such as ufmg/telemetry or ufmg/telemetry@3",
    3: "of a project, such as ufmg/vision/net or ufmg/vision/net@2",
}


@dataclass(frozen=True)
class Ref:
    """A reference that was read: its keys, and the version it names, if it does."""

    keys: tuple[str, ...]
    version: int | None = None

    def __str__(self) -> str:
        bare = "/".join(self.keys)
        return bare if self.version is None else f"{bare}@{self.version}"


def read_ref(text: str, parts: int) -> Ref:
    """Read a reference of so many parts.

    Raises
    ------
    CatalogError
        If it has another form.
    """
    bare, at, version = str(text).strip().partition("@")
    keys = tuple(bare.split("/"))
    wrong = len(keys) != parts or not all(_KEY.fullmatch(key) for key in keys)
    if wrong or (at and not (version.isascii() and version.isdigit() and 0 < int(version) < 2**31)):
        raise CatalogError(f"{text!r} is no reference {_FORMS[parts]}")
    return Ref(keys, int(version) if at else None)


def make_key(name: str, key: str = "") -> str:
    """Return a key: the one that is given, checked, or one that is made from a name.

    A name that has letters which ASCII lacks gets a few characters of its hash, so that two such
    names are two keys.

    >>> make_key("Visão Computacional")
    'visao-computacional'
    """
    if key:
        if len(key) > MOST_KEY_CHARACTERS or not _KEY.fullmatch(key):
            raise CatalogError(
                f"{key!r} cannot be a key; use at most {MOST_KEY_CHARACTERS} lower-case letters, "
                "digits and dashes, such as visao-computacional"
            )
        return key
    letters = [c for c in fold(name) if c.isalnum()]
    if letters and all(c.isascii() for c in letters):
        return slug(name, MOST_KEY_CHARACTERS)
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    if not any(c.isascii() for c in letters):
        return mark
    return f"{slug(name, MOST_KEY_CHARACTERS - 7)}-{mark}"


def fold(text: str) -> str:
    """Return a text as it is compared: without accents, capitals and double spaces."""
    plain = unicodedata.normalize("NFKD", text)
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(letters.casefold().split())


def contains(text: str) -> str:
    """Return a LIKE pattern (escaped by a backslash) for what contains a text."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
