"""A frozen class that refuses a change in one sentence, as everything else here is refused."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from flautim_lab.errors import ExperimentError
from flautim_lab.names import choose

__all__ = ["frozen_in_words"]

Frozen = TypeVar("Frozen", bound=type)


def frozen_in_words(cls: Frozen) -> Frozen:
    """Let a frozen dataclass with a ``replace`` method raise ExperimentError for a change.

    A class derived from it may keep attributes of its own beside the settings, as with
    ``dataclass(frozen=True)`` alone.
    """
    fields = {field.name: field.init for field in dataclasses.fields(cls)}

    def refuse(self: Any, name: str, change: str) -> None:
        if type(self) is not cls and name not in fields:
            return
        if name not in fields:
            choose(name, [field for field, init in fields.items() if init], "setting")
        raise ExperimentError(
            f"an experiment is frozen; make another with experiment.replace({change})"
        )

    def set_attribute(self: Any, name: str, value: Any) -> None:
        shown = repr(value) if fields.get(name) else ""
        refuse(self, name, f"{name}={shown}" if 0 < len(shown) <= 40 else "...")
        object.__setattr__(self, name, value)

    def delete_attribute(self: Any, name: str) -> None:
        refuse(self, name, "...")
        object.__delattr__(self, name)

    # Not in the class body: dataclass(frozen=True) writes its own, and allows no other there.
    cls.__setattr__ = set_attribute  # type: ignore[assignment]
    cls.__delattr__ = delete_attribute  # type: ignore[assignment]
    return cls
