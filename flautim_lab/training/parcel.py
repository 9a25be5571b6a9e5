"""Objects on their way to processes of this machine, their numbers once for all of them.

The memory has no name, so that nothing is left of it wherever its processes die: torch's own way to
share tensors leaves files in ``/dev/shm`` after a ``kill -9``, or needs a manager that survives.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import struct
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cloudpickle
import psutil
import torch
from torch.storage import TypedStorage, UntypedStorage

from flautim_lab.errors import TrainingError
from flautim_lab.experiment.bundle_import import bundles, use_bundles
from flautim_lab.experiment.source import BUNDLE_PREFIX
from flautim_lab.experiment.source_modules import is_installed

__all__ = ["Memory", "pack_objects", "unpack_objects"]

ALIGNED = 64  # bytes, as torch aligns its own tensors: products may round by where a row begins
FEWEST = 4096  # bytes of numbers that are worth a place of their own
MOST = 0.5  # of the memory that is free now
_HEAD = struct.Struct("<QQ")


class Memory:
    """Memory that this process shares with those it starts.

    Parameters
    ----------
    size : int
        Bytes.
    number : int, optional
        The file descriptor of memory that another process has made.
    own : bool
        Whether what is written here stays here.
    """

    def __init__(self, size: int, number: int | None = None, *, own: bool = False) -> None:
        self.size = size
        self.number = _anonymous(size) if number is None else number
        access = mmap.ACCESS_COPY if own else mmap.ACCESS_WRITE
        self.bytes = mmap.mmap(self.number, size, access=access)

    def close(self) -> None:
        """Let go of it; it is gone when all processes have."""
        self.bytes.close()
        os.close(self.number)


def _anonymous(size: int) -> int:
    if sys.platform.startswith("linux"):
        number = os.memfd_create("flautim-lab")
    else:
        with tempfile.TemporaryFile() as file:  # it has no name either
            number = os.dup(file.fileno())
    os.truncate(number, size)
    return number


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value what was typed in a notebook, and sets the numbers of tensors apart."""

    def __init__(self, file: io.BytesIO, apart: list[pickle.PickleBuffer]) -> None:
        def keep(buffer: pickle.PickleBuffer) -> bool:
            small = buffer.raw().nbytes < FEWEST
            if not small:
                apart.append(buffer)
            return small

        super().__init__(file, protocol=5, buffer_callback=keep)
        self._storages: dict[int, _Numbers] = {}

    def reducer_override(self, value: Any) -> Any:
        # By the attribute: its public methods warn of a class that tensors are pickled with.
        if isinstance(value, TypedStorage) and value._untyped_storage.device.type == "cpu":
            whole = value._untyped_storage
            # One object per storage, so that tensors that share it still do.
            numbers = self._storages.setdefault(whole.data_ptr(), _Numbers(whole))
            return _typed, (numbers, value.dtype)
        return super().reducer_override(value)


class _Numbers:
    """The bytes that tensors lie in."""

    def __init__(self, whole: UntypedStorage) -> None:
        self.whole = whole

    def __reduce__(self) -> Any:
        flat = torch.empty(0, dtype=torch.uint8).set_(self.whole)
        return _storage, (pickle.PickleBuffer(flat.numpy().data),)


def _storage(buffer: Any) -> UntypedStorage:
    if not len(buffer):
        return UntypedStorage(0)  # type: ignore[no-untyped-call]
    # A copy of what lies in the pickle itself, which nobody may write to.
    writable = buffer if not memoryview(buffer).readonly else bytearray(buffer)
    return torch.frombuffer(writable, dtype=torch.uint8).untyped_storage()


def _typed(whole: UntypedStorage, dtype: torch.dtype) -> TypedStorage:
    return TypedStorage(wrap_storage=whole, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _own_modules_by_value() -> Iterator[None]:
    """Let code of the researcher's own modules travel as it is now, with the values that it uses.

    Their files may have changed since they were imported, and their globals too.
    """
    known = cloudpickle.list_registry_pickle_by_value()
    own = [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType)
        and isinstance(vars(module).get("__file__"), str)
        and not is_installed(module)
        and not name.startswith(BUNDLE_PREFIX)
        and module.__name__ in sys.modules
        and module.__name__ not in {"__main__", *known}
    ]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in own:
            with contextlib.suppress(ValueError):  # imported by two names
                cloudpickle.unregister_pickle_by_value(module)


def pack_objects(value: Any) -> Memory:
    """Return memory that holds an object, for :func:`unpack_objects` in another process.

    Classes and functions of the researcher's own travel with it, those of packages by their name.

    Raises
    ------
    TrainingError
        If something of it cannot travel, or it would take half of the memory that is free.
    """
    file, apart = io.BytesIO(), []  # type: tuple[io.BytesIO, list[pickle.PickleBuffer]]
    try:
        with _own_modules_by_value():
            _Pickler(file, apart).dump(value)
    except Exception as error:
        raise TrainingError(f"{type(error).__name__}: {error}") from error
    parts = [buffer.raw() for buffer in apart]
    sizes = [part.nbytes for part in parts]
    pickled = file.getbuffer()
    index = pickle.dumps((sizes, sys.path, bundles()))
    begin = _HEAD.size + len(index)
    total = begin + len(pickled) + sum(size + ALIGNED for size in sizes) + ALIGNED
    free = psutil.virtual_memory().available
    if total > MOST * free:
        raise TrainingError(f"its data take {total:,} bytes more, and {free:,} are free")
    memory = Memory(total)
    _HEAD.pack_into(memory.bytes, 0, len(index), len(pickled))
    memory.bytes[_HEAD.size : begin] = index
    memory.bytes[begin : begin + len(pickled)] = pickled
    end = begin + len(pickled)
    for part in parts:
        place = _aligned(end)
        end = place + part.nbytes
        memory.bytes[place:end] = part
    return memory


def unpack_objects(memory: Memory) -> Any:
    """Return the object of :func:`pack_objects`; its numbers stay where they are.

    From here on this process finds the modules that the other one did.
    """
    index, pickled = _HEAD.unpack_from(memory.bytes, 0)
    view = memoryview(memory.bytes)
    begin = _HEAD.size + index
    end = begin + pickled
    # Our own parent has written both pickles.
    sizes, sys.path[:], known = pickle.loads(view[_HEAD.size : begin])  # noqa: S301
    use_bundles(known)
    value, parts = view[begin:end], []
    for size in sizes:
        place = _aligned(end)
        end = place + size
        parts.append(view[place:end])
    return pickle.loads(value, buffers=parts)  # noqa: S301


def _aligned(place: int) -> int:
    return -(-place // ALIGNED) * ALIGNED
