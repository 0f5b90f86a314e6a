"""What values along a dim share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from masklib._read import integer
from masklib.groups._folding import Map


def dimension(dim: int, shape: Sequence[int]) -> int:
    """Count a dim from the front, refusing one that the shape does not have."""
    if not -len(shape) <= dim < len(shape):
        hint = "For example dim=-1." if len(shape) else "A 0-d tensor has none: use elements()."
        raise IndexError(f"`dim` must be a dimension of shape {tuple(shape)}, got {dim}. {hint}")
    return dim % len(shape)


def slices(shape: Sequence[int], dim: int) -> tuple[int, int, Map, Map]:
    """One row for each index along `dim`, the other dims in order: rows, their length, and the maps to and fro.

    A tensor without elements has no rows, so that what it does not have never counts as an item or a pool.
    """
    along = dimension(dim, shape)
    others = [*shape[:along], *shape[along + 1 :]]
    width = math.prod(others)
    rows = shape[along] if width else 0

    def into(tensor: Tensor) -> Tensor:
        return tensor.movedim(along, 0).reshape(rows, width)

    def back(matrix: Tensor) -> Tensor:
        return matrix.reshape(shape[along], *others).movedim(0, along)

    return rows, width, into, back


def is_first(shape: Sequence[int], dim: int) -> int:
    """1 if a dim is the first of a shape, so that each of its indices folds by itself; else 0."""
    return int(dimension(dim, shape) == 0)


def raveled(indices: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The flat row-major index of indices along each of some dims, which broadcast."""
    flat = torch.zeros([1] * (indices[0].dim() if indices else 0), dtype=torch.int64, device="cpu")
    for index, size in zip(indices, sizes):
        flat = flat * size + index
    return flat


def lengths(value: object, argument: str, call: str) -> tuple[int, ...]:
    """Read positive lengths, such as those of a block."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise TypeError(f"`{argument}` must be a tuple of ints, got {value!r}. For example {call}.")
    sizes = tuple(integer(v, argument, call) for v in value)
    if min(sizes) < 1:
        raise ValueError(f"`{argument}` must be positive, got {min(sizes)}. For example {call}.")
    return sizes


def divides(length: int, size: int, what: str, dim: int, hint: str = "") -> None:
    """Refuse a length that does not divide the size of a dim."""
    if size % length:
        raise ValueError(f"{what} must divide the size {size} of dim {dim}, got {length}.{hint and ' ' + hint}")
