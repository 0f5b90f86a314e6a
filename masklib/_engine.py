"""Exact selection of the lowest k of one pool, near the speed of memory and in constant scratch.

1. Sample some live values; around the wanted rank take a bracket (low, high) that almost surely holds it.
2. One pass in cache-sized chunks: what is >= high survives, what is <= low dies, the few between are collected.
3. Finish exactly on the few, ties by index.

The counts say whether the rank was between; if not, the bracket is widened and the pass repeated: never approximate.
A bracket shut on one value, as heavy ties shut it, counts its ties instead of collecting them. NaN compares with
nothing, so it turns up among the few (or is missing from the counts) without a pass of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib._chunks import Array, Piece, common_dtype, every, flags, pieces, reader, size, threaded

_DIRECT = 2**15  # up to here everything is collected
_SIGMAS = 3  # half the width of a bracket, in standard deviations of the sampled rank
_SLACK = 8  # and at least so many sampled values
_WIDEN = 8


class HasNaN(Exception):
    """A live value is NaN; the masks are then undefined."""


class Chunk(NamedTuple):
    """A piece of the scores, which of it is alive, and where its mask goes."""

    scores: Piece
    alive: Piece | None
    mask: Array


class Pool(NamedTuple):
    """The chunks of one pool in order of index, and how to read them."""

    chunks: list[Chunk]
    elements: int
    dtype: torch.dtype
    by_magnitude: bool

    def reader(self) -> Callable[[Piece], Array]:
        """A reader of its pieces, one a thread."""
        return reader(self.dtype, self.by_magnitude, self.elements)

    def map(self, work: Callable[..., Any]) -> list[Any]:
        """`work(read, chunk)` of every chunk, in order."""

        def share(chunks: Sequence[Chunk]) -> list[Any]:
            read = self.reader()
            return [work(read, chunk) for chunk in chunks]

        return [result for results in threaded(share, self.chunks, self.elements) for result in results]


def pool_of(
    scores: Sequence[Tensor], alive: Sequence[Tensor | None], masks: Sequence[Tensor], by_magnitude: bool
) -> Pool:
    """One pool of tensors of any layout and dtype, whose results go into contiguous masks."""
    dtype = common_dtype({s.dtype for s in scores})
    parts = [_chunks(s, a, m, dtype) for s, a, m in zip(scores, alive, masks) if s.numel()]
    return Pool([chunk for part in parts for chunk in part], sum(s.numel() for s in scores), dtype, by_magnitude)


def _chunks(scores: Tensor, alive: Tensor | None, mask: Tensor, dtype: torch.dtype) -> list[Chunk]:
    flat = scores.is_contiguous() and (alive is None or alive.is_contiguous())
    values, target = pieces(scores, dtype, flat), mask.numpy().reshape(-1)
    live = [None] * len(values) if alive is None else pieces(alive, torch.bool, flat)
    if len(values) == 1:
        return [Chunk(values[0], live[0], target)]
    ends = accumulate(map(size, values))
    return [Chunk(v, a, target[end - size(v) : end]) for v, a, end in zip(values, live, ends)]


def count_alive(pool: Pool) -> int:
    """How many elements of the pool are alive."""
    return sum(pool.map(lambda _, c: size(c.scores) if c.alive is None else int(np.count_nonzero(flags(c.alive)))))


def kill_lowest(pool: Pool, k: int, alive: int) -> None:
    """Write the masks in which the lowest k of the `alive` live elements die.

    Raises:
        HasNaN: if a live value is NaN.
    """
    if pool.elements <= _DIRECT:
        return _all_at_once(pool, k)
    sample = _sample(pool, alive)
    widening = 1
    while True:
        low, high = _bracket(sample, k / alive if alive else 0.0, widening)
        missed = _attempt(pool, low, high, k, alive)
        if missed and low != high:  # heavy ties at an edge
            edge = low if missed < 0 else high
            missed = _attempt(pool, edge, edge, k, alive)
        if not missed:
            return None
        widening *= _WIDEN


def _all_at_once(pool: Pool, k: int) -> None:
    """The same for a small pool: collect everything."""
    read = pool.reader()
    parts = [_live(read(chunk.scores), chunk) for chunk in pool.chunks]
    survives, start = _highest(_joined(parts), k), 0
    for chunk, part in zip(pool.chunks, parts):
        chunk.mask[:] = False
        chunk.mask[... if chunk.alive is None else flags(chunk.alive)] = survives[start : start + part.size]
        start += part.size


def _live(values: Array, chunk: Chunk) -> Array:
    """The values of the live elements of a chunk."""
    return values.copy() if chunk.alive is None else values[flags(chunk.alive)]


def _joined(parts: Sequence[Array]) -> Array:
    """All values in one array."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0)


# ---- where to look --------------------------------------------------------------------------------------------------


