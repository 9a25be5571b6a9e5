"""Private random streams: every random number of a run, keyed by what it is for.

A stream depends on (seed, purpose, round, client) alone, never on the order in which clients
happen to be trained, on the number of threads, or on what else the kernel computes. The global
generators of ``random``, ``numpy.random`` and ``torch`` are neither read nor moved; code of a
dataset that draws from them finds a private state there (:class:`PrivateGlobals`).
"""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flautim_lab.errors import ExperimentError

__all__ = ["PrivateGlobals", "PrivateRandom", "numpy_stream", "stream", "stream_seeds"]


def _sequence(seed: int, purpose: str, round_number: int, client: int) -> np.random.SeedSequence:
    key = (zlib.crc32(purpose.encode()), round_number, client)
    return np.random.SeedSequence(entropy=seed, spawn_key=key)


def numpy_stream(
    seed: int, purpose: str, round_number: int = 0, client: int = 0
) -> np.random.Generator:
    """Return a fresh NumPy generator (PCG64) for one purpose, round and client."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, round_number, client)))


def stream_seed(seed: int, purpose: str, round_number: int = 0, client: int = 0) -> int:
    """Return the 63-bit seed of a stream, for generators that are not NumPy's."""
    state = _sequence(seed, purpose, round_number, client).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def stream_seeds(seed: int, purpose: str, round_number: int, clients: Sequence[int]) -> list[int]:
    """Return :func:`stream_seed` of many clients, in a fraction of the time.

    They have all but the last word of what NumPy's ``SeedSequence`` mixes in common: it is asked
    for that once, and the last word is mixed in here, as it does that itself (O'Neill's
    ``seed_seq``; NumPy keeps its streams as they are, NEP 19).
    """
    last = np.asarray(clients, dtype=np.uint64)
    key = (zlib.crc32(purpose.encode()), round_number)
    if not len(last) or last.max() > _WORD or round_number > _WORD:
        return [stream_seed(seed, purpose, round_number, client) for client in clients]
    pool = np.random.SeedSequence(entropy=seed, spawn_key=key).pool
    before = max(len(pool), -(-seed.bit_length() // 32)) + len(key)  # words that are mixed in
    constant = _INIT_A * pow(_MULT_A, len(pool) * before, _WORD + 1) & _WORD
    mixed = []
    for word in pool.tolist():
        value = last ^ constant
        constant = constant * _MULT_A & _WORD
        value = _folded(value * constant & _WORD)
        mixed.append(_folded((_MIX_L * word - _MIX_R * value) & _WORD))
    constant, state = _INIT_B, []
    for value in mixed[:2]:
        value = value ^ constant
        constant = constant * _MULT_B & _WORD
        state.append(_folded(value * constant & _WORD))
    found: list[int] = ((state[0] | state[1] << 32) >> 1).tolist()
    return found


# Of SeedSequence's mixing, in 32-bit words.
_WORD = 2**32 - 1
_INIT_A, _MULT_A = 0x43B0D7E5, 0x931E8875
_INIT_B, _MULT_B = 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R = 0xCA01F9DD, 0x4973F715


def _folded(words: Any) -> Any:
    return words ^ (words >> 16)


def stream(seed: int, purpose: str, round_number: int = 0, client: int = 0) -> torch.Generator:
    """Return a fresh torch generator (CPU) for one purpose, round and client."""
    generator = torch.Generator()
    generator.manual_seed(stream_seed(seed, purpose, round_number, client))
    return generator


_swapped = threading.RLock()


class PrivateGlobals:
    """Put a private state into the global generators, and theirs back when it is left.

    For code that draws from ``random`` and ``numpy.random``, where nothing can be redirected. One
    thread at a time may be inside; entered again, the private state goes on where it was.

    Those generators belong to the whole process: what another thread draws from them meanwhile
    comes from the private state too. It is entered for a dataset's code alone, which is read by
    one thread at a time, and only where that code draws.

    Parameters
    ----------
    seed : int
        Of the private state.
    with_torch : bool
        Torch's global CPU generator is treated alike.

    Attributes
    ----------
    moved : bool
        Something was drawn inside.
    """

    def __init__(self, seed: int, *, with_torch: bool = False) -> None:
        kind: Any = type(np.random.get_bit_generator())  # type: ignore[attr-defined]
        self._own: list[Any] = [
            random.Random(seed).getstate(),
            np.random.RandomState(kind(seed)).get_state(legacy=False),
        ]
        if with_torch:
            self._own.append(torch.Generator().manual_seed(seed).get_state())
        self._theirs: list[list[Any]] = []
        self.moved = False

    def __enter__(self) -> Self:
        _swapped.acquire()
        self._theirs.append(self._states())
        self._put(self._own)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            before, self._own = self._own, self._states()
            self.moved = self.moved or _differ(before, self._own)
            self._put(self._theirs.pop())
        finally:
            _swapped.release()

    def drawn(self) -> bool:
        """Return whether something was drawn since it was entered, asked from inside."""
        return _differ(self._own, self._states())

    def _states(self) -> list[Any]:
        states: list[Any] = [random.getstate(), np.random.get_state(legacy=False)]
        return [*states, torch.get_rng_state()] if len(self._own) == 3 else states

    def _put(self, states: list[Any]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if len(states) == 3:
            torch.set_rng_state(states[2])


def _differ(before: list[Any], after: list[Any]) -> bool:
    return (
        before[0] != after[0]
        or any(not torch.equal(*pair) for pair in zip(before[2:], after[2:], strict=True))
        or repr(_plain(before[1])) != repr(_plain(after[1]))
    )


def _plain(state: Any) -> Any:
    """Return the state of a bit generator without arrays, so that it can be compared."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


class PrivateRandom(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Redirect every random operator of this thread to ``generator``.

    Dropout, noise layers, random augmentation and weight initialization draw from torch's global
    generator, which is shared by all threads: trained in threads, two runs would differ, and the
    researcher's own stream in the kernel would move. Inside ``with PrivateRandom(generator):``
    each operator that torch itself tags as ``nondeterministic_seeded`` gets ``generator``.

    Every operator inside costs some microseconds more, so it is entered only for experiments that
    were seen to draw.

    Parameters
    ----------
    generator : torch.Generator
        A CPU generator; operators on another device use a generator of that device seeded from it.

    Attributes
    ----------
    draws : int
        How many random operators were redirected.
    recorded : int
        How many of them while gradients were being recorded.

    Raises
    ------
    ExperimentError
        By the operator that draws, if it is one that takes no generator and that we do not know.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator
        self.draws = 0
        self.recorded = 0
        self._of_device: dict[torch.device, torch.Generator] = {
            torch.device("cpu"): generator,
        }

    def _generator_for(self, device: torch.device) -> torch.Generator:
        if device not in self._of_device:
            other = torch.Generator(device=device)
            other.manual_seed(self.generator.initial_seed())
            self._of_device[device] = other
        return self._of_device[device]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        brought = kwargs.get("generator")
        if brought is not None and brought is not torch.default_generator:
            return func(*args, **kwargs)  # the caller's own generator: theirs to seed
        kwargs.pop("generator", None)
        if _drops_nothing(func, args, kwargs):
            return func(*args, **kwargs)
        self.draws += 1
        self.recorded += int(torch.is_grad_enabled())
        device = _device_of(args, kwargs)
        generator = self._generator_for(device)
        with_generator = _with_generator(func)
        if with_generator is not None:
            return with_generator(*args, **kwargs, generator=generator)
        packet = func.overloadpacket
        if packet is torch.ops.aten.native_dropout:
            return _native_dropout(*args, **kwargs, generator=generator)
        if packet in _LIKE:
            source, *rest = args
            made = torch.empty_like(source, **kwargs)
            return _LIKE[packet](made, rest, generator)
        raise ExperimentError(
            f"the operator {packet.__name__!r} draws random numbers in a way that cannot be made "
            "reproducible; use torch.rand, torch.randn, torch.bernoulli or nn.Dropout instead"
        )


def _drops_nothing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operator that may drop out does not (attention with dropout 0)."""
    names = [argument.name for argument in func._schema.arguments]
    values = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    values |= dict(zip(names, args, strict=False)) | kwargs
    share = values.get("dropout_p", values.get("dropout"))
    return share is not None and (share == 0 or values.get("train") is False)


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    for value in args:
        if isinstance(value, torch.Tensor):
            return value.device
    return torch.device(kwargs.get("device") or "cpu")


def _with_generator(func: Any) -> Any:
    """Return the overload of ``func`` that takes a generator, or None."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    wanted = [a.name for a in func._schema.arguments if a.name != "generator"]
    packet = func.overloadpacket
    for name in packet.overloads():
        other = getattr(packet, name)
        names = [a.name for a in other._schema.arguments]
        if "generator" in names and [n for n in names if n != "generator"] == wanted:
            return other
    return None


def _native_dropout(
    source: torch.Tensor, p: float, train: bool | None = True, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    if train is False or p == 0.0:
        return source.clone(), torch.ones_like(source, dtype=torch.bool)
    mask = torch.empty_like(source).bernoulli_(1.0 - p, generator=generator)
    scale = 0.0 if p == 1.0 else 1.0 / (1.0 - p)
    return source * mask * scale, mask.to(torch.bool)


_aten = torch.ops.aten
# Older releases of torch have no generator for these; since 2.11 an overload takes one and
# `_with_generator` finds it. Until torch >= 2.11 is demanded.
_LIKE: dict[Any, Any] = {
    _aten.rand_like: lambda made, rest, generator: made.uniform_(generator=generator),
    _aten.randn_like: lambda made, rest, generator: made.normal_(generator=generator),
    _aten.randint_like: lambda made, rest, generator: made.random_(
        *(rest if len(rest) == 2 else (0, *rest)), generator=generator
    ),
}
