"""How the scores of an item's elements become the score of the item."""

from __future__ import annotations

from typing import Any

import numpy as np

from masklib._read import order


def norm(p: Any, mean: Any) -> tuple[float | None, bool]:
    """Read the order of a norm and whether it is divided by the live count."""
    if not isinstance(mean, (bool, np.bool_)):
        raise TypeError(f"`mean` must be a bool, got {mean!r}. For example channels(0, p=2, mean=True).")
    if p is None:
        return None, bool(mean)
    number = order(p, "p")
    if mean and number == 0:
        raise ValueError(f"`p` must not be 0 with mean=True, got {p!r}. For example channels(0, p=2, mean=True).")
    return number, bool(mean)
