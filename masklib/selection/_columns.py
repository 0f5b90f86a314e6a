"""Exact selection in short pools whose first items lie together in memory, then the second ones, and so on.

That is how a solver meets N:M patterns: window by window of a weight that it holds transposed, thousands of times.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from masklib.selection._loop import HasNaN
from masklib.selection._pieces import Array


def kill_lowest_in_columns(columns: Array, alive: Array | None, die: Array, mask: Array) -> None:
    """Write the mask (items, pools) in which the lowest `die`, () or (pools,), live ones of each pool die.

    Raises:
        HasNaN: if a live value is NaN.
    """
    missing = columns != columns
    if missing.any() and (alive is None or (missing & alive).any()):
        raise HasNaN
    items = len(columns)
    if alive is None:  # an item has each other one of its pool before or behind it: one comparison tells of both
        before = np.repeat(np.arange(items - 1, -1, -1, dtype=np.uint8)[:, None], columns.shape[1], 1)
    else:
        before = np.zeros(columns.shape, np.uint8)
    for i, j in combinations(range(items), 2):
        earlier = columns[i] <= columns[j]
        if alive is None:
            before[i] -= earlier.view(np.uint8)
        else:
            before[i] += (~earlier & alive[j]).view(np.uint8)
            earlier &= alive[i]
        before[j] += earlier.view(np.uint8)
    np.greater_equal(before, die, out=mask)
    if alive is not None:
        mask &= alive
