"""Pools on any device that are sorted whole: one of up to some millions, or many short ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from masklib.selection._device import flat, flat_alive
from masklib.selection._loop import HasNaN
from masklib.selection._order import ordered, torch_dtype

MOST = 2**21  # elements of one pool; a sort of 2**20 took 41 bytes an element on an H100, the loop 14 above
_ROWS = 2**24  # elements of rows that are sorted at a time, which bounds what the sort needs
_PAIRS = 12  # up to so many items comparing all pairs is faster


def kill_lowest(
    scores: Sequence[Tensor], alive: Sequence[Tensor | None], how_many: Callable[[int, int], int], by_magnitude: bool
) -> list[Tensor]:
    """The masks of one pool on one device; the host waits once, for NaN and for the live, if there can be any.

    Raises:
        HasNaN: if a live value is NaN.
    """
    dtype = torch_dtype(s.dtype for s in scores)
    values, live = ordered(flat([s.to(dtype) for s in scores]), dtype, by_magnitude), flat_alive(scores, alive)
    count, nan = _live_numbers(values, live)
    die = how_many(count, values.numel())
    if nan:
        raise HasNaN
    order = _order(values)
    mask = torch.ones_like(values, dtype=torch.bool) if live is None else live.clone()
    mask.index_fill_(0, (order if live is None else order[live[order]])[:die], False)
    parts = [part.view(s.shape) for part, s in zip(mask.split([s.numel() for s in scores]), scores)]
    return parts if len(parts) == 1 else [part.clone() for part in parts]


def _live_numbers(values: Tensor, alive: Tensor | None) -> tuple[int, int]:
    """How many live, and how many of them are NaN."""
    missing = values.isnan() if values.is_floating_point() else None
    if alive is None:
        return values.numel(), 0 if missing is None else int(missing.any())
    if missing is None:
        return int(alive.count_nonzero()), 0
    count, nan = torch.stack([alive.count_nonzero(), (missing & alive).count_nonzero()]).tolist()
    return count, nan


def kill_lowest_in_rows(scores: Tensor, alive: Tensor | None, die: Tensor, by_magnitude: bool) -> Tensor:
    """The mask of (pools, items) in which the lowest `die` (pools,) live ones of each row die; none may be NaN."""
    values = ordered(scores, scores.dtype, by_magnitude)
    if values.shape[1] <= _PAIRS:
        return _by_pairs(values, alive, die)
    mask = torch.empty(values.shape, dtype=torch.bool, device=values.device)
    step = max(1, _ROWS // values.shape[1])
    for rows in (slice(start, start + step) for start in range(0, len(values), step)):
        _by_sorting(values[rows], None if alive is None else alive[rows], die[rows], mask[rows])
    return mask


def _by_pairs(values: Tensor, alive: Tensor | None, die: Tensor) -> Tensor:
    """An element dies if too few live ones of its row come before it; all rows are compared at once."""
    columns = values.t().contiguous()
    live = None if alive is None else alive.t().contiguous()
    before = torch.zeros(columns.shape, dtype=torch.uint8, device=values.device)
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


def _by_sorting(values: Tensor, alive: Tensor | None, die: Tensor, mask: Tensor) -> None:
    """Write who is not among the first live ones of each row."""
    order = _order(values)
    if alive is None:
        stays = torch.arange(values.shape[1], device=values.device) >= die[:, None]
    else:
        live = alive.gather(1, order)
        stays = live & (live.cumsum(1, dtype=torch.int32) > die[:, None])
    mask.scatter_(1, order, stays)


def _order(values: Tensor) -> Tensor:
    """The places of the last dim from low to high, the lower index first among equals, -0.0 as 0.0."""
    return (values + 0 if values.is_floating_point() else values).sort(dim=-1, stable=True).indices
