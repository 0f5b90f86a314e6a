"""From tensors and a number to masks: which source or kernel takes a pool, and what its errors say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masklib.selection import _short, _small, _sorted
from masklib.selection._device import Device
from masklib.selection._floors import above_floors
from masklib.selection._loop import HasNaN, cut_lowest
from masklib.selection._memory import Memory
from masklib.selection._numbers import Number, dying, dying_of_one
from masklib.selection._pieces import empty_mask
from masklib.selection._refusals import no_nan
from masklib.selection._stream import Stream
from masklib.selection._streamed import streamed

_Alive = Sequence[Tensor | None]
_HowMany = Callable[[int, int], int]  # from the live ones and all of them to how many die


def lowest(
    scores: Sequence[Tensor],
    alive: _Alive,
    number: Number,
    counting: str,
    names: Sequence[str],
    by_magnitude: bool,
    least: Sequence[int] = (),
) -> list[Tensor]:
    """Kill the lowest of one pool that spans all the tensors, each of any shape; ties in the order given."""
    if not scores:
        return []
    value = number.item() if isinstance(number, Tensor) else number
    how_many = partial(dying_of_one, counting, value, names=names)

    def kill(scores: Sequence[Tensor], alive: _Alive, die: int) -> list[Tensor]:
        return _kill_lowest(scores, alive, lambda *_: die, by_magnitude)

    try:
        if any(least):
            return above_floors(scores, alive, least, how_many, counting, names, kill)
        return _kill_lowest(scores, alive, how_many, by_magnitude)
    except HasNaN:
        no_nan(scores, alive, names)
        raise


def _kill_lowest(scores: Sequence[Tensor], alive: _Alive, how_many: _HowMany, by_magnitude: bool) -> list[Tensor]:
    if streamed(scores) or streamed(alive):
        stream = Stream(scores, alive, by_magnitude)
        die = how_many(stream.live, stream.elements)
        return stream.masks_of(cut_lowest(stream, die), stream.live - die)
    source: Memory | Device
    elements = sum(s.numel() for s in scores)
    if not all(s.is_cpu for s in scores):
        if elements <= _sorted.MOST and len({s.device for s in scores}) == 1:
            return _sorted.kill_lowest(scores, alive, how_many, by_magnitude)
        source = Device(scores, alive, by_magnitude)
    elif elements <= _small.MOST:
        return _small.kill_lowest(scores, alive, how_many, by_magnitude)
    else:
        source = Memory(scores, alive, by_magnitude)
    return source.masks(cut_lowest(source, how_many(source.live, source.elements)))


def lowest_in_rows(
    scores: Tensor,
    alive: Tensor | None,
    items: Tensor | None,
    number: Tensor,
    counting: str,
    name: str,
    by_magnitude: bool,
) -> Tensor:
    """Kill the lowest of each row of (pools, items); the number is one for all or one a row.

    `items` (pools,) is how many of each row's items are real; the rest are dead. None for all.
    """
    if scores.device.type != "cpu":
        return _rows_on_device(scores, alive, items, number, counting, name, by_magnitude)
    width, mask = scores.shape[1], empty_mask(scores)
    if alive is None and items is None and number.dim() == 0:
        die = np.array(dying_of_one(counting, number.item(), width, width, [name]))
    else:
        live = np.array(width) if alive is None else _short.count_alive_in_rows(alive)
        real = np.array(width) if items is None else items.numpy(force=True)
        die = dying(counting, number.numpy(force=True), live, real, [name])
    try:
        _short.kill_lowest_in_rows(scores, alive, die.astype(np.int64), mask, by_magnitude)
    except HasNaN:
        no_nan([scores], [alive], [name])
        raise
    return mask


def _rows_on_device(
    scores: Tensor,
    alive: Tensor | None,
    items: Tensor | None,
    number: Tensor,
    counting: str,
    name: str,
    by_magnitude: bool,
) -> Tensor:
    """The same on any device; the host waits for NaN, and for the counts if some are dead."""
    no_nan([scores], [alive], [name])
    pools, width = scores.shape
    home: Any = number.device if alive is None and items is None else scores.device
    live = torch.tensor(width, device=home) if alive is None else alive.sum(1)
    real = torch.tensor(width, device=home) if items is None else items.to(home)
    die = dying(counting, number.to(home), live, real, [name]).long()
    return _sorted.kill_lowest_in_rows(scores, alive, die.to(scores.device).expand(pools), by_magnitude)
