"""Import the files of a bundle as modules of their own, beside everything else in the process.

Each bundle is a package named after its hash. Code in it says ``from pkg.mod import Net`` as it
did at home; its own ``__import__`` looks into the bundle first. So two bundles with a ``pkg`` each
never meet, ``sys.path`` and the names in ``sys.modules`` that others use stay as they are, and an
import inside a function finds the bundle's file later, too.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.abc
import importlib.machinery
import io
import linecache
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from flautim_lab.experiment.source import BUNDLE_PREFIX

_files: dict[str, Mapping[str, str]] = {}


def files_of(bundle: str) -> Mapping[str, str]:
    """Return the files of a bundle that was imported here, by its module name."""
    return _files[bundle]


def bundles() -> dict[str, dict[str, str]]:
    """Return the files of all bundles that were imported here, for another process."""
    return {root: dict(files) for root, files in _files.items()}


def use_bundles(known: Mapping[str, Mapping[str, str]]) -> None:
    """Let modules of bundles be found that another process has imported."""
    for root, files in known.items():
        _files.setdefault(root, files)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def import_file(digest: str, files: Mapping[str, str], path: str) -> ModuleType:
    """Return the module of one file, executed the first time it is asked for.

    Parameters
    ----------
    digest : str
        Hash of the bundle; equal hashes share their modules.
    files : mapping
        Path to text, all files of the bundle.
    path : str
        The file: ``pkg/mod.py``.
    """
    root = BUNDLE_PREFIX + digest[:16]
    use_bundles({root: files})
    dotted = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return importlib.import_module(f"{root}.{dotted}")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of bundles, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        root, _, inside = fullname.partition(".")
        files = _files.get(root)
        if files is None:
            return None
        stem = inside.replace(".", "/")
        for file, is_package in ((f"{stem}/__init__.py", True), (f"{stem}.py", False)):
            if file in files:
                return _spec(fullname, files[file], f"{root}/{file}", is_package)
        if not inside or any(file.startswith(f"{stem}/") for file in files):
            return _spec(fullname, "", None, True)
        return None


def _spec(
    name: str, text: str, origin: str | None, is_package: bool
) -> importlib.machinery.ModuleSpec:
    loader = _Loader(text)
    spec = importlib.machinery.ModuleSpec(name, loader, origin=origin, is_package=is_package)
    spec.has_location = origin is not None
    return spec


class _Loader(importlib.abc.InspectLoader):
    """Executes one file, and shows its text to ``inspect`` and to tracebacks."""

    def __init__(self, text: str) -> None:
        self._text = text

    def get_source(self, fullname: str) -> str:
        return self._text

    def exec_module(self, module: ModuleType) -> None:
        name = getattr(module, "__file__", None) or module.__name__
        # No time of change: linecache then keeps the lines, though no such file is on the disk.
        lines = io.StringIO(self._text).readlines()
        linecache.cache[name] = (len(self._text), None, lines, name)
        root = module.__name__.partition(".")[0]
        own = {**vars(builtins), "__import__": functools.partial(_import, root)}
        module.__dict__["__builtins__"] = own
        exec(compile(self._text, name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102


def _import(
    root: str,
    name: str,
    globals: Mapping[str, object] | None = None,  # noqa: A002 (the signature of __import__)
    locals: Mapping[str, object] | None = None,  # noqa: A002
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> Any:
    top = name.partition(".")[0]
    ours = any(file == f"{top}.py" or file.startswith(f"{top}/") for file in _files[root])
    if level or not ours:
        return builtins.__import__(name, globals, locals, fromlist, level)
    importlib.import_module(f"{root}.{name}")
    if fromlist:
        return builtins.__import__(f"{root}.{name}", globals, locals, fromlist, 0)
    return sys.modules[f"{root}.{top}"]
