"""Exact selection in many short pools at once: the rows of a matrix.

Rows of a few elements are ranked by comparing all pairs, longer ones by sorting segments of a few hundred, from which
two bounds follow, and what is between the bounds; rows too long for the cache go to the loop, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masklib.selection._columns import kill_lowest_in_columns
from masklib.selection._loop import HasNaN, cut_lowest
from masklib.selection._memory import Memory
from masklib.selection._order import common_dtype
from masklib.selection._pieces import CHUNK, Array, reader
from masklib.selection._threads import scratch, threaded

_BLOCK = 2 * CHUNK  # items at a time: fewer, longer calls keep the threads apart
_PAIRS = 12  # up to so many items comparing all pairs is faster than sorting
_SORTED = 512  # up to so many (of 4 bytes) numpy sorts by networks, several times faster than it partitions
_STEP = 16
_NATIVE = {torch.float32, torch.float64}  # which numpy compares as they are


def count_alive_in_rows(alive: Tensor) -> Array:
    """How many items of each row are alive; short rows are added up column by column."""
    live = alive.numpy()
    if live.shape[1] > _PAIRS:
        return np.count_nonzero(live, axis=1)
    count = np.zeros(len(live), np.uint8)
    for column in live.T.view(np.uint8):
        count += column
    return count.astype(np.int64)


def kill_lowest_in_rows(scores: Tensor, alive: Tensor | None, die: Array, mask: Tensor, by_magnitude: bool) -> None:
    """Write the mask of (pools, items) in which the lowest `die`, () or (pools,), live ones of each row die.

    Raises:
        HasNaN: if a live value is NaN.
    """
    pools, items = scores.shape
    if 1 < items <= _PAIRS and scores.stride(0) == 1 and scores.dtype in _NATIVE and not by_magnitude:
        live = None if alive is None else alive.numpy().T
        return kill_lowest_in_columns(scores.numpy().T, live, die.astype(np.uint8), mask.numpy().T)
    die = np.broadcast_to(die, pools)
    if items > CHUNK:
        return _long_rows(scores, alive, die, mask, by_magnitude)
    step = max(1, _BLOCK // max(items, 1))
    dtype, target = _sorts_fast(common_dtype({scores.dtype})), mask.numpy()

    def share(starts: Sequence[int]) -> None:
        kernel = _by_pairs(min(step, pools), items) if items <= _PAIRS else _by_rank
        with scratch(min(scores.numel(), step * items) * dtype.itemsize) as room:
            read = reader(dtype, by_magnitude, room)
            for rows in (slice(start, start + step) for start in starts):
                values = _read_rows(read, scores[rows], dtype)
                live = None if alive is None else alive[rows].numpy()
                kernel(values, live, die[rows], target[rows])

    threaded(share, range(0, pools, step), scores.numel())


def _sorts_fast(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or a wider one that numpy sorts several times as fast."""
    return torch.int16 if dtype.itemsize == 1 else dtype


def _read_rows(read: Callable[[Any], Array], rows: Tensor, dtype: torch.dtype) -> Array:
    native = rows.is_contiguous() and rows.dtype == dtype
    return read(rows.numpy().reshape(-1) if native else rows).reshape(rows.shape)


def _long_rows(scores: Tensor, alive: Tensor | None, die: Array, mask: Tensor, by_magnitude: bool) -> None:
    for i, k in enumerate(die):
        source = Memory([scores[i]], [None if alive is None else alive[i]], by_magnitude)
        mask[i] = source.masks(cut_lowest(source, int(k)))[0]


def _no_nan(values: Array, alive: Array | None) -> None:
    missing = values != values if values.dtype.kind == "f" else np.zeros(0, bool)
    if missing.any() and (alive is None or (missing & alive).any()):
        raise HasNaN


