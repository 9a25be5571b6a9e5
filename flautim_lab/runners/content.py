"""What the numbers of an executed notebook come from: its code, data files and packages.

Two executions with the same content and the same parameters need not both be done. Looked at are

- the code cells, and the modules of one's own that they import from the notebook's folder;
- the files that the code or the parameters name as they are (``"iris.csv"``), from that folder;
- the versions of Python and of the packages that the code imports.

A file whose name the code puts together, or reads from elsewhere, is not seen.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

ALWAYS = ("flautim-lab", "torch", "flwr", "numpy", "pandas")
"""Packages on which every run depends, imported by the notebook or not."""
MOST_FILES = 10_000  # in a folder that the code names; more are not looked at
MOST_CHARACTERS = 1000  # of a text that may be a path


@dataclass(frozen=True)
class Content:
    """What an execution depends on, beside its parameters.

    Attributes
    ----------
    code : str
        SHA-256 of the code.
    modules : dict of str to str
        Module of one's own, as a path, to its SHA-256; they are part of the code.
    files : dict of str to str
        Data file, as the notebook names it, to its SHA-256.
    versions : dict of str to str
        Package, or ``python``, to its version.
    """

    code: str
    modules: Mapping[str, str]
    files: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def data(self) -> str:
        """SHA-256 of all data files together."""
        return _sha(json.dumps(sorted(self.files.items())).encode())


def content_of(notebook: Any, folder: Path, parameters: Mapping[str, object]) -> Content:
    """Return what an execution of a notebook depends on, as things are now.

    Parameters
    ----------
    notebook : notebook node
        As :func:`flautim_lab.runners.parameters.read_notebook` returns it.
    folder : Path
        Where it runs.
    parameters : mapping
        What will be set; texts among them may name data files.
    """
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    modules: dict[Path, str] = {}
    trees = [tree for source in cells if (tree := _tree(source)) is not None]
    _gather(trees, folder, modules)
    trees += [tree for text in modules.values() if (tree := _tree(text)) is not None]
    texts = {value for value in parameters.values() if isinstance(value, str)}
    texts |= {node.value for node in _constants(trees) if isinstance(node.value, str)}
    names = {str(path.relative_to(folder)): text for path, text in sorted(modules.items())}
    return Content(
        code=_sha(json.dumps([cells, names]).encode()),
        modules={name: _sha(text.encode()) for name, text in names.items()},
        files=dict(_files(texts, folder, set(modules))),
        versions=_versions(frozenset(_imported(trees) - {path.stem for path in modules})),
    )


def differences(stamp: Mapping[str, Any], now: Content, folder: Path) -> list[str]:
    """Return what has changed since an execution was stamped, in words; empty where nothing has.

    Files are those of the stamp: what the execution itself wrote is no reason to do it again.
    """
    changed = []
    if stamp.get("code") != now.code:
        changed.append("the code")
    for name, known in dict(stamp.get("files") or {}).items():
        if now.files.get(name, _hash_of(folder / name)) != known:
            changed.append(name)
    before = dict(stamp.get("versions") or {})
    for package in sorted({*before, *now.versions}):
        if before.get(package) != now.versions.get(package):
            old, new = before.get(package, "none"), now.versions.get(package, "none")
            changed.append(f"{package} ({old} to {new})")
    return changed


def _tree(source: str) -> ast.Module | None:
    """Return the syntax of a cell without its magics, if it has one."""
    lines = source.splitlines()
    python = ["" if line.lstrip().startswith(("%", "!", "?")) else line for line in lines]
    try:
        return ast.parse("\n".join(python))
    except (SyntaxError, ValueError):
        return None


def _gather(trees: Iterable[ast.Module], folder: Path, modules: dict[Path, str]) -> None:
    """Add the modules of ``folder`` that these import, and what those import in turn."""
    for name in _imported(trees):
        package = folder / name
        files = sorted(package.rglob("*.py")) if (package / "__init__.py").is_file() else []
        for path in files or [folder / f"{name}.py"]:
            if path in modules or not path.is_file():
                continue
            modules[path] = path.read_text(encoding="utf-8", errors="replace")
            if (tree := _tree(modules[path])) is not None:
                _gather([tree], folder, modules)


def _imported(trees: Iterable[ast.Module]) -> set[str]:
    names: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def _constants(trees: Iterable[ast.Module]) -> Iterator[ast.Constant]:
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                yield node


def _files(texts: Iterable[str], folder: Path, code: set[Path]) -> Iterator[tuple[str, str]]:
    for text in sorted(texts):
        if not text.strip() or len(text) > MOST_CHARACTERS:
            continue
        path = folder / text
        # A folder that holds the notebook itself (".") is no data.
        if path in code or folder.is_relative_to(path.resolve() if ".." in text else path):
            continue
        if found := _hash_of(path):
            yield text, found


def _hash_of(path: Path) -> str:
    """Return the hash of a file, or of a folder's names, sizes and times; "" if it is neither."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            facts = path.stat()
            return _hash_of_file(str(path), facts.st_size, facts.st_mtime_ns)
        if path.is_dir():
            inside = []
            for file in path.rglob("*"):
                facts = file.stat()
                inside.append((str(file.relative_to(path)), facts.st_size, facts.st_mtime_ns))
                if len(inside) >= MOST_FILES:
                    break
            return _sha(json.dumps(sorted(inside)).encode())
    return ""


@functools.lru_cache(maxsize=256)
def _hash_of_file(path: str, _size: int, _time: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=16)
def _versions(imported: frozenset[str]) -> dict[str, str]:
    used = set(ALWAYS)
    owners = packages_distributions()
    for name in imported - set(sys.stdlib_module_names):
        used |= set(owners.get(name, ()))
    found = {"python": platform.python_version()}
    for package in sorted(used):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
