"""Files that a run leaves beside its records: the model, the metrics, whatever must be whole.

Every file is written under another name first and then put in place, so that a reader, or a
computer that is switched off, never meets half of one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flautim_lab.errors import RecordsError, UsageError
from flautim_lab.home import FILE_MODE, disk_refused, private_folder

if TYPE_CHECKING:
    import pandas as pd
    import torch

MODEL_FILE = "model.safetensors"
METRICS_FILE = "metrics.csv"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NAMES = "names"
_RESERVED = "__metadata__"  # safetensors' own entry


def write_atomic(
    path: Path,
    content: bytes,
    midway: Callable[[], None] | None = None,
    *,
    shared: bool = False,
) -> Path:
    """Write a file so that, whatever happens, it is the old one or the new one; mode 0600.

    The folder is made if needed. After the return the file survives a power cut. ``midway`` is
    called when half of it is written, for those who want to see that happen. A ``shared`` file is
    one that a user has named: it may be read by whom the umask lets, and its folder is not made,
    since its name may be mistyped.

    Raises
    ------
    RecordsError
        If it cannot be written (disk full, permission, no such folder); nothing is left behind.
    """
    if shared:
        check_folder(path)
    else:
        private_folder(path.parent)
    try:
        temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o666 if shared else FILE_MODE)
        try:
            with os.fdopen(handle, "wb") as file:
                half = len(content) // 2
                file.write(content[:half])
                if midway is not None:
                    file.flush()
                    midway()
                file.write(content[half:])
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        if shared:
            # A folder that is there and knows no file of that name to make: /proc, for one.
            none = error.errno == errno.ENOENT
            why = f"the folder {path.parent} takes no files" if none else error.strerror or error
            raise RecordsError(f"{path} cannot be written: {why}; choose another") from None
        raise disk_refused(f"the file {path} cannot be written", path, error) from None
    return path


def check_file(path: Path, what: str, endings: Sequence[str]) -> None:
    """Refuse a file that a user has named with another ending, or in a folder that is not there.

    Parameters
    ----------
    path : Path
    what : str
        What is to be written: ``"plot"``.
    endings : sequence of str
        Those that say a kind of it, such as ``.png``.

    Raises
    ------
    UsageError
        If its name ends otherwise.
    RecordsError
        If there is no such folder.
    """
    if path.suffix.lower() not in endings:
        raise UsageError(
            f"a {what} is not written as {path.name!r}; end its name in {' or '.join(endings)}"
        )
    check_folder(path)


def check_folder(path: Path) -> None:
    """Refuse a file that a user has named in a folder that is not there.

    Raises
    ------
    RecordsError
    """
    if os.path.isdir(path.parent):
        return
    above = (path.parent, *path.parent.parents)
    file = next((p for p in above if os.path.exists(p) and not os.path.isdir(p)), None)
    why = (
        f"{file} is a file, not a folder; choose another"
        if file is not None
        else f"the folder {path.parent} does not exist; make it, or choose another"
    )
    raise RecordsError(f"{path} cannot be written: {why}")


def save_model(folder: Path, state_dict: Mapping[str, torch.Tensor]) -> Path:
    """Write a ``state_dict`` as ``model.safetensors`` and return its path.

    Parameters
    ----------
    folder : Path
        Where to write it.
    state_dict : mapping of str to torch.Tensor
        Dense tensors of any shape, on any device, that may share memory (tied weights are written
        once per name).

    Raises
    ------
    RecordsError
        If an entry is no tensor, or of a kind that safetensors does not know, or the file cannot
        be written.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save

    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            raise RecordsError(
                f"the entry {name!r} of the model's state_dict is no tensor but of type "
                f"{type(value).__name__}; register it as a buffer, or leave it out of the "
                "state_dict"
            )
        if name == _RESERVED:
            raise RecordsError(f"an entry of a state_dict cannot be named {name!r}; rename it")
    try:
        # safetensors refuses tensors that share memory, or have gaps: each gets its own.
        owned = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in state_dict.items()
        }
        # It orders tensors by type and size; the names keep the order of the state_dict.
        content: bytes = save(owned, metadata={_NAMES: json.dumps(list(owned))})
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise RecordsError(
            f"the model cannot be kept as safetensors ({_one_line(error)}); "
            "use dense tensors of floating point, integer or boolean numbers"
        ) from None
    return write_atomic(folder / MODEL_FILE, content)


def load_model(folder: Path) -> dict[str, torch.Tensor]:
    """Return the ``state_dict`` that :func:`save_model` wrote: same names, order, types and bits.

    The tensors are on the CPU and share no memory.

    Raises
    ------
    RecordsError
        If there is none, or the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / MODEL_FILE
    try:
        with safe_open(path, framework="pt") as file:
            names = json.loads((file.metadata() or {}).get(_NAMES, "null")) or file.keys()
            return {name: file.get_tensor(name).clone() for name in names}
    except FileNotFoundError:
        raise RecordsError(
            f"there is no model in {folder}; it is written when a run has trained one"
        ) from None
    except SafetensorError as error:
        raise RecordsError(
            f"the model {path} is damaged ({_one_line(error)}); train it again"
        ) from None
    except OSError as error:
        raise disk_refused(f"the model {path} cannot be read", path, error) from None


def no_formula(text: str) -> str:
    """Return a text such that a spreadsheet shows it, and does not compute it.

    The usual defence: an apostrophe before what a spreadsheet takes for the start of a formula.
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def metrics_csv(folder: Path, frame: pd.DataFrame) -> Path:
    """Write a table of metrics (see ``Records.metrics``) as ``metrics.csv`` and return its path.

    Every number is written with all its digits. The client is empty where a line is for all
    clients together, and a value that is not a number is written ``NaN``. A metric's name is never
    a formula.
    """
    value = frame["value"].astype(object).where(frame["value"].notna(), "NaN")
    metric = frame["metric"].map(no_formula)
    text = frame.assign(metric=metric, value=value).to_csv(index=False, lineterminator="\n")
    return write_atomic(folder / METRICS_FILE, text.encode("utf-8"))


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
