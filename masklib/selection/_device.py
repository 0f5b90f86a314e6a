"""The source of tensors on any device, in torch operations: whole tensors, no state but what lies between.

Neighbours on one device are one flat tensor, so that a model costs as few launches and waits as a tensor. The host
waits once for the live, once for the sample, once a split for its counts, and once for the few. Tensors of one pool may
be on several devices: only counts and the few travel.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib.selection._cut import Array, Cut
from masklib.selection._order import ordered, torch_dtype
from masklib.selection._pieces import CHUNK

_BLOCK = 2**14  # ties are counted in blocks before any is listed, which bounds the list
# What the host gets to see. It sorts slower than a device, so a sample is small, and what is between the bounds that
# follow from it is a pool of its own until it is few.
_SAMPLE = 2**13
_FEW = 2**15


class Part(NamedTuple):
    """Neighbours of a pool on one device, flat."""

    values: Tensor  # as they are ranked
    alive: Tensor | None
    start: int  # the index of the first


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one dtype and device, one behind another."""
    return tensors[0].reshape(-1) if len(tensors) == 1 else torch.cat([t.reshape(-1) for t in tensors])


def flat_alive(scores: Sequence[Tensor], alive: Sequence[Tensor | None]) -> Tensor | None:
    """Who lives, one tensor behind another; None if all do."""
    if all(a is None for a in alive):
        return None
    return flat([torch.ones_like(s, dtype=torch.bool) if a is None else a for s, a in zip(scores, alive)])


class Device:
    """Tensors as one pool, in the order given."""

    run = 1

    def __init__(self, scores: Sequence[Tensor], alive: Sequence[Tensor | None], by_magnitude: bool) -> None:
        self._parts: list[Part] = []
        self._homes: list[tuple[int, slice, torch.Size]] = []  # of each tensor: which part, where in it, its shape
        dtype, self.elements = torch_dtype(s.dtype for s in scores), 0
        for _, run in groupby(zip(scores, alive), lambda pair: pair[0].device):
            own, live = zip(*run)
            values = ordered(flat([s.to(dtype) for s in own]), dtype, by_magnitude)
            ends = [*accumulate((s.numel() for s in own), initial=0)]
            self._homes += [(len(self._parts), slice(*e), s.shape) for *e, s in zip(ends, ends[1:], own)]
            self._parts.append(Part(values, flat_alive(own, live), self.elements))
            self.elements += values.numel()
        whole = sum(p.values.numel() for p in self._parts if p.alive is None)
        self.live = whole + sum(_on_host(p.alive.count_nonzero() for p in self._parts if p.alive is not None))
        self._between: list[Tensor] = []
        self._count = 0

    def sample(self, stride: int) -> Array:
        """Every so many values of each part."""
        step = max(stride, self.live // _SAMPLE)
        parts = [p._replace(values=p.values[::step], alive=None if p.alive is None else p.alive[::step])
                 for p in self._parts]  # fmt: skip
        return _values([p.values if p.alive is None else p.values[p.alive] for p in parts])

    def split(self, low: Any, high: Any) -> tuple[int, int, int]:
        """Count below, between and above; keep what is between."""
        if low is not None and low == high:
            return self._at(low.item())
        bounds = [None if bound is None else bound.item() for bound in (low, high)]
        sides = [_between(p.values, p.alive, *bounds) for p in self._parts]
        counts = _on_host(side.count_nonzero() for pair in sides for side in pair)
        self._between = [near for near, _ in sides]
        self._count, above = sum(counts[::2]), sum(counts[1::2])
        return self.live - self._count - above, self._count, above

    def _at(self, value: Any) -> tuple[int, int, int]:
        """Count below, at and above a value."""
        sides = [_beside(p.values, p.alive, value) for p in self._parts]
        counts = _on_host(side.count_nonzero() for three in sides for side in three)
        return sum(counts[::3]), sum(counts[1::3]), sum(counts[2::3])

    def few(self) -> Array:
        """The values between the bounds."""
        return _values(self._near())

    def _near(self) -> list[Tensor]:
        return [p.values[near] for p, near in zip(self._parts, self._between)]

    def within(self) -> Device | None:
        """The few where they are, unless they are few enough for the host."""
        return _Inside(self, self._near()) if _FEW < self._count < self.live else None

    def places(self) -> Array:
        """The indices of the few, rising."""
        parts = [p.start + near.nonzero()[:, 0].cpu().numpy() for p, near in zip(self._parts, self._between)]
        return np.concatenate(parts)

    def tie_table(self, value: Any) -> Array:
        """Where the live ones that equal a value lie, (blocks, 3): first index, index behind the last, how many."""
        rows = []
        for p, tied in zip(self._parts, self._tied(value)):
            stops = range(min(CHUNK, tied.numel()), tied.numel() + CHUNK, CHUNK)
            counts = _on_host(part.count_nonzero() for part in tied.split(CHUNK) if part.numel())
            rows += [(p.start + s - min(s, CHUNK), p.start + min(s, tied.numel()), c) for s, c in zip(stops, counts)]
        return np.array(rows, np.int64).reshape(-1, 3)

    def ties(self, value: Any, first: int, last: int) -> Array:
        """The pool's indices of the live elements that equal the value, from one index up to another."""
        found = [np.empty(0, np.int64)]
        for p, tied in zip(self._parts, self._tied(value)):
            low, high = max(first - p.start, 0), max(last - p.start, 0)
            found.append(p.start + low + tied[low:high].nonzero()[:, 0].cpu().numpy())
        return np.concatenate(found)

    def _tied(self, value: Any) -> list[Tensor]:
        return [_live(p.values == value.item(), p.alive) for p in self._parts]

    def tie(self, value: Any, nth: int) -> int:
        """The pool's index of the n-th live element that equals the value."""
        ties = self._tied(value)
        counts = _on_host(tied.count_nonzero() for tied in ties)
        part = bisect_right(list(accumulate(counts)), nth)
        return self._parts[part].start + _nth(ties[part], nth - sum(counts[:part]))

    def masks(self, cut: Cut) -> list[Tensor]:
        """The masks, each of its own memory."""
        return [_mask(self._parts[part], inside, cut).view(shape) for part, inside, shape in self._homes]


class _Inside(Device):
    """What a bracket of a pool holds, as a pool of its own with the indices of that one."""

    def __init__(self, outer: Device, values: Sequence[Tensor]) -> None:
        super().__init__(values, [None] * len(values), by_magnitude=False)
        self._outer = outer

    def tie(self, value: Any, nth: int) -> int:
        """The index in the outer pool: all that equal the value are between its bounds."""
        return self._outer.tie(value, nth)


def _mask(part: Part, inside: slice, cut: Cut) -> Tensor:
    """Who survives the cut among some of a part."""
    values, alive = part.values[inside], None if part.alive is None else part.alive[inside]
    if cut.value is None:
        return torch.ones_like(values, dtype=torch.bool) if alive is None else alive.clone()
    value, first = cut.value.item(), max(0, cut.index - part.start - inside.start)
    mask = values >= value if first == 0 else values > value
    if 0 < first < values.numel():
        mask[first:] |= values[first:] == value
    return _live(mask, alive)


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
    joined = flat([part.to(parts[0].device) for part in parts])
    return (joined.float() if joined.is_floating_point() and joined.element_size() == 2 else joined).cpu().numpy()
