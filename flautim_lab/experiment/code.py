"""The code of an experiment, as a data owner reads it before saying yes or no.

It is the source of the bundle and every setting but :data:`FREE`: whatever could make the same
source tell more of single rows is part of what was read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flautim_lab.errors import BundleError
from flautim_lab.experiment.bundle import Bundle

#: Settings that are no part of the code. A run may be stopped after any round, and be made again,
#: so that a fixed number of rounds would keep nothing back; which rounds are validated, on what the
#: numbers are computed and what the experiment is called tell nothing of a row.
#:
#: The seed is not among them, nor the learning rate: the seed orders the batches, so that two seeds
#: differ by the rows of a last, small batch, and at a tiny rate such differences add up exactly.
FREE = ("name", "rounds", "evaluate_every", "device", "engine")
#: What is written beside the settings; the model is where the bundle's reference says.
_BESIDE = ("format", "model")
#: Of a table: where its sample is, and what it is called. The sample's columns do count.
_OF_THE_SAMPLE = ("path", "sha256", "rows", "name")
_LIBRARY = "torch.nn"
#: Characters that show source otherwise than Python reads it: they reorder it, or look like a new
#: line without being one (CVE-2021-42574, "Trojan Source"), or cannot be shown or kept at all.
_MISLEADING = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True)
class Code:
    """Source, and the settings that count as part of it; ``print`` shows all of it.

    Attributes
    ----------
    files : mapping of str to str
        Path to text, as in :class:`~flautim_lab.experiment.bundle.Bundle`.
    references : mapping of str to str
        Where in them model, dataset, experiment and strategy are.
    guards : mapping
        All settings but :data:`FREE`, as :func:`guards_in` returns them.
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

    def __str__(self) -> str:
        facts = [f"{role}: {place}" for role, place in self.references.items()]
        facts += [f"{name} = {json.dumps(value)}" for name, value in sorted(self.guards.items())]
        parts = (f"--- {name}\n{source}" for name, source in self.files.items())
        return "\n".join([*facts, *parts])


def guards_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that count as code, those that are left out by their defaults.

    Parameters
    ----------
    settings : mapping
        As :meth:`Experiment.to_json` writes them, or some of them.
    """
    from flautim_lab.experiment.experiment import Experiment  # it imports torch
    from flautim_lab.experiment.partition import evenly

    guards: dict[str, Any] = {"dataset": None, "class": None}
    numbers = []
    for each in dataclasses.fields(Experiment):
        if each.default is not dataclasses.MISSING and each.init:
            guards[each.name] = each.default
            numbers += [each.name] if "float" in str(each.type) else []
        elif each.name.endswith("_args"):
            guards[each.name] = {}
    guards["partition"] = evenly().settings()
    guards |= settings
    for name in numbers:  # 1 and 1.0 are one setting
        if type(guards[name]) is int:
            with contextlib.suppress(OverflowError):
                guards[name] = float(guards[name])
    if isinstance(guards["dataset"], Mapping):
        guards["dataset"] = _counted(guards["dataset"])
    return {key: value for key, value in guards.items() if key not in (*FREE, *_BESIDE)}


def _counted(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return what counts of a dataset's settings: of homes, which they are, in their order."""
    counted = {key: value for key, value in dataset.items() if key not in _OF_THE_SAMPLE}
    if isinstance(homes := counted.get("homes"), list):
        pairs = [home if isinstance(home, list) and len(home) == 2 else [home] for home in homes]
        counted["homes"] = [pair[0] for pair in pairs]
    return counted


def check_readable(code: Code) -> None:
    """Refuse code of which a reader would not see all, or see something else than Python does.

    Raises
    ------
    BundleError
        If the model, or what else there is, is defined elsewhere, or a character of a file is not
        shown as Python reads it.
    """
    if "model" not in code.references:
        raise BundleError("the code has no model; name its class, as in experiment.py:Net")
    for role, reference in code.references.items():
        place, _, name = reference.partition(":")
        library = place == _LIBRARY or place.startswith(f"{_LIBRARY}.")
        if place not in code.files and (not library or "." in name):
            raise BundleError(
                f"the {role} is {reference}, whose source is not among the files that the data's "
                "owner reads; define it in them, or use a class of torch.nn"
            )
    for path, source in code.files.items():
        for where, text in ((f"the name {path!a}", path), (path, source.replace("\r\n", "\n"))):
            if (found := _MISLEADING.search(text)) is not None:
                line = text.count("\n", 0, found.start()) + 1
                raise BundleError(
                    f"line {line} of {where} has the character U+{ord(found[0]):04X}, which is not "
                    "shown as Python reads it; write it as an escape"
                )


def difference(
    before: Mapping[str, str], after: Mapping[str, str], one: str, other: str
) -> list[str]:
    """Return how the files of two bundles differ, as lines of a unified diff without their ends.

    Parameters
    ----------
    before, after : mapping of str to str
        Path to text.
    one, other : str
        What each is called in it.
    """
    lines: list[str] = []
    for name in {**before, **after}:
        old, new = (files.get(name, "").splitlines() for files in (before, after))
        lines += difflib.unified_diff(old, new, f"{one}/{name}", f"{other}/{name}", lineterm="")
    return lines
