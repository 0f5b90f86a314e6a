"""The one loop of every exact selection: bracket, split, settle.

1. Sample some live values; around the wanted rank take a bracket (low, high) that almost surely holds it.
2. Split the pool: what is >= high survives, what is <= low dies, the few between are collected.
3. Settle who of the few dies, exactly, ties by index.

The counts say whether the rank was between; if not, the bracket is widened and the split repeated: never approximate.
A bracket shut on one value, as heavy ties shut it, counts its ties instead of collecting them. NaN compares with
nothing, so it turns up among the few (or is missing from the counts) without a pass of its own.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from masklib.selection._cut import ALL, END, Array, Cut

DIRECT = 2**15  # up to here everything is collected: a sample would be a tenth of the pool and more
_SIGMAS = 3  # half the width of a bracket, in standard deviations of the sampled rank: misses 1 time in 400
_SLACK = 8  # and at least so many sampled values, where the binomial is far from normal
_WIDEN = 8  # a second try is enough after any honest sample
_REPEATED = 0.2  # numpy partitions heavy ties at a quarter of the speed at which it sorts them
_PROBE = 64  # every so many values are looked at to find out
_FEW = 2**12  # of fewer values, either takes no longer than the look


class HasNaN(Exception):
    """A live value is NaN; there is no cut then."""


class Source(Protocol):
    """Who holds the scores of one pool and answers a few questions about them.

    All values are of one dtype of numpy, in which the pool is ranked; an index counts elements, dead ones too, in the
    order of the pool. `few`, `within` and `tie` are asked after the last `split` only.
    """

    @property
    def live(self) -> int:
        """How many elements of the whole pool live."""

    @property
    def run(self) -> int:
        """How many neighbours of a sample are taken together: 1 if each is a draw of its own."""

    def sample(self, stride: int) -> Array:
        """About one in `stride` of the live values, runs one behind another; a skewed sample only costs splits."""

    def split(self, low: Any, high: Any) -> tuple[int, int, int]:
        """Count the live values.

        An open bracket: those <= low, those >= high, and between them those that are neither, NaN among them; None is
        no bound. A shut one (low == high): those below, at and above it; NaN is none of them.
        """

    def few(self) -> Array:
        """The live values that an open bracket had between its bounds, in any order."""

    def within(self) -> Source | None:
        """The few as a pool of their own, with the same indices, if they are too many to be collected; else None."""

    def tie(self, value: Any, nth: int) -> int:
        """The index of the n-th (from 0) live element equal to a value that the last split's bracket holds."""

    # A source of tensors also has `masks(cut)`: their masks, at any time. The loop does not ask for it.


def cut_lowest(source: Source, k: int) -> Cut:
    """The cut below which the lowest k live values lie, ties by index.

    Raises:
        HasNaN: if a live value is NaN, whatever k is.
    """
    if source.live <= DIRECT:
        return _certain(_attempt(source, None, None, k))
    sample = source.sample(max(1, round(source.live ** (1 / 3) / 2)))  # 2 n**(2/3) values balance its cost and the few
    if _has_nan(sample):
        raise HasNaN
    widening = 1
    while True:
        low, high = _bracket(sample, source.run, k / source.live, widening)
        cut = _attempt(source, low, high, k)
        if isinstance(cut, int) and low != high:
            edge = low if cut < 0 else high  # heavy ties at an edge; a side that was missed has a bound
            cut = _attempt(source, edge, edge, k)
        if isinstance(cut, Cut):
            return cut
        widening *= _WIDEN


def _certain(cut: Cut | int) -> Cut:
    """What an attempt without bounds, which cannot miss, returned."""
    if not isinstance(cut, Cut):
        raise HasNaN
    return cut


def _attempt(source: Source, low: Any, high: Any, k: int) -> Cut | int:
    """The cut, if it is within the bounds; else the side it is on, -1 or 1."""
    below, between, above = source.split(low, high)
    if below + between + above != source.live:
        raise HasNaN
    wanted = k - below
    if not 0 <= wanted <= between:
        return -1 if wanted < 0 else 1
    if low is not None and low == high:
        return Cut(low, END if wanted == between else source.tie(low, wanted))
    pool = source.within()
    if pool is not None:
        cut = cut_lowest(pool, wanted)
        return cut if wanted else _above(low)
    few = source.few()
    if _has_nan(few):
        raise HasNaN
    if wanted == 0:
        return _above(low)
    value, dying, ties = _settle(few, wanted)
    return Cut(value, END if dying == ties else source.tie(value, dying))


def _above(low: Any) -> Cut:
    """The cut at the lower bound of a bracket."""
    return ALL if low is None else Cut(low, END)


def _settle(few: Array, k: int) -> tuple[Any, int, int]:
    """The k-th lowest of a few values, how many of its equals are among the k lowest, and how many there are."""
    ranked = ordered_at(few, k - 1)
    value = ranked[k - 1]
    dying = int(np.count_nonzero(ranked[:k] == value))
    return value, dying, dying + int(np.count_nonzero(ranked[k:] == value))


def ordered_at(values: Array, rank: int) -> Array:
    """A copy in which the value of a rank is in its place, all before it no higher and all behind it no lower."""
    if values.size > _FEW and _is_repetitive(values):
        return np.sort(values)
    ranked = values.copy()
    ranked.partition(rank)
    return ranked


def _is_repetitive(values: Array) -> bool:
    """Whether many of some values are equal."""
    probe = np.sort(values[::_PROBE])
    return bool(np.count_nonzero(probe[1:] == probe[:-1]) > _REPEATED * probe.size)


def _has_nan(values: Array) -> bool:
    return values.dtype.kind == "f" and bool(np.isnan(values).any())


# ---- where to look --------------------------------------------------------------------------------------------------


def _bracket(sample: Array, run: int, share: float, widening: int) -> tuple[Any, Any]:
    """Values below and above the wanted share, almost surely; None for no bound."""
    n = sample.size
    rank = n * share
    margin = widening * (_SIGMAS * math.sqrt(_variance(sample, run, rank)) + _SLACK)
    first, last = math.floor(rank - margin), math.ceil(rank + margin)
    low = high = None
    if last < n:
        sample = ordered_at(sample, last)
        high = sample[last]
    if 0 <= first < n:  # among those no higher, which is faster than two ranks of all
        low = ordered_at(sample[: last + 1], first)[first]
    return low, high


def _variance(sample: Array, run: int, rank: float) -> float:
    """The variance of how many of the sample are below its value of a rank.

    Binomial if each value is a draw of its own. Neighbours are alike: of runs of them, from the differences between
    the counts of successive runs, which leave out what changes slowly along the pool (layers of other scales).
    """
    n = sample.size
    binomial = rank * max(n - rank, 0) / max(n, 1)
    runs = n // run
    if run == 1 or runs < 2:
        return binomial * run
    pilot = np.partition(sample, min(int(rank), n - 1))[min(int(rank), n - 1)]
    counts = np.count_nonzero(sample[: runs * run].reshape(runs, run) < pilot, axis=1)
    return max(binomial, runs * float(np.square(np.diff(counts)).mean()) / 2)
