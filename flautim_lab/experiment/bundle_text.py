"""One file of a bundle that was gathered from cells, and its text."""

from __future__ import annotations

import ast
import itertools
import keyword
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flautim_lab.experiment.source import Definition, Node, parse
from flautim_lab.names import slug

HEADER = "# Gathered from notebook cells by Flautim Lab.\n"
CELL_HEADER = (
    "# The cell `{}`, whole. Loading it only defines: what else the cell did is a comment.\n"
)
FUTURE = "from __future__ import annotations\n"


class TangledError(Exception):
    """A kept cell cannot stand as one file; its definitions are gathered one by one instead."""


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
            self.import_module(place.module)
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
    folder = "cells" if "cells" not in taken else "kept_cells"
    stem = f"{folder}/{stem}" if cell else "experiment"
    paths = (f"{stem}_{n}.py" if n > 1 else f"{stem}.py" for n in itertools.count(1))
    return next(path for path in paths if path not in used and top_module(path) not in taken)


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


def render(unit: Unit) -> str:
    """Return the text of the file: imports, values, definitions.

    Raises
    ------
    TangledError
        If it holds a kept cell that cannot stand whole.
    """
    definitions = [item.definition for item in unit.items.values() if item.definition]
    head = FUTURE if any(made.future_annotations for made in definitions) else ""
    ordered = in_order(unit.items)
    values = [item for item in ordered if not _needs_definition(item, unit.items)]
    rest = [item for item in ordered if item not in values]
    if not unit.cell:
        top = "".join(sorted(set(_imports(unit, unit.imports)), key=_import_order))
        blocks = [head, top, "".join(item.text for item in values)]
        body = "\n\n".join(item.text for item in rest)
        return (
            HEADER + "\n".join(block for block in blocks if block) + ("\n\n" + body if body else "")
        )
    if any(item.definition is None for item in rest):
        raise TangledError
    body, brought = _cell_body(unit)
    left = {name: line for name, line in unit.imports.items() if name not in brought}
    top = "".join(sorted(set(_imports(unit, left)), key=_import_order))
    blocks = [head, top, "".join(item.text for item in values), body]
    return CELL_HEADER.format(unit.cell) + "\n".join(block for block in blocks if block)


def in_order(items: Mapping[str, Item]) -> list[Item]:
    """Return ``items`` in an order in which they can run: helpers first.

    What a function only uses when it is called comes first too where that is possible; where two
    definitions need each other, only what is needed at once decides.
    """
    nice: dict[str, None] = {}

    def visit(name: str, seen: set[str], *, strict: bool, done: dict[str, None]) -> None:
        if name in seen or name not in items:
            return
        seen.add(name)
        item = items[name]
        for other in item.early if strict else [*item.early, *item.late]:
            visit(other, seen, strict=strict, done=done)
        done[name] = None

    seen: set[str] = set()
    for name in items:
        visit(name, seen, strict=False, done=nice)
    final: dict[str, None] = {}
    seen = set()
    for name in nice:
        visit(name, seen, strict=True, done=final)
    return [items[name] for name in final]


def _needs_definition(item: Item, items: Mapping[str, Item]) -> bool:
    if item.definition:
        return True
    return any(items[name].definition for name in item.early if name in items)


def _imports(unit: Unit, imports: Mapping[str, str]) -> Iterator[str]:
    for line in imports.values():
        yield line + "\n"
    for name, (other, there) in unit.foreign.items():
        alias = "" if name == there else f" as {name}"
        yield f"from {other.module} import {there}{alias}\n"


def _import_order(line: str) -> tuple[bool, str]:
    return line.startswith("from "), line


# --- a kept cell -----------------------------------------------------------------------------


def statement_source(node: Node, text: str) -> str:
    """Return the text of a definition in a cell, decorators and comments included."""
    return Definition(node.name, node, text, future_annotations=False).source


def defined_in(definition: Definition, text: str) -> Node | None:
    """Return the statement of a cell that is word for word ``definition``, or None."""
    tree = parse(text)
    for node in reversed(tree.body if tree else ()):
        if isinstance(node, Node) and node.name == definition.name:
            return node if statement_source(node, text) == definition.source else None
    return None


def _cell_body(unit: Unit) -> tuple[str, set[str]]:
    """Return the cell with all but what the bundle needs as comments, and what it imports."""
    tree = parse(unit.cell_text)
    made = [item.definition for item in unit.items.values() if item.definition]
    live = [defined_in(definition, unit.cell_text) for definition in made]
    if tree is None or None in live:
        raise TangledError
    lines = unit.cell_text.split("\n")
    kept: set[int] = set()
    dropped: set[int] = set()
    brought: set[str] = set()
    for statement in tree.body:
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
        numbers = set(range(first, (statement.end_lineno or first) + 1))
        names = _needed_import(statement, unit)
        if names or statement in live:
            kept |= numbers
            brought |= names
        else:
            dropped |= numbers
    if kept & dropped:  # two statements in one line
        raise TangledError
    for number in dropped:
        lines[number - 1] = f"# {lines[number - 1]}".rstrip()
    return "\n".join(lines).rstrip("\n") + "\n", brought


def _needed_import(statement: ast.stmt, unit: Unit) -> set[str]:
    """Return the names that an import brings, if each is needed and means what it means now."""
    if isinstance(statement, ast.Import):
        bound = {}
        for alias in statement.names:
            module = sys.modules.get(alias.name)
            if alias.asname is None:
                module = sys.modules.get(alias.name.partition(".")[0])
            bound[alias.asname or alias.name] = module
    elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
        home = sys.modules.get(statement.module)
        bound = {x.asname or x.name: getattr(home, x.name, None) for x in statement.names}
    else:
        return set()
    for name, value in bound.items():
        known = unit.names.get(name.partition(".")[0])
        if name not in unit.imports or known is not value:
            return set()
    return set(bound)
