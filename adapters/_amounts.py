"""The small helpers that people import from torch.nn.utils.prune: amounts, channels, norms."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor


def _validate_pruning_amount_init(amount: Any) -> None:
    """Refuse an amount that is not a fraction in [0, 1] or a non-negative int."""
    if type(amount) is bool or not isinstance(amount, numbers.Real):
        raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
    integral = isinstance(amount, numbers.Integral)
    if (integral and amount < 0) or not (integral or 0.0 <= float(amount) <= 1.0):
        raise ValueError(f"amount={amount} should either be a float in the range [0, 1] or a non-negative integer")


def _validate_pruning_amount(amount: Any, tensor_size: int) -> None:
    """Refuse an int amount above the number of units."""
    if isinstance(amount, numbers.Integral) and amount > tensor_size:  # type: ignore[operator]
        raise ValueError(f"amount={amount} should be smaller than the number of parameters to prune={tensor_size}")


def _validate_structured_pruning(t: Tensor) -> None:
    """Refuse tensors without channels."""
    if t.dim() <= 1:
        raise ValueError(
            "Structured pruning can only be applied to multidimensional tensors. "
            f"Found tensor of shape {t.shape} with {t.dim()} dims"
        )


def _compute_nparams_toprune(amount: Any, tensor_size: int) -> Any:
    """Turn an amount into a number of units: an int as it is, a float as round(amount * tensor_size)."""
    return amount if isinstance(amount, numbers.Integral) else round(amount * tensor_size)


def _validate_pruning_dim(t: Tensor, dim: int) -> None:
    """Refuse a dim that the tensor does not have."""
    if not -t.dim() <= dim < t.dim():
        raise IndexError(f"Invalid index {dim} for tensor of size {t.shape}")


def _compute_norm(t: Tensor, n: Any, dim: int) -> Tensor:
    """Compute the norm of each slice along `dim`, in at least float32.

    "fro" is the 2-norm; "nuc" sees a slice as a matrix of its first dim by the others (a vector as one column).
    """
    _validate_pruning_dim(t, dim)
    wide = t.to(torch.promote_types(t.dtype, torch.float32))
    slices = wide.movedim(dim, 0)
    if n == "nuc" and t.dim() > 2:
        return torch.linalg.matrix_norm(slices.flatten(2), ord="nuc")
    flat = slices.flatten(1) if t.dim() > 1 else slices[:, None]
    order = 2 if n in (None, "fro", "nuc") else n
    if not isinstance(order, numbers.Real):
        raise TypeError(f"`n` must be a number, inf, -inf, 'fro' or 'nuc', got {n!r}. For example n=2.")
    return torch.linalg.vector_norm(flat, float(order), dim=1)


def number_to_prune(amount: Any, size: int) -> int:
    """The number of units, checked against how many there are."""
    number = int(_compute_nparams_toprune(amount, size))
    _validate_pruning_amount(number, size)
    return number


def noise_dtype(dtype: torch.dtype) -> torch.dtype:
    """What noise is drawn in: the dtype itself if it is real and fine enough that noise hardly ties, else float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def noise_device() -> str | None:
    """Where the noise of channels is drawn: on the default device, if values live there."""
    return "cpu" if torch.get_default_device().type == "meta" else None


def validate_channels(t: Tensor, dim: int) -> None:
    _validate_structured_pruning(t)
    _validate_pruning_dim(t, dim)


def along(kept: Tensor, t: Tensor, dim: int) -> Tensor:
    """The mask of a tensor from that of its channels."""
    shape = [1] * t.dim()
    shape[dim] = -1
    return kept.to(t.device).view(shape).expand(t.shape)


def within(default_mask: Tensor, kept: Tensor, dtype: torch.dtype) -> Tensor:
    """`default_mask` where kept, in a dtype."""
    mask = default_mask.to(dtype)
    return torch.where(kept, mask, mask.new_zeros(()))
