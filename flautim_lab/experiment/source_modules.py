"""Modules: which are installed, which are files of the researcher's own, and what those import."""

from __future__ import annotations

import ast
import builtins
import functools
import os
import sys
import sysconfig
import tokenize
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from flautim_lab.errors import BundleError
from flautim_lab.experiment.bundle_import import files_of
from flautim_lab.experiment.source import BUNDLE_PREFIX
from flautim_lab.experiment.source_code import agrees
from flautim_lab.experiment.source_names import imports

# Wherever it runs from, this package is on every machine that loads a bundle.
OWN_PACKAGE = "flautim_lab"

# sysconfig may know the standard library by another path, through a link.
_STDLIB = Path(os.__file__).parent


@dataclass(frozen=True)
class LocalFile:
    """One ``.py`` file of the researcher's own.

    Attributes
    ----------
    module : str
        The name it is imported by.
    path : str
        Its path in a bundle: ``pkg/mod.py``, ``pkg/__init__.py``.
    text : str
        Its whole text.
    """

    module: str
    path: str
    text: str

    @property
    def imports(self) -> list[str]:
        """Modules that it may import."""
        is_package = self.path.endswith("__init__.py")
        package = self.module if is_package else self.module.rpartition(".")[0]
        return imports(ast.parse(self.text), package)


def split_bundle(module_name: str) -> tuple[str, str]:
    """Return (bundle's module or "", name inside) of a module's name."""
    if not module_name.startswith(BUNDLE_PREFIX):
        return "", module_name
    root, _, inside = module_name.partition(".")
    return root, inside


def is_installed(module: ModuleType | ModuleSpec) -> bool:
    """Whether a module is of the standard library, of a package, or of Flautim Lab itself."""
    name = module.__name__ if isinstance(module, ModuleType) else module.name
    if name.startswith(BUNDLE_PREFIX) or name == "__main__":
        return False
    if name.partition(".")[0] == OWN_PACKAGE:
        return True
    if isinstance(module, ModuleSpec):
        file = module.origin if module.has_location else None
        folders = list(module.submodule_search_locations or ())
    else:
        file, folders = getattr(module, "__file__", None), list(getattr(module, "__path__", ()))
    places = [file] if file else folders
    return all(_in_library(place) for place in places)  # none at all: built into Python


@functools.lru_cache(maxsize=4096)
def _in_library(place: str) -> bool:
    path = Path(place).absolute()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), _STDLIB)
    return any(path.is_relative_to(library) for library in libraries)


def local_file(name: str, bundle: str = "") -> LocalFile | None:
    """Return the researcher's own file that is imported by ``name``, or None.

    None for an installed module, for one that does not exist, and for a folder without
    ``__init__.py``. Nothing is imported to find out.

    Parameters
    ----------
    name : str
        The module's name.
    bundle : str
        Module name of the bundle in which to look, for code that was loaded from one.

    Raises
    ------
    BundleError
        If the module is local and no Python text (a compiled extension).
    """
    stem = name.replace(".", "/")
    if bundle:
        files = files_of(bundle)
        paths = (f"{stem}/__init__.py", f"{stem}.py")
        return next((LocalFile(name, path, files[path]) for path in paths if path in files), None)
    if name.partition(".")[0] in (OWN_PACKAGE, "__main__"):
        return None
    module: ModuleType | ModuleSpec | None = sys.modules.get(name) or _spec(name)
    if module is None or is_installed(module):
        return None
    file = module.origin if isinstance(module, ModuleSpec) else getattr(module, "__file__", None)
    if not file:
        return None
    is_package = Path(file).name == "__init__.py"
    if not file.endswith(".py"):
        raise BundleError(
            f"`{name}` is compiled code in {Path(file).name}, which cannot be kept as source; "
            "install it as a package where the experiment runs"
        )
    try:
        with tokenize.open(file) as lines:
            text = lines.read()
    except (OSError, SyntaxError) as error:
        raise BundleError(f"the source of `{name}` cannot be read: {error}") from error
    return LocalFile(name, f"{stem}/__init__.py" if is_package else f"{stem}.py", text)


