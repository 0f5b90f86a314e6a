"""The source of tensors on any device, in torch operations: whole tensors, no state but what lies between.

The host waits once for the live, once for the sample, once a split for its counts, and once a tensor for the few.
Tensors of one pool may be on several devices: only counts and the few travel.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masklib.selection._cut import Array, Cut
from masklib.selection._order import ordered, torch_dtype
from masklib.selection._pieces import CHUNK

_BLOCK = 2**14  # ties are counted in blocks before any is listed, which bounds the list


class Device:
    """Tensors as one pool, in the order given."""

    run = 1

    def __init__(self, scores: Sequence[Tensor], alive: Sequence[Tensor | None], by_magnitude: bool) -> None:
        self._scores, self._alive, self._by_magnitude = scores, alive, by_magnitude
        self._dtype = torch_dtype(s.dtype for s in scores)
        self.elements = sum(s.numel() for s in scores)
        whole = sum(s.numel() for s, a in zip(scores, alive) if a is None)
        self.live = whole + sum(_on_host(a.count_nonzero() for a in alive if a is not None))
        self._between: list[Tensor] = []

    def _read(self, scores: Tensor) -> Tensor:
        """Some of the scores as they are ranked."""
        return ordered(scores, self._dtype, self._by_magnitude)

    def sample(self, stride: int) -> Array:
        """Every so many values of each tensor."""
        parts = []
        for scores, alive in zip(self._scores, self._alive):
            part = self._read(scores.reshape(-1)[::stride])
            parts.append(part if alive is None else part[alive.reshape(-1)[::stride]])
        return _values(parts)

    def split(self, low: Any, high: Any) -> tuple[int, int, int]:
        """Count below, between and above; keep what is between."""
        if low is not None and low == high:
            return self._at(low.item())
        bounds = [None if bound is None else bound.item() for bound in (low, high)]
        sides = [_between(self._read(s), a, *bounds) for s, a in zip(self._scores, self._alive)]
        counts = _on_host(side.count_nonzero() for pair in sides for side in pair)
        self._between = [near for near, _ in sides]
        between, above = sum(counts[::2]), sum(counts[1::2])
        return self.live - between - above, between, above

    def _at(self, value: Any) -> tuple[int, int, int]:
        """Count below, at and above a value."""
        sides = [_beside(self._read(s), a, value) for s, a in zip(self._scores, self._alive)]
        counts = _on_host(side.count_nonzero() for three in sides for side in three)
        return sum(counts[::3]), sum(counts[1::3]), sum(counts[2::3])

    def few(self) -> Array:
        """The values between the bounds."""
        return _values([self._read(s[near]) for s, near in zip(self._scores, self._between)])

    def within(self) -> None:
        """The few are brought to the host."""

    def places(self) -> Array:
        """The indices of the few, rising."""
        starts = accumulate((s.numel() for s in self._scores), initial=0)
        parts = [start + near.reshape(-1).nonzero()[:, 0].cpu().numpy() for start, near in zip(starts, self._between)]
        return np.concatenate(parts)

    def tie_table(self, value: Any) -> Array:
        """Where the live ones that equal a value lie, (blocks, 3): first index, index behind the last, how many."""
        rows, start = [], 0
        for tied in self._tied(value):
            stops = range(min(CHUNK, tied.numel()), tied.numel() + CHUNK, CHUNK)
            counts = _on_host(part.count_nonzero() for part in tied.split(CHUNK) if part.numel())
            rows += [(start + s - min(s, CHUNK), start + min(s, tied.numel()), c) for s, c in zip(stops, counts)]
            start += tied.numel()
        return np.array(rows, np.int64).reshape(-1, 3)

    def ties(self, value: Any, first: int, last: int) -> Array:
        """The pool's indices of the live elements that equal the value, from one index up to another."""
        parts, start = [np.empty(0, np.int64)], 0
        for tied in self._tied(value):
            low, high = max(first - start, 0), max(last - start, 0)
            parts.append(start + low + tied[low:high].nonzero()[:, 0].cpu().numpy())
            start += tied.numel()
        return np.concatenate(parts)

    def _tied(self, value: Any) -> list[Tensor]:
        return [_live(self._read(s) == value.item(), a).reshape(-1) for s, a in zip(self._scores, self._alive)]

    def tie(self, value: Any, nth: int) -> int:
        """The pool's index of the n-th live element that equals the value."""
        ties = self._tied(value)
        counts = _on_host(tied.count_nonzero() for tied in ties)
        tensor = bisect_right(list(accumulate(counts)), nth)
        before = sum(self._scores[i].numel() for i in range(tensor))
        return before + _nth(ties[tensor], nth - sum(counts[:tensor]))

    def masks(self, cut: Cut) -> list[Tensor]:
        """The masks."""
        starts = accumulate((s.numel() for s in self._scores), initial=0)
        return [self._mask(s, a, cut, start) for s, a, start in zip(self._scores, self._alive, starts)]

    def _mask(self, scores: Tensor, alive: Tensor | None, cut: Cut, start: int) -> Tensor:
        if cut.value is None:
            return _live(torch.ones(scores.shape, dtype=torch.bool, device=scores.device), alive).contiguous()
        values, value, first = self._read(scores), cut.value.item(), max(0, cut.index - start)
        mask = (values >= value if first == 0 else values > value).contiguous()
        if 0 < first < scores.numel():
            mask.view(-1)[first:] |= values.reshape(-1)[first:] == value
        return _live(mask, alive).contiguous()


def _live(flags: Tensor, alive: Tensor | None) -> Tensor:
    return flags if alive is None else flags & alive


def _between(values: Tensor, alive: Tensor | None, low: Any, high: Any) -> tuple[Tensor, Tensor]:
    """Which are neither below nor above, NaN among them, and which above."""
    nothing = torch.zeros((), dtype=torch.bool, device=values.device).expand(values.shape)
    below = nothing if low is None else values <= low
    above = nothing if high is None else values >= high
    return _live(~(below | above), alive), _live(above, alive)


def _beside(values: Tensor, alive: Tensor | None, value: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Which are below, at and above the value."""
    return _live(values < value, alive), _live(values == value, alive), _live(values > value, alive)


def _nth(flags: Tensor, nth: int) -> int:
    """The index of the n-th True."""
    whole = flags.numel() - flags.numel() % _BLOCK
    totals = flags[:whole].view(-1, _BLOCK).sum(1).cumsum(0)
    block = int((totals <= nth).sum())
    before = int(totals[block - 1]) if block else 0
    return block * _BLOCK + int(flags[block * _BLOCK :][:_BLOCK].nonzero()[nth - before])


def _on_host(counts: Iterable[Tensor]) -> list[int]:
    """Counts as numbers, in one wait a device."""
    found = list(counts)
    if not found:
        return []
    home = found[0].device
    return torch.stack([count.to(home, non_blocking=True) for count in found]).tolist()


def _values(parts: Sequence[Tensor]) -> Array:
    """All values in one array of the host; those of 16 bits as float32, which numpy compares natively."""
    home = parts[0].device
    joined = torch.cat([part.reshape(-1).to(home) for part in parts])
    return (joined.float() if joined.is_floating_point() and joined.element_size() == 2 else joined).cpu().numpy()
