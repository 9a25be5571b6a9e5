"""Which line of a data file has changed since a run, from a mark for each line.

A mark is a checksum of 16 bits. The marks lie with the records of the run, readable by their owner
alone, and in no notebook: from the mark of a short line the line itself could be guessed. That
something has changed is told by the file's SHA-256; the marks only tell where.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

from flautim_lab.names import count
from flautim_lab.records.artifacts import write_atomic

MOST_BYTES = 64 * 2**20  # of a file that is marked
MOST_MARKS = 10_000  # of one file; of longer ones several lines share a mark
MARKS = "lines.json"


def keep_marks(folder: Path, files: Iterable[str], place: Path) -> None:
    """Write the marks of text files into a run's folder; what cannot be marked is left out.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    files : iterable of str
        As the notebook names them.
    place : Path
        The folder in which the notebook runs.

    Raises
    ------
    RecordsError
        If the marks cannot be written.
    """
    marks = {name: found for name in files if (found := _mark(place / name)) is not None}
    if marks:
        write_atomic(folder / MARKS, json.dumps(marks).encode())


def how_it_changed(folder: Path, name: str, place: Path) -> str:
    """Return in words how a file is not what it was when its lines were marked.

    Parameters
    ----------
    folder : Path
        The folder of the run with the marks.
    name : str
        The file, as the notebook names it.
    place : Path
        The folder in which the notebook runs.

    Returns
    -------
    str
        Such as ``"iris.csv has changed, first in line 58"`` or ``"iris.csv has changed: 1 line
        fewer at its end"``; without where, if there are no marks, or they do not tell.
    """
    changed = f"{name} has changed"
    try:
        before = json.loads((folder / MARKS).read_text(encoding="utf-8"))[name]
        size, old = int(before["together"]), list(before["marks"])
        lines = (place / name).read_bytes().splitlines()
    except (OSError, ValueError, KeyError, TypeError):
        return changed
    new = _marks(lines, size)
    for number, (was, now) in enumerate(zip(old, new, strict=False)):
        if was != now:
            first = number * size + 1
            where = f"line {first}" if size == 1 else f"lines {first} to {first + size - 1}"
            return f"{changed}, first in {where}"
    more = (len(new) - len(old)) * size
    if not more:
        return changed
    about = "about " if size > 1 else ""
    how = "more" if more > 0 else "fewer"
    return f"{changed}: {about}{count(abs(more), 'line')} {how} at its end"


def _mark(path: Path) -> dict[str, object] | None:
    """Return the marks of a file's lines; None for what is no text, or is too large."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        content = path.read_bytes()
    except (OSError, ValueError):
        return None
    if b"\0" in content:
        return None
    lines = content.splitlines()
    together = max(1, math.ceil(len(lines) / MOST_MARKS))
    return {"together": together, "marks": _marks(lines, together)}


def _marks(lines: list[bytes], together: int) -> list[int]:
    return [
        zlib.crc32(b"\n".join(lines[start : start + together])) & 0xFFFF
        for start in range(0, len(lines), together)
    ]
