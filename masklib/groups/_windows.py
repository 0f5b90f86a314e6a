"""N:M sparsity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from masklib import _read
from masklib._names import joined
from masklib.groups._dims import dimension, divides, lengths, raveled
from masklib.groups._folding import Folding
from masklib.groups._printing import call


@dataclass(frozen=True, slots=True, repr=False)
class Windows:
    """Single elements, each run of `of` along `dim` a pool."""

    of: int
    dim: int = -1
    ragged: bool = False

    def __repr__(self) -> str:
        return call(self)

    def fold(self, shape: Sequence[int]) -> Folding:
        """One pool for each window, row by row."""
        along = dimension(self.dim, shape)
        size = shape[along]
        if not self.ragged:
            divides(self.of, size, "`of`", self.dim, "For a shorter last window, pass ragged=True.")
        empty = -size % self.of
        others = [*shape[:along], *shape[along + 1 :]]

        def into(tensor: Tensor) -> Tensor:
            return padded_to(tensor.movedim(along, -1), -1, size + empty)

        def back(matrix: Tensor) -> Tensor:
            return matrix.reshape(*others, size + empty)[..., :size].movedim(-1, along)

        def where(index: Sequence[Tensor]) -> Tensor:
            at, rest = index[along], [*index[:along], *index[along + 1 :]]
            pool = raveled([*rest, at // self.of], [*others, (size + empty) // self.of])
            return pool * self.of + at % self.of

        pools = math.prod(others) * (size + empty) // self.of
        sides = [self.of if d == along else 1 for d in range(len(shape))]
        return Folding(pools, self.of, 1, into, back, empty > 0, 1 if along else self.of, self.fold, where, sides)


def windows(of: int, dim: int = -1, *, ragged: bool = False) -> Windows:
    """Let the elements of each run of `of` consecutive ones along `dim` compete: N:M sparsity.

    Args:
        of: the length of a window, M of N:M.
        dim: the dim along which windows run; -1 is in_features of an (out, in) weight.
        ragged: whether the last window may be shorter; otherwise `of` must divide the length of the dim. `keep` is
            then the most that any window keeps, and `amount` must be met by the short one too.

    Raises:
        TypeError: if `of` or `dim` is not an int, or `ragged` not a bool.
        ValueError: if `of` is not positive; and, once applied, if it does not divide the dim.

    >>> windows(4)
    windows(of=4)
    >>> compute_mask(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]), sparsity=0.5, groups=windows(2, ragged=True))
    tensor([ True, False, False,  True,  True])

    Reference: Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", 2021.
    """
    length = lengths((of,), "of", "windows(4)")[0]
    along = _read.integer(dim, "dim", "windows(4, dim=-1)")
    return Windows(length, along, _read.flag(ragged, "ragged", "windows(4, ragged=True)"))


def padded_to(tensor: Tensor, dim: int, size: int) -> Tensor:
    """The tensor with zeros behind it up to a size along a dim."""
    missing = size - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return joined([tensor, tensor.new_zeros(shape)], dim)
