"""One order for all dtypes: tensors that torch sorts as their values, or their magnitudes, compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def comparable(scores: Sequence[Tensor], by_magnitude: bool = False) -> list[Tensor]:
    """The scores in one dtype that sorts as they do: -0.0 as 0.0, unsigned integers as signed ones."""
    dtype = comparable_dtype(scores, by_magnitude)
    return [sortable(s, by_magnitude).to(dtype) for s in scores]


def comparable_dtype(scores: Iterable[Tensor], by_magnitude: bool) -> torch.dtype:
    """The dtype that all of them have in one order."""
    return _common_dtype({sortable(s.new_empty(0), by_magnitude).dtype for s in scores})


def sortable(tensor: Tensor, by_magnitude: bool) -> Tensor:
    """Values, or magnitudes, in a dtype that torch sorts."""
    values = magnitude(tensor) if by_magnitude else tensor
    if values.is_floating_point():
        return values + 0.0
    if values.dtype == torch.uint64:
        return values.view(torch.int64) ^ torch.iinfo(torch.int64).min
    return values.to(_WIDER.get(values.dtype, values.dtype))


def _common_dtype(dtypes: set[torch.dtype]) -> torch.dtype:
    """The least dtype that holds all of them exactly."""
    if len({d.is_floating_point for d in dtypes}) == 2:
        return torch.float64
    common, *rest = dtypes
    for dtype in rest:
        common = torch.promote_types(common, dtype)
    return common
