"""The home: the folder of one researcher that holds the records and the artifacts of the runs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from flautim_lab.errors import RecordsError

HOME_VARIABLE = "FLAUTIM_LAB_HOME"
DATA_VOLUME_VARIABLE = "FLAUTIM_LAB_DATA_VOLUME"
FOLDER_MODE = 0o700
FILE_MODE = 0o600
ELSEWHERE = f"set {HOME_VARIABLE} to a folder"


def home() -> Path:
    """Return the folder of ``FLAUTIM_LAB_HOME`` (``~/.flautim-lab`` when unset), made if needed.

    The folder is made readable by its owner alone (mode 0700); one that is already there keeps its
    mode.

    Raises
    ------
    RecordsError
        If the folder cannot be made, or a file is in its place.
    """
    text = os.environ.get(HOME_VARIABLE) or "~/.flautim-lab"
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise RecordsError(
            f"the home folder {text} cannot be found, since this user has none; {ELSEWHERE}"
        ) from None
    return private_folder(path.absolute())


def private_folder(path: Path) -> Path:
    """Make ``path`` and what is missing above it, readable by the owner alone, and return it.

    Raises
    ------
    RecordsError
        If it cannot be made, or is no folder.
    """
    try:
        for missing in reversed([above for above in path.parents if not above.exists()]):
            missing.mkdir(mode=FOLDER_MODE, exist_ok=True)
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    except OSError as error:
        raise disk_refused(f"the folder {path} cannot be made", path, error) from None
    return path


def disk_refused(what: str, path: Path, error: OSError) -> RecordsError:
    """Return the one sentence for a disk that refused a folder or a file.

    Parameters
    ----------
    what : str
        What did not work ("the folder /x cannot be made").
    path : Path
        The file or folder, for the kinds of refusal that are better told in other words.
    error : OSError
        What the system answered.
    """
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return RecordsError(disk_full(path))
    if error.errno in {errno.EEXIST, errno.ENOTDIR}:
        above = (path, *path.parents)
        blocking = next((p for p in above if os.path.exists(p) and not os.path.isdir(p)), path)
        return RecordsError(
            f"{what}: {blocking} is a file, not a folder; move it away, or {ELSEWHERE}"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return RecordsError(f"{what}: permission denied; {ELSEWHERE} that you may write to")
    if error.errno == errno.EROFS:
        return RecordsError(f"{what}: the disk is read-only; {ELSEWHERE} that you may write to")
    return RecordsError(f"{what}: {error.strerror or error}; check the disk, or {ELSEWHERE}")


def disk_full(path: Path | str) -> str:
    """Return the one sentence for a full disk (or a quota that is used up) that holds ``path``."""
    return (
        f"the disk that holds {path} is full; free some space there, or {ELSEWHERE} on another disk"
    )


def data_volume() -> Path | None:
    """Return where an institution's volume of data is mounted: in notebooks of its data owners."""
    place = os.environ.get(DATA_VOLUME_VARIABLE)
    return Path(place) if place else None
