"""How large a notebook pod may be: cores, memory, GPUs; what an institution offers, and its bounds.

Memory is written as JupyterHub writes it: ``2G`` are 2 x 1024^3 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CPU = r"[0-9]{1,4}(\.[0-9]{1,3})?"
MEMORY = r"[0-9]{1,7}[MG]"
GPU = r"[0-9]{1,3}"
NAME = re.compile(r"[\w(][\w .()+-]{0,39}")  # KubeSpawner writes it into its form as it is
#: What a notebook server needs to start, and what KubeSpawner asks a node to have.
LEAST_CPU = 0.1
LEAST_MEMORY = "512M"
UNITS = {"M": 2**20, "G": 2**30}


class SizeError(ValueError):
    """A size cannot be, or is not offered; its message says what can."""


@dataclass(frozen=True)
class Size:
    """What a notebook pod may use.

    Attributes
    ----------
    name : str
        As people read it.
    cpu : float
        Cores.
    memory : str
    gpu : int
    image : str or None
        Of its container; the hub's own choice by default.
    """

    name: str
    cpu: float
    memory: str
    gpu: int = 0
    image: str | None = None

    @property
    def words(self) -> str:
        """Return it as the form shows it."""
        gpus = f", {self.gpu} GPU{'s' * (self.gpu > 1)}" if self.gpu else ""
        return f"{self.name}: {self.cpu:g} core{'s' * (self.cpu > 1)}, {self.memory}{gpus}"


@dataclass(frozen=True)
class Limits:
    """How much a user may ask for by hand. What is None cannot be chosen freely."""

    cpu: float | None = None
    memory: str | None = None
    gpu: int | None = None


NO_LIMITS = Limits()  # nothing may be asked for by hand


def cores(text: str, limit: float | None = None) -> float:
    """Return a number of cores.

    Raises
    ------
    SizeError
        If it is none, or out of bounds.
    """
    number = float(text) if re.fullmatch(CPU, text, re.ASCII) else 0.0
    if number < LEAST_CPU:
        raise SizeError(
            f"CPU must be a number of cores from {LEAST_CPU:g} on, such as 0.5, not {text!r}"
        )
    if limit is not None and number > limit:
        raise SizeError(f"{number:g} cores are more than the {limit:g} that may be asked for")
    return number


def amount(text: str, limit: str | None = None) -> int:
    """Return a number of bytes.

    Raises
    ------
    SizeError
        If it is none, or out of bounds.
    """
    number = _bytes(text) if re.fullmatch(MEMORY, text, re.ASCII) else 0
    if number < _bytes(LEAST_MEMORY):
        raise SizeError(f"memory must be {LEAST_MEMORY} or more, such as 2G, not {text!r}")
    if limit is not None and number > _bytes(limit):
        raise SizeError(f"{text} of memory is more than the {limit} that may be asked for")
    return number


def devices(text: str, limit: int | None = None) -> int:
    """Return a number of GPUs.

    Raises
    ------
    SizeError
        If it is none, or out of bounds.
    """
    if not re.fullmatch(GPU, text, re.ASCII):
        raise SizeError(f"GPUs must be a whole number, such as 1, not {text!r}")
    if limit is not None and int(text) > limit:
        raise SizeError(f"{int(text)} GPUs are more than the {limit} that may be asked for")
    return int(text)


def _bytes(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


def read_sizes(told: Any) -> tuple[Size, ...]:
    """Return the sizes that an institution offers, from its entry in the list.

    Raises
    ------
    SizeError
    """
    if not isinstance(told, list):
        raise SizeError(f"profiles must be a list, not {told!r}")
    found = tuple(_size(each) for each in told)
    names = [each.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SizeError(f"two profiles are called {twice!r}; give each a name of its own")
    return found


def _size(told: Any) -> Size:
    if (
        not isinstance(told, Mapping)
        or not {"name", "cpu", "memory"} <= set(told) <= {"name", "cpu", "memory", "gpu", "image"}
        or not isinstance(told["name"], str)
        or not NAME.fullmatch(told["name"])
    ):
        raise SizeError(
            "a profile has a name (of letters, digits, spaces and hyphens), cpu and memory, may "
            f"have gpu and image, and nothing else, not {told!r}"
        )
    image = told.get("image")
    if image is not None and (not isinstance(image, str) or not image.strip()):
        raise SizeError(f"profile {told['name']!r} needs the name of an image, not {image!r}")
    try:
        return Size(
            told["name"],
            cores(_written(told["cpu"])),
            _memory(told["memory"]),
            devices(_written(told.get("gpu", 0))),
            image,
        )
    except SizeError as error:
        raise SizeError(f"profile {told['name']!r}: {error}") from error


def read_limits(told: Any) -> Limits:
    """Return how much may be asked for by hand, from an institution's entry in the list.

    Raises
    ------
    SizeError
    """
    if not isinstance(told, Mapping) or not set(told) <= {"cpu", "memory", "gpu"}:
        raise SizeError(f"limits may have cpu, memory and gpu, and nothing else, not {told!r}")
    try:
        return Limits(
            cores(_written(told["cpu"])) if "cpu" in told else None,
            _memory(told["memory"]) if "memory" in told else None,
            devices(_written(told["gpu"])) if "gpu" in told else None,
        )
    except SizeError as error:
        raise SizeError(f"limits: {error}") from error


def check_within(size: Size, limits: Limits) -> None:
    """Refuse a size that is above the bounds.

    Raises
    ------
    SizeError
    """
    cores(f"{size.cpu:g}", limits.cpu)
    amount(size.memory, limits.memory)
    devices(str(size.gpu), limits.gpu)


def _memory(told: Any) -> str:
    text = _written(told)
    amount(text)
    return text


def _written(told: Any) -> str:
    """Return what JSON has as a number or as text, as text; anything else can be no size."""
    if isinstance(told, float):
        return f"{told:.3f}".rstrip("0").rstrip(".")
    return told if isinstance(told, str) else str(told)
