"""Mask algebra: a lattice under intersection and union, with counts. Tensors or mappings by name.

Of DTensors, masks come back with their mesh and placements, and counts are plain numbers, the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._names import Tensors, TensorsT, each
from masklib._shards._counts import is_counted_over_ranks, summed
from masklib._shards._parts import each_part

Count = Callable[..., Any]


def intersection(a: TensorsT, b: TensorsT) -> TensorsT:
    """Keep what both keep: a & b.

    Args:
        a, b: bool masks of any one shape, tensors or mappings with the same names.

    Returns:
        A new mask of the same shapes and names.

    Raises:
        TypeError: if a mask is not bool.
        ValueError: if shapes, devices or names disagree.

    >>> intersection(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    tensor([ True, False, False])
    """
    return _combine(torch.logical_and, a, b)


def union(a: TensorsT, b: TensorsT) -> TensorsT:
    """Keep what either keeps: a | b.

    Args:
        a, b: bool masks of any one shape, tensors or mappings with the same names.

    Returns:
        A new mask of the same shapes and names.

    Raises:
        TypeError: if a mask is not bool.
        ValueError: if shapes, devices or names disagree.

    >>> union(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    tensor([ True,  True, False])
    """
    return _combine(torch.logical_or, a, b)


def difference(a: TensorsT, b: TensorsT) -> TensorsT:
    """Keep what `a` keeps and `b` does not: a & ~b.

    Args:
        a, b: bool masks of any one shape, tensors or mappings with the same names.

    Returns:
        A new mask of the same shapes and names.

    Raises:
        TypeError: if a mask is not bool.
        ValueError: if shapes, devices or names disagree.

    >>> difference(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    tensor([False,  True, False])
    """
    return _combine(lambda x, y: x & ~y, a, b)


def complement(mask: TensorsT, within: TensorsT | None = None) -> TensorsT:
    """Keep what `mask` does not: ~mask, or within & ~mask.

    Args:
        mask: a bool mask of any shape, a tensor or a mapping by name.
        within: the mask to stay within; None for everything.

    Returns:
        A new mask of the same shapes and names.

    Raises:
        TypeError: if a mask is not bool.
        ValueError: if shapes, devices or names disagree.

    >>> complement(torch.tensor([True, False, False]), within=torch.tensor([True, True, False]))
    tensor([False,  True, False])
    """
    if within is not None:
        return _combine(lambda x, y: y & ~x, mask, within, "mask", "within")
    return each_part(torch.logical_not, _checked(mask, "mask"))


def dense(params: TensorsT) -> TensorsT:
    """Keep everything.

        dense(p) = fold((), p) = complement(complement(dense(p)))

    Args:
        params: tensors of any shape and dtype, a tensor or a mapping by name; only names, shapes and devices are
            looked at.

    Returns:
        A mask that is all True, of the same shapes and names.

    Raises:
        TypeError: if `params` is not a tensor or a mapping of tensors.

    >>> dense({"w": torch.zeros(2)})
    {'w': tensor([True, True])}
    """
    _read.tensors(params, "params")
    return each_part(lambda p: torch.ones_like(p, dtype=torch.bool, memory_format=torch.contiguous_format), params)


def count(mask: Tensors, *, per_name: bool = False) -> Any:
    """Count what is kept.

    Args:
        mask: a bool mask of any shape, a tensor or a mapping by name.
        per_name: whether to count each name of a mapping on its own.

    Returns:
        A 0-d int64 tensor, the total over a mapping; with `per_name` a dict of them.

    Raises:
        TypeError: if the mask is not bool.

    >>> count(torch.tensor([True, False, True]))
    tensor(2)
    """
    return _measure(lambda kept: kept, per_name, {"mask": mask}, torch.count_nonzero)


def sparsity(mask: Tensors, *, per_name: bool = False) -> Any:
    """Measure the dead share: 1 - kept / size, 0 for an empty mask.

    Args:
        mask: a bool mask of any shape, a tensor or a mapping by name.
        per_name: whether to measure each name of a mapping on its own.

    Returns:
        A 0-d float64 tensor in [0, 1], of all elements of a mapping together; with `per_name` a dict of them.

    Raises:
        TypeError: if the mask is not bool.

    >>> sparsity(torch.tensor([True, False, False, False]))
    tensor(0.7500, dtype=torch.float64)
    """
    return _measure(_dead_share, per_name, {"mask": mask}, torch.count_nonzero, Tensor.numel)


def overlap(a: Tensors, b: Tensors, *, per_name: bool = False) -> Any:
    """Measure how much two masks agree: the Jaccard index, count(a & b) / count(a | b), 1 for two empty masks.

    Args:
        a, b: bool masks of any one shape, tensors or mappings with the same names.
        per_name: whether to measure each name of a mapping on its own.

    Returns:
        A 0-d float64 tensor in [0, 1], of all elements of a mapping together; with `per_name` a dict of them.

    Raises:
        TypeError: if a mask is not bool.
        ValueError: if shapes, devices or names disagree.

    >>> overlap(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    tensor(0.5000, dtype=torch.float64)

    Reference: Jaccard, "The distribution of the flora in the alpine zone", 1912.
    """
    return _measure(_jaccard, per_name, {"a": a, "b": b}, _both, lambda a, b: torch.count_nonzero(a), _second)


def select(params: Mapping[str, Tensor], where: Callable[[str, Tensor], bool]) -> dict[str, Tensor]:
    """Pick the entries for which a predicate holds.

    Args:
        params: a mapping by name, such as dict(module.named_parameters()).
        where: `(name, tensor) -> bool`.

    Returns:
        A dict of the same tensors, in the same order.

    Raises:
        TypeError: if `params` is not a mapping of tensors, or `where` is not callable.

    >>> list(select({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, lambda name, p: p.dim() > 1))
    ['weight']
    """
    _read.mapping(params, "params")
    _read.function(where, "where", "where=lambda name, p: p.dim() > 1")
    return {name: p for name, p in params.items() if where(name, p)}


# ---- how ------------------------------------------------------------------------------------------------------------


def _combine(function: Callable[..., Tensor], a: Any, b: Any, first: str = "a", second: str = "b") -> Any:
    _read.masks(b, _checked(a, first), second, first)
    return each_part(function, a, b)


def _measure(ratio: Callable[..., Tensor], per_name: bool, masks: Mapping[str, Any], *counts: Count) -> Any:
    """`ratio` of the counts of each name, or of their totals."""
    parts = _parts(masks, counts)
    if _read.flag(per_name, "per_name", "per_name=True"):
        return each(ratio, *parts)
    return ratio(*(_total(part) for part in parts))


def _parts(masks: Mapping[str, Any], counts: Sequence[Count]) -> list[Any]:
    """Each count of each name; what is sharded is counted over all ranks, once whatever is replicated."""
    if is_counted_over_ranks(masks):
        return summed(masks, counts, lambda: _all_checked(masks))
    _all_checked(masks)
    return [each(count, *masks.values()) for count in counts]


def _all_checked(masks: Mapping[str, Any]) -> None:
    (first, reference), *others = masks.items()
    _checked(reference, first)
    for argument, mask in others:
        _read.masks(mask, reference, argument, first)


def _total(part: Any) -> Any:
    """The sum over a mapping, on the first one's device."""
    if not isinstance(part, Mapping):
        return part
    values = list(part.values())
    if not values:
        return torch.tensor(0, device="cpu")
    if isinstance(values[0], int):
        return sum(values)
    return torch.stack([v.to(values[0].device) for v in values]).sum()


def _dead_share(kept: Tensor, size: Any) -> Tensor:
    whole = torch.full((), max(int(size), 1), dtype=torch.float64, device=kept.device)
    return (size - kept).double() / whole  # a GPU multiplies by the inverse of a number of Python, and rounds twice


def _both(a: Tensor, b: Tensor) -> Tensor:
    return torch.count_nonzero(a & b)


def _second(a: Tensor, b: Tensor) -> Tensor:
    return torch.count_nonzero(b)


def _jaccard(both: Tensor, first: Tensor, second: Tensor) -> Tensor:
    either = first + second - both
    return torch.where(either == 0, 1.0, both.double() / either.clamp(min=1))


# ---- what is refused ------------------------------------------------------------------------------------------------


def _checked(mask: Any, argument: str) -> Any:
    """Refuse what is not a mask, or a mapping of masks."""
    if not isinstance(mask, (Tensor, Mapping)):
        raise TypeError(
            f"`{argument}` must be a bool tensor, or a mapping of them by name, got {type(mask).__name__}. "
            "For a module pruned by masklib.adapters.prune, pass prune.masks(module)."
        )
    _read.masks(mask, mask, argument, argument)
    return mask
