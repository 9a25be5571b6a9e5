"""The file of a backup: lines of JSON, compressed by gzip, whole or refused.

::

    {"format": "flautim-lab backup", "version": 1, "made": ..., "tables": {"catalog": "0001", ...}}
    {"table": "catalog.institutions", "columns": ["id", "key", ...]}
    [1, "ufmg", ...]                        a line for each row, in the order of its key
    ...
    {"rows": {"catalog.institutions": 1, ...}, "sha256": ...}      of all lines before

Of a file that was cut off the last line is missing; in one that was changed the hash is another.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from flautim_lab.errors import BackupError

FORMAT = "flautim-lab backup"
VERSION = 1
FILE_MODE = 0o600
LONGEST_LINE = 2**30  # bytes: no row is longer, and no file fills the memory


class Writer:
    """Writes one backup, line by line.

    Parameters
    ----------
    file : file
        That takes bytes.
    header : dict
        What the first line tells, beside the format.
    """

    def __init__(self, file: BinaryIO, header: dict[str, Any]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.rows: dict[str, int] = {}
        self._line({"format": FORMAT, "version": VERSION} | header)

    def table(self, name: str, columns: list[str]) -> None:
        """Begin a table."""
        self._table = name
        self.rows[name] = 0
        self._line({"table": name, "columns": columns})

    def row(self, values: list[Any]) -> None:
        """Write a row of the table that was begun last."""
        self.rows[self._table] += 1
        self._line(values)

    def end(self) -> None:
        """Write the last line."""
        self._line({"rows": self.rows, "sha256": self._hash.hexdigest()})

    def _line(self, value: Any) -> None:
        line = json.dumps(value, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"
        self._hash.update(line)
        self._file.write(line)


@contextlib.contextmanager
def written(path: Path, header: dict[str, Any]) -> Iterator[Writer]:
    """Give a writer; the file is there, under its name, once all of it is on the disk (mode 0600).

    Raises
    ------
    BackupError
        If it cannot be written; nothing is left behind then.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if os.path.lexists(path):
            raise FileExistsError
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            with os.fdopen(handle, "wb") as file:
                # Without a time and a name in it, the same rows make the same file.
                with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                    writer = Writer(packed, header)  # type: ignore[arg-type]
                    yield writer
                    writer.end()
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(part)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise BackupError(f"there is a {path} already; name another file, or a folder") from None
    except OSError as error:
        raise BackupError(
            f"the backup {path} cannot be written: {error.strerror or error}; name another file"
        ) from None


class Reader:
    """Reads one backup from its beginning to its end, and refuses one that is not whole.

    Attributes
    ----------
    header : dict
        What the first line tells.
    rows : dict
        How many rows each table has; known when all has been read.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._digest = ""
        self._next: Any = None
        self.header: dict[str, Any] = {}
        self.rows: dict[str, int] = {}

    def tables(self) -> Iterator[tuple[str, list[str], Iterator[list[Any]]]]:
        """Yield each table: its name, its columns, and its rows, to be read before the next.

        Raises
        ------
        BackupError
            As soon as something is wrong; that the file is whole is known at the end alone.
        """
        lines = self._lines()
        self._read_header(next(lines, None))
        self._next = next(lines, None)
        while isinstance(self._next, dict) and set(self._next) == {"table", "columns"}:
            name, columns = self._next["table"], self._next["columns"]
            self.rows[name] = 0
            content = self._rows(lines, name, len(columns))
            yield name, columns, content
            for _ in content:
                pass
        end = self._next
        if not isinstance(end, dict) or set(end) != {"rows", "sha256"}:
            raise self._damaged("it is not whole: its end is missing")
        if (end["sha256"], end["rows"]) != (self._digest, self.rows) or next(lines, None):
            raise self._damaged("it is not what was written")

    def _rows(self, lines: Iterator[Any], name: str, width: int) -> Iterator[list[Any]]:
        for self._next in lines:
            if not isinstance(self._next, list):
                return
            if len(self._next) != width:
                raise self._damaged(f"a row of {name} has {len(self._next)} values")
            self.rows[name] += 1
            yield self._next
        self._next = None

    def _read_header(self, told: Any) -> None:
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise BackupError(f"{self._path} is no backup of Flautim Lab")
        if told.get("version") != VERSION:
            raise BackupError(
                f"{self._path} was written by a newer Flautim Lab (version {told.get('version')} "
                f"of the format, this one reads {VERSION}); update flautim-lab"
            )
        self.header = told

    def _lines(self) -> Iterator[Any]:
        try:
            with gzip.open(self._path, "rb") as file:
                while line := file.readline(LONGEST_LINE):
                    self._digest = self._hash.hexdigest()  # of what was before this line
                    self._hash.update(line)
                    yield json.loads(line)
        except FileNotFoundError:
            raise BackupError(f"there is no file {self._path}") from None
        except (EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
            if not self.header:
                raise BackupError(f"{self._path} is no backup of Flautim Lab") from None
            raise self._damaged(f"it cannot be read to its end ({error})") from None
        except OSError as error:
            raise BackupError(f"{self._path} cannot be read: {error.strerror or error}") from None

    def _damaged(self, why: str) -> BackupError:
        return BackupError(f"the backup {self._path} is damaged: {why}; take another")
