"""Weights on their way: parameters as Flower's ``ArrayRecord``, buffers as bytes beside them.

Strategies see parameters only. Buffers (such as BatchNorm's running statistics) are averaged by
rows and never optimized: FedAdam as it is would drive a running variance below zero.

A parameter without dimensions travels in the shape (1,): NumPy's arithmetic makes a plain number
of an array without dimensions, and Flower's clipping, which works in place, would then miss it.

NumPy reads the header of an array by Python's parser, and until Python 3.11.8 two threads that
parse at once can break each other ("AST constructor recursion depth mismatch"): a run in the
background would break the cell that is typed meanwhile. So arrays are read here without it, which
is also faster. When 3.11.7 is no longer supported, :func:`values` can be ``Array.numpy``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import safetensors.torch
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor, nn

from flautim_lab.errors import TrainingError


def to_record(model: nn.Module) -> ArrayRecord:
    """Return the model's parameters as an ``ArrayRecord``, each with at least one dimension."""
    return ArrayRecord({n: Array(_to_numpy(p.detach())) for n, p in model.named_parameters()})


def _to_numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:  # numpy has none; float32 holds every value of it
        tensor = tensor.float()
    return np.atleast_1d(tensor.numpy())


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's persistent buffers."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: t for name, t in model.state_dict().items() if name not in names}


def buffers_to_bytes(buffers: Mapping[str, Tensor]) -> bytes:
    """Return buffers as safetensors bytes; empty bytes where there are none."""
    if not buffers:
        return b""
    # A clone each: safetensors refuses tensors that share memory.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in buffers.items()}
    return safetensors.torch.save(plain)


def buffers_from_bytes(data: bytes) -> dict[str, Tensor]:
    """Return the buffers of :func:`buffers_to_bytes`."""
    return safetensors.torch.load(data) if data else {}


def values(array: Array) -> np.ndarray:
    """Return the numbers of an array, a copy of their own, as ``Array.numpy`` does.

    Raises
    ------
    ValueError
        If they are not as many as its shape says.
    """
    data = array.data
    if array.stype != "numpy.ndarray" or data[6:7] != b"\x01":  # the version of the file's format
        return Array.numpy(array)
    start = 10 + int.from_bytes(data[8:10], "little")
    if b"'fortran_order': False" not in data[10:start]:
        return Array.numpy(array)
    return np.frombuffer(data, array.dtype, offset=start).reshape(array.shape).copy()


def _numbers(array: Array) -> np.ndarray:
    """Return the numbers of an array, not to be written to: without a copy where they are kept."""
    numbers: np.ndarray | None = array.__dict__.get("_numbers")
    return values(array) if numbers is None else numbers


class _Answered(Array):
    """An array that a strategy reads by :func:`values`."""

    def numpy(self) -> np.ndarray:
        """Return the array as a NumPy array."""
        return values(self)


class _Kept(Array):
    """An array that keeps its numbers, and becomes bytes only where it is sent."""

    def __init__(self, numbers: np.ndarray, dtype: str) -> None:
        self.__dict__.update(dtype=dtype, shape=numbers.shape, stype="numpy.ndarray")
        self.__dict__["_numbers"] = numbers

    @property
    def data(self) -> bytes:
        """The numbers as a file of NumPy's."""
        made: bytes | None = self.__dict__.get("_bytes")
        if made is None:
            made = self.__dict__["_bytes"] = Array(self.__dict__["_numbers"]).data
        return made

    @data.setter
    def data(self, data: bytes) -> None:
        self.__dict__["_bytes"] = data
        self.__dict__.pop("_numbers", None)

    def numpy(self) -> np.ndarray:
        """Return a copy of the numbers."""
        numbers: np.ndarray | None = self.__dict__.get("_numbers")
        return values(self) if numbers is None else numbers.copy()

    def same_as(self, other: Array) -> bool:
        """Return whether the numbers are those of another array, bit for bit."""
        numbers: np.ndarray | None = self.__dict__.get("_numbers")
        data = other.data
        if numbers is None or numbers.dtype != other.dtype or not numbers.flags.c_contiguous:
            return self.data == data
        # What comes last in a file of NumPy's are the numbers: no need to make another one.
        begin = len(data) - numbers.nbytes
        return numbers.shape == tuple(other.shape) and numbers.data.cast("B") == data[begin:]


# Flower writes this name before the array if a strategy sends it on (Krum does), and reads by it.
for _kind in (_Answered, _Kept):
    _kind.__qualname__ = Array.__qualname__


def quick_to_read(record: ArrayRecord) -> None:
    """Let a strategy read the arrays of an answer by :func:`values`."""
    for name, a in list(record.items()):
        if not isinstance(a, _Kept):
            record[name] = _Answered(dtype=a.dtype, shape=a.shape, stype=a.stype, data=a.data)


def kept(tensor: Tensor) -> Array:
    """Return a tensor as an array that becomes bytes only where it is sent; not to be changed."""
    numbers = np.atleast_1d(tensor.detach().numpy())
    return _Kept(numbers, str(numbers.dtype))


