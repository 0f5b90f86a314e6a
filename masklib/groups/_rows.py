"""Pruning that leaves each row the same share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from masklib import _read
from masklib.groups._dims import dimension, is_first, raveled, slices
from masklib.groups._folding import Folding
from masklib.groups._printing import call


@dataclass(frozen=True, slots=True, repr=False)
class Rows:
    """Single elements, each index along `dim` a pool."""

    dim: int = 0

    def __repr__(self) -> str:
        return call(self)

    def fold(self, shape: Sequence[int]) -> Folding:
        """One pool for each index along `dim`."""
        rows, width, into, back = slices(shape, self.dim)
        along, step = dimension(self.dim, shape), is_first(shape, self.dim)

        def where(index: Sequence[Tensor]) -> Tensor:
            others = [*index[:along], *index[along + 1 :]], [*shape[:along], *shape[along + 1 :]]
            return raveled([index[along], *others[0]], [rows, *others[1]])

        sides = [1 if d == along else size for d, size in enumerate(shape)]
        return Folding(rows, width, 1, into, back, False, step, self.fold, where, sides)


def rows(dim: int = 0) -> Rows:
    """Let single elements compete within each index along `dim`.

    The comparison group of Wanda for an (out, in) weight: each output row loses the same share. Pools never span
    tensors. From a mask that is all True, `keep` and `sparsity` leave every row as many elements: the constant fan-in
    of SRigL. `vmap` over the rows of the rest does a round of dynamic sparse training that keeps it so:

        regrow_rows = torch.vmap(lambda s, m, g: regrow(s, m, grow_scores=g, amount=0.3))

    Args:
        dim: the dim whose indices are the pools.

    Raises:
        TypeError: if `dim` is not an int.

    >>> rows(-1)
    rows(dim=-1)
    >>> compute_mask(torch.rand(3, 8), keep=2, groups=rows()).sum(1)
    tensor([2, 2, 2])

    Reference: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023, section 3; Lasby
    et al., "Dynamic Sparse Training with Structured Sparsity", ICLR 2024, section 3 (SRigL).
    """
    return Rows(_read.integer(dim, "dim", "rows(0)"))
