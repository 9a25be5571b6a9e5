"""Find the text of a class or function: in a cell, a cell magic, a kept cell, a script or a file.

A class typed in a cell lives in ``__main__``, and ``inspect.getsource`` cannot tell its cell. Its
methods can: ``co_filename`` names the cell, and IPython keeps the cell's text in ``linecache``. A
class without methods, and what a magic such as ``%%time`` ran, is looked for in the history of
inputs, newest first, and taken where the compiled code is the object's own.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flautim_lab.errors import BundleError
from flautim_lab.experiment.source_code import (
    FUTURE_ANNOTATIONS,
    agrees,
    codes_in,
    may_be_stale,
    own_codes,
    same_constants,
)

BUNDLE_PREFIX = "flautim_lab_bundle_"  # modules loaded from bundles are named so

Node = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_kept: dict[str, str] = {}


def keep_cell(name: str, source: str) -> None:
    """Keep the whole source of a cell under ``name``, for the bundles made from now on.

    The cell magics call it. A cell kept again under the same name takes the older one's place.
    """
    _kept.pop(name, None)
    _kept[name] = source


def kept_cells() -> dict[str, str]:
    """Return the kept cells by name, oldest first."""
    return dict(_kept)


@dataclass(frozen=True)
class Definition:
    """The text of a class or function as it was typed.

    Attributes
    ----------
    name : str
        The name it defines (of the outermost class, for a nested one).
    node : ast node
        Where it stands in ``text``.
    text : str
        The whole cell or file.
    future_annotations : bool
        Whether ``from __future__ import annotations`` was on.
    function : str
        Name of the function inside which it stands, or "".
    local_names : frozenset of str
        Local variables of that function.
    """

    name: str
    node: Node
    text: str
    future_annotations: bool
    function: str = ""
    local_names: frozenset[str] = frozenset()

    @property
    def lines(self) -> range:
        """Numbers of its lines in ``text``, from 1, decorators included."""
        return range(_first_line(self.node), (self.node.end_lineno or 0) + 1)

    @property
    def source(self) -> str:
        """Its own lines, comments inside kept, at the left margin."""
        lines = self.text.split("\n")[self.lines.start - 1 : self.lines.stop - 1]
        source = "\n".join(lines) + "\n"
        if not self.node.col_offset:
            return source
        dedented = textwrap.dedent(source)
        tree = parse(dedented)
        if tree is not None and ast.dump(tree.body[0]) == ast.dump(self.node):
            return dedented
        # A string over several lines would change if it were moved.
        return f"if True:  # as indented in its cell\n{source}"


def parse(text: str) -> ast.Module | None:
    """Return the tree of ``text``, or None where it is not Python."""
    return _parse(text)


@functools.lru_cache(maxsize=512)
def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def plain_python(text: str) -> str | None:
    """Return ``text`` with ``%magic`` and ``!command`` lines as comments; None if not Python."""
    text = text.replace("\r\n", "\n")
    if parse(text) is not None:
        return text
    lines = text.split("\n")
    cleaned = "\n".join("# " + x if x.lstrip().startswith(("%", "!")) else x for x in lines)
    return cleaned if parse(cleaned) is not None else None


# --- texts that a namespace was typed in --------------------------------------------------


def texts(namespace: Mapping[str, Any]) -> list[str]:
    """Return the texts that filled ``namespace``, newest first: inputs, kept cells, its file."""
    found: list[str] = []
    if namespace.get("__name__") == "__main__":
        history = namespace.get("_ih")
        if isinstance(history, list):
            found += [_inside_magic(x) for x in reversed(history) if isinstance(x, str)]
        found += reversed(_kept.values())
        # Where there is no history (a front end that stores none), the cells IPython compiled.
        for name, entry in reversed(list(linecache.cache.items())):
            if len(entry) == 4 and entry[1] is None and not name.startswith(BUNDLE_PREFIX):
                found.append("".join(entry[2]))
    file = namespace.get("__file__")
    if isinstance(file, str):
        found.append(_text_of(file, namespace))
    readable = (plain_python(text) for text in found if text.strip())
    return list(dict.fromkeys(text for text in readable if text is not None))


def _inside_magic(text: str) -> str:
    """Return the cell's own text where ``text`` is IPython's call of a cell magic."""
    while text.startswith("get_ipython().run_cell_magic("):
        tree = parse(text)
        call = tree.body[0].value if tree and isinstance(tree.body[0], ast.Expr) else None
        body = call.args[-1] if isinstance(call, ast.Call) and call.args else None
        if not isinstance(body, ast.Constant) or not isinstance(body.value, str):
            return ""
        text = body.value
        while text.lstrip().startswith("%%"):
            text = text.lstrip().partition("\n")[2]
    return text


def _text_of(filename: str, namespace: Mapping[str, Any]) -> str:
    linecache.checkcache(filename)
    module = {key: namespace.get(key) for key in ("__name__", "__loader__", "__spec__")}
    return "".join(linecache.getlines(filename, module)).replace("\r\n", "\n")


# --- definitions ----------------------------------------------------------------------------


def find_definition(obj: Any, namespace: Mapping[str, Any]) -> Definition | None:
    """Return where ``obj``, a class or function, was typed; None where no text has it.

    Parameters
    ----------
    obj : class or function
        A nested class gives the definition of its outermost class.
    namespace : mapping
        The globals in which it was defined.
    """
    codes = list(own_codes(obj))
    future = any(code.co_flags & FUTURE_ANNOTATIONS for code in codes)
    for code in codes:
        text = _text_of(code.co_filename, namespace)
        nodes = [n for n in _nodes(text, obj) if _first_line(n) <= code.co_firstlineno <= _last(n)]
        if nodes and (not may_be_stale(code, namespace) or agrees(obj, text)):
            return _definition(obj, nodes[-1], text, future)
    for text in texts(namespace):
        for node in reversed(_nodes(text, obj)):
            found = agrees(obj, text) if codes else same_constants(obj, node)
            if found:
                return _definition(obj, node, text, future)
    if not codes:  # its attributes were changed since: the newest of that name
        for text in texts(namespace):
            for node in reversed(_nodes(text, obj)):
                return _definition(obj, node, text, future)
    return None


def tail(qualname: str) -> str:
    """Return the part of a qualified name after the function in which it stands."""
    return qualname.rpartition("<locals>.")[2]


def _nodes(text: str, obj: Any) -> list[Node]:
    """Return the nodes of the outermost definition that may hold ``obj``."""
    qualname: str = inspect.unwrap(obj).__qualname__
    inner = tail(qualname)
    wanted = qualname.removesuffix(inner) + inner.partition(".")[0]
    tree = parse(text) if text else None
    return [node for name, node in _walk(tree.body, "") if name == wanted] if tree else []


def _walk(body: Iterable[ast.AST], prefix: str) -> Iterator[tuple[str, Node]]:
    for node in body:
        if isinstance(node, Node):
            name = prefix + node.name
            yield name, node
            inside = "." if isinstance(node, ast.ClassDef) else ".<locals>."
            yield from _walk(node.body, name + inside)
        else:
            yield from _walk(ast.iter_child_nodes(node), prefix)


def _definition(obj: Any, node: Node, text: str, future: bool) -> Definition:
    tree = parse(text)
    written = any(
        isinstance(statement, ast.ImportFrom)
        and statement.module == "__future__"
        and any(alias.name == "annotations" for alias in statement.names)
        for statement in (tree.body if tree else ())
    )
    function = inspect.unwrap(obj).__qualname__.rpartition(".<locals>.")[0]
    names: set[str] = set()
    for code in codes_in(text, 0) if function else ():
        if code.co_qualname == function:
            names.update(code.co_varnames, code.co_cellvars, code.co_freevars)
    return Definition(
        node.name, node, text, future or written, tail(function), frozenset(names - {node.name})
    )


def _first_line(node: Node) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _last(node: Node) -> int:
    return node.end_lineno or node.lineno


def no_source(obj: Any, name: str) -> BundleError:
    """Return the error for an object whose text nobody has."""
    codes = list(own_codes(obj))
    if any(code.co_filename == "<stdin>" for code in codes):
        why = "it was typed at a Python prompt, which keeps no source"
    elif any(os.path.exists(code.co_filename) for code in codes):
        file = next(code.co_filename for code in codes if os.path.exists(code.co_filename))
        return BundleError(
            f"the source of `{name}` cannot be kept, because {os.path.basename(file)} was changed "
            "after it was imported; restart the kernel, or import it again"
        )
    else:
        why = "it was made while the program ran (by exec or type)"
    return BundleError(
        f"the source of `{name}` cannot be found, because {why}; "
        "define it in a cell or in a .py module"
    )
