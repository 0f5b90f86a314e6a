"""Items over ranks: reduced where they lie, merged where the sharding cuts them.

An item that lies in one rank is scored there, as it would be in a tensor that is not sharded. Of one that is cut, each
rank sends its part of the sum or of the norm to one rank, which ranks it and sends its fate back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib._shards._grouped import Grouped
from masklib._shards._merge import merged
from masklib._shards._pool import Part, Piece
from masklib._shards._wire import Array, Wire
from masklib.selection._items import reduced
from masklib.selection._shards import Rows

Values = Callable[[Tensor], Tensor]  # from row numbers to scores
Fates = Sequence[tuple[Tensor, Tensor]]  # of each set's items, those owned and those of the replica


class Member(NamedTuple):
    """What a rank holds of one tensor of a set."""

    grouped: Grouped
    scores: Tensor
    alive: Tensor | None
    owns: bool


class ItemSet(NamedTuple):
    """A set of a plan, as far as it lies here: tensors whose i-th items are one item."""

    members: Sequence[Member]
    items: int  # of the whole, in all pools
    elements: int  # of an item
    plain: bool  # whether an item is one number, ranked as it is
    given: Values | None = None  # scores that are not those of the elements
    scored: Piece | None = None  # scores of items that are a tensor of their own: what this rank owns of it

    @property
    def apart(self) -> bool:
        """Whether scores come to where the items are merged, and are nowhere else."""
        return self.scored is not None


class _Here(NamedTuple):
    """A set's rows here: those that are whole, and of each member those that are cut."""

    whole: list[Tensor]  # of each member's rows, which are whole
    piece: Piece  # the whole ones
    cut: list[tuple[Array, Array, Array]]  # rows, how many elements live, partial scores