def unstacked(stacks: Mapping[str, Tensor], sent: ArrayRecord) -> list[ArrayRecord]:
    """Return the weights of each client of a stack, as its answer to what it was sent.

    Parameters
    ----------
    stacks : mapping of str to Tensor
        What was trained, by name, each (clients, ...), on the CPU.
    sent : ArrayRecord
        All weights as they were sent, in the model's order; those that were not trained go back as
        they are.
    """
    arrays = {name: stack.detach().numpy() for name, stack in stacks.items()}
    types = {name: str(array.dtype) for name, array in arrays.items()}
    clients = len(next(iter(arrays.values())))
    records = []
    for client in range(clients):
        record = ArrayRecord()
        for name, array in sent.items():
            if name in arrays:
                array = _Kept(np.atleast_1d(arrays[name][client]), types[name])
            record[name] = array
        records.append(record)
    return records


def decode(record: ArrayRecord) -> dict[str, Tensor]:
    """Return the tensors of a record; they are its own, and not to be written to."""
    return {name: torch.from_numpy(values(array)) for name, array in record.items()}


def load(model: nn.Module, parameters: Mapping[str, Tensor], buffers: bytes) -> None:
    """Put parameters and buffers into ``model``, in the model's own types.

    Raises
    ------
    TrainingError
        If a name or a shape is not the model's.
    """
    own = dict(model.named_parameters())
    if list(parameters) != list(own):
        raise TrainingError("the weights are of another model: their names differ")
    with torch.no_grad():
        for name, value in parameters.items():
            shape = own[name].shape
            if value.shape != (shape or (1,)):
                raise TrainingError(
                    f"the weight {name!r} has shape {tuple(value.shape)} and the model "
                    f"{tuple(shape)}"
                )
            own[name].copy_(value.reshape(shape))
        if buffers:
            state = model.state_dict()
            for name, tensor in buffers_from_bytes(buffers).items():
                state[name].copy_(tensor)


def unchanged(sent: ArrayRecord, answers: Sequence[ArrayRecord]) -> set[str]:
    """Return the names of the weights that every client returned as they were sent.

    They are frozen. A mean of equal numbers is not always that number, and the noise of
    differential privacy has no place in what nobody trained: they stay as they are.
    """
    return {
        name
        for name, array in sent.items()
        if answers and all(name in a and equal(a[name], array) for a in answers)
    }


def weighted(array: Array, weight: float) -> np.ndarray:
    """Return the numbers of an array times a weight, in double precision."""
    numbers = _numbers(array)
    wide = np.complex128 if np.iscomplexobj(numbers) else np.float64
    product: np.ndarray = np.multiply(numbers, weight, dtype=wide)
    return product


def in_type_of(numbers: np.ndarray, array: Array) -> Array:
    """Return numbers as an array, in the type of another one if that has fractions."""
    own = np.dtype(array.dtype)
    numbers = numbers.astype(own) if own.kind in "fc" else numbers
    return _Kept(numbers, str(numbers.dtype))


def equal(one: Array, other: Array) -> bool:
    """Return whether two arrays are the same, bit for bit."""
    if one is other:
        return True
    return one.same_as(other) if isinstance(one, _Kept) else one.data == other.data


def in_own_types(
    new: ArrayRecord, template: ArrayRecord, kept: Collection[str] = ()
) -> ArrayRecord:
    """Return ``new`` in the types and order of ``template``: FedAdam answers in float64.

    Those named in ``kept`` are taken from ``template``.

    Raises
    ------
    TrainingError
        If a strategy lost or reshaped a weight.
    """
    if set(new) != set(template):
        raise TrainingError("the strategy returned weights of other names than it was given")
    result = {}
    for name, old in template.items():
        if name in kept:
            result[name] = old
            continue
        array = new[name]
        if tuple(array.shape) != tuple(old.shape):
            raise TrainingError(
                f"the strategy returned {name!r} with shape {tuple(array.shape)} instead of "
                f"{tuple(old.shape)}"
            )
        if array.dtype != old.dtype:
            array = Array(np.asarray(values(array), dtype=np.dtype(old.dtype)))
        result[name] = array
    return ArrayRecord(result)


def average_buffers(replies: Sequence[tuple[int, bytes]], sent: bytes = b"") -> bytes:
    """Return the mean of the clients' buffers, weighted by rows, in the order given.

    A buffer that all clients returned alike is that buffer, to the bit. Counters and flags (whole
    numbers, booleans) are averaged too, and rounded.

    Parameters
    ----------
    replies : sequence of (rows, safetensors bytes)
    sent : bytes
        What they were sent; returned if nobody changed anything.
    """
    if sent and all(data == sent for _, data in replies):
        return sent
    parts = [(rows, buffers_from_bytes(data)) for rows, data in replies if data]
    total = sum(rows for rows, _ in parts)
    if not parts or total == 0:
        return b""
    result: dict[str, Tensor] = {}
    for name, first in parts[0][1].items():
        if all(torch.equal(buffers[name], first) for _, buffers in parts):
            result[name] = first
            continue
        # In double: a running mean in float32 would depend on how clients are grouped.
        wide = torch.complex128 if first.is_complex() else torch.float64
        mean = torch.zeros(first.shape, dtype=wide)
        for rows, buffers in parts:
            mean += buffers[name].to(wide) * (rows / total)
        if not first.is_floating_point() and not first.is_complex():
            mean = torch.round(mean)
        result[name] = mean.to(first.dtype)
    return buffers_to_bytes(result)


def state_dict(model: nn.Module, parameters: ArrayRecord, buffers: bytes) -> dict[str, Tensor]:
    """Return a ``state_dict`` of copies with these parameters and buffers."""
    load(model, decode(parameters), buffers)
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
