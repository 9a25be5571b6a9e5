"""Names: what a user may type, what was probably meant, and ids that are safe everywhere.

Pure functions, no state: every face (Python, magics, command line, panel) words a wrong name in
the same way by calling :func:`choose`.
"""

from __future__ import annotations

import difflib
import re
import secrets
import time
import unicodedata
from collections.abc import Iterable

from flautim_lab.errors import ExperimentError, FlautimError

MAX_NAME_LENGTH = 100


def unknown(value: object, choices: Iterable[str], what: str) -> str:
    """One sentence for a name that is not among ``choices``.

    >>> unknown("FedAvgg", ["FedAvg", "FedProx"], "strategy")
    "no strategy named 'FedAvgg'; did you mean 'FedAvg'? choose one of: FedAvg, FedProx"
    """
    names = list(choices)
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(value).lower(), lowered, n=1, cutoff=0.6)
    hint = f"; did you mean '{lowered[close[0]]}'?" if close else ";"
    return f"no {what} named {str(value)!r}{hint} choose one of: {', '.join(names)}"


def choose(
    value: str,
    choices: Iterable[str],
    what: str,
    error: type[FlautimError] = ExperimentError,
) -> str:
    """Return ``value`` if it is among ``choices``, else raise ``error`` with a suggestion.

    Parameters
    ----------
    value : str
        What the user typed.
    choices : iterable of str
        What may be typed.
    what : str
        What the name stands for, in the singular ("strategy", "optimizer").
    error : type of FlautimError
        The class of the error that is raised.
    """
    names = list(choices)
    if isinstance(value, str) and value in names:
        return value
    raise error(unknown(value, names, what))


def check_name(name: str, what: str = "experiment") -> str:
    """Return ``name`` if it can name an experiment, a dataset or a model, else raise.

    Letters of any alphabet, digits, spaces and ``. _ -`` inside are fine: "Olá, mundo" and
    "实验 1" are names. A slash or a backslash is not, since names become parts of paths.

    Raises
    ------
    ExperimentError
        If the name is empty, too long, holds a slash, or holds a control character.
    """
    if not isinstance(name, str):
        raise ExperimentError(f"the name of the {what} must be text, not {type(name).__name__}")
    cleaned = unicodedata.normalize("NFC", name).strip()
    if not cleaned:
        raise ExperimentError(f"the name of the {what} is empty; give it at least one letter")
    if len(cleaned) > MAX_NAME_LENGTH:
        raise ExperimentError(
            f"the name of the {what} has {len(cleaned)} characters; use at most {MAX_NAME_LENGTH}"
        )
    for character in cleaned:
        if character in "/\\" or unicodedata.category(character).startswith("C"):
            shown = "a slash" if character == "/" else repr(character)
            raise ExperimentError(
                f"the name {cleaned!r} of the {what} holds {shown}; "
                "use letters, digits, spaces, '-', '_' and '.'"
            )
    if cleaned in {".", ".."}:
        raise ExperimentError(f"the name {cleaned!r} of the {what} is a folder; choose another")
    return cleaned


def slug(name: str, max_length: int = 30) -> str:
    """Return a form of ``name`` that is safe in files, URLs and Kubernetes names.

    Lower-case ASCII letters, digits and single dashes; starts and ends with a letter or digit; at
    most ``max_length`` characters. Different names may give the same slug: add an id where it
    must be unique.

    >>> slug("Olá, mundo / 1")
    'ola-mundo-1'
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    dashed = re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")
    return dashed[:max_length].strip("-") or "run"


def make_run_id(name: str, now: float | None = None) -> str:
    """Return a new run id: time (UTC), slug of the name, four random bytes; sorts by time.

    At most 63 characters of lower-case letters, digits and dashes, and starts with a letter, so
    that it may name a Kubernetes object and a folder.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return f"r{stamp}-{slug(name)}-{secrets.token_hex(4)}"


RUN_ID = re.compile(r"r[0-9]{8}-[0-9]{6}-[a-z0-9-]{1,30}-[0-9a-f]{8}")
"""What :func:`make_run_id` makes."""


def object_name(run_id: str) -> str:
    """Return a run's name for Kubernetes objects: short, so that there is room for a suffix.

    >>> object_name("r20261125-202140-net-on-iris-7d1947b4")
    'r20261125-202140-7d1947b4'
    """
    parts = run_id.split("-")
    return "-".join([*parts[:2], parts[-1]])


def count(number: int, thing: str, things: str = "") -> str:
    """Return ``"1 client"`` or ``"3 clients"``."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"


def duration(seconds: float) -> str:
    """Return ``seconds`` as ``hh:mm:ss``."""
    whole = max(0, round(seconds))
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
