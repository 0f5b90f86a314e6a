"""Which items of a mask live."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from masklib import _read
from masklib._names import TensorsT, like
from masklib.groups._plan import folded, folds


def alive(mask: TensorsT, *, groups: Any) -> TensorsT:
    """Say of each item whether it lives: an item is dead when all its elements are.

        alive(m, groups=elements()) = m, flat
        count(alive(compute_mask(s, keep=k, groups=g), groups=g)) = k        in each pool that has so many

    Args:
        mask: a bool mask of any shape, a tensor or a mapping by name.
        groups: which entries are an item, such as `channels(0)` or `heads(12)`; a value that folds single tensors.

    Returns:
        Bool, an entry for each item, of shape (items,), or (pools, items) if the pools are the tensor's own; a dict of
        them for a mapping.

    Raises:
        TypeError: if the mask is not bool or is a DTensor, or `groups` does not fold single tensors.
        ValueError: if the groups do not fit the shape.

    >>> alive(torch.tensor([[True, False], [False, False]]), groups=channels(0))
    tensor([ True, False])
    """
    entries = _read.masks(mask, mask, "mask", "mask")
    if not folds(groups):
        raise TypeError(f"`groups` must fold single tensors, got {groups!r}. For example groups=channels(0).")
    for name, tensor in entries.items():
        _read.is_whole(tensor, _read.place(name, "mask"))
    return like(mask, {name: _of_one(name, tensor, groups) for name, tensor in entries.items()})


def _of_one(name: str, mask: Tensor, groups: Any) -> Tensor:
    folding = folded(groups, name, mask.shape, "mask")
    living = folding.matrix(mask).any(1)
    return living if folding.pools is None else living.view(folding.pools, folding.items)
