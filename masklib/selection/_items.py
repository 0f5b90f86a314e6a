"""Scores of items: sums or p-norms of live scores, accumulated in float64.

A row's score depends on the row alone: rows are added up in segments too short to be split among threads, and all
chunks have one shape, so that equal rows have equal scores whichever chunk they are in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from masklib._names import joined
from masklib.selection._refusals import no_nan, opposite_infinities

REDUCED = 2**18  # elements reduced at a time: their float64 copy stays in cache; 2**16 and 2**20 were slower
_ON_DEVICE = 2**24  # the same on a GPU, whose host waits once a chunk: 4096 rows of 4096 took 8.6 ms in chunks of 2**18
_SEGMENT = 2**14  # torch splits one sum of 2**15 elements or more among threads, and then rounds as their number says
SMALL_ORDER = 1 / 16  # n**(1/p) passes the largest float64 for smaller ones
_SAFE = 1e280  # sums of powers within it have lost nothing; beyond, and below its inverse, they may have


def item_scores(
    scores: Sequence[Tensor], alive: Sequence[Tensor | None], p: float | None, mean: bool, names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Reduce the i-th rows of all (items, elements) as one.

        score(i) = sum of s                              p None
                 | (sum of abs(s)**p)**(1/p)             p given
                 | log2 of that                          abs(p) < 1/16: the order is the same, and nothing overflows

    With `mean` the sum is divided by the number of live scores first.

    Returns:
        Scores (items,) in float64, zero for the dead, and which items live (items,).
    """
    totals, live = reduced(scores, alive, p, mean)
    if totals.isnan().any() or p == 0:  # the 0-norm counts NaN as any other number
        no_nan(scores, alive, names)
        opposite_infinities(totals, names)
    return totals, live > 0


def reduced(
    scores: Sequence[Tensor], alive: Sequence[Tensor | None], p: float | None, mean: bool
) -> tuple[Tensor, Tensor]:
    """The same scores, NaN or not, and how many elements of each item live."""
    items, elements, home = scores[0].shape[0], sum(s.shape[1] for s in scores), scores[0].device
    counts = [_count(s, a).to(home) for s, a in zip(scores, alive)]
    live = sum(counts[1:], counts[0])
    if not items * elements:
        return live.double(), live
    totals, divisors = torch.empty(items, dtype=torch.float64, device=home), live.clamp(min=1).double()
    reduce = _reduction(p)
    for rows in _chunks(items, max(1, (REDUCED if home.type == "cpu" else _ON_DEVICE) // elements)):
        part = _beside([_live(s, a, rows, p) for s, a in zip(scores, alive)])
        totals[rows] = reduce(part, divisors[rows] if mean else divisors.new_ones(()))
    return totals.masked_fill(live == 0, 0), live


def _count(scores: Tensor, alive: Tensor | None) -> Tensor:
    """How many live elements each row has."""
    return scores.new_full(scores.shape[:1], scores.shape[1], dtype=torch.int64) if alive is None else alive.sum(1)


def _chunks(items: int, step: int) -> list[slice]:
    """Slices of one length that cover the items; the last two may overlap."""
    step = min(step, items)
    return [slice(start, start + step) for start in [*range(0, items - step, step), items - step]]


def _live(scores: Tensor, alive: Tensor | None, rows: slice, p: float | None) -> Tensor:
    """Some rows, real, with what is dead replaced by what counts for nothing."""
    part = scores[rows].abs() if scores.is_complex() else scores[rows]
    if alive is None:
        return part
    return part.double().masked_fill(~alive[rows], math.inf if p is not None and p < 0 else 0.0)


def _beside(parts: Sequence[Tensor]) -> Tensor:
    """Matrices side by side; of several dtypes, in float64."""
    if len(parts) == 1:
        return parts[0].contiguous()
    dtype = parts[0].dtype if len({part.dtype for part in parts}) == 1 else torch.float64
    return joined([part.to(parts[0].device, dtype) for part in parts], 1)


# ---- one row, one number --------------------------------------------------------------------------------------------

_Reduce = Callable[[Tensor, Tensor], Tensor]  # from (rows, elements) and by what to divide their sums


def _reduction(p: float | None) -> _Reduce:
    """The sum or the norm that scores an item."""
    if p is None:
        return lambda values, divisor: _sums(values) / divisor
    if math.isinf(p):
        return lambda values, _: _ends(values.double().abs(), p)
    if p == 0:
        return lambda values, _: (values.double() != 0).sum(1).double()
    return lambda values, divisor: _norms(values, divisor, p)


def _sums(values: Tensor) -> Tensor:
    """The sum of each row, segment by segment."""
    rows, width = values.shape
    whole = width - width % _SEGMENT
    if not whole or width == _SEGMENT:
        return values.sum(1, dtype=torch.float64)
    parts = values[:, :whole].reshape(rows, -1, _SEGMENT).sum(2, dtype=torch.float64)
    return _sums(torch.cat([parts, values[:, whole:].sum(1, keepdim=True, dtype=torch.float64)], 1))


def _ends(sizes: Tensor, p: float) -> Tensor:
    """The largest of each row for p > 0, else the smallest: what large orders tend to."""
    return sizes.amax(1) if p > 0 else sizes.amin(1)


def _norms(values: Tensor, divisor: Tensor, p: float) -> Tensor:
    """The norm of each row, by way of its largest part wherever the powers would leave float64."""
    sums = _sums(_powers(values, p)) / divisor
    if abs(p) < SMALL_ORDER:
        return sums.log2() / p
    norms = sums if p == 1 else sums.sqrt() if p == 2 else sums ** (1 / p)
    unsafe = ~((sums > 1 / _SAFE) & (sums < _SAFE))
    if not bool(unsafe.any()):
        return norms
    sizes = values.double().abs()
    largest = _ends(sizes, p)
    shares = _sums((sizes / largest[:, None]) ** p) / divisor
    beyond = (largest == 0) | largest.isinf()
    return norms.where(~unsafe, (largest * shares ** (1 / p)).where(~beyond, largest))


def _powers(values: Tensor, p: float) -> Tensor:
    """abs(x)**p in float64, or in a dtype that holds it; the two common orders without a power of each element."""
    if p == 1 and values.is_floating_point():
        return values.abs()
    sizes = values.to(torch.float64, copy=True)  # of its own, so that nothing more is allocated: 0.7 times the time
    return sizes.square_() if p == 2 else sizes.abs_().pow_(p)
