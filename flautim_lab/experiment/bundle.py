"""The bundle: the source of an experiment's classes and functions, as a data owner may read it.

Another kernel, or a pod, defines the same classes again from it. There are no pickles in it.

A *reference* says where a role is defined, as ``place:name``. A place that ends in ``.py`` is a
file of the bundle (``experiment.py:Net``, ``pkg/mod.py:Net``, ``cells/net.py:Net``); any other is
an installed module, as in Python's entry points (``torch.nn:Linear``). On disk a bundle is a
folder of these files with ``bundle.json``, which holds the references and the hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from flautim_lab.errors import BundleError
from flautim_lab.experiment.bundle_files import gather
from flautim_lab.experiment.bundle_import import import_file
from flautim_lab.experiment.source import keep_cell, kept_cells
from flautim_lab.names import choose
from flautim_lab.scratch import scratch_folder

__all__ = ["Bundle", "keep_cell", "make_bundle"]

FORMAT = 1
INDEX = "bundle.json"


@dataclass(frozen=True)
class Bundle:
    """Source files, and where in them each role is defined.

    Parameters
    ----------
    files : mapping of str to str
        Path (with ``/``, relative, ending in ``.py``) to the file's text.
    references : mapping of str to str
        Role ("model", "dataset", "experiment", "strategy") to ``place:name``.

    Raises
    ------
    BundleError
        If a path leads out of the bundle, or a reference points nowhere.
    """

    files: Mapping[str, str]
    references: Mapping[str, str]

    def __post_init__(self) -> None:
        for path in self.files:
            _check_path(path)
        for role, reference in self.references.items():
            _check_reference(role, reference, self.files)
        object.__setattr__(self, "files", dict(sorted(self.files.items())))
        object.__setattr__(self, "references", dict(sorted(self.references.items())))

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def hash(self) -> str:
        """SHA-256 over files and references, in hexadecimal: the same in every process."""
        content = [sorted(self.files.items()), sorted(self.references.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def load(self, role: str) -> Any:
        """Return the class or function of ``role``, defined from the bundle's own files.

        The files are executed once per process and hash, so equal bundles give the same object.

        Raises
        ------
        BundleError
            If there is no such role, or the code cannot run here (a package is missing).
        """
        choose(role, self.references, "role", BundleError)
        place, _, name = self.references[role].partition(":")
        try:
            if place in self.files:
                found: Any = import_file(self.hash, self.files, place)
            else:
                found = importlib.import_module(place)
            for part in name.split("."):
                found = getattr(found, part)
        except ModuleNotFoundError as error:
            raise BundleError(
                f"the {role} ({self.references[role]}) needs the package `{error.name}`, which is "
                "not installed here; install it and load again"
            ) from error
        except Exception as error:
            using = [file for file, text in self.files.items() if "__file__" in text]
            hint = (
                f"; {using[0]} uses `__file__`, the path of a file that is not there: make the "
                "path an argument"
                if using
                else ""
            )
            raise BundleError(
                f"the {role} ({self.references[role]}) cannot be loaded: "
                f"{type(error).__name__}: {error}{hint}"
            ) from error
        return found

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the bundle to ``folder``, whole or not at all; only its owner may read it.

        Raises
        ------
        BundleError
            If the folder holds something else, or cannot be written (disk full).
        """
        folder = Path(folder)
        with contextlib.suppress(BundleError):
            if Bundle.read(folder) == self:
                return folder
        if folder.exists() and not (folder / INDEX).is_file() and any(folder.iterdir()):
            raise BundleError(f"{folder} holds something that is no bundle; choose another folder")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Beside it, so that the rename stays on one file system.
            with scratch_folder(folder.parent, f".{folder.name}-scratch-") as temporary:
                self._write_files(temporary / "new")
                if folder.exists():
                    folder.rename(temporary / "old")
                (temporary / "new").rename(folder)
        except OSError as error:
            raise BundleError(f"the bundle cannot be written to {folder}: {error}") from error
        return folder

    def _write_files(self, folder: Path) -> None:
        index = {"format": FORMAT, "hash": self.hash, "references": dict(self.references)}
        index["files"] = list(self.files)
        texts = {**self.files, INDEX: json.dumps(index, indent=1, ensure_ascii=False) + "\n"}
        folder.mkdir(mode=0o700)
        for path, text in texts.items():
            for parent in reversed(list(PurePosixPath(path).parents)[:-1]):
                (folder / parent).mkdir(mode=0o700, exist_ok=True)
            number = os.open(folder / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(number, "wb") as file:
                file.write(text.encode("utf-8"))

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read a bundle that :meth:`write` wrote.

        Raises
        ------
        BundleError
            If there is none, it was changed, or one of its files lies outside the folder.
        """
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            raise BundleError(f"there is no bundle in {folder} (no {INDEX})")
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            if index["format"] != FORMAT:
                raise BundleError(
                    f"the bundle in {folder} has format {index['format']}, and this release "
                    f"reads {FORMAT}; use the release that wrote it"
                )
            files = {}
            for path in index["files"]:
                _check_path(path)
                if not (folder / path).resolve().is_relative_to(folder.resolve()):
                    raise BundleError(f"the file {path!r} of the bundle leads out of its folder")
                files[path] = (folder / path).read_bytes().decode("utf-8")
            bundle = cls(files, index["references"])
            unchanged = bundle.hash == index["hash"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(f"the bundle in {folder} cannot be read: {error}") from error
        if not unchanged:
            raise BundleError(f"the bundle in {folder} was changed after it was written")
        return bundle


def make_bundle(
    objects: Mapping[str, object], cells: Mapping[str, str] = MappingProxyType({})
) -> Bundle:
    """Return the bundle of classes and functions, with the values that they use as they are now.

    Parameters
    ----------
    objects : mapping
        Role to a class, a function, or a ``functools.partial`` of one with plain arguments.
    cells : mapping
        Name to source of cells to keep whole, beside those of :func:`keep_cell`.

    Raises
    ------
    BundleError
        If a source cannot be found, or a name in it cannot be kept: names the class, the name, and
        the next step.

    Notes
    -----
    What was typed in cells is gathered with the names it uses: imports, plain values, and other
    definitions of the notebook. The researcher's own ``.py`` files are copied whole, with those
    that they import. Packages are referred to. Data files are never part of a bundle, and modules
    that are imported by name at run time (``importlib.import_module``) are not found.
    """
    files, references = gather(objects, {**kept_cells(), **cells})
    return Bundle(files, references)


def _check_path(path: object) -> None:
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    if (
        not isinstance(path, str)
        or not path.endswith(".py")
        or any(part in ("", "..", "/") for part in parts)
        or path != "/".join(parts)
        or any(character in path for character in "\\:\0")
    ):
        raise BundleError(f"{path!r} cannot be a file of a bundle; use a relative path like a/b.py")


def _check_reference(role: str, reference: object, files: Mapping[str, str]) -> None:
    place, _, name = str(reference).partition(":")
    dotted = [*name.split("."), *(() if place in files else place.split("."))]
    if not all(part.isidentifier() for part in dotted):
        raise BundleError(
            f"the {role} of the bundle is {reference!r}; a reference is a file of the bundle and "
            "a name in it, like experiment.py:Net, or a module and a name, like torch.nn:Linear"
        )