def _sample(pool: Pool, alive: int) -> Array:
    """Some live values, about 2 * alive**(2/3) of them, which balances their cost and the width of the bracket."""
    stride = max(1, round(alive ** (1 / 3) / 2))
    read = pool.reader()
    sample = np.concatenate([_sampled(read, c, i, stride) for i, c in enumerate(pool.chunks)])
    if np.isnan(sample).any():
        raise HasNaN
    return sample


def _sampled(read: Callable[[Piece], Array], chunk: Chunk, index: int, stride: int) -> Array:
    """Every so many values of a chunk, from a start that moves so as not to fall in step with the data."""
    start = index * 7919 % stride
    values = read(every(chunk.scores, start, stride))
    return values.copy() if chunk.alive is None else values[flags(every(chunk.alive, start, stride))]


def _bracket(sample: Array, share: float, widening: int) -> tuple[Any, Any]:
    """Values below and above the wanted share, almost surely; None for no bound."""
    n = sample.size
    margin = widening * (_SIGMAS * math.sqrt(n * share * (1 - share)) + _SLACK)
    first, last = math.floor(n * share - margin), math.ceil(n * share + margin)
    low = high = None
    if last < n:
        sample = np.partition(sample, last)
        high = sample[last]
    if 0 <= first < n:
        low = np.partition(sample[: last + 1], first)[first]
    return low, high


# ---- one attempt ----------------------------------------------------------------------------------------------------


def _attempt(pool: Pool, low: Any, high: Any, k: int, alive: int) -> int:
    """Write the masks if the rank is between the bounds and return 0; else the side it is on, -1 or 1."""
    if low is not None and low == high:
        return _at(pool, low, k, alive)
    return _between(pool, low, high, k, alive)


def _between(pool: Pool, low: Any, high: Any, k: int, alive: int) -> int:
    parts = pool.map(partial(_collect, low=low, high=high))
    values = _joined([values for _, _, values in parts])
    wanted = k - (alive - sum(kept for kept, _, _ in parts) - values.size)
    if not 0 <= wanted <= values.size:
        return -1 if wanted < 0 else 1
    survives, start = _highest(values, wanted), 0
    for chunk, (_, index, _) in zip(pool.chunks, parts):
        chunk.mask[index[survives[start : start + index.size]]] = True
        start += index.size
    return 0


def _collect(read: Callable[[Piece], Array], chunk: Chunk, low: Any, high: Any) -> tuple[int, Array, Array]:
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
    return int(np.count_nonzero(mask)), index, values[index]


def _highest(values: Array, k: int) -> Array:
    """Which of a few values survive when the lowest k die, ties by index.

    Raises:
        HasNaN: if one is NaN.
    """
    if k in (0, values.size):
        _refuse_nan(values)
        return np.full(values.size, k == 0)
    ranked = values.copy()
    ranked.partition(k - 1)
    survives = values > ranked[k - 1]
    missing = values.size - k - np.count_nonzero(survives)
    if missing:  # ties, or NaN, which is above nothing
        _refuse_nan(values)
        survives[np.flatnonzero(values == ranked[k - 1])[-missing:]] = True
    return survives


def _refuse_nan(values: Array) -> None:
    if (values != values).any():
        raise HasNaN


def _at(pool: Pool, value: Any, k: int, alive: int) -> int:
    counts = pool.map(partial(_compare, value=value))
    below, tied, above = (sum(part) for part in zip(*counts))
    if below + tied + above != alive:
        raise HasNaN
    wanted = k - below
    if not 0 <= wanted <= tied:
        return -1 if wanted < 0 else 1
    if wanted < tied:
        _spare(pool, value, wanted, [ties for _, ties, _ in counts])
    return 0


def _compare(read: Callable[[Piece], Array], chunk: Chunk, value: Any) -> tuple[int, int, int]:
    """Write who is above the value; return how many live ones are below, at and above it."""
    values, alive, mask = read(chunk.scores), flags(chunk.alive), chunk.mask
    np.greater(values, value, out=mask)
    sides = [values < value, values == value, mask]
    if alive is not None:
        for side in sides:
            np.logical_and(side, alive, out=side)
    below, tied, above = (int(np.count_nonzero(side)) for side in sides)
    return below, tied, above


def _spare(pool: Pool, value: Any, k: int, ties: Sequence[int]) -> None:
    """Let all but the first k of the ties live."""
    dying = np.clip(k - (np.cumsum(ties) - ties), 0, ties)
    spared = [(c, d) for c, d, t in zip(pool.chunks, dying, ties) if d < t]

    def share(chunks: Sequence[tuple[Chunk, int]]) -> None:
        read = pool.reader()
        for chunk, first in chunks:
            tied, alive = read(chunk.scores) == value, flags(chunk.alive)
            chunk.mask[np.flatnonzero(tied if alive is None else tied & alive)[first:]] = True

    threaded(share, spared, pool.elements)
