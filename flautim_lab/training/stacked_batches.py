"""The batches of many clients, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Member", "Steps"]

AT_ONCE = 2**19  # numbers of inputs that are put together at once: they stay in a core's cache


@dataclass(frozen=True)
class Member:
    """One client of a cohort.

    Attributes
    ----------
    rows : Tensor
        Numbers of its rows in the pool, int64 (rows,).
    orders : sequence of Tensor
        For each local epoch the order of its rows, int64 (rows,).
    draws : torch.Generator, optional
        Where its dropout comes from.
    """

    rows: Tensor
    orders: Sequence[Tensor]
    draws: torch.Generator | None = None


class Steps:
    """Which rows each client takes at each of its steps; clients with the most steps come first."""

    def __init__(self, members: Sequence[Member], batch_size: int) -> None:
        per_epoch = np.array([-(-len(m.rows) // batch_size) for m in members])
        epochs = np.array([len(m.orders) for m in members])
        own = per_epoch * epochs
        self.order: NDArray[np.int64] = np.argsort(-own, kind="stable")
        self.number = int(own.max())
        width = min(batch_size, max(len(m.rows) for m in members))
        self._active = [int((own > step).sum()) for step in range(self.number)]
        self.rows = torch.zeros(len(members), self.number, width, dtype=torch.int64)
        self.counts = np.zeros((len(members), self.number), dtype=np.int64)
        # Clients of as many rows have batches of the same sizes: they are placed together.
        alike: dict[tuple[int, int], list[int]] = {}
        for place, member in enumerate(self.order):
            one = members[member]
            alike.setdefault((len(one.rows), len(one.orders)), []).append(place)
        for places in alike.values():
            self._place(places, [members[self.order[place]] for place in places], batch_size)
        # Where all batches are of one size, as they mostly are, it need not be looked up.
        self._widths = self.counts.max(0).tolist()

    def _place(self, places: list[int], members: list[Member], size: int) -> None:
        number = len(members[0].rows)
        whole, rest = divmod(number, size)
        steps = whole + bool(rest)
        at = slice(None) if len(places) == len(self.rows) else places  # much quicker, if all alike
        rows = torch.stack([member.rows for member in members])
        for epoch, orders in enumerate(zip(*(member.orders for member in members), strict=True)):
            taken = rows.gather(1, torch.stack(orders))
            first = epoch * steps
            if whole:
                full = taken[:, : whole * size].view(len(places), whole, size)
                self.rows[at, first : first + whole, :size] = full
                self.counts[at, first : first + whole] = size
            if rest:
                # Filled up with a row of its own, whose loss is not looked at.
                self.rows[at, first + whole] = taken[:, -1:]
                self.rows[at, first + whole, :rest] = taken[:, whole * size :]
                self.counts[at, first + whole] = rest

    def batches(
        self, pool: tuple[Tensor, Tensor]
    ) -> Iterator[tuple[int, Tensor, Tensor, NDArray[np.int64]]]:
        """Yield for each step how many clients have one, their batches, and rows in each.

        Those of several steps are put together at once, which takes a fraction of the time.
        """
        x, y = pool
        step = 0
        while step < self.number:
            active, width = self._active[step], max(self._widths[step:])
            of_a_step = active * width * x[:1].numel()
            end = min(self.number, step + max(1, AT_ONCE // max(of_a_step, 1)))
            rows = self.rows[:active, step:end, :width].transpose(0, 1).to(x.device)
            inputs, targets = _taken(x, rows), _taken(y, rows)
            for at, number in enumerate(range(step, end)):
                now, wide = self._active[number], self._widths[number]
                counts = self.counts[:now, number]
                yield now, inputs[at, :now, :wide], targets[at, :now, :wide], counts
            step = end


def _taken(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``values[rows]``, which is quicker for one dimension of rows than for two."""
    return values.index_select(0, rows.flatten()).view(*rows.shape, *values.shape[1:])
