import pytest
from hypothesis import given
from hypothesis import strategies as st

from flautim_lab.catalog.cnpj import check_cnpj, check_digits, formatted
from flautim_lab.errors import CatalogError

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
bases = st.text(ALPHABET, min_size=12, max_size=12).filter(lambda base: len(set(base)) > 1)


@pytest.mark.parametrize(
    "cnpj",
    [
        "17.217.985/0001-04",  # UFMG
        "10727655000110",  # Instituto Federal do Norte de Minas Gerais
        "12.ABC.345/01DE-35",  # the example of the Receita Federal
        "12.abc.345/01de-35",
    ],
)
def test_what_is_one(cnpj):
    bare = check_cnpj(cnpj)
    assert len(bare) == 14
    assert check_cnpj(formatted(bare)) == bare


def test_none_is_none():
    assert check_cnpj(" ") == ""


@pytest.mark.parametrize(
    ("cnpj", "sentence"),
    [
        ("17.217.985/0001-05", "the check digits of the CNPJ 17.217.985/0001-05 are wrong"),
        ("00.000.000/0000-00", "the check digits of the CNPJ 00.000.000/0000-00 are wrong"),
        ("17.217.985/0001", "'17.217.985/0001' is no CNPJ: it has twelve digits or letters"),
        ("17.217.985/0001-0A", "is no CNPJ"),
        ("１７217985000104", "is no CNPJ"),
    ],
)
def test_what_is_none_is_refused(cnpj, sentence):
    with pytest.raises(CatalogError, match=sentence):
        check_cnpj(cnpj)


FIRST = [5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2]


def by_the_book(base):
    """The two digits as the Receita Federal describes them: weights, remainder, 11 less it."""
    for weights in (FIRST, [6, *FIRST]):
        rest = sum(w * (ord(c) - 48) for w, c in zip(weights, base, strict=True)) % 11
        base += "0" if rest < 2 else str(11 - rest)
    return base[12:]


@given(bases)
def test_check_digits(base):
    digits = check_digits(base)
    assert digits == by_the_book(base)
    assert check_cnpj(base + digits) == base + digits
    for place in (0, 1):
        wrong = list(digits)
        wrong[place] = str((int(wrong[place]) + 1) % 10)
        with pytest.raises(CatalogError):
            check_cnpj(base + "".join(wrong))
