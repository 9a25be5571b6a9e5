"""Folders for a moment: gone when their user is done with them, and after its death too.

Whoever works in one holds a lock in it. The lock is the kernel's and goes with its process, however
that ends; whoever makes the next such folder first removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "flautim-lab-scratch-"
_LOCK, _CONTENT = "lock", "content"
_RANDOM = "[a-z0-9_]{8}"  # what mkdtemp adds to a name
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # what such disks answer


@contextlib.contextmanager
def scratch_folder(place: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """Yield a new, empty folder that its user alone may read; it is removed afterwards.

    Those of processes that died before they were done are removed first.

    Parameters
    ----------
    place : Path, optional
        In which folder it is made; the system's folder for temporary files by default.
    prefix : str
        How its name begins. All folders of that place and prefix must be made by this function.

    Raises
    ------
    OSError
        If none can be made there.
    """
    place = place or Path(tempfile.gettempdir())
    remove_abandoned(place, prefix)
    with _made(place, prefix) as folder:
        try:
            content = folder / _CONTENT
            content.mkdir(mode=0o700)
            yield content
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(place: Path | None = None, prefix: str = PREFIX) -> None:
    """Remove the folders of that place and prefix whose users have died."""
    place = place or Path(tempfile.gettempdir())
    pattern = re.compile(re.escape(prefix) + _RANDOM)
    with contextlib.suppress(OSError):
        for name in filter(pattern.fullmatch, os.listdir(place)):
            _remove(place / name)


def _remove(folder: Path) -> None:
    """Remove a folder if nobody works in it."""
    # A link must not lead us elsewhere, and another user's folder is not ours to remove.
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        return
    with contextlib.suppress(OSError):
        folder.rmdir()  # its maker was killed before it had the lock; else it makes another
    # What has no lock in it was not made here.
    with contextlib.suppress(OSError), _locked(folder, os.O_RDWR):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _made(place: Path, prefix: str) -> Iterator[Path]:
    """Make a folder, and hold its lock while inside."""
    with contextlib.ExitStack() as held:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            try:
                lock = held.enter_context(_locked(folder, os.O_RDWR | os.O_CREAT))
                if os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK)):
                    break
            except (BlockingIOError, FileNotFoundError):
                pass  # somebody took it for abandoned before it was locked
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
                break  # nobody else can take it for abandoned there either
        yield folder


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[int]:
    """Hold the lock of a folder, whose file is opened so, while inside; yields the file."""
    lock = os.open(folder / _LOCK, how | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    finally:
        os.close(lock)
