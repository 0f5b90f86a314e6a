"""From a call on DTensors to its masks: read and agreed on by all ranks, ranked where the shards lie.

Everything that one rank may find wrong is found before any rank waits for data of another.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masklib import _read, selection
from masklib._names import like, named
from masklib._shards import _layout
from masklib._shards._call import Call, first, read
from masklib._shards._grouped import grouped
from masklib._shards._items import Items, ItemSet, Member
from masklib._shards._pool import Part, Piece, lowest, part
from masklib._shards._pools import Pools, lowest_in_pools
from masklib._shards._refused import NaNs, refuse_unranked
from masklib._shards._whole import ranked_here, whole_sets
from masklib._shards._wire import Wire
from masklib.groups._folding import Folding
from masklib.groups._plan import Set
from masklib.selection._shards import Rows


def apply_rule(
    scores: Any,
    default_mask: Any,
    numbers: tuple[Any, Any, Any],
    groups: Any,
    *,
    by_magnitude: bool = False,
    least: Any = None,
    key: Any = None,
) -> Any:
    """Kill the lowest items of each pool; with a key, items by noise."""
    if torch.compiler.is_compiling():
        raise TypeError("DTensors cannot be pruned under torch.compile. Call masklib outside of the compiled function.")
    dynamo = sys.modules.get("torch._dynamo")  # which would compile what runs after a graph break, call by call
    run = _apply if dynamo is None else dynamo.disable(_apply)
    return run(scores, default_mask, numbers, groups, by_magnitude, least, key)


def _apply(scores: Any, default_mask: Any, numbers: Any, groups: Any, by_magnitude: bool, least: Any, key: Any) -> Any:
    wire = Wire(_mesh(scores, default_mask))
    call = wire.agree(
        lambda: read(scores, default_mask, numbers, groups, by_magnitude, least, key), lambda call: call.said
    )
    by_itself = getattr(groups, "rank_shards", None)
    if by_itself is None:
        masks = _masks(wire, call, key)
    else:
        masks = by_itself(wire, call.scores, call.alive, call.layouts, call.counting, call.number)
    references = named(scores if default_mask is None else default_mask)
    return like(scores, {n: _layout.like(masks[n], references[n]) for n in masks})


def _mesh(*arguments: Any) -> Any:
    """The mesh of the first DTensor; that there is one mesh alone is looked at together."""
    found = [t for a in arguments for t in named(a).values() if isinstance(t, Tensor) and _read.is_sharded(t)]
    mesh = found[0].device_mesh  # type: ignore[attr-defined]
    return _layout.mesh_of({"scores": {"": found[0]}}) if mesh.get_coordinate() is None else mesh


def _masks(wire: Wire, call: Call, key: Any) -> dict[str, Tensor]:
    """The local masks by name."""
    masks: dict[str, Tensor] = {}
    parts: dict[int, Part] = {}
    finished: dict[int, list[Tensor]] = {}
    own = [i for i, members in enumerate(call.sets) if first(members).pools is not None]
    whole = whole_sets(wire, call, own)
    for i, members in enumerate(call.sets):
        if i not in own and _lies_as_it_is(call, i):
            parts[i] = _part_of_elements(call, next(iter(members)))
    others = [i for i in range(len(call.sets)) if i not in whole and i not in parts]
    items = Items(wire, wire.agree(lambda: [_item_set(wire, call, i, key) for i in others]), call.p, call.mean)
    if others:
        parts.update(zip(others, items.parts()))
        refuse_unranked(wire, call, [i for i in others if not call.plain[i] and key is None], parts)
    fates = _fates(wire, call, own, parts, whole, finished)
    if others:
        finished.update(zip(others, items.masks([fates[i] for i in others])))
    for i, members in enumerate(call.sets):
        for name, mask in zip(members, finished.get(i) or [_only(fates[i], call, members)]):
            masks[name] = mask if name not in masks else masks[name] & mask
    return masks


def _lies_as_it_is(call: Call, i: int) -> bool:
    """Whether the entries of a tensor are the items of the pool, in order."""
    return call.plain[i] and first(call.sets[i]).into is None


def _part_of_elements(call: Call, name: str) -> Part:
    at = call.layouts[name]
    return part(Piece(call.scores[name], call.alive[name], at), at.owns, int(np.prod(at.shape, dtype=np.int64)))


def _only(fates: tuple[Tensor, Tensor], call: Call, members: Set) -> Tensor:
    """The mask of a tensor whose entries are the items."""
    (name,) = members
    return fates[0] if call.layouts[name].owns else fates[1]


def _item_set(wire: Wire, call: Call, i: int, key: Any) -> ItemSet:
    """A set as far as it lies here."""
    members, held = call.sets[i], []
    for name, each in members.items():
        own = call.own[i].get(name) if call.own is not None and i < len(call.own) else None
        at = call.layouts[name]
        scores = call.scores[name] if name not in call.given else _ones(call.alive[name])
        held.append(Member(grouped(each, own, at), scores, call.alive[name], at.owns))
    folding, name = first(members), next(iter(members))
    noise = None if key is None else partial(selection.noise_at, _read.key(key), name, selection.ITEMS)
    scored = _scored(call, name) if name in call.given else None
    return ItemSet(held, folding.rows, folding.elements, call.plain[i], noise, scored)


def _scored(call: Call, name: str) -> Piece:
    """The scores of items that this rank owns."""
    at, scores = call.given[name], call.scores[name]
    return Piece(scores, None, at) if at.owns else Piece(scores.new_empty(0), None, Rows())


def _ones(alive: Tensor | None) -> Tensor:
    assert alive is not None  # scores of items have a mask of the elements
    return torch.ones_like(alive)


def _fates(
    wire: Wire,
    call: Call,
    own: Sequence[int],
    parts: Mapping[int, Part],
    whole: Mapping[int, Folding | None],
    finished: dict[int, list[Tensor]],
) -> dict[int, tuple[Tensor, Tensor]]:
    """Which items stay, in the pool of all tensors and in the pools that sets have to themselves."""
    fates: dict[int, tuple[Tensor, Tensor]] = {}
    shared = [i for i in range(len(call.sets)) if i not in own]
    names = [next(iter(call.sets[i])) for i in shared]
    magnitude = bool(shared) and call.magnitude and call.plain[shared[0]]
    with NaNs(wire, call, names):
        found = lowest(wire, [parts[i] for i in shared], call.number, call.counting, names, magnitude, call.floors)
    fates.update(zip(shared, found))
    for i in own:
        if i in whole:
            finished[i] = [ranked_here(wire, call, i, whole[i])]
            continue
        folding, name = first(call.sets[i]), next(iter(call.sets[i]))
        pools = Pools(
            folding.pools or 0, folding.items, folding.padded, call.counting, call.number, name,
            call.magnitude and call.plain[i], call.plain[i],
        )  # fmt: skip
        with NaNs(wire, call, [name]):
            fates[i] = lowest_in_pools(wire, parts[i], pools)
    return fates
