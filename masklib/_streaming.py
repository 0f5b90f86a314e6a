"""The rule on tensors that are read in runs: their items part by part, their masks when they are read.

A part is a run of indices of the first dim that folds by itself, as `Folding.step` says; a tensor that no such cut
leaves whole is read whole. What goes wrong in a part is computed again on the whole, whose error tells of all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from masklib.groups._folding import Folding
from masklib.groups._plan import Set
from masklib.selection import REDUCED, Streamed
from masklib.selection._streamed import Memo, at_hand, rows_of

Values = Mapping[str, Any]
Reduce = Callable[[Set, Values, Values], Sequence[Tensor]]


def in_parts(members: Set, values: Values, alive: Values, reduce: Reduce) -> list[Tensor]:
    """`reduce(members, values, alive)`, which has an entry for each item, one part behind another."""
    name, folding = next(iter(members.items()))
    shape = _shape(values[name], alive[name])
    if len(members) > 1 or not folding.step or not shape.numel():
        return list(reduce(members, _here(values, members), _here(alive, members)))
    try:
        results = [
            reduce({name: _part(folding, shape, first, last)}, *_rows(name, values, alive, first, last, {}))
            for first, last in _spans(folding, shape)
        ]
    except ValueError:
        reduce(members, _here(values, members), _here(alive, members))
        raise
    return [torch.cat(part) for part in zip(*results)]


def own_pools(members: Set, values: Values, alive: Values, kill: Callable[[Set, Values, Values], Tensor]) -> Streamed:
    """The mask of a tensor with pools of its own, which `kill` makes of a part of it when it is read."""
    ((name, folding),) = members.items()
    shape = _shape(values[name], alive[name])

    def run(first: int, last: int, memo: Memo) -> Tensor:
        try:
            return kill({name: _part(folding, shape, first, last)}, *_rows(name, values, alive, first, last, memo))
        except ValueError:
            kill(members, _here(values, members), _here(alive, members))
            raise

    return _by_rows(folding, shape, run)


def unfolded(folding: Folding, kept: Tensor, scores: Tensor, alive: Tensor | None) -> Streamed:
    """The mask of the elements from that of the items, unfolded when it is read."""
    shape = _shape(scores, alive)
    fates = kept.reshape(folding.rows, 1)

    def run(first: int, last: int, memo: Memo) -> Tensor:
        part = _part(folding, shape, first, last)
        start = first // folding.step * _per_step(folding, shape) if folding.step else 0
        some = fates[start : start + part.rows].expand(part.rows, part.elements)
        mask = part.restore(some, (last - first, *shape[1:]))
        return mask if alive is None else mask & rows_of(alive, first, last, memo)

    return _by_rows(folding, shape, run)


# ---- parts ----------------------------------------------------------------------------------------------------------


def _by_rows(folding: Folding, shape: torch.Size, run: Callable[[int, int, Memo], Tensor]) -> Streamed:
    """A mask that is made of whole steps along the first dim, or all at once."""
    width = shape[1:].numel()

    def flat(start: int, stop: int, memo: Memo) -> Tensor:
        return run(start // width, stop // width, memo).reshape(-1)

    return Streamed(shape, torch.bool, flat, folding.step * width or shape.numel())


def _part(folding: Folding, shape: torch.Size, first: int, last: int) -> Folding:
    if folding.part is None or last - first == shape[0]:
        return folding
    return folding.part(torch.Size((last - first, *shape[1:])))


def _spans(folding: Folding, shape: torch.Size) -> Iterator[tuple[int, int]]:
    """Runs of steps, none with fewer items than are reduced at a time: so that sums round as those of the whole do."""
    elements = _per_step(folding, shape) * folding.elements
    length = folding.step * -(-REDUCED // elements)
    starts = [*range(0, max(shape[0] - length, 0) + 1, length)]
    yield from zip(starts, [*starts[1:], shape[0]])


def _per_step(folding: Folding, shape: torch.Size) -> int:
    """How many items a step along the first dim has."""
    return folding.rows // -(-shape[0] // folding.step)


def _rows(name: str, values: Values, alive: Values, first: int, last: int, memo: Memo) -> tuple[Values, Values]:
    live = alive[name]
    some = None if live is None else rows_of(live, first, last, memo)
    return {name: rows_of(values[name], first, last, memo)}, {name: some}


def _here(tensors: Values, names: Set) -> dict[str, Any]:
    return {n: at_hand(tensors[n]) for n in names}


def _shape(scores: Tensor, alive: Tensor | None) -> torch.Size:
    return scores.shape if alive is None else alive.shape
