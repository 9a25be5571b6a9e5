"""Halving pairs of numbers: all bits stay, whatever they are."""

from __future__ import annotations

import math

import pytest
import torch

from flautim_lab.training import pairs


def bits(x):
    return x.contiguous().view(torch.int32)


@pytest.mark.parametrize("shape", [(2,), (3, 4, 10), (2, 1, 1, 6, 28), (0, 4)])
def test_pairs_are_halved_and_joined(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    first, second = pairs.split(x)
    assert torch.equal(bits(first), bits(x[..., 0::2]))
    assert torch.equal(bits(second), bits(x[..., 1::2]))
    assert torch.equal(bits(pairs.join(first, second)), bits(x))


def test_no_bit_of_an_odd_number_changes():
    odd = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 3.4028235e38]
    x = torch.tensor(odd + odd[::-1])
    quiet = torch.tensor([0x7FC12345, -0x3EDCBB], dtype=torch.int32).view(torch.float32)
    x = torch.cat([x, quiet])
    first, second = pairs.split(x)
    assert torch.equal(bits(pairs.join(first, second)), bits(x))


def test_a_part_of_a_tensor_is_one_too():
    x = torch.arange(42.0)
    for part in (x[1:-1], x.view(6, 7)[:, 1:5], x.view(6, 7).T):
        assert torch.equal(torch.stack(pairs.split(part), -1).flatten(-2), part)
        assert torch.equal(pairs.join(*pairs.split(part)), part)
        first, second = part[..., 0::2], part[..., 1::2]
        assert torch.equal(pairs.join(first, second), part)


def test_others_than_float32_cannot_be_halved_so():
    assert pairs.can_be_halved(torch.zeros(2))
    assert not pairs.can_be_halved(torch.zeros(2, dtype=torch.float64))
    assert not pairs.can_be_halved(torch.zeros(2, device="meta"))
