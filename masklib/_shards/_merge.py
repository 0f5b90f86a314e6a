"""The score of an item from the scores of its parts, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from masklib.selection._items import SMALL_ORDER

Array = np.ndarray[Any, Any]


def merged(keys: Array, live: Array, partial: Array, p: float | None, mean: bool) -> tuple[Array, Array, Array]:
    """Rising distinct keys, how many elements live of each, and its score.

        score = sum of parts             p None, 0
              | (sum of part**p)**(1/p)  p given, inf and -inf too; log2 of that for small orders, as the parts are

    With `mean` the sum is divided by the live count first. Parts in which nothing lives count for nothing.
    """
    order = keys.argsort(kind="stable")
    distinct, starts = np.unique(keys[order], return_index=True)
    if not keys.size:
        return keys, live, partial
    live, partial = live[order], partial[order]
    totals = np.add.reduceat(live, starts)
    with np.errstate(all="ignore"):
        scores = _scores(np.where(live > 0, partial, _nothing(p)), starts, np.maximum(totals, 1), p, mean)
    return distinct, totals, np.where(totals > 0, scores, 0.0)


def _nothing(p: float | None) -> float:
    """What adds nothing to a sum or a norm."""
    if p is None or p == 0 or p >= SMALL_ORDER:
        return 0.0
    return -np.inf if p > 0 else np.inf  # log2 of zero; and what to a negative power is zero


def _scores(partial: Array, starts: Array, live: Array, p: float | None, mean: bool) -> Array:
    if p is None or p == 0:
        totals: Array = np.add.reduceat(partial, starts)
        return totals / live if mean else totals
    largest = (np.maximum if p > 0 else np.minimum).reduceat(partial, starts)
    each = np.repeat(largest, np.diff(np.append(starts, partial.size)))
    small = abs(p) < SMALL_ORDER
    sums = np.add.reduceat(np.exp2(p * (partial - each)) if small else (partial / each) ** p, starts)
    shares = sums / live if mean else sums
    norms = largest + np.log2(shares) / p if small else largest * shares ** (1 / p)
    return np.where(np.isinf(largest) | ((largest == 0) & (not small)), largest, norms)
