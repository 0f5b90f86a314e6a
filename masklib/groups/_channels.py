"""Structured pruning of whole slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from masklib import _read
from masklib.groups._dims import dimension, is_first, slices
from masklib.groups._folding import Folding
from masklib.groups._norm import norm
from masklib.groups._printing import call


@dataclass(frozen=True, slots=True, repr=False)
class Channels:
    """Each index along `dim` an item, one pool."""

    dim: int = 0
    p: float | None = None
    mean: bool = False

    def __repr__(self) -> str:
        return call(self)

    def fold(self, shape: Sequence[int]) -> Folding:
        """One item for each index along `dim`."""
        items, width, into, back = slices(shape, self.dim)
        along, step = dimension(self.dim, shape), is_first(shape, self.dim)
        return Folding(None, items, width, into, back, False, step, self.fold, lambda index: index[along])


def channels(dim: int = 0, *, p: float | None = None, mean: bool = False) -> Channels:
    """Let whole slices along `dim` compete in one pool: structured pruning.

    The score of a slice is the sum of its live scores, or (sum of abs(score)**p)**(1/p) if `p` is given; with `mean`
    it is divided by the number of live scores (by its p-th root), so that slices of different sizes compare: over a
    mapping of layers, `channels(p=2, mean=True)` ranks the channels of all by their root mean square.

    Args:
        dim: the dim whose indices are the items; 0 is the output channels of a Linear or Conv weight.
        p: the order of the norm, any number, inf and -inf included; None for the signed sum.
        mean: whether to divide by the live count.

    Raises:
        TypeError: if `dim` is not an int, `p` not a number, or `mean` not a bool.
        ValueError: if `p` is NaN, or 0 together with `mean`.

    >>> channels(1, p=2)
    channels(dim=1, p=2.0)
    >>> compute_mask(torch.tensor([[3.0, 1.0], [2.0, 1.0]]), amount=1, groups=channels())
    tensor([[ True,  True],
            [False, False]])
    """
    return Channels(_read.integer(dim, "dim", "channels(0)"), *norm(p, mean))
