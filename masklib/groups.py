"""Groups: which elements live and die together (items), and which items compete (pools).

Every value is plain data: equal, hashable, picklable, and printing as the call that makes it. All but `elements` and
`labels` are a folding of the tensor into a matrix: its rows are the pools (`rows`, `windows`) or the items
(`channels`, `blocks`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib import _check
from masklib._names import Tensors, named


def _call(self: Any) -> str:
    """Print a value as the call that makes it."""
    shown = [f"{n}={v!r}" for n, v in self._asdict().items() if n not in self._field_defaults or v != _default(self, n)]
    return f"{type(self).__name__.lower()}({', '.join(shown)})"


def _default(value: Any, field: str) -> Any:
    return value._field_defaults[field]


def _rows(tensor: Tensor, dim: int, where: str) -> Tensor:
    """One row an index along `dim`, the other dims flattened in order."""
    dim = _check.dimension(dim, tensor, where)
    return tensor.movedim(dim, 0).reshape(tensor.shape[dim], math.prod(_without(tensor.shape, dim)))


def _restored(matrix: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Undo `_rows`."""
    dim = dim % len(shape)
    return matrix.reshape(shape[dim], *_without(shape, dim)).movedim(0, dim)


def _without(shape: torch.Size, dim: int) -> torch.Size:
    return shape[:dim] + shape[dim + 1 :]


class Elements(NamedTuple):
    """Single elements, one pool."""

    def __repr__(self) -> str:
        return _call(self)


