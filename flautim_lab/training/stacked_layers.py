"""The layers of a model, read from its ``forward``, and the same for many clients at once.

``torch.fx`` follows one call of ``forward`` with stand-ins for numbers and gives the operations in
their order. From those is told whether each row of a batch is computed by itself, and a chain of
known layers is run as products of stacks (``stacked_steps.py``). What is not known there is left to
``torch.func.vmap``, which takes two to four times as long for small layers.
"""

from __future__ import annotations

import functools
import operator
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from flautim_lab.training.stacked_convolutions import Convolution, EachRow, MaxPool2d
from flautim_lab.training.stacked_pooled_convolutions import (
    PooledConvolution,
    PooledConvolutions,
)
from flautim_lab.training.stacked_steps import Dropout, Elementwise, Linear, Step, View

__all__ = ["Layers", "read_layers"]

# Each number by itself, so that it does not matter how many dimensions there are before it.
_ELEMENTWISE: dict[type[nn.Module], Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    nn.ReLU: lambda _: F.relu,
    nn.ReLU6: lambda _: F.relu6,
    nn.Tanh: lambda _: torch.tanh,
    nn.Sigmoid: lambda _: torch.sigmoid,
    nn.SiLU: lambda _: F.silu,
    nn.Softplus: lambda m: lambda x: F.softplus(x, m.beta, m.threshold),  # type: ignore[arg-type]
    nn.GELU: lambda m: lambda x: F.gelu(x, approximate=m.approximate),  # type: ignore[arg-type]
    nn.ELU: lambda m: lambda x: F.elu(x, m.alpha),  # type: ignore[arg-type]
    nn.LeakyReLU: lambda m: lambda x: F.leaky_relu(x, m.negative_slope),  # type: ignore[arg-type]
    nn.Hardtanh: lambda m: lambda x: F.hardtanh(x, m.min_val, m.max_val),  # type: ignore[arg-type]
    nn.Identity: lambda _: lambda x: x,
}
_ELEMENTWISE_FUNCTIONS: tuple[Any, ...] = (
    *(torch.relu, torch.tanh, torch.sigmoid, F.relu, F.tanh, F.sigmoid, F.silu, F.gelu, F.elu),
    F.leaky_relu,
)
_ELEMENTWISE_METHODS = ("relu", "tanh", "sigmoid")
_BETWEEN = (operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul)

# Of F.max_pool2d in their order; the module has them by the same names.
_OF_MAX_POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
# Of these each call is put together again, with all that is given beside the rows.
_POOLING_FUNCTIONS: tuple[Any, ...] = (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)
_POOLING: tuple[type[nn.Module], ...] = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)
# Layers that compute each row by itself, whatever other rows are in the batch.
_ROW_BY_ROW: tuple[type[nn.Module], ...] = (
    *_ELEMENTWISE,
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm),
    *_POOLING,
)
_ROW_BY_ROW_FUNCTIONS: tuple[Any, ...] = (*_ELEMENTWISE_FUNCTIONS, *_POOLING_FUNCTIONS)


@dataclass(frozen=True)
class Layers:
    """What was read from a model's ``forward``.

    Attributes
    ----------
    row_by_row : bool
        No row of a batch depends on another one.
    steps : tuple or None
        Each operation in its order, where all of them are known as products.
    drops : bool
        Some of the steps drop out.
    """

    row_by_row: bool
    steps: tuple[Step, ...] | None = None
    drops: bool = False

    @property
    def convolves(self) -> bool:
        """Some of the steps are convolutions."""
        return any(isinstance(step, (Convolution, PooledConvolutions)) for step in self.steps or ())


class _Unknown(Exception):  # noqa: N818 - an answer: vmap has to do it
    """An operation that is not known as a product of stacks."""


_tracing = threading.Lock()


