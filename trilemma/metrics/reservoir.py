"""A uniform sample of bounded size for each group, the same however batches are cut."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

_GOLDEN = -7046029254386353131
LARGEST_HASH = (1 << 63) - 1
_LEAST_PENDING = 1 << 12


class Kept(NamedTuple):
    """What a reservoir holds, group by group, each group in random order."""

    group: Int64[Tensor, " entry"]
    position: Int64[Tensor, " entry"]
    facts: tuple[Tensor, ...]
    """Whatever was put in with the entries, one row an entry."""


class Reservoir:
    """Of each group, the entries whose hashes are the smallest.

    The hash of an entry follows from its position and the seed alone. So the sample
    depends on neither the order nor the batches in which entries come, nor on how
    groups are numbered; groups with entries at the same positions keep the same ones.
    """

    def __init__(
        self, num_groups: int, size: int, *, seed: int, device: torch.device
    ) -> None:
        self._size = size
        self._seed = seed
        self._highest = torch.full((num_groups,), LARGEST_HASH, device=device)
        self._kept: list[tuple[Tensor, ...]] = []
        self._num_pending = 0

    def add(
        self,
        group: Int64[Tensor, " entry"],
        position: Int64[Tensor, " entry"],
        facts: Callable[[Int64[Tensor, " chosen"]], tuple[Tensor, ...]],
    ) -> None:
        """Take entries in; `facts` returns those of the entries it is asked for.

        A position comes once in a group.
        """
        key = hashed(position, seed=self._seed)
        chosen = (key < self._highest[group]).nonzero()[:, 0]
        entry = (group[chosen], key[chosen], position[chosen], *facts(chosen))
        self._kept.append(entry)
        self._num_pending += len(chosen)
        if self._num_pending > max(
            len(self._highest) * self._size // 2, _LEAST_PENDING
        ):
            self._trim()

    def kept(self) -> Kept:
        """Return the sample of what was added; something has to have been."""
        self._trim()
        group, _, position, *facts = self._kept[0]
        return Kept(group, position, tuple(facts))

    def _trim(self) -> None:
        columns = [torch.cat(parts) for parts in zip(*self._kept, strict=True)]
        by_key = columns[1].argsort()
        order = by_key[columns[0][by_key].argsort(stable=True)]
        group, key = columns[0][order], columns[1][order]
        count = torch.bincount(group, minlength=len(self._highest))
        rank = torch.arange(len(group), device=group.device)
        rank -= (count.cumsum(0) - count)[group]
        is_last = rank == self._size - 1
        self._highest[group[is_last]] = key[is_last]
        order = order[rank < self._size]
        self._kept = [tuple(column[order] for column in columns)]
        self._num_pending = 0


def hashed(positions: Int64[Tensor, " entry"], *, seed: int) -> Int64[Tensor, " entry"]:
    """Return numbers from 0 to 2^63 that look random and follow from the positions."""
    start = _mixed(torch.tensor(seed, device=positions.device))
    return _mixed(start ^ (positions * _GOLDEN)) & LARGEST_HASH


def _mixed(values: Int64[Tensor, "*values"]) -> Int64[Tensor, "*values"]:
    """Return the values' bits well mixed: the finaliser of SplitMix64 (Steele 2014)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        values = (values ^ _shifted(values, shift)) * factor
    return values ^ _shifted(values, 31)


def _shifted(values: Int64[Tensor, "*values"], bits: int) -> Int64[Tensor, "*values"]:
    """Return the values shifted right with zeros, as unsigned ones would be."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