def _by_pairs(rows: int, items: int) -> Callable[..., None]:
    """The kernel for up to so many rows of few items: an element dies if too few live ones of its row come before it.

    Pairs at a distance are compared by shifting the flat values, so that no column is ever gathered; pairs that
    straddle two rows are struck out.
    """
    within = {d: np.tile(np.arange(items) < items - d, rows) for d in range(1, items)}
    before, first, last = np.empty(rows * items, np.uint8), *np.empty((2, rows * items), bool)

    def kernel(values: Array, alive: Array | None, die: Array, mask: Array) -> None:
        _no_nan(values, alive)
        flat, live = values.reshape(-1), None if alive is None else alive.reshape(-1)
        count = before[: flat.size]
        count.fill(0)
        for distance, pairs in within.items():
            n = flat.size - distance
            earlier, later = first[:n], last[:n]
            np.less_equal(flat[:-distance], flat[distance:], out=earlier)
            np.less(earlier, pairs[:n], out=later)  # not earlier, and within
            np.logical_and(earlier, pairs[:n], out=earlier)
            if live is not None:
                np.logical_and(earlier, live[:-distance], out=earlier)
                np.logical_and(later, live[distance:], out=later)
            np.add(count[distance:], earlier.view(np.uint8), out=count[distance:])
            np.add(count[:-distance], later.view(np.uint8), out=count[:-distance])
        limit = die.astype(np.uint8)
        limit = limit[0] if (limit == limit[0]).all() else np.repeat(limit, items)
        np.greater_equal(count, limit, out=mask.reshape(-1))
        if alive is not None:
            np.logical_and(mask, alive, out=mask)

    return kernel


def _by_rank(values: Array, alive: Array | None, die: Array, mask: Array) -> None:
    """An element survives above the `die`-th lowest live value of its row, and so do the last of its equals."""
    highest = np.inf if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    ranked = values if alive is None else np.where(alive, values, highest)
    cut = _cuts(ranked, (die - 1).clip(min=0), highest)
    np.greater(values, cut[:, None], out=mask)
    if alive is not None:
        mask &= alive
    surviving = (values.shape[1] if alive is None else _count(alive)) - die
    if surviving.sum() > np.count_nonzero(mask):
        _spare(values, alive, cut, surviving, mask)


def _spare(values: Array, alive: Array | None, cut: Array, surviving: Array, mask: Array) -> None:
    """Let the last of each row's equals of the cut live, until so many survive."""
    missing = surviving - _count(mask)
    rows = np.flatnonzero(missing)
    tied = values[rows] == cut[rows, None]
    if alive is not None:
        tied &= alive[rows]
    first = _count(tied) - missing[rows]
    mask[rows] |= tied & (np.cumsum(tied, axis=1, dtype=np.int32) > first[:, None])


def _cuts(values: Array, rank: Array, highest: Any) -> Array:
    """The value of a rank, counted from 0, in each row.

    Long rows are sorted in segments and seen as blocks of a few consecutive values. If a * _STEP <= rank, the a-th
    lowest of the blocks' first values is a lower bound; counting one incomplete block a segment, another one is an
    upper bound; and only blocks that reach between the bounds are sorted again.
    """
    rows, items = values.shape
    segments = -(-items // min(_SORTED, _SORTED * 4 // values.itemsize))
    if segments == 1:
        return _sorted(values.copy())[np.arange(rows), rank]
    length = -(-items // (segments * _STEP)) * _STEP
    padded = np.full((rows, segments * length), highest, values.dtype)
    padded[:, :items] = values
    blocks = _sorted(padded.reshape(-1, length)).reshape(rows, -1, _STEP)
    first, last = blocks[:, :, 0], blocks[:, :, -1]
    bounds = np.sort(first, axis=1)
    upper = -(-(rank + 1 + segments * (_STEP - 1)) // _STEP) - 1
    low = bounds[np.arange(rows), rank // _STEP]
    high = np.where(upper < bounds.shape[1], bounds[np.arange(rows), upper.clip(max=bounds.shape[1] - 1)], highest)
    below = last < low[:, None]
    near = (first <= high[:, None]) & ~below & (low < high)[:, None]
    few = _count(near)
    taken = np.arange(few.max(initial=1)) < few[:, None]
    candidates = np.full((*taken.shape, _STEP), highest, values.dtype)
    candidates[taken] = blocks[near]
    cut = _sorted(candidates.reshape(rows, -1))[np.arange(rows), np.where(few, rank - _STEP * _count(below), 0)]
    return np.where(few, cut, low)


def _sorted(values: Array) -> Array:
    """The same rows sorted in place, NaN last."""
    values.sort(axis=1)
    if (values[:, -1] != values[:, -1]).any():
        raise HasNaN
    return values


def _count(flags: Array) -> Array:
    """How many of each row are true."""
    return flags.view(np.uint8).sum(axis=1, dtype=np.int32)
