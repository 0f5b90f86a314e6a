"""How many items go: `amount`, `keep` or `sparsity`, read once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from masklib._read import RANKABLE, has_value, is_initialized
from masklib.selection import EXAMPLE, Number, out_of_range

_MOST = 2**63 - 1


def how_many(amount: Any, keep: Any, sparsity: Any) -> tuple[str, Number]:
    """Read the one number given: which argument it is, and its value."""
    pairs = ("amount", amount), ("keep", keep), ("sparsity", sparsity)
    given = [pair for pair in pairs if pair[1] is not None]
    if len(given) != 1:
        got = " and ".join(f"{a}={v!r}" for a, v in given) or "none"
        raise TypeError(f"Give exactly one of `amount`, `keep` and `sparsity`, got {got}. For example amount=0.2.")
    ((argument, value),) = given
    return argument, _number(argument, value)


def _number(argument: str, value: Any) -> Number:
    if isinstance(value, np.ndarray) and (torch.compiler.is_compiling() or value.dtype.kind in "iuf"):
        # What a numpy number is while it is traced.
        value = torch.as_tensor(value, device="cpu")
    if isinstance(value, Tensor):
        return _tensor_number(argument, value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"`{argument}` must be a number or a 0-d tensor, got {value!r} ({type(value).__name__}). "
            f"For example {EXAMPLE[argument]}."
        )
    fraction = isinstance(value, (float, np.floating))
    _kind(argument, fraction, value)
    if not 0 <= value <= (1 if fraction else _MOST):
        bound = "a fraction between 0 and 1" if fraction else "at least 0, and no more than a pool has"
        out_of_range(argument, value, bound)
    return float(value) if fraction else int(value)


def _tensor_number(argument: str, value: Tensor) -> Tensor:
    is_initialized(value, f"`{argument}`")
    if value.is_nested or value.dim() != 0:
        example = EXAMPLE[argument]
        shown = "a nested tensor" if value.is_nested else f"a tensor of shape {tuple(value.shape)}"
        raise ValueError(f"`{argument}` must be a number or a 0-d tensor, got {shown}. For example {example}.")
    if value.dtype not in RANKABLE - {torch.uint64}:
        raise TypeError(f"`{argument}` must be an integer or floating tensor, got {value.dtype}.")
    has_value(value, argument, EXAMPLE[argument])
    _kind(argument, value.is_floating_point(), f"a tensor of {value.dtype}")
    return value.detach().to(torch.float64 if value.is_floating_point() else torch.int64)


def _kind(argument: str, fraction: bool, value: Any) -> None:
    if argument == "keep" and fraction:
        raise TypeError(
            f"`keep` must be an int (items that may remain in each pool), got {value}. "
            "For a share of the whole, pass sparsity=0.5."
        )
    if argument == "sparsity" and not fraction:
        raise TypeError(
            f"`sparsity` must be a float in [0, 1] (the dead share of the whole), got {value}. "
            "Pass sparsity=0.0 for nothing, sparsity=1.0 for everything, or a number of items as amount=."
        )
