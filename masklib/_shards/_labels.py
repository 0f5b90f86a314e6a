"""Items and pools by integer label, over ranks: parts of items are added up on one rank, pools are ranked on one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib import _read
from masklib._shards._grouped import Grouped, by_sorting
from masklib._shards._items import Items, ItemSet, Member
from masklib._shards._layout import Layout, layout, local
from masklib._shards._pool import Part, lowest, no_nan
from masklib._shards._wire import Array, Wire, digest
from masklib.selection import _refusals, as_tensor
from masklib.selection._labels import by_pool
from masklib.selection._refusals import constant_pools

_FARTHEST = 2**53  # how far apart labels may be: then all of them are exact in float64


class Held(NamedTuple):
    """What a rank holds of one tensor."""

    scores: Tensor
    alive: Tensor | None
    items: Tensor
    pools: Tensor | None
    owns: bool


def label_part(label: Tensor, at: Layout, where: str) -> Tensor:
    """The labels of a shard, of a DTensor that lies as the scores do or of a plain tensor that all ranks have."""
    if _read.is_sharded(label) and layout(label, label.device_mesh, where)[:2] != at[:2]:  # type: ignore[attr-defined]
        raise ValueError(f"{where} must be sharded as the scores are, or a plain tensor. Pass .redistribute(...).")
    part = local(label) if _read.is_sharded(label) else label.cpu().reshape(-1)[at.flat()]
    return part.long().cpu()


def said(labels: Sequence[Tensor]) -> bytes:
    """What all ranks must have in common of plain labels."""
    plain = [t for t in labels if not _read.is_sharded(t)]
    return repr([digest(t.cpu().contiguous().numpy().tobytes()) for t in plain]).encode()


def rank(wire: Wire, parts: Mapping[str, Held], counting: str, number: int | float) -> dict[str, Tensor]:
    """Kill the lowest items of each pool; see `selection.lowest_labelled`."""
    names = sorted(parts)
    held = [parts[n] for n in names]
    items, count = _shifted(wire, [p.items for p in held])
    grouped = [by_sorting(item) for item in items]
    scored = _Scored(wire, grouped, held, count)
    (part,) = scored.parts([p.scores.double() for p in held], [p.alive for p in held], None)
    _refuse_unranked(wire, part, held, names)
    if held[0].pools is None:
        fates = lowest(wire, [part], number, counting, names, False)
    else:
        pools, pool_count = _shifted(wire, [p.pools for p in held if p.pools is not None])
        ends = [scored.parts([pool.double() for pool in pools], [None] * len(held), p)[0] for p in (np.inf, -np.inf)]
        pool = wire.agree(lambda: _one_pool(*(end.owned.scores for end in ends)))
        fates = [(_ranked_by_pool(wire, part, pool, pool_count, counting, number, names), part.replica.scores > 0)]
        scored.parts([p.scores.double() for p in held], [p.alive for p in held], None)  # whose fates these are
    return dict(zip(names, scored.masks(fates)))


class _Scored:
    """Items that may lie anywhere, scored by several numbers of their elements."""

    def __init__(self, wire: Wire, grouped: Sequence[Grouped], held: Sequence[Held], count: int) -> None:
        self._wire, self._grouped, self._held, self._count = wire, grouped, held, count

    def parts(self, numbers: Sequence[Tensor], alive: Sequence[Tensor | None], p: float | None) -> list[Part]:
        """The sums, or the largest or smallest, of the items merged here."""
        members = [Member(g, n, a, h.owns) for g, n, a, h in zip(self._grouped, numbers, alive, self._held)]
        self._items = Items(self._wire, [ItemSet(members, self._count, -1, False)], p, False)  # -1: none is known whole
        return self._items.parts()

    def masks(self, fates: Any) -> list[Tensor]:
        """The masks of the tensors."""
        return self._items.masks(fates)[0]


def _shifted(wire: Wire, labels: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """Labels from 0 on, and one more than the largest."""

    def ends() -> list[int]:
        some = [t for t in labels if t.numel()]
        return [min(int(t.min()) for t in some), max(int(t.max()) for t in some), 1] if some else [0, 0, 0]

    table = wire.rows(ends, 3)
    table = table[table[:, 2] > 0]
    if not len(table):
        return list(labels), 0
    least, most = int(table[:, 0].min()), int(table[:, 1].max())
    if most - least >= _FARTHEST // wire.size:
        raise ValueError(
            f"labels of DTensors must be within {_FARTHEST // wire.size} of one another, got {least} to {most}. "
            "Number them, for example by labels.unique(return_inverse=True)[1]."
        )
    return [t - least for t in labels], most - least + 1


def _refuse_unranked(wire: Wire, part: Part, held: Sequence[Held], names: Sequence[str]) -> None:
    count = int(wire.rows(lambda: [int(part.owned.scores.isnan().sum())], 1).sum())
    if count:
        no_nan(wire, [(h.scores, h.alive) if h.owns else (h.scores.new_empty(0), None) for h in held], names)
        _refusals.refuse_opposite_infinities(count, [])


def _one_pool(most: Tensor, least: Tensor) -> Array:
    """The pool of each item, in which all its elements are."""
    constant_pools(most == least)
    return most.long().numpy()


def _ranked_by_pool(
    wire: Wire, part: Part, pool: Array, pools: int, counting: str, number: int | float, names: Sequence[str]
) -> Tensor:
    """The fates of items, each pool ranked on one rank."""
    rows, alive = part.owned.place.whole(np.arange(pool.size)), part.owned.alive
    assert alive is not None
    table = np.stack([pool, rows, part.owned.scores.double().numpy().view(np.int64), alive.long().numpy()])
    to = pool * wire.size // max(pools, 1)
    found = [t.reshape(4, -1) for t in wire.exchange(lambda: [table[:, to == r].reshape(-1) for r in range(wire.size)])]
    answers = wire.exchange(_answers(found, counting, number, names))
    fates = np.empty(pool.size, bool)
    for rank, answer in enumerate(answers):
        fates[to == rank] = answer
    return torch.from_numpy(fates)


def _answers(
    found: Sequence[Array], counting: str, number: int | float, names: Sequence[str]
) -> Callable[[], list[Array]]:
    def answers() -> list[Array]:
        table = np.concatenate(found, 1)
        order = table[1].argsort()
        pool, _, bits, alive = (torch.from_numpy(column[order]) for column in table)
        dense = pool.unique(return_inverse=True)[1]
        kept = np.empty(order.size, bool)
        kept[order] = by_pool(bits.view(torch.float64), alive > 0, dense, as_tensor(number), counting, names).numpy()
        return np.split(kept, np.cumsum([f.shape[1] for f in found])[:-1])

    return answers
