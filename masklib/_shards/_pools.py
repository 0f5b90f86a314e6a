"""Pools that a tensor has to itself, over ranks.

A pool that lies in one rank is ranked there, and nothing is sent. Of pools that are cut, each goes to one rank whole,
so that every rank has about as much as it had; where they are fewer than the ranks, the loop ranks one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib import selection
from masklib._shards._pool import Part, Piece, lowest
from masklib._shards._wire import Array, Wire
from masklib.selection._shards import Rows

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Pools(NamedTuple):
    """How a set's items compete: how many pools of how many items, counted how, by what number."""

    number_of: int
    items: int
    padded: bool
    counting: str
    number: int | float
    name: str
    by_magnitude: bool
    in_place: bool  # whether an item is a single element, which no rank merged


def lowest_in_pools(wire: Wire, part: Part, pools: Pools) -> tuple[Tensor, Tensor]:
    """The masks of the entries that a rank owns, and of those of a replica; rows are pool * items + item."""
    pieces = [_Sorted(piece, pools) for piece in (part.owned, part.replica)]
    masks = wire.agree(lambda: [piece.ranked_here() for piece in pieces])
    cut = wire.rows(lambda: [sum(int(piece.cut.sum()) for piece in pieces)], 1)
    if cut.any() and pools.number_of < wire.size:
        _one_by_one(wire, pieces, masks, pools)
    elif cut.any():
        _exchanged(wire, pieces, masks, pools)
    return masks[0], masks[1]


class _Sorted:
    """Entries in order of their rows, and which are in pools that are not whole here."""

    def __init__(self, piece: Piece, pools: Pools) -> None:
        self.piece, self.pools = piece, pools
        self.rows = piece.place.whole(np.arange(piece.scores.numel()))
        pool = self.rows // max(pools.items, 1)
        stops = np.append(np.flatnonzero(pool[1:] != pool[:-1]) + 1, pool.size)
        counts = np.diff(stops, prepend=0)
        self.cut = np.repeat((counts < pools.items) | (not pools.in_place), counts)

    def ranked_here(self) -> Tensor:
        """The mask of the entries, as yet without those of pools that are cut."""
        mask = torch.zeros(self.piece.scores.shape, dtype=torch.bool, device=self.piece.scores.device)
        whole = torch.from_numpy(np.flatnonzero(~self.cut)).to(mask.device)
        shape = -1, max(self.pools.items, 1)
        if len(whole):
            alive = None if self.piece.alive is None else self.piece.alive[whole].view(shape)
            mask[whole] = _in_rows(self.piece.scores[whole].view(shape), alive, None, self.pools).reshape(-1)
        return mask

    def among(self, which: Array) -> tuple[Tensor, Tensor | None]:
        """Scores and mask of some entries."""
        index = torch.from_numpy(which).to(self.piece.scores.device)
        return self.piece.scores[index], None if self.piece.alive is None else self.piece.alive[index]


def _in_rows(scores: Tensor, alive: Tensor | None, real: Tensor | None, pools: Pools) -> Tensor:
    return selection.lowest_in_rows(scores, alive, real, pools.number, pools.counting, pools.name, pools.by_magnitude)


# ---- few pools ------------------------------------------------------------------------------------------------------


def _one_by_one(wire: Wire, pieces: Sequence[_Sorted], masks: Sequence[Tensor], pools: Pools) -> None:
    """Rank each pool by the loop, over all ranks; one that is whole somewhere comes to the same again."""
    for pool in range(pools.number_of):
        first = pool * pools.items
        inside = [np.flatnonzero((s.rows >= first) & (s.rows < first + pools.items)) for s in pieces]
        parts = [Piece(*s.among(w), Rows(s.rows[w] - first)) for s, w in zip(pieces, inside)]
        part = Part(parts[0], parts[1], pools.items)
        (fates,) = lowest(wire, [part], pools.number, pools.counting, [pools.name], pools.by_magnitude)
        for mask, which, fate in zip(masks, inside, fates):
            mask[torch.from_numpy(which).to(mask.device)] = fate