class _Tracer(fx.Tracer):
    """Follows a forward in this thread alone.

    While a model is traced, torch.fx has its own ``nn.Module.__call__`` in place of torch's, for
    all threads: the modules of others must be called as ever. Two tracers at once would leave one
    of theirs in place for good, hence the lock.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        """Call another thread's module; note one of this thread's."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """Return an attribute of another thread's module; note one of this thread's."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def read_layers(model: nn.Module) -> Layers:
    """Read the layers of ``model``, in training mode, from its ``forward``."""
    try:
        with _tracing:
            graph = _Tracer().trace(model)
            again = _Tracer().trace(model)
    except Exception:  # noqa: BLE001 - whatever it is: its forward cannot be followed
        return Layers(False)
    nodes, others = list(graph.nodes), list(again.nodes)
    # A number that forward takes from somewhere else (a counter, a generator of its own) is
    # another one in the second trace.
    if [_shown(node) for node in nodes] != [_shown(node) for node in others]:
        return Layers(False)
    inputs = [node for node in nodes if node.op == "placeholder"]
    if len(inputs) != 1 or any(node.op == "get_attr" for node in nodes):
        return Layers(False)
    names = {id(p): name for name, p in model.named_parameters()}
    reader = _Reader(model, names, inputs[0].name)
    operations = [node for node in nodes if node.op not in ("placeholder", "output")]
    result = nodes[-1].args[0]
    if not isinstance(result, fx.Node) or not operations or result is not operations[-1]:
        return Layers(False)
    row_by_row = all(reader.row_by_row(node) for node in operations)
    if not row_by_row:
        return Layers(False)
    try:
        steps = [reader.step(node) for node in operations]
    except _Unknown:
        return Layers(True)
    return Layers(True, tuple(_pooled_convolutions(_pooled_first(steps))), reader.drops)


def _pooled_first(steps: list[Step]) -> list[Step]:
    """Return steps with a ReLU behind the maximum it stands before: the same of fewer numbers.

    Where the largest number of a window is not above zero, all gradients are zero either way.
    """
    read = Counter(step.source for step in steps)
    for at, (step, after) in enumerate(pairwise(steps)):
        if (
            _is_relu(step)
            and isinstance(after, MaxPool2d)
            and after.source == step.name
            and read[step.name] == 1
        ):
            steps[at : at + 2] = [
                replace(after, name=step.name, source=step.source),
                replace(step, name=after.name, source=step.name),
            ]
    return steps


def _pooled_convolutions(steps: list[Step]) -> list[Step]:
    """Return steps with plain convolutions, the maximum behind each and a ReLU as one."""
    read = Counter(step.source for step in steps)
    made: list[Step] = []

    def before(step: Step) -> Step | None:
        """Return the last one made, if this step goes on from it and no other one does."""
        last = made[-1] if made else None
        return last if last and step.source == last.name and read[last.name] == 1 else None

    for step in steps:
        last = before(step)
        if isinstance(step, MaxPool2d) and isinstance(last, Convolution) and _is_plain(last):
            made.pop()
            one = PooledConvolution(
                last.weights, _pair(last.stride), _pair(last.padding), step.kernel, step.stride
            )
            earlier = before(last)
            if isinstance(earlier, PooledConvolutions):
                made[-1] = PooledConvolutions(step.name, earlier.source, (*earlier.layers, one))
            else:
                made.append(PooledConvolutions(step.name, last.source, (one,)))
        elif isinstance(last, PooledConvolutions) and _is_relu(step):
            *layers, one = last.layers
            rectified = (*layers, replace(one, rectified=True))
            made[-1] = PooledConvolutions(step.name, last.source, rectified)
        else:
            made.append(step)
    return made


def _is_plain(step: Convolution) -> bool:
    """Return whether it is a convolution of images, without groups and gaps."""
    return (step.dilation, step.groups) == ((1, 1), 1)


def _is_relu(step: Step) -> bool:
    return isinstance(step, Elementwise) and step.function in (F.relu, torch.relu)


def _shown(node: fx.Node) -> tuple[str, ...]:
    return node.op, str(node.target), repr(node.args), repr(node.kwargs)


