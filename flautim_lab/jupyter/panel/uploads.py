"""Files that are uploaded into a form, with limits on their size and their kind."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import ipywidgets as widgets

from flautim_lab.errors import CatalogError
from flautim_lab.home import home
from flautim_lab.jupyter.panel.text import Text
from flautim_lab.names import slug
from flautim_lab.records.artifacts import write_atomic

# A Jupyter server takes in messages of 10 MB; a file that is larger goes by the file browser.
MOST_TABLE_BYTES = 8 * 2**20
MOST_SOURCE_BYTES = 2**19


@dataclass(frozen=True)
class Upload:
    """A file that was uploaded."""

    name: str
    content: bytes

    @property
    def stem(self) -> str:
        """Its name without its ending."""
        return PurePath(self.name).stem

    def text(self) -> str:
        """Return it as text.

        Raises
        ------
        CatalogError
            If it is none.
        """
        try:
            return self.content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise CatalogError(
                f"{self.name} is no text in UTF-8; save it so in your editor"
            ) from None


def uploader(text: Text, label: str, endings: Sequence[str]) -> widgets.FileUpload:
    """Return the button that takes a file in."""
    made = widgets.FileUpload(
        accept=",".join(endings),
        multiple=False,
        description=label,
        tooltip=text("Choose a file ({endings})", endings=", ".join(endings)),
        layout={"width": "auto"},
    )
    made.add_class("lab-upload")
    return made


def uploaded(widget: Any, endings: Sequence[str], most_bytes: int) -> Upload | None:
    """Return the file that an uploader holds, if it holds one.

    Raises
    ------
    CatalogError
        If it is of another kind, or too large.
    """
    if not widget.value:
        return None
    first = widget.value[0]
    # Some browsers give a path; only its last part is a name.
    name = PurePath(str(first["name"]).replace("\\", "/")).name
    content = bytes(first["content"])
    if PurePath(name).suffix.lower() not in endings:
        raise CatalogError(f"{name} is of another kind; give a file that ends in {_or(endings)}")
    if len(content) > most_bytes:
        raise CatalogError(
            f"{name} has {len(content) / 2**20:.1f} MiB, and {most_bytes / 2**20:g} MiB can come "
            "this way; put it into your files with the file browser, and give its path"
        )
    if not content.strip():
        raise CatalogError(f"{name} is empty")
    return Upload(name, content)


def keep_table(upload: Upload) -> Path:
    """Write a table into the home, under its hash; returns its path.

    Raises
    ------
    RecordsError
        If it cannot be written.
    """
    digest = hashlib.sha256(upload.content).hexdigest()
    name = f"{slug(upload.stem)}-{digest[:16]}.csv"
    path = home() / "tables" / name
    return path if path.exists() else write_atomic(path, upload.content)


def _or(endings: Sequence[str]) -> str:
    return " or ".join(endings)
