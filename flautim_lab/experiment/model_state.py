"""What a model is made of: state that can travel between clients and server, and be copied."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flautim_lab.errors import ModelError

if TYPE_CHECKING:
    from flautim_lab.experiment.experiment import Experiment

__all__ = ["can_be_copied", "check_own_weights", "check_state"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_state(model: nn.Module, name: str) -> None:
    """Refuse state that cannot be sent as tensors of a known shape.

    Raises
    ------
    ModelError
        If a layer is lazy, a module has ``get_extra_state``, or a weight or buffer is sparse.
    """
    for path, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(is_lazy(tensor) for tensor in own):
            kind = type(module).__name__
            raise ModelError(
                f"{name} has the lazy layer {path or kind!r} ({kind}), whose shape is not known "
                f"before it sees data; use {kind.removeprefix('Lazy')} and give its sizes"
            )
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ModelError(
                f"{name} keeps state of its own in get_extra_state of {type(module).__name__}, "
                "which cannot be averaged over clients; keep it as a tensor with register_buffer"
            )
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{name} keeps {key!r} in its state_dict, which is no tensor but "
                f"{type(value).__name__}; keep it as a tensor with register_buffer"
            )
        if value.layout is not torch.strided:
            raise ModelError(
                f"{name} keeps {key!r} as a sparse tensor, which cannot be sent; make it dense "
                "with to_dense(), or give register_buffer persistent=False if it never changes"
            )


def check_own_weights(experiment: Experiment, model: nn.Module) -> None:
    """Refuse a function that gives the same weights each time: clients would share them.

    Frozen weights may be shared: nobody changes them.

    Raises
    ------
    ModelError
        If a second model trains what the first one does.
    """
    if _trained_memory(model) & _trained_memory(experiment.build_model()):
        raise ModelError(
            f"{experiment.model_name} gives the same weights each time it is called, and every "
            "client must train its own; make the layers inside it"
        )


def _trained_memory(model: nn.Module) -> set[int]:
    trained = (p for p in model.parameters() if p.requires_grad)
    return {p.untyped_storage().data_ptr() for p in trained} - {0}


def can_be_copied(model: nn.Module) -> bool:
    """Return whether ``copy.deepcopy`` gives a model that is all its own.

    It does not where a function closes over a module or a tensor: a function is not copied, and
    goes on with the original's. Hooks of tensors are lost. Such a model must be made anew.
    """
    for module in model.modules():
        if any(getattr(module, hooks, None) for hooks in _HOOKS):
            return False
        if any(_holds_original(value) for value in vars(module).values()):
            return False
    return not any(
        p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)
        for p in model.parameters()
    )


def _holds_original(value: Any) -> bool:
    if isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, (list, tuple)):
        return any(_holds_original(part) for part in value)
    if isinstance(value, dict):
        return any(_holds_original(part) for part in value.values())
    if not isinstance(value, FunctionType):
        return False
    held: list[Any] = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    for cell in value.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return any(isinstance(part, (nn.Module, Tensor)) for part in held)
