"""The text of a file that was gathered from cells."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping

from flautim_lab.experiment.bundle_unit import Item, Unit
from flautim_lab.experiment.source import Definition, Node, parse

HEADER = "# Gathered from notebook cells by Flautim Lab.\n"
CELL_HEADER = (
    "# The cell `{}`, whole. Loading it only defines: what else the cell did is a comment.\n"
)
FUTURE = "from __future__ import annotations\n"


class TangledError(Exception):
    """A kept cell cannot stand as one file; its definitions are gathered one by one instead."""


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