# ---- many pools -----------------------------------------------------------------------------------------------------


def _exchanged(wire: Wire, pieces: Sequence[_Sorted], masks: Sequence[Tensor], pools: Pools) -> None:
    """Send each pool to one rank; a replica sends no scores and is told the fates alone."""
    to = [s.rows // pools.items * wire.size // pools.number_of for s in pieces]
    which = [[np.flatnonzero(s.cut & (t == rank)) for rank in range(wire.size)] for s, t in zip(pieces, to)]
    owned, replica = pieces
    rows = [_unpacked(runs) for runs in wire.exchange(lambda: [_packed(owned.rows[w]) for w in which[0]])]
    asked = [_unpacked(runs) for runs in wire.exchange(lambda: [_packed(replica.rows[w]) for w in which[1]])]
    scores = _tensors(wire, owned.piece.scores.dtype, lambda: [owned.among(w)[0] for w in which[0]])
    masked = owned.piece.alive is not None  # on all ranks or on none
    alive = wire.exchange(lambda: [_flags(owned.among(w)[1]) for w in which[0]]) if masked else []
    wanted = [np.concatenate([r, a]) for r, a in zip(rows, asked)]
    fates = wire.exchange(lambda: _ranked(rows, scores, alive, wanted, pools))
    for rank, answer in enumerate(fates):
        sizes = which[0][rank].size, which[1][rank].size
        own, same = np.split(np.unpackbits(answer, count=sum(sizes)).view(bool), [sizes[0]])
        for mask, index, fate in zip(masks, (which[0][rank], which[1][rank]), (own, same)):
            mask[torch.from_numpy(index).to(mask.device)] = torch.from_numpy(fate).to(mask.device)


def _tensors(wire: Wire, dtype: torch.dtype, work: Any) -> Tensor:
    """What each rank has for this one, one behind another, in a dtype that numpy may not have."""
    bits = _BITS[dtype.itemsize]
    parts = wire.exchange(lambda: [part.cpu().contiguous().view(bits).numpy() for part in work()])
    return torch.from_numpy(np.concatenate(parts)).view(dtype)


def _flags(alive: Tensor | None) -> Array:
    return np.empty(0, bool) if alive is None else alive.cpu().numpy()


def _packed(rows: Array) -> Array:
    """Rising rows as runs of neighbours, firsts and lengths: a shard of a matrix has one in each of its columns."""
    firsts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    return np.concatenate([rows[firsts], np.diff(np.append(firsts, rows.size))])


def _unpacked(runs: Array) -> Array:
    firsts, lengths = runs.reshape(2, -1)
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(firsts - before, lengths)


def _ranked(
    rows: Sequence[Array], scores: Tensor, alive: Sequence[Array], wanted: Sequence[Array], pools: Pools
) -> list[Array]:
    """The fates of what each rank wants to know, of pools that are whole here now; what none has is padding."""
    have = np.concatenate(rows)
    found = np.unique(have // pools.items)
    place = np.searchsorted(found, have // pools.items) * pools.items + have % pools.items
    index, size = torch.from_numpy(place), len(found) * pools.items
    matrix, live = scores.new_zeros(size), torch.zeros(size, dtype=torch.bool, device="cpu")
    matrix[index], live[index] = scores, torch.from_numpy(np.concatenate(alive)) if alive else True
    shape = len(found), pools.items
    real = torch.from_numpy(np.bincount(place // pools.items, minlength=len(found))) if pools.padded else None
    some = live.view(shape) if alive or not bool(live.all()) else None
    mask = _in_rows(matrix.view(shape), some, real, pools).reshape(-1).numpy()
    return [np.packbits(mask[np.searchsorted(found, w // pools.items) * pools.items + w % pools.items]) for w in wanted]
