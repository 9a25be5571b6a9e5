"""The code of an experiment, as a data owner reads it before saying yes or no.

It is the source of the bundle, and those settings by which it does something else with rows.
Whatever else is changed (rounds, learning rate, seed), it is the same code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flautim_lab.experiment.bundle import Bundle

#: Settings that say what the code does with rows, and what keeps single ones from being told
#: (differential privacy and robust strategies come by ``strategy``; among how many clients the rows
#: are dealt out, and how many a round needs), with what they are where an experiment is silent.
GUARDS: Mapping[str, Any] = {
    "clients": None,
    "min_clients": None,
    "model_args": {},
    "strategy": "FedAvg",
    "strategy_args": {},
}


@dataclass(frozen=True)
class Code:
    """Source, and the settings that count as part of it.

    Attributes
    ----------
    files : mapping of str to str
        Path to text, as in :class:`~flautim_lab.experiment.bundle.Bundle`.
    references : mapping of str to str
        Where in them model, dataset, experiment and strategy are.
    guards : mapping
        :data:`GUARDS` as they are in this experiment.
    """

    files: Mapping[str, str]
    references: Mapping[str, str]
    guards: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_bundle(cls, bundle: Bundle, settings: Mapping[str, Any]) -> Code:
        """Return the code of an experiment.

        Parameters
        ----------
        bundle : Bundle
        settings : mapping
            Of the experiment; what it leaves out is as by default.
        """
        return cls(bundle.files, bundle.references, guards_in(settings))

    @property
    def hash(self) -> str:
        """SHA-256 in hexadecimal: equal for equal code, on every machine."""
        bundle = Bundle(self.files, self.references)
        guards = json.dumps(dict(self.guards), sort_keys=True)
        return hashlib.sha256(f"{bundle.hash} {guards}".encode()).hexdigest()


def guards_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that count as code."""
    return {name: settings.get(name, default) for name, default in GUARDS.items()}
