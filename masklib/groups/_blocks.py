"""Pruning of tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from masklib._read import flag
from masklib.groups._dims import divides, lengths, raveled
from masklib.groups._folding import Folding
from masklib.groups._norm import norm
from masklib.groups._printing import call
from masklib.groups._windows import padded_to


@dataclass(frozen=True, slots=True, repr=False)
class Blocks:
    """Tiles over the last dims as items, one pool."""

    shape: tuple[int, ...]
    p: float | None = None
    mean: bool = False
    ragged: bool = False

    def __repr__(self) -> str:
        return call(self)

    def fold(self, shape: Sequence[int]) -> Folding:
        """One item for each tile; tiles and their elements in row-major order."""
        self._refuse(shape)
        lead = len(shape) - len(self.shape)
        tiles = [-(-size // length) for size, length in zip(shape[lead:], self.shape)]
        whole = [n * length for n, length in zip(tiles, self.shape)]
        grid = [*shape[:lead], *(part for pair in zip(tiles, self.shape) for part in pair)]
        order = [*range(lead), *range(lead, len(grid), 2), *range(lead + 1, len(grid), 2)]
        inverse = sorted(range(len(order)), key=order.__getitem__)

        def into(tensor: Tensor) -> Tensor:
            for dim, size in enumerate(whole, lead):
                tensor = padded_to(tensor, dim, size)
            return tensor.reshape(grid).permute(order)

        def back(matrix: Tensor) -> Tensor:
            tensor = matrix.reshape([grid[d] for d in order]).permute(inverse).reshape(*shape[:lead], *whole)
            for dim, size in enumerate(shape[lead:], lead):
                tensor = tensor.narrow(dim, 0, size)
            return tensor

        def where(index: Sequence[Tensor]) -> Tensor:
            tile = [at // length for at, length in zip(index[lead:], self.shape)]
            return raveled([*index[:lead], *tile], [*shape[:lead], *tiles])

        items = math.prod(shape[:lead]) * math.prod(tiles)
        padded, step = whole != list(shape[lead:]), 1 if lead else self.shape[0]
        return Folding(None, items, math.prod(self.shape), into, back, padded, step, self.fold, where)

    def _refuse(self, shape: Sequence[int]) -> None:
        """Refuse a shape that does not split into tiles."""
        lead = len(shape) - len(self.shape)
        if lead < 0:
            hint = f"blocks({self.shape[-len(shape) :]!r})" if shape else "elements()"
            raise ValueError(
                f"`shape` {self.shape} needs a tensor of at least {len(self.shape)} dims, got shape {tuple(shape)}. "
                f"For example {hint}."
            )
        if not self.ragged:
            for dim, (size, length) in enumerate(zip(shape[lead:], self.shape)):
                divides(length, size, f"`shape[{dim}]`", lead + dim, "For smaller last tiles, pass ragged=True.")


def blocks(shape: Iterable[int], *, p: float | None = None, mean: bool = False, ragged: bool = False) -> Blocks:
    """Let tiles over the last `len(shape)` dims compete in one pool.

    Args:
        shape: the lengths of a tile.
        p: the order of the norm that scores a tile, as in `channels`; None for the signed sum.
        mean: whether to divide by the live count.
        ragged: whether the last tile along a dim may be smaller; otherwise the lengths must divide those of the last
            dims. Pass `mean=True` with it, or small tiles have small scores.

    Raises:
        TypeError: if `shape` is not a sequence of ints, or `ragged` not a bool.
        ValueError: if a length is not positive; and, once applied, if one does not divide its dim.

    >>> blocks((4, 4), p=1)
    blocks(shape=(4, 4), p=1.0)
    >>> compute_mask(torch.tensor([[1.0, 1.0, 3.0]]), amount=1, groups=blocks((1, 2), mean=True, ragged=True))
    tensor([[False, False,  True]])
    """
    sizes = lengths(shape, "shape", "blocks((4, 4))")
    return Blocks(sizes, *norm(p, mean), flag(ragged, "ragged", "blocks((4, 4), ragged=True)"))