class Items:
    """The sets of a call whose items are not single elements in place."""

    def __init__(self, wire: Wire, sets: Sequence[ItemSet], p: float | None, mean: bool) -> None:
        self._wire, self._sets, self._p, self._mean = wire, sets, p, mean
        self._bases = list(accumulate((s.items for s in sets), initial=0))  # keys: the rows of all sets in a line
        self._here: list[_Here] = []

    def parts(self) -> list[Part]:
        """What this rank holds of the items of each set."""
        received = [message.reshape(3, -1) for message in self._wire.exchange(self._messages)]
        self._asked = [message[0] for message in received]
        keys, live, partial = np.concatenate(received, 1)
        self._keys, self._live, self._totals = merged(keys, live, partial.view(np.float64), self._p, self._mean)
        if any(s.apart for s in self._sets):
            self._exchange_scores()
        self._parts = [self._part(*each) for each in zip(self._sets, self._here, self._bases)]
        return self._parts

    def _messages(self) -> list[Array]:
        """Keys, live counts and partial scores for each rank."""
        self._here = [_here(s, self._p, self._mean) for s in self._sets]
        cut = [(base + k, n, x.view(np.int64)) for base, h in zip(self._bases, self._here) for k, n, x in h.cut]
        table = np.concatenate([np.empty((3, 0), np.int64), *map(np.stack, cut)], 1)
        self._to = table[0] * self._wire.size // max(self._bases[-1], 1)
        return [table[:, self._to == rank].reshape(-1) for rank in range(self._wire.size)]

    def _merged_rows(self, base: int, items: int) -> slice:
        first, last = np.searchsorted(self._keys, [base, base + items])
        return slice(int(first), int(last))

    def _part(self, one: ItemSet, here: _Here, base: int) -> Part:
        """The items that this rank owns, those whole here and those merged here, and those of a replica."""
        if one.plain and not one.apart:
            owns = one.members[0].owns
            none = Piece(here.piece.scores[:0], here.piece.alive[:0], Rows())  # type: ignore[index]
            return Part(here.piece, none, one.items) if owns else Part(none, here.piece, one.items)
        some = self._merged_rows(base, one.items)
        rows = self._keys[some] - base
        scores = torch.from_numpy(self._totals[some])
        if one.scored is not None:
            scores = self._scored(one.scored.scores.dtype, self._keys[some])
        elif one.given is not None:
            scores = one.given(torch.from_numpy(rows))
        here_too = Piece(scores, torch.from_numpy(self._live[some] > 0), Rows(rows))
        none = Piece(here.piece.scores[:0], here.piece.alive[:0], Rows())  # type: ignore[index]
        if all(m.owns for m in one.members):
            return Part(_beside(here.piece, here_too), none, one.items)
        return Part(_beside(none, here_too), here.piece, one.items)

    def _exchange_scores(self) -> None:
        """Bring scores of items to where these are merged."""
        keys, bits = np.empty(0, np.int64), np.empty(0, np.int64)
        for base, one in zip(self._bases, self._sets):
            if one.scored is not None:
                rows = one.scored.place.whole(np.arange(one.scored.scores.numel()))
                keys, bits = np.append(keys, base + rows), np.append(bits, _bits(one.scored.scores))
        to = keys * self._wire.size // max(self._bases[-1], 1)
        split = [[column[to == rank] for rank in range(self._wire.size)] for column in (keys, bits)]
        keys, bits = (np.concatenate(self._wire.exchange(lambda part=part: part)) for part in split)  # type: ignore[misc]
        order = keys.argsort()
        self._scored_keys, self._scored_bits = keys[order], bits[order]

    def _scored(self, dtype: torch.dtype, keys: Array) -> Tensor:
        bits = torch.from_numpy(self._scored_bits[np.searchsorted(self._scored_keys, keys)])
        if dtype.is_floating_point:
            return bits.view(torch.float64).to(dtype)
        return bits.view(dtype) if dtype == torch.uint64 else bits.to(dtype)

    def masks(self, fates: Fates) -> list[list[Tensor]]:
        """The masks of each set's members."""
        answers = self._wire.exchange(lambda: self._answers(fates))
        flat = np.empty(len(self._to), bool)
        for rank, answer in enumerate(answers):
            flat[self._to == rank] = answer
        cut = self._of_each(flat)
        return [
            [_mask(m, *each, next(cut)) for m, each in zip(one.members, _own(one, here, part, fate))]
            for one, here, part, fate in zip(self._sets, self._here, self._parts, fates)
        ]

    def _of_each(self, flat: Array) -> Iterator[Tensor]:
        """The answers for each member of each set, in order."""
        start = 0
        for here in self._here:
            for rows, _, _ in here.cut:
                yield torch.from_numpy(flat[start : start + rows.size])
                start += rows.size

    def _answers(self, fates: Fates) -> list[Array]:
        """The fates of the keys that each rank asked for."""
        kept = np.zeros(len(self._keys), bool)
        for one, base, part, (owned, _) in zip(self._sets, self._bases, self._parts, fates):
            some = self._merged_rows(base, one.items)
            kept[some] = owned.cpu().numpy()[_positions(part.owned, self._keys[some] - base)]
        return [kept[np.searchsorted(self._keys, asked)] for asked in self._asked]


def _bits(scores: Tensor) -> Array:
    """Scores as 64 bits, without loss."""
    flat = scores.reshape(-1).cpu()
    if flat.is_floating_point():
        return flat.double().view(torch.int64).numpy()
    return (flat.view(torch.int64) if flat.dtype == torch.uint64 else flat.to(torch.int64)).numpy()


def _positions(piece: Piece, rows: Array) -> Array:
    """Where rows stand among those of a piece."""
    return np.searchsorted(piece.place.whole(np.arange(piece.scores.numel())), rows)


def _beside(piece: Piece, other: Piece) -> Piece:
    """Items of two pieces in order of their rows."""
    if not (piece.scores.numel() and other.scores.numel()):
        return piece if piece.scores.numel() else other
    n, m = piece.scores.numel(), other.scores.numel()
    rows = np.concatenate([piece.place.whole(np.arange(n)), other.place.whole(np.arange(m))])
    order = torch.from_numpy(rows.argsort())
    home = piece.scores.device
    scores = torch.cat([piece.scores, other.scores.to(home, piece.scores.dtype)])[order.to(home)]
    alive = torch.cat([piece.alive, other.alive.to(home)])[order.to(home)]  # type: ignore[list-item, union-attr]
    return Piece(scores, alive, Rows(np.sort(rows)))


