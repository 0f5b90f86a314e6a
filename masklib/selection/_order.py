"""One order for all dtypes: in which dtype a pool is ranked, and how tensors are brought into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_UNSIGNED = {
    torch.int8: torch.uint8,
    torch.int16: torch.uint16,
    torch.int32: torch.uint32,
    torch.int64: torch.uint64,
}
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}  # torch does not compare these themselves


def magnitude(tensor: Tensor) -> Tensor:
    """Absolute values; those of an n-bit integer are unsigned n-bit integers, so the least one does not wrap."""
    unsigned = _UNSIGNED.get(tensor.dtype)
    if unsigned is not None:
        return tensor.abs().view(unsigned)
    return tensor.abs() if tensor.is_floating_point() or tensor.is_complex() else tensor.clone()


def common_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The least dtype that numpy compares natively and that holds all of the given ones exactly."""
    found = set(dtypes)
    if not any(d.is_floating_point for d in found):
        return found.pop() if len(found) == 1 else torch.uint64 if torch.uint64 in found else torch.int64
    return torch.float32 if {torch.float16, torch.bfloat16, torch.float32} >= found else torch.float64


def torch_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The same for torch, which compares 16-bit floats as they are."""
    found = set(dtypes)
    return found.pop() if len(found) == 1 else common_dtype(found)


def ordered(tensor: Tensor, dtype: torch.dtype, by_magnitude: bool) -> Tensor:
    """Values, or magnitudes, that torch compares as those of `dtype` compare: unsigned integers as signed ones."""
    values = tensor.to(dtype)
    values = magnitude(values) if by_magnitude else values
    if values.dtype == torch.uint64:
        return values.view(torch.int64) ^ torch.iinfo(torch.int64).min
    return values.to(_WIDER.get(values.dtype, values.dtype))


def comparable(scores: Sequence[Tensor]) -> list[Tensor]:
    """The scores in one dtype that torch sorts as they do, -0.0 as 0.0."""
    dtype = torch_dtype(s.dtype for s in scores)
    return [ordered(s, dtype, by_magnitude=False) + 0 for s in scores]
