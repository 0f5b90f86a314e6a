"""How the scores of an item's elements become the score of the item."""

from __future__ import annotations

from typing import Any

from masklib._read import flag, order


def norm(p: Any, mean: Any) -> tuple[float | None, bool]:
    """Read the order of a norm and whether it is divided by the live count."""
    shared = flag(mean, "mean", "channels(0, p=2, mean=True)")
    if p is None:
        return None, shared
    number = order(p, "p")
    if shared and number == 0:
        raise ValueError(f"`p` must not be 0 with mean=True, got {p!r}. For example channels(0, p=2, mean=True).")
    return number, shared
