"""The numbers at even and at odd places of a tensor's last dimension, apart and together again.

To copy a slice with a step of two goes number by number. Two float32 that lie together are also one
int64, or one complex number, and to halve those, or to make them of two, is done to many at a time.
Nothing is computed with the numbers: all bits stay.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

__all__ = ["can_be_halved", "join", "split"]

_BITS = 32


def can_be_halved(x: Tensor) -> bool:
    """Return whether a tensor's numbers are such as this is done with: float32 on the CPU."""
    return x.dtype is torch.float32 and x.device.type == "cpu" and sys.byteorder == "little"


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first numbers of all pairs, and the second ones.

    Parameters
    ----------
    x : Tensor
        (..., 2 x pairs), of numbers for which :func:`can_be_halved` is true.

    Returns
    -------
    (Tensor, Tensor)
        (..., pairs) each.
    """
    x = x.contiguous()
    if x.storage_offset() % 2:
        x = x.clone()
    both = x.view(torch.int64)
    first, second = both.to(torch.int32), (both >> _BITS).to(torch.int32)
    return first.view(torch.float32), second.view(torch.float32)


def join(first: Tensor, second: Tensor) -> Tensor:
    """Return what :func:`split` has made two of."""
    return torch.view_as_real(torch.complex(first, second)).flatten(-2)
