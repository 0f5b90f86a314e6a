"""Exact selection in many short pools at once: the rows of a matrix.

Rows of a few elements are ranked by comparing all pairs, longer ones by a partition of each row; rows too long for the
cache go to the engine, one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from masklib import _engine
from masklib._chunks import CHUNK, Array, common_dtype, reader, threaded

_PAIRS = 16  # up to here comparing all pairs is faster than partitioning


def kill_lowest_in_rows(
    scores: Tensor, alive: Tensor | None, die: Array, mask: Tensor, by_magnitude: bool
) -> None:
    """Write the mask of (pools, items) in which the lowest `die` (pools,) live ones of each row die.

    Raises:
        HasNaN: if a live value is NaN.
    """
    pools, items = scores.shape
    if items > CHUNK:
        return _long_rows(scores, alive, die, mask, by_magnitude)
    step = max(1, CHUNK // max(items, 1))
    dtype, kernel = common_dtype({scores.dtype}), _by_pairs if items <= _PAIRS else _by_partition
    target = mask.numpy()

    def share(starts: Sequence[int]) -> None:
        read = reader(dtype, by_magnitude, scores.numel())
        for rows in (slice(start, start + step) for start in starts):
            values = read(scores[rows]).reshape(-1, items)
            live = None if alive is None else alive[rows].numpy()
            _no_nan(values, live)
            kernel(values, live, die[rows], target[rows])

    threaded(share, range(0, pools, step), scores.numel())


def _long_rows(scores: Tensor, alive: Tensor | None, die: Array, mask: Tensor, by_magnitude: bool) -> None:
    for i, k in enumerate(die):
        pool = _engine.pool_of([scores[i]], [None if alive is None else alive[i]], [mask[i]], by_magnitude)
        _engine.kill_lowest(pool, int(k), _engine.count_alive(pool))


def _no_nan(values: Array, alive: Array | None) -> None:
    missing = values != values if values.dtype.kind == "f" else np.zeros(0, bool)
    if missing.any() and (alive is None or (missing & alive).any()):
        raise _engine.HasNaN


def _by_pairs(values: Array, alive: Array | None, die: Array, mask: Array) -> None:
    """An element dies if fewer than `die` live ones of its row come before it."""
    columns = np.ascontiguousarray(values.T)
    live = None if alive is None else np.ascontiguousarray(alive.T)
    before = np.zeros(columns.shape, np.uint8)
    for i, j in combinations(range(len(columns)), 2):
        first = columns[i] <= columns[j]
        if live is None:
            before[j] += first
            before[i] += ~first
        else:
            before[j] += first & live[i]
            before[i] += ~first & live[j]
    survives = before >= die
    mask[:] = (survives if live is None else survives & live).T


def _by_partition(values: Array, alive: Array | None, die: Array, mask: Array) -> None:
    """An element survives above the `die`-th lowest live value of its row; among its equals, all but the first."""
    filled = values if alive is None else np.where(alive, values, _highest(values.dtype))
    cut, tied = _cuts(filled, die)
    np.greater(values, cut[:, None], out=mask)
    if alive is not None:
        mask &= alive
    rows = np.flatnonzero(tied | (die == 0))
    if rows.size:
        _spare(values, alive, cut, die, mask, rows)


def _highest(dtype: Any) -> Any:
    return np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _cuts(filled: Array, die: Array) -> tuple[Array, Array]:
    """The `die`-th lowest value of each row, and whether a later one may equal it."""
    last = np.maximum(die, 1) - 1
    if (last == last[0]).all():
        k = last[0]
        ordered = np.partition(filled, k, axis=1)
        rest = ordered[:, k + 1 :].min(axis=1, initial=_highest(filled.dtype))
        return ordered[:, k], rest == ordered[:, k]
    ordered = np.sort(filled, axis=1)
    rows, after = np.arange(len(filled)), np.minimum(last + 1, filled.shape[1] - 1)
    return ordered[rows, last], ordered[rows, after] == ordered[rows, last]


def _spare(values: Array, alive: Array | None, cut: Array, die: Array, mask: Array, rows: Array) -> None:
    """In the given rows, let all but as many of the ties at the cut live as must die."""
    values, cut = values[rows], cut[rows, None]
    live = np.ones_like(values, bool) if alive is None else alive[rows]
    tied = (values == cut) & live
    wanted = die[rows] - np.count_nonzero((values < cut) & live, axis=1)
    mask[rows] |= tied & (np.cumsum(tied, axis=1) > wanted[:, None])
