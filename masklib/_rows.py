"""Exact selection in many short pools at once: the rows of a matrix.

Rows of a few elements are ranked by comparing all pairs, longer ones by a partition of each row; rows too long for the
cache go to the engine, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from masklib import _engine
from masklib._chunks import CHUNK, NATIVE, Array, common_dtype, reader, threaded

_PAIRS = 16  # up to here comparing all pairs is faster than partitioning


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
    """Write the mask of (pools, items) in which the lowest `die` (pools,) live ones of each row die.

    Raises:
        HasNaN: if a live value is NaN.
    """
    pools, items = scores.shape
    if items > CHUNK:
        return _long_rows(scores, alive, die, mask, by_magnitude)
    step = max(1, CHUNK // max(items, 1))
    dtype, target = common_dtype({scores.dtype}), mask.numpy()

    def share(starts: Sequence[int]) -> None:
        read = reader(dtype, by_magnitude, scores.numel())
        kernel = _by_pairs(min(step, pools), items) if items <= _PAIRS else _by_partition
        for rows in (slice(start, start + step) for start in starts):
            values = _read_rows(read, scores[rows])
            live = None if alive is None else alive[rows].numpy()
            _no_nan(values, live)
            kernel(values, live, die[rows], target[rows])

    threaded(share, range(0, pools, step), scores.numel())


def _read_rows(read: Callable[[Any], Array], rows: Tensor) -> Array:
    native = rows.is_contiguous() and rows.dtype in NATIVE
    return read(rows.numpy().reshape(-1) if native else rows).reshape(rows.shape)


def _long_rows(scores: Tensor, alive: Tensor | None, die: Array, mask: Tensor, by_magnitude: bool) -> None:
    for i, k in enumerate(die):
        pool = _engine.pool_of([scores[i]], [None if alive is None else alive[i]], [mask[i]], by_magnitude)
        _engine.kill_lowest(pool, int(k), _engine.count_alive(pool))


def _no_nan(values: Array, alive: Array | None) -> None:
    missing = values != values if values.dtype.kind == "f" else np.zeros(0, bool)
    if missing.any() and (alive is None or (missing & alive).any()):
        raise _engine.HasNaN


def _by_pairs(rows: int, items: int) -> Callable[..., None]:
    """The kernel for up to so many rows of few items: an element dies if too few live ones of its row come before it.

    Pairs at a distance are compared by shifting the flat values, so that no column is ever gathered; pairs that
    straddle two rows are struck out.
    """
    within = {d: np.tile(np.arange(items) < items - d, rows) for d in range(1, items)}
    before, first, last = np.empty(rows * items, np.uint8), *np.empty((2, rows * items), bool)

    def kernel(values: Array, alive: Array | None, die: Array, mask: Array) -> None:
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


def _by_partition(values: Array, alive: Array | None, die: Array, mask: Array) -> None:
    """An element survives above the `die`-th lowest live value of its row; among its equals, all but the first."""
    cut, tied = _cuts(values, alive, die)
    np.greater(values, cut[:, None], out=mask)
    if alive is not None:
        mask &= alive
    rows = np.flatnonzero(tied | (die == 0))
    if rows.size:
        _spare(values, alive, cut, die, mask, rows)


def _limits(dtype: Any) -> tuple[Any, Any]:
    return (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def _cuts(values: Array, alive: Array | None, die: Array) -> tuple[Array, Array]:
    """The `die`-th lowest live value of each row, and whether a later one may equal it.

    The dead are made highest; rows in which fewer die get lowest values added, so that one rank serves all rows.
    """
    lowest, highest = _limits(values.dtype)
    rank = max(int(die.max()), 1)
    added = rank - np.maximum(die, 1)
    items, width = values.shape[1], int(added.max())
    filled = np.empty((len(values), items + width), values.dtype)
    filled[:, :items] = values if alive is None else np.where(alive, values, highest)
    filled[:, items:] = np.where(np.arange(width) < added[:, None], lowest, highest)
    filled.partition(rank - 1, axis=1)
    cut = filled[:, rank - 1]
    return cut, filled[:, rank:].min(axis=1, initial=highest) == cut


def _spare(values: Array, alive: Array | None, cut: Array, die: Array, mask: Array, rows: Array) -> None:
    """In the given rows, let all but as many of the ties at the cut live as must die."""
    values, cut = values[rows], cut[rows, None]
    live = np.ones_like(values, bool) if alive is None else alive[rows]
    tied = (values == cut) & live
    wanted = die[rows] - np.count_nonzero((values < cut) & live, axis=1)
    mask[rows] |= tied & (np.cumsum(tied, axis=1) > wanted[:, None])