def _spec(name: str) -> ModuleSpec | None:
    """Find a module that is not loaded; unlike importlib's, without loading its package."""
    parent, _, last = name.rpartition(".")
    if not parent:
        return PathFinder.find_spec(name)
    outer = sys.modules.get(parent) or _spec(parent)
    path = getattr(outer, "submodule_search_locations", None) or getattr(outer, "__path__", None)
    # By its last part alone: for a dotted name the finder asks for the loaded package.
    return PathFinder.find_spec(last, list(path)) if path else None


def check_file(file: LocalFile, module: ModuleType, obj: Any) -> None:
    """Raise where ``file`` was changed after ``obj`` was imported from it."""
    # Only code that Python itself compiled from the file can be compared with it.
    by_python = type(getattr(module, "__loader__", None)) is SourceFileLoader
    if by_python and not agrees(obj, file.text):
        raise BundleError(
            f"`{obj.__qualname__}` is no longer what {file.path} holds, which was changed after "
            "it was imported; restart the kernel, or reload the module"
        )


def walk(module: object, qualname: str) -> Any:
    """Return what ``qualname`` names in ``module``, or None."""
    found: Any = module
    for part in qualname.split("."):
        # Our own package gives its names lazily; others are not made to import more.
        lazy = getattr(found, "__name__", "") == OWN_PACKAGE or not isinstance(found, ModuleType)
        found = getattr(found, part, None) if lazy else vars(found).get(part)
        if found is None:
            return None
    return found


def public_home(obj: Any) -> tuple[str, str] | None:
    """Return module and qualified name by which an importable object is best known.

    ``torch.nn.modules.linear.Linear`` is ``("torch.nn", "Linear")``: the outermost package that
    gives it under its own name.
    """
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", "")
    home = getattr(obj, "__module__", None)
    if not name or "<" in name:
        return None
    if not isinstance(home, str) or not is_reachable(obj):
        # torch.relu knows no module of its own; the outermost that has it is its home.
        name = getattr(obj, "__name__", name)
        homes = [key for key, module in list(sys.modules.items()) if walk(module, name) is obj]
        homes = [key for key in homes if key != "__main__"]
        if not homes:
            return None
        home = min(homes, key=lambda key: (key.count("."), key))
    parts = home.split(".")
    for length in range(1, len(parts) + 1):
        outer = ".".join(parts[:length])
        if outer in sys.modules and walk(sys.modules[outer], name) is obj:
            return outer, name
    return None


class LocalFiles:
    """The researcher's own files that go into a bundle, each whole."""

    def __init__(self) -> None:
        self.by_path: dict[str, LocalFile] = {}

    def copy(self, name: str) -> LocalFile | None:
        """Copy the file of a local module, what it imports, and the packages around it.

        Returns None, and copies nothing, for any other module.
        """
        return self._copy(*split_bundle(name))

    def _copy(self, bundle: str, name: str) -> LocalFile | None:
        file = local_file(name, bundle)
        if file is None:
            return None
        known = self.by_path.setdefault(file.path, file)
        if known.text != file.text:
            raise BundleError(
                f"two different files are called {file.path}, from the bundles of two runs; "
                "define one of the two again in a cell"
            )
        if known is file:
            parts = name.split(".")
            around = [".".join(parts[:length]) for length in range(1, len(parts))]
            for other in (*around, *file.imports):
                self._copy(bundle, other)
        return file


def from_library(function: FunctionType) -> bool:
    """Whether a function comes from an installed package."""
    module = sys.modules.get(function.__globals__.get("__name__", ""))
    return module is not None and is_installed(module)


def only_imported(value: Any) -> bool:
    """Whether ``value`` is an installed module, or a class or function that such a one gives."""
    if isinstance(value, ModuleType):
        return is_installed(value)
    return is_reachable(value) and is_installed(sys.modules[value.__module__])


def is_reachable(value: Any) -> bool:
    """Whether the module that ``value`` names as its own gives it under its name."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    return module is not None and walk(module, getattr(value, "__qualname__", "")) is value


def of_ipython(name: str, value: Any) -> bool:
    """Whether IPython put its own ``open`` or ``exit`` in the place of Python's."""
    home = str(getattr(value, "__module__", None) or "").partition(".")[0]
    wrapped = getattr(value, "__wrapped__", None)
    return hasattr(builtins, name) and (home == "IPython" or wrapped is getattr(builtins, name))