class _Reader:
    """Turns nodes of one graph into steps."""

    def __init__(self, model: nn.Module, names: Mapping[int, str], first: str) -> None:
        self._modules = dict(model.named_modules())
        self._names = names
        self._first = first
        self.drops = False

    # --- row by row? ------------------------------------------------------------------------

    def row_by_row(self, node: fx.Node) -> bool:
        """Return whether an operation computes each row by itself."""
        if self._is_size(node):
            return True
        if self._is_view(node):
            return True
        others = (*node.args[1:], *node.kwargs.values())
        if node.op == "call_function" and node.target in _BETWEEN:
            return len(node.args) == 2 and not node.kwargs and all(map(self._is_part, node.args))
        if any(isinstance(other, fx.Node) for other in others):
            return False  # such as a share that depends on the number of rows
        if node.op == "call_module":
            module: Any = self._modules[str(node.target)]
            if type(module) in (nn.Flatten, nn.Unflatten):
                start = module.start_dim if type(module) is nn.Flatten else module.dim
                return bool(isinstance(start, int) and start >= 1)
            if type(module) in (nn.Softmax, nn.LogSoftmax):
                return module.dim is not None and int(module.dim) >= 1
            return type(module) in (*_ROW_BY_ROW, nn.Dropout) and len(node.args) == 1
        if node.op == "call_function" and node.target in _ROW_BY_ROW_FUNCTIONS:
            return True
        if node.op == "call_method" and node.target in _ELEMENTWISE_METHODS:
            return True
        return self._flattened(node)

    def _is_part(self, argument: Any) -> bool:
        """Return whether a part of a sum or product is row by row: a layer's output, a number."""
        if isinstance(argument, fx.Node):
            return argument.op != "placeholder" and not self._is_size(argument)
        return isinstance(argument, (int, float))

    def _is_size(self, node: fx.Node) -> bool:
        """Return whether a node is the number of rows: ``x.size(0)`` or ``x.shape[0]``."""
        if node.op == "call_method" and node.target == "size":
            return tuple(node.args[1:]) == (0,)
        if node.op == "call_function" and node.target is getattr:
            return bool(node.args[1] == "shape") and all(self._is_size(user) for user in node.users)
        if node.op == "call_function" and node.target is operator.getitem:
            of = node.args[0]
            return isinstance(of, fx.Node) and of.target is getattr and bool(node.args[1] == 0)
        return False

    def _flattened(self, node: fx.Node) -> bool:
        """Return whether a node flattens all but the rows."""
        flattens = (node.op == "call_function" and node.target is torch.flatten) or (
            node.op == "call_method" and node.target == "flatten"
        )
        start = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
        return bool(flattens and start == 1 and len(node.args) <= 2)

    def _is_view(self, node: fx.Node) -> bool:
        """Return whether a node gives each row another shape, the number of rows being as it is.

        ``view(-1, 784)`` is one too: with another number of inputs the outputs would be of another
        number of rows than the targets, and the experiment would have been refused.
        """
        if node.op != "call_method" or node.target not in ("view", "reshape") or node.kwargs:
            return False
        _, first, *rest = node.args if len(node.args) > 2 else (None, None)
        if not rest or not all(isinstance(size, int) for size in rest):
            return False
        if isinstance(first, fx.Node):
            return self._is_size(first)
        return bool(first == -1) and all(isinstance(size, int) and size > 0 for size in rest)

    # --- as products ------------------------------------------------------------------------

    def step(self, node: fx.Node) -> Step:
        """Return an operation for a stack of clients.

        Raises
        ------
        _Unknown
            If it is not known as one.
        """
        if self._is_size(node):
            return Elementwise(node.name, "", lambda x: x)  # read by nobody: see _is_view
        source = self._source(node.args[0] if node.args else None)
        if node.op == "call_module":
            return self._module(node.name, self._modules[str(node.target)], source)
        if self._flattened(node):
            return View(node.name, source)
        if self._is_view(node):
            shape: Any = node.args[2:]
            return View(node.name, source, tuple(shape))
        if node.op == "call_function" and node.target in _ELEMENTWISE_FUNCTIONS:
            function: Any = node.target
            options = {key: value for key, value in node.kwargs.items() if key != "inplace"}
            if len(node.args) > 1 or any(isinstance(o, fx.Node) for o in options.values()):
                raise _Unknown
            made = functools.partial(function, **options) if options else function
            return Elementwise(node.name, source, made)
        if node.op == "call_method" and node.target in _ELEMENTWISE_METHODS:
            return Elementwise(node.name, source, getattr(torch, str(node.target)))
        if node.op == "call_function" and node.target in _POOLING_FUNCTIONS:
            return _called(node, source)
        raise _Unknown

    def _source(self, argument: Any) -> str:
        if not isinstance(argument, fx.Node):
            raise _Unknown
        return "" if argument.name == self._first else argument.name

    def _module(self, name: str, module: Any, source: str) -> Step:
        kind = type(module)
        if kind is nn.Linear:
            bias = None if module.bias is None else self._names[id(module.bias)]
            return Linear(name, source, self._names[id(module.weight)], bias)
        if kind is nn.Dropout:
            self.drops = self.drops or module.p > 0
            return Dropout(name, source, float(module.p))
        if kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            return View(name, source)
        if kind in (nn.Softmax, nn.LogSoftmax):
            function = torch.softmax if kind is nn.Softmax else torch.log_softmax
            return Elementwise(name, source, functools.partial(function, dim=int(module.dim) + 1))
        if kind in _ELEMENTWISE:
            return Elementwise(name, source, _ELEMENTWISE[kind](module))
        if kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
            return self._convolution(name, module, source)
        if kind is nn.MaxPool2d:
            windows = _windows(**{key: getattr(module, key) for key in _OF_MAX_POOLING})
            if windows is not None:
                return MaxPool2d(name, source, *windows)
        if kind in _POOLING and not getattr(module, "return_indices", False):
            return EachRow(name, source, module.forward)
        raise _Unknown

    def _convolution(self, name: str, module: Any, source: str) -> Step:
        padding = module.padding
        if module.padding_mode != "zeros":
            raise _Unknown
        if isinstance(padding, str):
            # Here torch keeps what "same" and "valid" come to, from the last side to the first.
            both = list(reversed(module._reversed_padding_repeated_twice))
            padding = tuple(both[::2])
            if padding != tuple(both[1::2]):
                raise _Unknown
        return Convolution(
            name,
            source,
            self._names[id(module.weight)],
            None if module.bias is None else self._names[id(module.bias)],
            module.stride,
            padding,
            module.dilation,
            module.groups,
        )


def _called(node: fx.Node, source: str) -> Step:
    """Return pooling as a function calls it."""
    function: Any = node.target
    if function is F.max_pool2d:
        given: dict[str, Any] = dict(zip(_OF_MAX_POOLING, node.args[1:], strict=False))
        windows = _windows(**given, **node.kwargs)  # type: ignore[arg-type]
        if windows is not None:
            return MaxPool2d(node.name, source, *windows)
    if node.kwargs.get("return_indices"):
        raise _Unknown
    args, options = node.args[1:], dict(node.kwargs)
    return EachRow(node.name, source, lambda x: function(x, *args, **options))


def _windows(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the sizes of windows and their distances; None where they overlap, or need more."""
    kernel = _pair(kernel_size)
    # Torch takes an empty one for none, too.
    distance = _pair(stride) if stride else kernel
    apart = all(step >= reach for step, reach in zip(distance, kernel, strict=True))
    plain = _pair(padding) == (0, 0) and _pair(dilation) == (1, 1)
    return (kernel, distance) if apart and plain and not (ceil_mode or return_indices) else None


def _pair(value: Any) -> tuple[int, int]:
    """Return a size of torch's, one number or two, as two."""
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)
