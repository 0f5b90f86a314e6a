"""The source of a pool that lies on several ranks: each counts what it owns, and the few are brought together.

What crosses is bounded whatever the size of the pool: counts, a thin sample, the few (again a pool of their own while
they are many), and tables of ties. The wire (`masklib._shards._wire`) raises what one rank raises on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from masklib.selection._cut import END, Array, Cut
from masklib.selection._loop import cut_lowest
from masklib.selection._memory import Memory

_SAMPLE = 2**14  # values of all ranks together; four times as many halve the few, which are 2 % of a large pool
_FEW = 2**15  # as many are brought together: 256 KB of 8 bytes
_TABLE = 2**13  # chunks of all ranks together in which ties are counted: 192 KB


class Place(Protocol):
    """Where the elements of a rank lie in the pool of all ranks, both counted in one order."""

    def whole(self, positions: Array) -> Array:
        """The pool's indices of elements of this rank."""

    def before(self, index: int) -> int:
        """How many elements of this rank come before an index of the pool."""


class Rows:
    """The place of elements whose indices are given, rising."""

    def __init__(self, indices: Array | None = None) -> None:
        self.indices = np.empty(0, np.int64) if indices is None else indices

    def whole(self, positions: Array) -> Array:
        """The pool's indices of elements of this rank."""
        return self.indices[positions]

    def before(self, index: int) -> int:
        """How many elements of this rank come before an index of the pool."""
        return int(np.searchsorted(self.indices, index))


class Shards:
    """The elements that all ranks own as one pool; `open_source` makes the source of those of this rank."""

    run = 1

    def __init__(self, open_source: Callable[[], Any], place: Place, wire: Any) -> None:
        self._place, self._wire = place, wire

        def opened() -> tuple[int, int]:
            self._source = open_source()
            return self._source.live, self._source.elements

        self.live, self.elements = self._sums(opened, 2)
        self._few = 0

    def _sums(self, work: Callable[[], Any], width: int) -> list[int]:
        return [int(n) for n in self._wire.rows(work, width).sum(0)]

    def sample(self, stride: int) -> Array:
        """About one in `stride` of the live values, fewer of a large pool."""
        thin = max(stride, -(-self.live // _SAMPLE))
        return np.concatenate(self._wire.gather(lambda: self._source.sample(thin)))

    def split(self, low: Any, high: Any) -> tuple[int, int, int]:
        """Count below, between and above on all ranks."""
        below, between, above = self._sums(lambda: self._source.split(low, high), 3)
        self._few = between
        return below, between, above

    def few(self) -> Array:
        """The values between the bounds."""
        return np.concatenate(self._wire.gather(self._source.few))

    def within(self) -> Shards | None:
        """The few where they lie, if they are many; a bracket that holds most of the pool has no use in another."""
        if not _FEW < self._few <= self.live // 2:
            return None
        place = Rows()

        def opened() -> Memory:
            place.indices = self._place.whole(self._source.places())
            return Memory([torch.from_numpy(self._source.few())], [None], False)

        return Shards(opened, place, self._wire)

    def tie(self, value: Any, nth: int) -> int:
        """The pool's index of the n-th live element that equals the value."""
        low, high = self._bound(value, nth)
        ties = Rows()

        def before() -> list[int]:
            first, last = self._place.before(low), self._place.before(high + 1)
            ties.indices = self._place.whole(self._source.ties(value, first, last))
            return [self._before(value, first)]

        (skipped,) = self._sums(before, 1)
        pool = Shards(lambda: Memory([torch.from_numpy(ties.indices)], [None], False), ties, self._wire)
        return int(cut_lowest(pool, nth - skipped + 1).value)  # no two indices are equal: the cut is the last to die

    def _bound(self, value: Any, nth: int) -> tuple[int, int]:
        """Two indices between which the n-th tie lies, from how many there are in each chunk."""
        table = np.concatenate(self._wire.gather(lambda: self._table(value))).reshape(-1, 3)
        by_first, by_last = table[table[:, 0].argsort()], table[table[:, 1].argsort()]
        low = by_first[np.searchsorted(by_first[:, 2].cumsum(), nth, "right"), 0]
        return int(low), int(by_last[np.searchsorted(by_last[:, 2].cumsum(), nth, "right"), 1])

    def _table(self, value: Any) -> Array:
        """The first index, the last index and the number of ties of each run of chunks."""
        table = self._source.tie_table(value)
        table = table[table[:, 2] > 0]
        starts = np.arange(0, len(table), -(-len(table) * self._wire.size // _TABLE) or 1)
        ends = np.append(starts[1:], len(table))[: len(starts)] - 1
        counts = np.add.reduceat(table[:, 2], starts) if len(table) else table[:, 2]
        firsts, lasts = self._place.whole(table[starts, 0]), self._place.whole(table[ends, 1] - 1)
        return np.stack([firsts, lasts, counts], 1).reshape(-1)

    def _before(self, value: Any, position: int) -> int:
        """How many ties this rank has before one of its positions."""
        table = self._source.tie_table(value)
        whole = table[:, 1] <= position
        rest = table[~whole & (table[:, 0] < position), 0]
        inside = self._source.ties(value, int(rest[0]), position).size if rest.size else 0
        return int(table[whole, 2].sum()) + inside

    def masks(self, cut: Cut) -> list[Tensor]:
        """The masks of what this rank owns."""
        return self._source.masks(local_cut(cut, self._place))


def local_cut(cut: Cut, place: Place) -> Cut:
    """What a cut of the pool is in the positions of one rank."""
    return cut if cut.value is None or cut.index == END else Cut(cut.value, place.before(cut.index))
