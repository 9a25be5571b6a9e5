"""A file of a bundle in the making: what its names mean, and what it imports and defines."""

from __future__ import annotations

import itertools
import keyword
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from flautim_lab.errors import BundleError
from flautim_lab.experiment.source import Definition
from flautim_lab.experiment.source_modules import split_bundle
from flautim_lab.names import slug


@dataclass
class Item:
    """A definition, or a value (``hidden = 16``).

    ``early`` names what must stand above it, ``late`` what may stand anywhere.
    """

    name: str
    text: str = ""
    definition: Definition | None = None
    early: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)


@dataclass
class Unit:
    """One file in the making.

    Attributes
    ----------
    path : str
        Its path in the bundle.
    namespace : mapping
        The globals from which its names are taken.
    cell, cell_text : str
        Name and text of the kept cell that it holds, or "".
    names : dict
        What each global name of the file stands for.
    imports : dict
        Name (or dotted module) to import statement.
    foreign : dict
        Name to (file, name there), for what another gathered file defines.
    items : dict
        Name to definition or value.
    """

    path: str
    namespace: Mapping[str, Any]
    cell: str = ""
    cell_text: str = ""
    names: dict[str, object] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, tuple[Unit, str]] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The module's name inside the bundle."""
        return self.path.removesuffix(".py").replace("/", ".")

    def mean(self, name: str, value: object) -> bool:
        """Let ``name`` stand for ``value``; False where it stands for something else."""
        known = self.names.setdefault(name, value)
        plain = type(known) is type(value) and isinstance(value, int | float | str)
        return known is value or (plain and known == value)

    def has(self, name: str) -> bool:
        """Whether the file defines or imports ``name``."""
        return name in self.imports or name in self.foreign or name in self.items

    def import_module(self, module: str, name: str = "") -> str:
        """Import ``module`` under ``name``, or under its own dotted name; return that."""
        if not name or name == module:
            self.imports[module] = f"import {module}"
            return module
        outer, _, last = module.rpartition(".")
        from_outer = f"from {outer} import {last}"
        self.imports[name] = from_outer if outer and last == name else f"import {module} as {name}"
        return name

    def import_own_name(self, module: str) -> str:
        """Import ``module`` under its dotted name, of which the first part must be free."""
        top = module.partition(".")[0]
        if top in sys.modules and not self.mean(top, sys.modules[top]):
            raise two_different(top)
        return self.import_module(module)

    def import_inner(self, module: ModuleType, attributes: tuple[str, ...]) -> ModuleType | None:
        """Import ``torch.nn.functional`` where it is read from ``torch``: others may not have."""
        found = module
        for attribute in attributes:
            inner = vars(found).get(attribute)
            named = f"{found.__name__}.{attribute}"
            if not isinstance(inner, ModuleType) or inner.__name__ != named:
                break
            found = inner
        if found is module or sys.modules.get(found.__name__) is not found:
            return None
        self.import_own_name(split_bundle(found.__name__)[1])
        return found

    def bind(self, name: str, place: Place) -> None:
        """Make ``name`` stand for what is at ``place``."""
        nested = place.qualname != place.top
        if place.unit is self:
            if place.qualname != name:
                self.items[name] = Item(name, f"{name} = {place.qualname}\n", early=[place.top])
        elif place.unit is not None:
            self.foreign[place.top if nested else name] = (place.unit, place.top)
            if nested:
                self.items[name] = Item(name, f"{name} = {place.qualname}\n")
        elif nested:
            self.import_own_name(place.module)
            self.items[name] = Item(name, f"{name} = {place.module}.{place.qualname}\n")
        else:
            alias = "" if place.qualname == name else f" as {name}"
            self.imports[name] = f"from {place.module} import {place.qualname}{alias}"


@dataclass(frozen=True)
class Place:
    """Where a class or function is defined: in a gathered file, or else in a module.

    Attributes
    ----------
    qualname : str
        Its name there.
    unit : Unit or None
        The gathered file.
    module : str
        The name to import it from, where there is no gathered file.
    path : str
        The file in the bundle, or "" for an installed module.
    """

    qualname: str
    unit: Unit | None = None
    module: str = ""
    path: str = ""

    @property
    def top(self) -> str:
        """The first part of the name."""
        return self.qualname.partition(".")[0]

    @property
    def reference(self) -> str:
        """How the bundle refers to it."""
        return f"{self.unit.path if self.unit else self.path or self.module}:{self.qualname}"


def free_path(cell: str, used: set[str], taken: set[str]) -> str:
    """Return a path for a gathered file, or for the kept cell ``cell``.

    Parameters
    ----------
    cell : str
        Name of the cell, or "".
    used : set of str
        Paths of the gathered files so far.
    taken : set of str
        Top-level modules of the researcher's own.
    """
    stem = slug(cell, 60).replace("-", "_")
    stem = f"cell_{stem}" if stem[0].isdigit() or keyword.iskeyword(stem) else stem
    base = (
        f"{next(x for x in _numbered('cells') if x not in taken)}/{stem}" if cell else "experiment"
    )
    paths = (f"{name}.py" for name in _numbered(base))
    return next(path for path in paths if path not in used and top_module(path) not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in itertools.count(2):
        yield f"{name}_{number}"


def top_module(path: str) -> str:
    """Return the top-level module or package of a path in a bundle."""
    return path.partition("/")[0].removesuffix(".py")


def import_each_other(units: Iterable[Unit]) -> bool:
    """Whether a gathered file imports one that imports it."""
    below = {unit.path: {other.path for other, _ in unit.foreign.values()} for unit in units}
    while below:
        free = [path for path, needs in below.items() if not needs & below.keys()]
        if not free:
            return True
        for path in free:
            del below[path]
    return False


def two_different(name: str) -> BundleError:
    """Return the error for a name that stands for two things."""
    return BundleError(
        f"two different `{name}` are used, of which only one can be kept; "
        f"run the cells that use the older `{name}` again, or give one of them another name"
    )
