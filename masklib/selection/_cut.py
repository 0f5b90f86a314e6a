"""The cut: the two numbers that a selection over one pool decides, and what they make of any piece of the scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

END = 2**63 - 1  # an index behind every pool: no tie survives


class Cut(NamedTuple):
    """What survives of one pool.

        x at index i survives  iff  x > value, or x == value and i >= index

    `value` is a number of the dtype in which the pool is ranked; None lets everything survive.
    """

    value: Any
    index: int  # type: ignore[assignment]  # a tuple's method


ALL = Cut(None, 0)


def survivors(values: Any, offset: int, cut: Cut, alive: Any = None, out: Any = None) -> Any:
    """The mask of a flat piece of the pool that begins at index `offset`, on numpy arrays.

    Args:
        values: (elements,), in the dtype in which the pool is ranked.
        offset: the pool's index of the first of them.
        cut: what the selection decided.
        alive: (elements,) bool, which of them live; None for all.
        out: (elements,) bool, where to write.

    Returns:
        (elements,) bool; the masks of the pieces of a pool, one behind another, are the mask of the pool.
    """
    mask = np.empty(values.shape, bool) if out is None else out
    if cut.value is None:
        mask.fill(True)
    elif cut.index <= offset:
        np.greater_equal(values, cut.value, out=mask)
    else:
        np.greater(values, cut.value, out=mask)
        spare_ties(values, offset, cut, mask)
    return mask if alive is None else np.logical_and(mask, alive, out=mask)


def spare_ties(values: Any, offset: int, cut: Cut, mask: Any) -> None:
    """Let the ties survive from the cut's index on."""
    first = max(cut.index - offset, 0)
    if first < values.size:
        mask[first:] |= values[first:] == cut.value
