"""The source of tensors on the CPU: numpy in cache-sized chunks, in as many threads as torch has.

A split writes provisional masks at once, so that a selection reads the scores once: what is settled later is written
over the few.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib.selection._cut import ALL, END, Array, Cut, survivors
from masklib.selection._order import common_dtype
from masklib.selection._pieces import CHUNK as CHUNK
from masklib.selection._pieces import NUMPY, Piece, empty_mask, every, flags, magnitudes, pieces, reader, size
from masklib.selection._threads import scratch, threaded

_Read = Callable[[Piece], Array]


class Chunk(NamedTuple):
    """A piece of the scores, which of it lives, where its mask goes, and the pool's index of its first element."""

    scores: Piece
    alive: Piece | None
    mask: Array
    start: int


class Memory:
    """Tensors of any layout and dtype as one pool, in the order given."""

    run = 1

    def __init__(self, scores: Sequence[Tensor], alive: Sequence[Tensor | None], by_magnitude: bool) -> None:
        dtype = common_dtype(s.dtype for s in scores)
        self._masks = [empty_mask(s) for s in scores]
        starts = accumulate((s.numel() for s in scores), initial=0)
        parts = [_chunks(*part, dtype) for part in zip(scores, alive, self._masks, starts) if part[0].numel()]
        self._begin([chunk for part in parts for chunk in part], sum(s.numel() for s in scores), dtype, by_magnitude)
        self.live = self.elements if all(a is None for a in alive) else self._count_alive()

    def _begin(self, chunks: Sequence[Any], elements: int, dtype: torch.dtype, by_magnitude: bool) -> None:
        self._chunks, self.elements, self._dtype, self._by_magnitude = chunks, elements, dtype, by_magnitude
        self._bracket: tuple[Any, Any] | None = None  # of the last split
        self._between: list[tuple[Array, Array]] = []  # index in the chunk and value of the few, if it was open
        self._ties: list[int] = []  # of each chunk, if it was shut

    def _count_alive(self) -> int:
        return sum(self._map(lambda _, c: size(c.scores) if c.alive is None else int(np.count_nonzero(flags(c.alive)))))

    def _map(self, work: Callable[[_Read, Chunk], Any], chunks: Sequence[Chunk] | None = None) -> list[Any]:
        """`work(read, chunk)` of every chunk, in order."""

        def share(part: Sequence[Chunk]) -> list[Any]:
            with scratch(min(self.elements, CHUNK) * self._dtype.itemsize) as room:
                read = reader(self._dtype, self._by_magnitude, room)
                return [work(read, self._at_hand(chunk)) for chunk in part]

        every_chunk = self._chunks if chunks is None else chunks
        return [result for results in threaded(share, every_chunk, self.elements) for result in results]

    def _at_hand(self, chunk: Any) -> Chunk:
        """The chunk as it is worked on."""
        return chunk

    def sample(self, stride: int) -> Array:
        """Every so many values of each chunk, from a start that moves so as not to fall in step with the data."""
        with scratch(min(self.elements, CHUNK) * self._dtype.itemsize) as room:
            read = reader(self._dtype, self._by_magnitude, room)
            return joined(
                [_sampled(read, c, i * 7919 % stride, stride) for i, c in enumerate(self._chunks)], self._empty()
            )

    def _empty(self) -> Array:
        none: Array = np.empty(0, NUMPY[self._dtype])
        return magnitudes(none) if self._by_magnitude else none  # of a dtype of its own

    def split(self, low: Any, high: Any) -> tuple[int, int, int]:
        """Count below, between and above, and write the masks of all that is not between."""
        self._bracket = low, high
        if low is not None and low == high:
            counts = self._map(partial(_compare, value=low))
            self._ties = [tied for _, tied, _ in counts]
            below, ties, above = (sum(count[side] for count in counts) for side in range(3))  # of no chunk, too
            return below, ties, above
        parts = self._map(partial(_collect, low=low, high=high))
        self._between = [(index, values) for _, index, values in parts]
        above, few = sum(kept for kept, _, _ in parts), sum(index.size for _, index, _ in parts)
        return self.live - above - few, few, above

    def few(self) -> Array:
        """The values between the bounds, in order of index."""
        return joined([values for _, values in self._between], self._empty())

    def within(self) -> None:
        """The few are at hand."""

    def places(self) -> Array:
        """The indices of the few, rising."""
        starts = [chunk.start for chunk in self._chunks]
        return joined([start + index for start, (index, _) in zip(starts, self._between)], np.empty(0, np.int64))

    def tie(self, value: Any, nth: int) -> int:
        """The pool's index of the n-th live element that equals the value."""
        ties = self._tied_in_chunks(value)
        chunk = bisect_right(list(accumulate(ties)), nth)
        return self._chunks[chunk].start + int(self._tied(chunk, value)[nth - sum(ties[:chunk])])

    def tie_table(self, value: Any) -> Array:
        """Where the live ones that equal a value lie, (chunks, 3): first index, index behind the last, how many."""
        ends = [chunk.start + chunk.mask.size for chunk in self._chunks]
        rows = zip((chunk.start for chunk in self._chunks), ends, self._tied_in_chunks(value))
        return np.array(list(rows), np.int64).reshape(-1, 3)

    def ties(self, value: Any, first: int, last: int) -> Array:
        """The pool's indices of the live elements that equal the value, from one index up to another."""
        chunks = [i for i, c in enumerate(self._chunks) if c.start < last and first < c.start + c.mask.size]
        parts = [self._chunks[i].start + self._tied(i, value) for i in chunks]
        index = joined(parts, np.empty(0, np.int64))
        return index[(index >= first) & (index < last)]

    def _tied_in_chunks(self, value: Any) -> Sequence[int]:
        """How many live elements of each chunk equal a value that the last split's bracket holds."""
        if self._is_shut():
            return self._ties
        return [int(np.count_nonzero(values == value)) for _, values in self._between]

    def _tied(self, chunk: int, value: Any) -> Array:
        """Which of a chunk these are."""
        if self._is_shut():
            (index,) = self._map(partial(_tied, value=value), self._chunks[chunk : chunk + 1])
            return index
        index, values = self._between[chunk]
        return index[values == value]

    def _is_shut(self) -> bool:
        return self._bracket is not None and self._bracket[0] is not None and self._bracket[0] == self._bracket[1]

    def masks(self, cut: Cut) -> list[Tensor]:
        """The masks, which the next split or cut writes over."""
        if self._is_shut() and self._bracket is not None and cut.value == self._bracket[0]:
            ends = (chunk.start + chunk.mask.size for chunk in self._chunks)
            rest = [c for c, ties, end in zip(self._chunks, self._ties, ends) if ties and end > cut.index]
            self._map(partial(_write, cut=cut), rest)
        elif self._is_between(cut):
            self._settle(cut)
        else:
            self._map(partial(_write, cut=cut))
        self._bracket = None
        return self._masks

    def _is_between(self, cut: Cut) -> bool:
        """Whether the last split was open and the cut is within, so that only the few are to be written."""
        if self._bracket is None or self._is_shut():
            return False
        low, high = self._bracket
        if cut.value is None or low is None:
            return low is None and (cut.value is None or high is None or bool(cut.value < high))
        above_low = cut.value > low or (cut.value == low and cut.index == END)
        return bool(above_low and (high is None or cut.value < high))

    def _settle(self, cut: Cut) -> None:
        """Write who of the few survive."""
        values = self.few()
        keep = np.ones(values.size, bool) if cut == ALL else values > cut.value
        if cut.value is not None and cut.index != END:
            before = [self._before(cut.index, i) for i in range(len(self._chunks))]
            first = sum(before)
            keep[first:] |= values[first:] == cut.value
        start = 0
        for chunk, (index, _) in zip(self._chunks, self._between):
            chunk.mask[index[keep[start : start + index.size]]] = True
            start += index.size

    def _before(self, index: int, chunk: int) -> int:
        """How many of a chunk's few come before an index of the pool."""
        return int(np.searchsorted(self._between[chunk][0], index - self._chunks[chunk].start))


