"""Exact selection of the lowest k of one pool in torch operations, for tensors on any device.

The steps of `_engine`, a whole tensor at a time: bounds from a sample, one pass that collects what is between them, a
stable sort of the few. The host waits for counts (once a tensor, once an attempt) and for nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from masklib import _engine
from masklib._order import sortable_together


def kill_lowest(
    scores: Sequence[Tensor], alive: Sequence[Tensor | None], k: int, live: int, by_magnitude: bool
) -> list[Tensor]:
    """The masks in which the lowest k of the `live` live elements die.

    Raises:
        HasNaN: if a live value is NaN.
    """
    pool = _Pool(scores, alive, by_magnitude)
    sample = pool.sample(max(1, round(live ** (1 / 3) / 2)))
    share, sampled, widening = k / max(live, 1), sample.numel() * live / max(pool.elements, 1), 1
    while True:
        margin = widening * (_engine._SIGMAS * math.sqrt(sampled * share * (1 - share)) + _engine._SLACK)
        first, last = math.floor(sampled * share - margin), math.ceil(sampled * share + margin)
        whole = pool.elements <= _engine._DIRECT
        low = sample[first] if 0 <= first < sample.numel() and not whole else pool.lowest
        high = sample[last] if last < sampled and not whole else pool.highest
        masks = pool.attempt(low, high, k, live)
        if masks is not None:
            return masks
        widening *= _engine._WIDEN


class _Pool:
    """The tensors of one pool, read in one order of one dtype."""

    def __init__(self, scores: Sequence[Tensor], alive: Sequence[Tensor | None], by_magnitude: bool) -> None:
        self.scores, self.alive = scores, alive
        self.elements = sum(s.numel() for s in scores)
        self.read = sortable_together(scores, by_magnitude)
        self.dtype = self.read(scores[0].new_empty(0)).dtype
        floating, info = self.dtype.is_floating_point, torch.finfo if self.dtype.is_floating_point else torch.iinfo
        ends = (-math.inf, math.inf) if floating else (info(self.dtype).min, info(self.dtype).max)
        self.lowest, self.highest = (scores[0].new_tensor(end, dtype=self.dtype) for end in ends)

    def sample(self, stride: int) -> Tensor:
        """Some values, sorted; the dead count as highest."""
        parts = []
        for scores, alive in zip(self.scores, self.alive):
            part = self.read(scores.reshape(-1)[::stride]).to(self.highest.device)
            live = None if alive is None else alive.reshape(-1)[::stride].to(self.highest.device)
            parts.append(part if live is None else part.where(live, self.highest))
        return torch.cat(parts).sort().values

    def attempt(self, low: Tensor, high: Tensor, k: int, live: int) -> list[Tensor] | None:
        """The masks if the rank is between the bounds."""
        sides = [self._sides(s, a, low, high) for s, a in zip(self.scores, self.alive)]
        home = self.highest.device
        counts = torch.stack([side.count_nonzero().to(home) for pair in sides for side in pair]).tolist()
        kept, few = sum(counts[::2]), counts[1::2]
        wanted = k - (live - kept - sum(few))
        if not 0 <= wanted <= sum(few):
            return None
        between = torch.cat([self.read(s[near]).to(home) for s, (_, near) in zip(self.scores, sides)])
        if self.dtype.is_floating_point and between.isnan().any():
            raise _engine.HasNaN
        survives = torch.ones(len(between), dtype=torch.bool, device=home)
        survives[between.argsort(stable=True)[:wanted]] = False
        for (mask, near), part in zip(sides, survives.split(few)):
            mask.masked_scatter_(near, part.to(mask.device))
        return [mask.contiguous() for mask, _ in sides]

    def _sides(self, scores: Tensor, alive: Tensor | None, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Which are above the bounds, and which neither above nor below, NaN among them."""
        values = self.read(scores)
        above = values > high.to(values.device)
        near = ~(above | (values < low.to(values.device)))
        return (above, near) if alive is None else (above & alive, near & alive)
