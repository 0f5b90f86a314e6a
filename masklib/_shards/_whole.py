"""Pools of single elements that lie in one rank each: ranked there, as those of a tensor that is not sharded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from masklib import _rule, selection
from masklib._shards._call import Call
from masklib._shards._grouped import rows_of
from masklib._shards._layout import Layout, Runs
from masklib._shards._refused import NaNs
from masklib._shards._wire import Wire
from masklib.groups._folding import Folding


def whole_sets(wire: Wire, call: Call, sets: Sequence[int]) -> dict[int, Folding | None]:
    """The sets of which no pool is cut on any rank, and how this rank's shard folds; None if it is empty."""
    here: list[Folding | None] = []

    def are_whole() -> list[int]:
        here.extend(_folding_here(call, i) for i in sets)
        return [int(f is not None or _is_empty(call, i)) for i, f in zip(sets, here)]

    whole = [bool(flags.all()) for flags in wire.rows(are_whole, len(sets)).T] if sets else []
    return {i: f for i, f, flag in zip(sets, here, whole) if flag}


def ranked_here(wire: Wire, call: Call, i: int, own: Folding | None) -> Tensor:
    """The mask of a tensor whose pools are whole, each on one rank."""
    ((name, folding),) = call.sets[i].items()
    with NaNs(wire, call, [name]):
        return wire.agree(lambda: _ranked(call, name, folding, own))


def _folding_here(call: Call, i: int) -> Folding | None:
    name, folding = next(iter(call.sets[i].items()))
    own = call.own[i].get(name) if call.own is not None and i < len(call.own) else None
    return own_folding(folding, own, call.layouts[name]) if _is_plain(call, i) else None


def _is_plain(call: Call, i: int) -> bool:
    """Whether a set is one tensor, whose entries are ranked as they are."""
    return call.plain[i] and len(call.sets[i]) == 1


def _is_empty(call: Call, i: int) -> bool:
    return _is_plain(call, i) and not math.prod(call.layouts[next(iter(call.sets[i]))].sizes)


def own_folding(folding: Folding, own: Folding | None, at: Layout) -> Folding | None:
    """How a shard folds into pools of the whole, in their order; None if one is cut, or the shard is empty."""
    if not math.prod(at.sizes):
        return None
    if folding.sides is None or folding.part is None:
        return own if _are_those_of_the_whole(folding, own, at) else None
    cut = any(_is_cut(*each) for each in zip(folding.sides, at.shape, at.runs))
    return None if cut else folding.part(torch.Size(at.sizes))


def _is_cut(side: int, size: int, runs: Runs) -> bool:
    """Whether runs of indices along a dim end within a pool, whose sides follow one another from index 0 on."""
    return any(start % side or (stop % side and stop < size) for start, stop in runs)


def _are_those_of_the_whole(folding: Folding, own: Folding | None, at: Layout) -> bool:
    """The same of groups that do not say how their pools lie: by the row of each entry."""
    if own is None or own.padded or own.pools is None or own.items != folding.items or folding.padded:
        return False
    rows = own.matrix(rows_of(folding, at)).view(own.pools, own.items)
    first = rows[:, :1]
    return bool((first % folding.items == 0).all()) and bool(
        (rows - first == torch.arange(own.items, device="cpu")).all()
    )


def _ranked(call: Call, name: str, folding: Folding, own: Folding | None) -> Tensor:
    scores, alive, by_number = call.scores[name], call.alive[name], (call.counting, call.number)
    if not math.prod(call.layouts[name].shape):  # pools without items cannot meet every number
        empty = scores.new_empty(folding.pools or 0, folding.items)
        selection.lowest_in_rows(empty, None, None, call.number, call.counting, name, call.magnitude)
    if own is None:
        return torch.zeros_like(scores, dtype=torch.bool)
    return _rule.of_part(call.magnitude, by_number, {name: own}, {name: scores}, {name: alive})