# ---- one set here ---------------------------------------------------------------------------------------------------


def _here(one: ItemSet, p: float | None, mean: bool) -> _Here:
    """Reduce what is here: a set of one tensor knows which of its items are whole, others are merged."""
    alone = len(one.members) == 1 and not one.apart
    whole = [(m.grouped.counts == one.elements) & alone for m in one.members]
    reduced_each = [_reduced(m, one, w, p, mean) for m, w in zip(one.members, whole)]
    (scores, live), rows = reduced_each[0], one.members[0].grouped.rows
    own = whole[0].to(scores.device)
    if one.given is not None and not one.apart:
        scores = one.given(rows).to(scores.device)
    piece = Piece(scores[own], live[own] > 0, Rows(rows[whole[0]].numpy()))
    return _Here(whole, piece, [_cut(m, w, *r) for m, w, r in zip(one.members, whole, reduced_each)])


def _cut(member: Member, whole: Tensor, scores: Tensor, live: Tensor) -> tuple[Array, Array, Array]:
    """The rows that are not whole; of a replica they count for nothing, and only ask for their fates."""
    cut = ~whole
    here = cut.to(scores.device)
    counts = live[here].cpu().numpy() * int(member.owns)
    return member.grouped.rows[cut].numpy(), counts, scores[here].double().cpu().numpy()


def _reduced(member: Member, one: ItemSet, whole: Tensor, p: float | None, mean: bool) -> tuple[Tensor, Tensor]:
    """The score of each row here, and how many of its elements live; the mean is that of whole rows alone."""
    home, count = member.scores.device, len(whole)
    live = torch.zeros(count, dtype=torch.int64, device=home)
    scores = torch.zeros(count, dtype=member.scores.dtype if one.plain else torch.float64, device=home)
    for which, matrix, alive in member.grouped.matrices(member.scores, member.alive):
        for some, by_count in ((whole[which], mean), (~whole[which], False)):
            if bool(some.any()):
                rows, here = which[some].to(home), slice(None) if bool(some.all()) else some.to(home)
                living = None if alive is None else alive[here]
                scores[rows], live[rows] = _scored(one, matrix[here], living, p, by_count)
    return scores, live


def _scored(one: ItemSet, matrix: Tensor, alive: Tensor | None, p: float | None, mean: bool) -> tuple[Tensor, Tensor]:
    if not one.plain and one.given is None:
        return reduced([matrix], [alive], p, mean)
    live = matrix.new_full(matrix.shape[:1], matrix.shape[1], dtype=torch.int64) if alive is None else alive.sum(1)
    return matrix[:, 0] if one.plain else live.double(), live


def _own(one: ItemSet, here: _Here, part: Part, fates: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Which rows of each member are whole, and their fates."""
    owned, replica = fates
    if all(m.owns for m in one.members):
        rows = here.piece.place.whole(np.arange(here.piece.scores.numel()))
        replica = owned[torch.from_numpy(_positions(part.owned, rows)).to(owned.device)]
    for whole in here.whole:
        yield whole, replica[: int(whole.sum())]  # all of them, or none where the set has several tensors


def _mask(member: Member, whole: Tensor, own: Tensor, cut: Tensor) -> Tensor:
    """The mask of a shard from the fates of its rows."""
    home = member.scores.device
    fates, here = torch.zeros(len(whole), dtype=torch.bool, device=home), whole.to(home)
    fates[here], fates[~here] = own.to(home), cut.to(home)
    shape = member.scores.shape if member.alive is None else member.alive.shape
    mask = member.grouped.spread(fates, shape)
    return mask if member.alive is None else mask & member.alive