class Rows(NamedTuple):
    """Single elements, each index along `dim` a pool."""

    dim: int = 0

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (pools, elements)."""
        return _rows(tensor, self.dim, where)

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        return _restored(matrix, shape, self.dim)


class Windows(NamedTuple):
    """Single elements, each run of `of` along `dim` a pool."""

    of: int
    dim: int = -1

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (pools, of)."""
        dim = _check.dimension(self.dim, tensor, where)
        _check.divides(self.of, tensor.shape[dim], "`of`", self.dim, where)
        return tensor.movedim(dim, -1).reshape(tensor.numel() // self.of, self.of)

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        dim = self.dim % len(shape)
        return matrix.reshape(*_without(shape, dim), shape[dim]).movedim(-1, dim)


class Channels(NamedTuple):
    """Each index along `dim` an item, one pool."""

    dim: int
    p: float | None = None
    mean: bool = False

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (items, elements)."""
        return _rows(tensor, self.dim, where)

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        return _restored(matrix, shape, self.dim)


class Blocks(NamedTuple):
    """Tiles over the last dims as items, one pool."""

    shape: tuple[int, ...]
    p: float | None = None
    mean: bool = False

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (tiles, elements), tiles and their elements in row-major order."""
        if tensor.dim() < len(self.shape):
            _check.too_few_dims(self, tensor, where)
        grid = self._grid(tensor.shape, where)
        return (
            tensor.reshape(grid).permute(self._order(grid)).reshape(-1 if tensor.numel() else 0, math.prod(self.shape))
        )

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        grid = self._grid(shape, "")
        order = self._order(grid)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return matrix.reshape([grid[d] for d in order]).permute(inverse).reshape(shape)

    def _grid(self, shape: torch.Size, where: str) -> list[int]:
        """The shape with each tiled dim split into (tiles, length)."""
        lead = len(shape) - len(self.shape)
        grid = list(shape[:lead])
        for dim, (size, length) in enumerate(zip(shape[lead:], self.shape)):
            _check.divides(length, size, f"`shape[{dim}]`", lead + dim, where)
            grid += [size // length, length]
        return grid

    def _order(self, grid: list[int]) -> list[int]:
        """The dims of the grid: leading dims, then tiles, then the elements of a tile."""
        lead = len(grid) - 2 * len(self.shape)
        return [*range(lead), *range(lead, len(grid), 2), *range(lead + 1, len(grid), 2)]


class Labels(NamedTuple):
    """Items and pools by integer label of each element."""

    items: Tensors
    pools: Tensors | None = None

    def __repr__(self) -> str:
        return f"labels(items={self.items!r}, pools={self.pools!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and all(_equal(a, b) for a, b in zip(self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(tuple((name, tuple(t.shape)) for name, t in named(self.items).items()))


def _equal(a: Tensors | None, b: Tensors | None) -> bool:
    if a is None or b is None:
        return a is b
    left, right = named(a), named(b)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


Groups = Elements | Rows | Channels | Blocks | Windows | Labels


def elements() -> Elements:
    """Let single elements compete in one pool: unstructured pruning.

    Returns:
        The groups value: every element is an item. Over a mapping the pool spans all tensors (global pruning).

    >>> elements()
    elements()
    """
    return Elements()


def rows(dim: int = 0) -> Rows:
    """Let single elements compete within each index along `dim`.

    The comparison group of Wanda for an (out, in) weight: each output row loses the same share. Pools never span
    tensors.

    Args:
        dim: the dim whose indices are the pools.

    >>> rows()
    rows()
    >>> rows(-1)
    rows(dim=-1)

    Reference: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023, section 3.
    """
    return Rows(_check.integer(dim, "dim", "rows(0)"))


def channels(dim: int, *, p: float | None = None, mean: bool = False) -> Channels:
    """Let whole slices along `dim` compete in one pool: structured pruning.

    The score of a slice is the sum of its live scores, or (sum of abs(score)**p)**(1/p) if `p` is given; with `mean`
    it is divided by the number of live scores (by its p-th root), so that slices of different sizes compare.

    Args:
        dim: the dim whose indices are the items; 0 is the output channels of a Linear or Conv weight.
        p: the order of the norm, any number, inf and -inf included; None for the signed sum.
        mean: whether to divide by the live count.

    Raises:
        TypeError: if `dim`, `p` or `mean` is not an int, a number, a bool.

    >>> channels(0, p=2)
    channels(dim=0, p=2.0)
    """
    return Channels(_check.integer(dim, "dim", "channels(0)"), *_check.norm(p, mean))


def blocks(shape: Iterable[int], *, p: float | None = None, mean: bool = False) -> Blocks:
    """Let tiles over the last `len(shape)` dims compete in one pool.

    Args:
        shape: the lengths of a tile, which must divide the lengths of the last dims.
        p: the order of the norm that scores a tile, as in `channels`; None for the signed sum.
        mean: whether to divide by the live count.

    Raises:
        TypeError: if `shape` is not a sequence of ints.
        ValueError: if a length is not positive.

    >>> blocks((4, 4), p=1)
    blocks(shape=(4, 4), p=1.0)
    """
    return Blocks(_check.lengths(shape), *_check.norm(p, mean))


def windows(of: int, dim: int = -1) -> Windows:
    """Let the elements of each run of `of` consecutive ones along `dim` compete: N:M sparsity.

    Args:
        of: the length of a window, M of N:M; it must divide the length of the dim.
        dim: the dim along which windows run; -1 is in_features of an (out, in) weight.

    Raises:
        ValueError: if `of` is not positive.

    >>> windows(4)
    windows(of=4)
    """
    return Windows(_check.lengths((of,), "of")[0], _check.integer(dim, "dim", "windows(4, dim=-1)"))


def labels(items: Tensors, pools: Tensors | None = None) -> Labels:
    """Say by integer label which elements form an item and which items a pool: the general form.

    An item's score is the sum of its live scores; among equals the lower label dies first. Equal labels in several
    tensors of a mapping are one item.

    Args:
        items: integer labels, a tensor of the scores' shape or a mapping of them by name.
        pools: integer labels likewise, constant within each item; None for one pool.

    Raises:
        TypeError: if a label tensor is not of an integer dtype.

    >>> labels(torch.tensor([0, 0, 1]))
    labels(items=tensor([0, 0, 1]), pools=None)
    """
    return Labels(_check.labelling(items, "items"), None if pools is None else _check.labelling(pools, "pools"))
