"""Pruning of attention heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from masklib import _read
from masklib._names import joined as beside
from masklib.groups._dims import dimension, divides, lengths, slices
from masklib.groups._folding import Folding
from masklib.groups._norm import norm
from masklib.groups._printing import call


@dataclass(frozen=True, slots=True, repr=False)
class Heads:
    """The i-th run of every part along `dim` an item, one pool."""

    count: int
    dim: int = 0
    parts: tuple[int, ...] = (1,)
    p: float | None = None
    mean: bool = False

    def __repr__(self) -> str:
        return call(self)

    def fold(self, shape: Sequence[int]) -> Folding:
        """One item for the i-th runs of all parts."""
        size, width, into, back = slices(shape, self.dim)
        self._refuse(size)
        items = self.count if size else 0
        sizes = [size * part // sum(self.parts) for part in self.parts]
        widths = [part * width // self.count for part in sizes]

        def runs(tensor: Tensor) -> Tensor:
            parts = into(tensor).split(sizes)
            return beside([part.reshape(items, columns) for part, columns in zip(parts, widths)], 1)

        def joined(matrix: Tensor) -> Tensor:
            parts = matrix.reshape(items, sum(widths)).split(widths, 1)
            return back(beside([part.reshape(length, width) for part, length in zip(parts, sizes)]))

        along = dimension(self.dim, shape)

        def where(index: Sequence[Tensor]) -> Tensor:
            item_of = [torch.arange(part, device="cpu") // max(part // self.count, 1) for part in sizes]
            return torch.cat(item_of)[index[along]]

        return Folding(None, items, sum(widths), runs, joined, where=where)

    def _refuse(self, size: int) -> None:
        """Refuse a size that does not split into parts, or parts that do not split into runs."""
        whole = sum(self.parts)
        if size % (self.count * whole) == 0:
            return
        what = "`count`" if whole == 1 else f"`count` ({self.count}) times the sum of `parts` ({whole})"
        fits = replace(self, parts=(1,) if size % whole else self.parts)
        fits = replace(fits, count=math.gcd(self.count, size // sum(fits.parts)))
        divides(self.count * whole, size, what, self.dim, f"For example {fits!r}.")


def heads(
    count: int, dim: int = 0, *, parts: Iterable[int] = (1,), p: float | None = None, mean: bool = False
) -> Heads:
    """Let attention heads, or other runs of a projection, compete in one pool.

    `dim` is cut into consecutive parts in proportion to `parts`, and each part into `count` equal runs: item i is the
    i-th run of every part.

        heads(12)                          a query, key or value projection (heads * size, in)
        heads(12, dim=1)                   an output projection (out, heads * size)
        heads(12, parts=(1, 1, 1))         queries, keys and values in one projection, one behind another
        heads(8, parts=(32, 8, 8))         the same of 32 query heads and 8 key/value heads: each with its 4 queries
        heads(channels, dim=1)             a Linear behind the Flatten of (channels, height, width)

    Args:
        count: how many items there are; with grouped queries, the key/value heads.
        dim: the dim along which the runs lie.
        parts: the lengths of the parts, or whole numbers in proportion; kept in lowest terms.
        p: the order of the norm that scores an item, as in `channels`; None for the signed sum.
        mean: whether to divide by the live count.

    Raises:
        TypeError: if `count` or `dim` is not an int, or `parts` not a sequence of ints.
        ValueError: if `count` or a part is not positive; and, once applied, if a part does not split into runs.

    >>> heads(8, parts=(32, 8, 8))
    heads(count=8, parts=(4, 1, 1))
    >>> compute_mask(torch.arange(6.0), amount=1, groups=heads(2, parts=(2, 1)))
    tensor([False, False,  True,  True, False,  True])

    Reference: Michel et al., "Are Sixteen Heads Really Better than One?", 2019; Ainslie et al., "GQA: Training
    Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", 2023.
    """
    number, along = lengths((count,), "count", "heads(12)")[0], _read.integer(dim, "dim", "heads(12, dim=1)")
    sizes = lengths(parts, "parts", "heads(8, parts=(32, 8, 8))")
    lowest = tuple(size // math.gcd(*sizes) for size in sizes)
    return Heads(number, along, lowest, *norm(p, mean))
