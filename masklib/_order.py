"""One order for all dtypes: tensors that torch sorts as their values, or their magnitudes, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}
_UNSIGNED = {
    torch.int8: torch.uint8,
    torch.int16: torch.uint16,
    torch.int32: torch.uint32,
    torch.int64: torch.uint64,
}


def magnitude(tensor: Tensor) -> Tensor:
    """Absolute values; those of an n-bit integer are unsigned n-bit integers, so the least one does not wrap."""
    unsigned = _UNSIGNED.get(tensor.dtype)
    if unsigned is not None:
        return tensor.abs().view(unsigned)
    return tensor.abs() if tensor.is_floating_point() or tensor.is_complex() else tensor.clone()


def comparable(scores: Sequence[Tensor]) -> list[Tensor]:
    """The scores in one dtype that sorts as they do: -0.0 as 0.0, unsigned integers as signed ones."""
    convert = sortable_together(scores, by_magnitude=False)
    return [convert(s) for s in scores]


def sortable_together(scores: Sequence[Tensor], by_magnitude: bool) -> Callable[[Tensor], Tensor]:
    """What makes of any of the scores, or of a part of one, values in one dtype that torch sorts as all of them."""
    dtypes = {s.dtype for s in scores}
    wide = torch.uint64 in dtypes or (by_magnitude and torch.int64 in dtypes)
    dtype = _common_dtype({sortable(s.new_empty(0), by_magnitude, wide).dtype for s in scores})
    return lambda tensor: sortable(tensor, by_magnitude, wide).to(dtype)


def sortable(tensor: Tensor, by_magnitude: bool, wide: bool = False) -> Tensor:
    """Values, or magnitudes, in a dtype that torch sorts; `wide` if they are to sort beside uint64."""
    values = magnitude(tensor) if by_magnitude else tensor
    if values.is_floating_point():
        return values + 0.0
    if wide or values.dtype == torch.uint64:
        return (values.view if values.dtype == torch.uint64 else values.to)(torch.int64) ^ torch.iinfo(torch.int64).min
    return values.to(_WIDER.get(values.dtype, values.dtype))


def _common_dtype(dtypes: set[torch.dtype]) -> torch.dtype:
    """The least dtype that holds all of them exactly."""
    if len({d.is_floating_point for d in dtypes}) == 2:
        return torch.float64
    common, *rest = dtypes
    for dtype in rest:
        common = torch.promote_types(common, dtype)
    return common
