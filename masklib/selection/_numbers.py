"""How many die: the one place where `amount`, `keep` and `sparsity` get their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masklib.selection._refusals import quantity

Number = int | float | Tensor  # so many items, or a share; a tensor is int64 or float64


def as_tensor(number: Number) -> Tensor:
    """A number as operators take it, 0-d."""
    if isinstance(number, Tensor):
        return number
    return torch.scalar_tensor(number, dtype=torch.float64 if isinstance(number, float) else torch.int64, device="cpu")


def dying(counting: str, number: Any, alive: Any, items: Any, names: Sequence[str]) -> Any:
    """How many items die in each pool, on numpy arrays or on tensors.

        amount, whole     number
        amount, a share   round(number * alive)
        keep              max(0, alive - number)
        sparsity          max(0, round(number * items) - (items - alive))

    Args:
        counting: "amount", "keep" or "sparsity".
        number: one for all pools or one a pool; float64 is a share, anything else a number of items.
        alive: how many items of each pool live.
        items: how many items each pool has.
        names: the tensors that compete, for messages.

    Returns:
        Whole numbers, in float64 for a share.

    Raises:
        ValueError: if a pool cannot meet the number.
    """
    fraction = number.dtype in (torch.float64, np.float64)
    quantity(counting, fraction, number, alive, items, names)
    if counting == "keep":
        return (alive - number).clip(min=0)
    if counting == "sparsity":
        return ((number * items).round() - (items - alive)).clip(min=0)
    return (number * alive).round() if fraction else number + 0 * alive


def dying_of_one(counting: str, number: int | float, alive: int, items: int, names: Sequence[str]) -> int:
    """The same for one pool in Python numbers, of which `round` is exact and to even too: a tenth of the time."""
    fraction = isinstance(number, float)
    quantity(counting, fraction, number, alive, items, names)
    if counting == "keep":
        return max(0, alive - int(number))
    if counting == "sparsity":
        return max(0, round(number * items) - (items - alive))
    return round(number * alive) if fraction else int(number)
