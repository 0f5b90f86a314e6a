"""How a tensor of one shape lies as pools, items and elements: planned once, from the shape alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masklib._names import joined

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Folding:
    """How a tensor of one shape is folded into (pools, items, elements), and how it is put together again.

        into: (shape) -> (pools, items, elements)        back: (pools, items, elements) -> (shape)

    `into` folds scores and masks alike. `back` unfolds a bool matrix; where no item has an element it gives True, as
    what belongs to no item stays alive.

    Args:
        pools: how many pools the tensor has to itself; None if its items compete in the one pool of all tensors.
        items: how many items each pool has.
        elements: how many elements each item has.
        into: from a tensor to anything that reshapes to (pools, items, elements), with 1 for a `pools` of None; None
            if each entry is an item, in row-major order.
        back: from the bool matrix (pools, items, elements) to a tensor; None together with `into`.
        padded: whether `into` adds entries which the tensor does not have; they must be zero (False in a mask). An item
            of the pool of all tensors has one entry of the tensor at least.
        step: how many indices of the first dim fold by themselves, so that a tensor too large for memory can be read
            in parts: each run of whole steps (the last may be shorter) folds into rows that are those of the whole, in
            order. 0 if it must be read whole.
        part: from the shape of such a run to its folding; together with `step`.
        where: the row (pool * items + item) of each entry, from its index along each dim, int64 tensors that broadcast
            to one another. With it, a rank of a sharded tensor folds what it has; without it, each rank works out the
            rows of all entries, which takes 16 bytes an entry of the whole tensor.
        sides: how long a pool is along each dim, if the pools are equal boxes side by side from index 0 on; the last
            along a dim may be shorter. `part` then folds any tensor made of whole boxes. With it, a rank of a sharded
            tensor knows from the dims alone that pools are whole, and ranks what it has as a tensor of its own.

    >>> halves = Folding(None, 2, 3, lambda t: t.reshape(2, 3), lambda m: m.reshape(6))
    >>> halves.matrix(torch.arange(6))
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """

    pools: int | None
    items: int
    elements: int = 1
    into: Map | None = None
    back: Map | None = None
    padded: bool = False
    step: int = 0
    part: Callable[[Any], Folding] | None = None
    where: Callable[[Sequence[Tensor]], Tensor] | None = None
    sides: Sequence[int] | None = None

    @property
    def rows(self) -> int:
        """How many items there are in all pools together."""
        return self.items if self.pools is None else self.pools * self.items

    def matrix(self, tensor: Tensor) -> Tensor:
        """Fold a tensor into (pools * items, elements).

        >>> rows().fold(torch.Size([2, 3])).matrix(torch.ones(2, 3)).shape
        torch.Size([6, 1])
        """
        folded = tensor if self.into is None else self.into(tensor)
        if not isinstance(folded, Tensor):
            raise TypeError(f"`into` of a Folding must return a tensor, got {type(folded).__name__}.")
        if folded.numel() != self.rows * self.elements:
            raise ValueError(
                f"a folding that says {self.rows} items of {self.elements} elements folds shape {tuple(tensor.shape)} "
                f"into {folded.numel()} entries. Mend its `into`, or `items` and `elements`."
            )
        return folded.reshape(self.rows, self.elements)

    def restore(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """Unfold a bool matrix (pools * items, elements) into a tensor of the shape.

        >>> channels(1).fold(torch.Size([2, 2])).restore(torch.tensor([[True, True], [False, False]]), (2, 2))
        tensor([[ True, False],
                [ True, False]])
        """
        if self.back is None:
            return matrix.reshape(shape)
        pools = 1 if self.pools is None else self.pools
        tensor = self.back(matrix.reshape(pools, self.items, self.elements))
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != tuple(shape):
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"`back` of a Folding must return a tensor of shape {tuple(shape)}, got {got}.")
        return tensor

    @staticmethod
    def by_index(index: Tensor, shape: Sequence[int]) -> Folding:
        """Fold a tensor by an index: any structure can be written down like this.

            matrix[...] = tensor.flatten()[index[...]]

        Args:
            index: int64, the flat row-major index of the entry that stands at each place of the matrix, and -1 where
                none does. Its shape is (items, elements) for items of the pool of all tensors, and (pools, items,
                elements) for pools of the tensor's own. Entries that are not in the index belong to no item and stay
                alive.
            shape: the shape of the tensor.

        Returns:
            The folding, for the `fold(shape)` of a groups value.

        Raises:
            TypeError: if the index is not an int64 tensor.
            ValueError: if it has not two or three dims, or an entry that the tensor does not have, or one entry twice,
                or, with two dims, an item without entries.

        >>> diagonals = Folding.by_index(torch.tensor([[0, 3], [1, 2]]), (2, 2))
        >>> diagonals.matrix(torch.tensor([[1, 2], [3, 4]]))
        tensor([[1, 4],
                [2, 3]])
        """
        size = math.prod(_sides(shape))
        padded = traced = torch.compiler.is_compiling()  # which cannot look at values
        if not traced:
            _refuse(index, size, shape)
            padded = bool((index < 0).any())
        place = index.reshape(-1).remainder(size + 1)  # -1 becomes one place behind the last entry

        def into(tensor: Tensor) -> Tensor:
            flat = tensor.reshape(-1)
            return (joined([flat, flat.new_zeros(1)]) if padded else flat)[place.to(flat.device)]

        def back(matrix: Tensor) -> Tensor:
            flat = matrix.new_ones(size + 1).scatter(0, place.to(matrix.device), matrix.reshape(-1))
            return flat[:size].reshape(shape)

        pools = index.shape[0] if index.dim() == 3 else None
        return Folding(pools, index.shape[-2], index.shape[-1], into, back, padded)


def _sides(shape: Any) -> Sequence[int]:
    """Read a shape."""
    if not isinstance(shape, Sequence) or not all(isinstance(side, (int, torch.SymInt)) for side in shape):
        raise TypeError(f"`shape` must be a tuple of ints, got {shape!r}. For example tensor.shape.")
    return shape


def _refuse(index: Tensor, size: int, shape: Sequence[int]) -> None:
    """Refuse what is not an index of a tensor with so many entries."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        got = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"`index` must be an int64 tensor, got {got}. For example torch.arange(6).view(3, 2).")
    if index.dim() not in (2, 3):
        raise ValueError(
            f"`index` must have shape (items, elements) or (pools, items, elements), got {tuple(index.shape)}. "
            "For single elements, pass index[..., None]."
        )
    used = index[index >= 0]
    if index.numel() and (int(index.max()) >= size or int(index.min()) < -1):
        raise ValueError(
            f"`index` must be between 0 and {size - 1} for shape {tuple(shape)}, or -1 for a place that stays empty, "
            f"got {int(index.min())} to {int(index.max())}."
        )
    if index.dim() == 2 and index.numel() and bool((index < 0).all(1).any()):
        raise ValueError("`index` of two dims must have an entry in each item, got a row of -1. Leave it out.")
    if len(used.unique()) < len(used):
        raise ValueError(f"`index` must have each entry once, got {len(used) - len(used.unique())} entries again.")
