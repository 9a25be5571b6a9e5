"""Cells that define one thing: run them, keep their whole source, and give the thing its name."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from flautim_lab.errors import FlautimError, UsageError

OWN_SCOPE = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class CellError(FlautimError):
    """A cell of a cell magic failed; its own error has been shown already."""

    was_shown = True


@dataclass(frozen=True)
class Kind:
    """What a cell is to define.

    Attributes
    ----------
    what : str
        In the singular ("dataset").
    accepts : callable
        Whether an object is one.
    accepts_named : callable
        Whether an object is one if it has the name that was asked for.
    how : str
        What to write in the cell, for the message where there is none.
    """

    what: str
    accepts: Callable[[object], bool]
    how: str
    accepts_named: Callable[[object], bool] = lambda value: False


def kind_of(what: str) -> Kind:
    """Return the kind of cell: "dataset", "model" or "experiment"."""
    # Loads torch: not before a cell is run.
    from torch import nn
    from torch.utils.data import Dataset

    from flautim_lab.experiment.experiment import Experiment

    kinds = [
        Kind(
            "dataset",
            lambda value: isinstance(value, Dataset) or _is_class_of(value, Dataset),
            "a lab.CSVDataset, or a torch Dataset or a class of one",
        ),
        Kind(
            "model",
            lambda value: _is_class_of(value, nn.Module),
            "a class of torch.nn.Module",
            # A function that makes one: but a cell has other functions, too.
            lambda value: isinstance(value, FunctionType),
        ),
        Kind(
            "experiment",
            lambda value: isinstance(value, Experiment),
            "a lab.Experiment(dataset, Model, ...)",
        ),
    ]
    return next(kind for kind in kinds if kind.what == what)


def define(shell: Any, kind: Kind, name: str, source: str) -> None:
    """Run ``source`` as a cell, and call what it defines ``name`` in the notebook.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
        Whose namespace the cell runs in.
    kind : Kind
        What the cell must define, once: as the value of its last expression, in a variable or
        class of that name, or as the only one of its kind that it binds.
    name : str
        A name for it.
    source : str
        The cell without its first line; kept whole, imports included, for the bundle.

    Raises
    ------
    UsageError
        If the name cannot be a variable, or the cell defines no such thing or several.
    CellError
        If the cell failed; its error has been shown as in any cell.
    """
    from flautim_lab.experiment.bundle import keep_cell

    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} cannot name a {kind.what} in a notebook; "
            f"use letters, digits and _: %%{kind.what} my_{kind.what}"
        )
    # First, so that an experiment made in the cell finds the source of a class in it.
    keep_cell(name, source)
    result = shell.run_cell(source, store_history=False)
    error = result.error_before_exec or result.error_in_exec
    if error is not None:
        raise CellError(f"{type(error).__name__}: {error}")
    bound = {
        word: shell.user_ns[word]
        for word in bound_names(shell.transform_cell(source))
        if word in shell.user_ns
    }
    shell.user_ns[name] = find(kind, name, bound, result.result)


def find(kind: Kind, name: str, bound: Mapping[str, object], value: object) -> object:
    """Return the one thing of ``kind`` among what a cell bound, and the value it ends with."""
    if name in bound and (kind.accepts(bound[name]) or kind.accepts_named(bound[name])):
        return bound[name]
    if kind.accepts(value):
        return value
    found = {word: thing for word, thing in bound.items() if kind.accepts(thing)}
    # A class and an object made of it are one dataset: the object.
    objects = {word: thing for word, thing in found.items() if not isinstance(thing, type)}
    found = objects or found
    distinct = {id(thing): word for word, thing in found.items()}
    if not distinct:
        raise UsageError(
            f"the cell of %%{kind.what} {name} defines no {kind.what}; write {kind.how}"
        )
    if len(distinct) > 1:
        raise UsageError(
            f"the cell of %%{kind.what} {name} defines {len(distinct)} {kind.what}s "
            f"({', '.join(distinct.values())}); call one of them {name}, "
            "or end the cell with the one you mean"
        )
    return next(iter(found.values()))


def bound_names(source: str) -> list[str]:
    """Return the names that ``source`` binds when it runs, imports left out, in order.

    >>> bound_names("import a; b = c = 1; d = [e for e in b]; f, g = d")
    ['b', 'c', 'd', 'f', 'g']
    """
    names: dict[str, None] = {}

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names[child.name] = None
            elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                names[child.id] = None
            elif not isinstance(child, OWN_SCOPE):
                visit(child)

    visit(ast.parse(source))
    return list(names)


def _is_class_of(value: object, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base)
