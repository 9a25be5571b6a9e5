"""Reading an archive that a stranger sent: plain files by known names, and nothing else.

A tar can say much that ``pack_folder`` never writes: links, sparse files that become larger than
all memory, headers that change the name or the size of the file behind them. One strange thing
refuses the whole archive, so that it is the same to who reads it here and to who unpacks it.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Collection
from pathlib import PurePosixPath

__all__ = ["MOST_FILES", "MOST_UNPACKED", "read_plain"]

MOST_UNPACKED = 256 * 2**20
MOST_FILES = 2000
_GZIP = 16 + zlib.MAX_WBITS  # a gzip header, read by zlib: Python's own reads a name byte by byte
_PART = 2**20
_FILE = (tarfile.REGTYPE, tarfile.AREGTYPE)


def read_plain(packed: bytes, names: Collection[str], folder: str) -> dict[str, memoryview]:
    """Return the files of a compressed tar by name, in place: nothing is copied, or written.

    Parameters
    ----------
    packed : bytes
        One gzip stream.
    names : collection of str
        What a file may be called.
    folder : str
        Or in which folder it must be.

    Raises
    ------
    ValueError
        If there is anything else in it; one sentence, which may follow "the archive is wrong:".
    tarfile.TarError, zlib.error
        If it is no such archive.
    """
    content = memoryview(_unpacked(packed))
    found: dict[str, memoryview] = {}
    begin, number = 0, 0
    while True:
        block = bytes(content[begin : begin + tarfile.BLOCKSIZE])
        if begin and block == bytes(tarfile.BLOCKSIZE):
            return found
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        number += 1
        if number > MOST_FILES:
            raise ValueError(f"it holds more than {MOST_FILES} files and folders")
        begin += tarfile.BLOCKSIZE
        _check(member, names, folder, found, len(content) - begin)
        if member.type in _FILE:
            found[member.name] = content[begin : begin + member.size]
            begin += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _unpacked(packed: bytes) -> bytearray:
    """Return what is in a gzip stream; in parts, since zlib would need twice the memory for it."""
    stream, content, taken = zlib.decompressobj(_GZIP), bytearray(), 0
    while not stream.eof:
        part = stream.unconsumed_tail
        if not part:
            part = packed[taken : taken + _PART]
            taken += len(part)
            if not part:
                raise ValueError("it is cut off")
        content += stream.decompress(part, _PART)
        if len(content) > MOST_UNPACKED:
            raise ValueError(f"it holds more than {MOST_UNPACKED // 2**20} MiB")
    if stream.unused_data or taken < len(packed):
        raise ValueError("something follows its end")
    return content


def _check(
    member: tarfile.TarInfo, names: Collection[str], folder: str, found: Collection[str], left: int
) -> None:
    """Refuse what is no plain file, or folder, of the archive."""
    shown = repr(member.name[:80])
    if member.type not in (*_FILE, tarfile.DIRTYPE):
        raise ValueError(
            f"{shown} is no plain file (a link, a sparse file, a name that is too long)"
        )
    path = PurePosixPath(member.name)
    if member.name != str(path) or ".." in path.parts or path.is_absolute():
        raise ValueError(f"{shown} cannot be the name of a file of it")
    if member.name in found:
        raise ValueError(f"it holds {shown} twice")
    if member.isdir():
        if path.parts[:1] != (folder,) or member.size:
            raise ValueError(f"{shown} cannot be a folder of it")
    elif member.name not in names and (path.parts[:1] != (folder,) or len(path.parts) < 2):
        raise ValueError(f"{shown} cannot be a file of it")
    if not 0 <= member.size <= left:
        raise ValueError(f"{shown} says that it is larger than what is there of it")
