"""Uploaded Python files, read without running them: which classes are in them, and what they say.

They are parsed, never imported: what somebody uploads runs when it is trained, in a process of its
own, and not because it is looked at.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from flautim_lab.errors import CatalogError
from flautim_lab.names import choose

# Names of the classes that those in a file may derive from.
MODEL_BASES = ("Module", "Sequential")
DATASET_BASES = ("Dataset", "CSVDataset", "TensorDataset")
KINDS = {"model": MODEL_BASES, "dataset": DATASET_BASES}
EXAMPLES = {"model": "class Net(nn.Module)", "dataset": "class Trips(lab.CSVDataset)"}


@dataclass(frozen=True)
class Classes:
    """The classes of a kind in a file, in order.

    Attributes
    ----------
    names : tuple of str
    preferred : str
        The one that is meant unless another one is chosen: the last that no other derives from.
    """

    names: tuple[str, ...]
    preferred: str


def parse(source: str, file: str) -> ast.Module:
    """Return the tree of a Python source.

    Raises
    ------
    CatalogError
        Naming the line that is no Python.
    """
    try:
        return ast.parse(source, file)
    except SyntaxError as error:
        raise CatalogError(
            f"{file} is no Python: {error.msg} in line {error.lineno}; correct it there"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise CatalogError(f"{file} cannot be read as Python: {error}") from None


def classes_in(source: str, kind: str, file: str) -> Classes:
    """Return the classes of a source that are models, or datasets.

    Parameters
    ----------
    source : str
    kind : {"model", "dataset"}
    file : str
        Its name, for sentences.

    Raises
    ------
    CatalogError
        If it is no Python, or has no such class.
    """
    defined = {
        node.name: [_last_name(base) for base in node.bases]
        for node in parse(source, file).body
        if isinstance(node, ast.ClassDef)
    }
    bases = set(KINDS[kind])
    found: list[str] = []
    for name, its in defined.items():  # a class stands below those it derives from
        if bases.intersection(its):
            found.append(name)
            bases.add(name)
    if not found:
        others = f" (it has {', '.join(defined)})" if defined else ""
        raise CatalogError(
            f"{file} has no class of a {kind}{others}; write one, such as {EXAMPLES[kind]}"
        )
    derived_from = {base for name in found for base in defined[name]}
    last = [name for name in found if name not in derived_from]
    return Classes(tuple(found), last[-1])


def class_named(source: str, kind: str, file: str, name: str = "") -> str:
    """Return the name of the class that is meant, or of the one that was chosen.

    Raises
    ------
    CatalogError
        If there is none, or none of that name.
    """
    classes = classes_in(source, kind, file)
    if not name:
        return classes.preferred
    return choose(name, classes.names, f"{kind} in {file}", CatalogError)


def _last_name(node: ast.expr) -> str:
    """Return ``Module`` for ``torch.nn.Module``, and for ``Module``."""
    if isinstance(node, ast.Subscript):  # Dataset[tuple[Tensor, Tensor]]
        node = node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
