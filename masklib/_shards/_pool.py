"""One pool over all ranks: what each holds of it, the loop over what all own, and floors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib._shards._wire import Array, Wire
from masklib.selection import _refusals
from masklib.selection._cut import Cut
from masklib.selection._device import Device
from masklib.selection._loop import cut_lowest
from masklib.selection._memory import Memory
from masklib.selection._numbers import dying_of_one
from masklib.selection._shards import Place, Rows, Shards, local_cut


class Piece(NamedTuple):
    """Some entries of a tensor, or of its items, and where they lie in it."""

    scores: Tensor
    alive: Tensor | None
    place: Place


class Part(NamedTuple):
    """What a rank holds of one tensor of a pool: what it counts, and what another rank counts too."""

    owned: Piece
    replica: Piece
    size: int  # of the whole tensor


def part(piece: Piece, owns: bool, size: int) -> Part:
    """What a rank holds, either as what it owns or as a replica."""
    none = Piece(piece.scores.new_empty(0), None if piece.alive is None else piece.alive.new_empty(0), Rows())
    return Part(piece, none, size) if owns else Part(none, piece, size)


Masks = list[tuple[Tensor, Tensor]]  # of what is owned and of the replica


def lowest(
    wire: Wire,
    parts: Sequence[Part],
    number: int | float,
    counting: str,
    names: Sequence[str],
    by_magnitude: bool,
    least: Sequence[int] = (),
) -> Masks:
    """Kill the lowest of one pool; see `selection.lowest`.

    Raises:
        HasNaN: if a live score is NaN.
    """
    how_many = partial(dying_of_one, counting, number, names=names)
    if any(least):
        return _above_floors(wire, parts, least, how_many, counting, names, by_magnitude)
    return _kill(wire, parts, how_many, by_magnitude) if parts else []


def no_nan(wire: Wire, pieces: Sequence[tuple[Tensor, Tensor | None]], names: Sequence[str]) -> None:
    """Refuse NaN in live entries of what each rank owns, counted over all ranks."""
    counts = wire.rows(lambda: [_refusals.count_nan(s, a) for s, a in pieces], len(pieces)).sum(0)
    _refusals.refuse_nan(dict(zip(names, map(int, counts))))


def _kill(wire: Wire, parts: Sequence[Part], how_many: Callable[[int, int], int], by_magnitude: bool) -> Masks:
    sizes, owned, replicas = [p.size for p in parts], [p.owned for p in parts], [p.replica for p in parts]
    pool = Shards(lambda: _source(owned, by_magnitude), _Places(owned, sizes), wire)
    cut = cut_lowest(pool, how_many(pool.live, pool.elements))
    return list(zip(pool.masks(cut), _by_cut(replicas, sizes, cut, by_magnitude)))


def _by_cut(pieces: Sequence[Piece], sizes: Sequence[int], cut: Cut, by_magnitude: bool) -> list[Tensor]:
    """The masks of what other ranks count, from the cut alone."""
    if not any(p.scores.numel() for p in pieces):
        return [torch.empty_like(p.scores, dtype=torch.bool) for p in pieces]
    masks: list[Tensor] = _source(pieces, by_magnitude).masks(local_cut(cut, _Places(pieces, sizes)))
    return masks


def _source(pieces: Sequence[Piece], by_magnitude: bool) -> Any:
    scores, alive = [p.scores for p in pieces], [p.alive for p in pieces]
    return (Memory if all(s.is_cpu for s in scores) else Device)(scores, alive, by_magnitude)


class _Places:
    """Tensors one behind another: those of this rank in their own order, in a pool of all of them."""

    def __init__(self, pieces: Sequence[Piece], sizes: Sequence[int]) -> None:
        self._pieces = pieces
        self._whole = list(accumulate(sizes, initial=0))
        self._local = list(accumulate((p.scores.numel() for p in pieces), initial=0))

    def whole(self, positions: Array) -> Array:
        """The pool's indices of elements of this rank."""
        found = np.empty(positions.size, np.int64)
        which = np.searchsorted(self._local, positions, "right") - 1
        for i in np.unique(which):
            inside = which == i
            found[inside] = self._whole[i] + self._pieces[i].place.whole(positions[inside] - self._local[i])
        return found

    def before(self, index: int) -> int:
        """How many elements of this rank come before an index of the pool."""
        i = int(np.searchsorted(self._whole, index, "right")) - 1
        if i >= len(self._pieces):
            return self._local[-1]
        return self._local[i] + self._pieces[i].place.before(index - self._whole[i])


# ---- floors ---------------------------------------------------------------------------------------------------------


def _above_floors(
    wire: Wire,
    parts: Sequence[Part],
    least: Sequence[int],
    how_many: Callable[[int, int], int],
    counting: str,
    names: Sequence[str],
    by_magnitude: bool,
) -> Masks:
    """Kill the lowest that the floors allow; see `selection._floors`."""
    live = _counts(wire, parts, [(p.owned.alive, None) for p in parts])
    die = how_many(sum(live), sum(p.size for p in parts))
    _refusals.floor_above_alive(least, live, names)
    _refusals.floors_too_high(counting, die, sum(live), least, names)
    masks = _kill(wire, parts, _exactly(die), by_magnitude)
    if all(count >= floor for count, floor in zip(_counts(wire, parts, masks), least)):
        return masks
    safe = [_kill(wire, [p], _exactly(n - floor), by_magnitude)[0] for p, n, floor in zip(parts, live, least)]
    others = [Part(_without(p.owned, own), _without(p.replica, same), p.size) for p, (own, same) in zip(parts, safe)]
    rest = _kill(wire, others, _exactly(die), by_magnitude)
    return [(a | kept_a, b | kept_b) for (a, b), (kept_a, kept_b) in zip(rest, safe)]


def _exactly(number: int) -> Callable[[int, int], int]:
    return lambda *_: number


def _without(piece: Piece, safe: Tensor) -> Piece:
    """The piece with what is safe out of the competition."""
    return piece._replace(alive=~safe if piece.alive is None else piece.alive & ~safe)


def _counts(wire: Wire, parts: Sequence[Part], masks: Sequence[tuple[Tensor | None, Any]]) -> list[int]:
    """How many of each tensor are True in what is owned, on all ranks; None is all."""

    def counted() -> list[int]:
        return [p.owned.scores.numel() if m is None else int(m.count_nonzero()) for p, (m, _) in zip(parts, masks)]

    return [int(n) for n in wire.rows(counted, len(parts)).sum(0)]
