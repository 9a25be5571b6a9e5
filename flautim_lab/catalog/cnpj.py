"""The CNPJ, by which Brazil numbers its institutions: twelve characters and two check digits.

Until 2026 the twelve were digits; from then on letters too (Receita Federal, Instrução Normativa
2.229 of 2024). Each character counts as its ASCII code less 48, which for a digit is the digit, so
that one rule fits both forms.
"""

from __future__ import annotations

import re

from flautim_lab.errors import CatalogError

_PUNCTUATION = re.compile(r"[\s./-]")
_FORM = re.compile(r"[0-9A-Z]{12}[0-9]{2}")


def plain(cnpj: str) -> str:
    """Return a CNPJ, or part of one, without punctuation, its letters in capitals."""
    return _PUNCTUATION.sub("", cnpj).upper()


def formatted(cnpj: str) -> str:
    """Return a whole CNPJ as people write it.

    >>> formatted("17217985000104")
    '17.217.985/0001-04'
    """
    bare = plain(cnpj)
    if len(bare) != 14:
        return cnpj
    return f"{bare[:2]}.{bare[2:5]}.{bare[5:8]}/{bare[8:12]}-{bare[12:]}"


def check_digits(base: str) -> str:
    """Return the two check digits of a CNPJ's first twelve characters."""
    digits = ""
    for _ in range(2):
        values = [ord(character) - 48 for character in base + digits]
        # From the right: weights 2 to 9, again and again.
        total = sum(value * (2 + place % 8) for place, value in enumerate(reversed(values)))
        digits += str((11 - total % 11) % 11 % 10)
    return digits


def check_cnpj(cnpj: str) -> str:
    """Return a CNPJ without punctuation, or ``""`` for none.

    Raises
    ------
    CatalogError
        If it has another form, or its check digits are wrong.
    """
    bare = plain(cnpj)
    if not bare:
        return ""
    if not _FORM.fullmatch(bare):
        raise CatalogError(
            f"{cnpj!r} is no CNPJ: it has twelve digits or letters and two check digits, "
            "such as 17.217.985/0001-04"
        )
    if len(set(bare)) == 1 or bare[12:] != check_digits(bare[:12]):
        raise CatalogError(
            f"the check digits of the CNPJ {formatted(bare)} are wrong; look at its digits again"
        )
    return bare
