"""Many short pools on any device, in torch operations: nothing is sorted, and the host does not wait."""

from __future__ import annotations

import torch
from torch import Tensor

from masklib.selection._order import integer_keys

_PAIRS = 12  # up to so many items, comparing all pairs


def kill_lowest_in_rows(scores: Tensor, alive: Tensor | None, die: Tensor, by_magnitude: bool) -> Tensor:
    """The mask of (pools, items) in which the lowest `die` (pools,) live ones of each row die; none may be NaN."""
    keys = integer_keys(scores, by_magnitude)
    kernel = _by_pairs if scores.shape[1] <= _PAIRS else _by_bisection
    return kernel(keys, alive, die)


def _by_pairs(keys: Tensor, alive: Tensor | None, die: Tensor) -> Tensor:
    """An element dies if too few live ones of its row come before it; all rows are compared at once."""
    columns = keys.t().contiguous()
    live = None if alive is None else alive.t().contiguous()
    before = torch.zeros(columns.shape, dtype=torch.uint8, device=keys.device)
    for distance in range(1, len(columns)):
        earlier = columns[:-distance] <= columns[distance:]
        later = ~earlier
        if live is not None:
            earlier &= live[:-distance]
            later &= live[distance:]
        before[distance:] += earlier
        before[:-distance] += later
    kept = before >= die.to(torch.uint8)
    return (kept if live is None else kept & live).t().contiguous()


def _by_bisection(keys: Tensor, alive: Tensor | None, die: Tensor) -> Tensor:
    """Bisect the key of the last to die, one pass a bit; the first of its equals die with those below."""
    info = torch.iinfo(keys.dtype)
    ranked = keys if alive is None else keys.masked_fill(~alive, info.max)
    low, high = (keys.new_full(keys.shape[:1], end) for end in (info.min, info.max))
    for _ in range(info.bits):
        middle = (low & high) + ((low ^ high) >> 1)
        enough = (ranked <= middle[:, None]).sum(1) >= die
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    below, ties = keys < high[:, None], keys == high[:, None]
    if alive is not None:
        below, ties = below & alive, ties & alive
    first = (die - below.sum(1)).to(torch.int32)
    dies = below | (ties & (ties.cumsum(1, dtype=torch.int32) <= first[:, None]))
    return ~dies if alive is None else alive & ~dies