def _chunks(scores: Tensor, alive: Tensor | None, mask: Tensor, start: int, dtype: torch.dtype) -> list[Chunk]:
    flat = scores.is_contiguous() and (alive is None or alive.is_contiguous())
    values, target = pieces(scores, dtype, flat), mask.numpy().reshape(-1)
    live = [None] * len(values) if alive is None else pieces(alive, torch.bool, flat)
    ends = accumulate(map(size, values))
    return [Chunk(v, a, target[end - size(v) : end], start + end - size(v)) for v, a, end in zip(values, live, ends)]


def joined(parts: Sequence[Array], none: Array) -> Array:
    """All values in one array."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else none


# ---- one chunk ------------------------------------------------------------------------------------------------------


def _sampled(read: _Read, chunk: Chunk, start: int, stride: int) -> Array:
    values = read(every(chunk.scores, start, stride))
    return values.copy() if chunk.alive is None else values[flags(every(chunk.alive, start, stride))]


def _collect(read: _Read, chunk: Chunk, low: Any, high: Any) -> tuple[int, Array, Array]:
    """Write who surely survives; return their count, and the index and value of those that are between."""
    values, alive, mask = read(chunk.scores), flags(chunk.alive), chunk.mask
    between = np.zeros(mask.size, bool) if low is None else np.less_equal(values, low)
    if high is None:
        mask.fill(False)
    else:
        np.greater_equal(values, high, out=mask)
    np.equal(between, mask, out=between)
    if alive is not None:
        np.logical_and(mask, alive, out=mask)
        np.logical_and(between, alive, out=between)
    index = np.flatnonzero(between)
    return int(np.count_nonzero(mask)), index.astype(np.int32), values[index]  # half the bytes: chunks are short


def _compare(read: _Read, chunk: Chunk, value: Any) -> tuple[int, int, int]:
    """Write who is above the value; return how many live ones are below, at and above it."""
    values, alive, mask = read(chunk.scores), flags(chunk.alive), chunk.mask
    np.greater(values, value, out=mask)
    sides = [values < value, values == value, mask]
    if alive is not None:
        for side in sides:
            np.logical_and(side, alive, out=side)
    below, tied, above = (int(np.count_nonzero(side)) for side in sides)
    return below, tied, above


def _tied(read: _Read, chunk: Chunk, value: Any) -> Array:
    """The indices in the chunk of the live elements that equal the value."""
    tied, alive = read(chunk.scores) == value, flags(chunk.alive)
    return np.flatnonzero(tied if alive is None else tied & alive)


def _write(read: _Read, chunk: Chunk, cut: Cut) -> None:
    survivors(read(chunk.scores), chunk.start, cut, flags(chunk.alive), chunk.mask)
