"""Floors: each tensor of a pool keeps at least so many of its live elements, and the pool loses as many as it would.

The highest `least` of each tensor are out of the competition; the lowest of the rest die.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from masklib.selection._refusals import floor_above_alive, floors_too_high

_Alive = Sequence[Tensor | None]
_Kill = Callable[[Sequence[Tensor], _Alive, int], list[Tensor]]


def above_floors(
    scores: Sequence[Tensor],
    alive: _Alive,
    least: Sequence[int],
    how_many: Callable[[int, int], int],
    counting: str,
    names: Sequence[str],
    kill: _Kill,
) -> list[Tensor]:
    """Kill the lowest that the floors allow, as many as `how_many` says; `kill` does it without floors."""
    live = [_count(s, a) for s, a in zip(scores, alive)]
    die = how_many(sum(live), sum(s.numel() for s in scores))
    floor_above_alive(least, live, names)
    floors_too_high(counting, die, sum(live), least, names)
    masks = kill(scores, alive, die)
    if all(int(mask.count_nonzero()) >= floor for mask, floor in zip(masks, least)):
        return masks  # had the highest been protected, the same would have died
    safe = [kill([s], [a], n - floor)[0] for s, a, n, floor in zip(scores, alive, live, least)]
    others = [~mask if a is None else a & ~mask for mask, a in zip(safe, alive)]
    return [mask.logical_or(kept) for mask, kept in zip(kill(scores, others, die), safe)]


def _count(scores: Tensor, alive: Tensor | None) -> int:
    return scores.numel() if alive is None else int(alive.count_nonzero())
