"""Pictures as files: PNG, SVG, PDF."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from flautim_lab.plots.picture import to_png
from flautim_lab.records.artifacts import check_file, write_atomic

PICTURES = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Refuse a file that no picture can be written to, as ``check_file`` does."""
    check_file(path, "plot", PICTURES)


def picture_bytes(figure: Figure, suffix: str) -> bytes:
    """Return a figure as the content of a file; ``suffix`` is one of :data:`PICTURES`."""
    if suffix == ".png":
        return to_png(figure)
    content = io.BytesIO()
    figure.savefig(content, format=suffix.removeprefix("."))
    return content.getvalue()


def save_picture(figure: Figure, path: Path) -> Path:
    """Write a figure to a file, whole or not at all, and return its path.

    Raises
    ------
    UsageError
        If the name does not end as a picture's does.
    RecordsError
        If the file cannot be written.
    """
    check_picture(path)
    return write_atomic(path, picture_bytes(figure, path.suffix.lower()), shared=True)
