"""Checkpoints: all that a server needs to go on after a round, in one file, without pickles.

A run that was killed anywhere and goes on from its checkpoint ends with the same weights, bit for
bit, as one that was left alone. That takes the weights in their own types, the strategy's own
state (moments, clipping norms, whatever its attributes hold), and no random state at all: every
stream is keyed by seed, purpose and round, so round k + 1 draws the same numbers in either case.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy

from flautim_lab.errors import TrainingError
from flautim_lab.experiment.client_data import Scale
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.training import weights
from flautim_lab.training.server_app import GlobalModel

FORMAT = 1
KEPT = 2  # the last one, and one more should the last be damaged
_NAME = "checkpoint-{:08d}.safetensors"


def save(
    folder: Path,
    state: GlobalModel,
    strategy: Strategy,
    midway: Callable[[], None] = lambda: None,
) -> Path:
    """Write the state after a round, atomically, and drop all but the last two.

    Parameters
    ----------
    folder : Path
        Where the run's checkpoints lie.
    state : GlobalModel
        Weights, buffers, scale and the number of the round that was done.
    strategy : Strategy
        The strategy with its moments.
    midway : callable
        Called when half of the file is written (faults are struck there).

    Raises
    ------
    TrainingError
        If the strategy holds something that cannot be written, naming it.
    RecordsError
        If the file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    head = {
        "format": FORMAT,
        "round": state.round,
        "parameters": _encode(state.parameters, arrays, "the weights"),
        "buffers": _encode(state.buffers, arrays, "the buffers"),
        "scale": None
        if state.scale is None
        else [
            _encode(state.scale.mean, arrays, "the scale"),
            _encode(state.scale.std, arrays, "the scale"),
        ],
        "strategy": _encode_object(strategy, arrays, type(strategy).__name__),
    }
    content = safetensors.numpy.save(arrays, metadata={"head": json.dumps(head)})
    folder.mkdir(parents=True, exist_ok=True)
    path = write_atomic(folder / _NAME.format(state.round), content, midway)
    for old in _files(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load(folder: Path, strategy: Strategy) -> GlobalModel | None:
    """Read the newest checkpoint that is whole, and put the strategy into its state.

    Returns
    -------
    GlobalModel or None
        None where there is no checkpoint.

    Raises
    ------
    TrainingError
        If checkpoints are there and none can be read.
    """
    for path in folder.glob(".*.tmp"):  # of a server that was killed while it wrote
        path.unlink(missing_ok=True)
    damaged = ""
    for path in _files(folder):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                head = json.loads(file.metadata()["head"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            damaged = damaged or f"{path.name}: {error}"
            continue
        if head["format"] != FORMAT:
            raise TrainingError(f"{path} is of another format; use the release that wrote it")
        _restore(strategy, head["strategy"], arrays)
        scale = head["scale"]
        return GlobalModel(
            parameters=_decode(head["parameters"], arrays),
            buffers=_decode(head["buffers"], arrays),
            scale=None if scale is None else Scale(*(_decode(part, arrays) for part in scale)),
            round=head["round"],
        )
    if damaged:
        raise TrainingError(f"no checkpoint in {folder} can be read ({damaged})")
    return None


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    return sorted(folder.glob(_NAME.replace("{:08d}", "*")), reverse=True)


# --- values as JSON and arrays ------------------------------------------------------------------


def _encode(value: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    """Return ``value`` as JSON; arrays are put into ``arrays`` and named."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}  # exact, and NaN and infinities too
    if isinstance(value, np.generic):
        return {"scalar": _encode(np.asarray(value), arrays, where)}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise _cannot(where, value)
        name = str(len(arrays))
        arrays[name] = np.ascontiguousarray(value).reshape(value.shape)
        return {"array": name}
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.bfloat16:
            raise _cannot(where, value)
        return {"tensor": _encode(value.detach().cpu().numpy(), arrays, where)}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, Array):
        return {"Array": _encode(weights.values(value), arrays, where)}
    if isinstance(value, ArrayRecord):
        named = ((k, weights.values(v)) for k, v in value.items())
        return {"ArrayRecord": [[k, _encode(v, arrays, where)] for k, v in named]}
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = type(value).__name__
        if kind not in ("list", "tuple", "set", "frozenset"):
            raise _cannot(where, value)
        return {kind: [_encode(part, arrays, where) for part in value]}
    if isinstance(value, dict):
        pairs = [[_encode(k, arrays, where), _encode(v, arrays, where)] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, random.Random):
        return {"Random": _encode(value.getstate(), arrays, where)}
    if isinstance(value, np.random.Generator):
        return {"Generator": _encode(value.bit_generator.state, arrays, where)}
    if isinstance(value, torch.Generator):
        return {"torch.Generator": _encode(value.get_state(), arrays, where)}
    raise _cannot(where, value)


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "float":
        return float.fromhex(content)
    if kind == "array":
        return arrays[content]
    if kind == "bytes":
        return base64.b64decode(content)
    if kind == "scalar":
        return _decode(content, arrays)[()]
    if kind == "tensor":
        return torch.from_numpy(_decode(content, arrays).copy())
    if kind == "Array":
        return Array(_decode(content, arrays))
    if kind == "ArrayRecord":
        return ArrayRecord({k: Array(_decode(v, arrays)) for k, v in content})
    if kind == "dict":
        return {_decode(k, arrays): _decode(v, arrays) for k, v in content}
    parts = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    if kind in parts:
        return parts[kind](_decode(part, arrays) for part in content)
    if kind == "Random":
        made = random.Random()
        made.setstate(_decode(content, arrays))
        return made
    if kind == "Generator":
        state = _decode(content, arrays)
        bits = getattr(np.random, state["bit_generator"])()
        bits.state = state
        return np.random.Generator(bits)
    if kind == "torch.Generator":
        generator = torch.Generator()
        generator.set_state(_decode(content, arrays))
        return generator
    raise TrainingError(f"the checkpoint holds a value of an unknown kind {kind!r}")


# --- the strategy's own state -------------------------------------------------------------------


def _attributes(strategy: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a strategy holds; functions are its code, not its state."""
    for name, value in vars(strategy).items():
        if not callable(value) or isinstance(value, Strategy):
            yield name, value


def _encode_object(strategy: Any, arrays: dict[str, np.ndarray], where: str) -> dict[str, Any]:
    """Return a strategy's attributes; one that holds a strategy (or another object) goes deeper."""
    result: dict[str, Any] = {}
    for name, value in _attributes(strategy):
        path = f"{where}.{name}"
        if _is_object(value):
            result[name] = {"object": _encode_object(value, arrays, path)}
        else:
            result[name] = {"value": _encode(value, arrays, path)}
    return result


def _restore(strategy: Any, kept: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    for name, content in kept.items():
        if "object" in content:
            _restore(getattr(strategy, name), content["object"], arrays)
        else:
            setattr(strategy, name, _decode(content["value"], arrays))


def _is_object(value: Any) -> bool:
    """Return whether a value has attributes of its own to go into (a strategy, an accountant)."""
    plain = (np.generic, np.ndarray, torch.Tensor, torch.Generator, random.Random, Array)
    if isinstance(value, (*plain, ArrayRecord, np.random.Generator, dict, type)):
        return False
    return isinstance(value, Strategy) or (
        hasattr(value, "__dict__") and type(value).__module__.startswith("flwr.")
    )


def _cannot(where: str, value: Any) -> TrainingError:
    return TrainingError(
        f"{where} holds a {type(value).__name__}, which cannot be kept in a checkpoint; "
        "hold numbers, text, arrays, tensors, random generators, lists or dicts instead"
    )
