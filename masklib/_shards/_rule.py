"""From a call on DTensors to its masks: read and agreed on by all ranks, ranked where the shards lie.

Everything that one rank may find wrong is found before any rank waits for data of another.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib import _read, _rule, selection
from masklib._amounts import how_many
from masklib._names import like, named
from masklib._shards import _layout
from masklib._shards._grouped import grouped, rows_of
from masklib._shards._items import Items, ItemSet, Member
from masklib._shards._layout import Layout
from masklib._shards._pool import Part, Piece, lowest, no_nan, part
from masklib._shards._pools import Pools, lowest_in_pools
from masklib._shards._wire import Wire, digest
from masklib.groups._elements import elements
from masklib.groups._folding import Folding
from masklib.groups._plan import Set, plan
from masklib.selection import _refusals
from masklib.selection._loop import HasNaN
from masklib.selection._shards import Rows


class Call(NamedTuple):
    """What a call asks for, read on this rank."""

    counting: str
    number: int | float
    sets: Sequence[Set]
    own: Sequence[Set] | None  # of the shards' own shapes, if they fold
    plain: Sequence[bool]
    floors: Sequence[int]
    p: float | None
    mean: bool
    magnitude: bool
    scores: Mapping[str, Tensor]  # local
    alive: Mapping[str, Tensor | None]
    layouts: Mapping[str, Layout]  # of the elements
    given: Mapping[str, Layout]  # of scores that are those of the items
    said: bytes  # what must be the same on all ranks


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
        lambda: _call(wire, scores, default_mask, numbers, groups, by_magnitude, least, key), lambda call: call.said
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


# ---- read -----------------------------------------------------------------------------------------------------------


def _call(
    wire: Wire, scores: Any, default_mask: Any, numbers: Any, groups: Any, by_magnitude: bool, least: Any, key: Any
) -> Call:
    """Read a call as this rank has it."""
    _rule.refuse_groups(groups)
    counting, number = how_many(*numbers)
    seed = None if key is None else _read.key(key)
    values, alive = _rule.read(scores, default_mask)
    mesh = _layout.mesh_of({"scores": values, "default_mask": {n: a for n, a in alive.items() if a is not None}})
    by_itself = getattr(groups, "rank_shards", None)
    if by_itself is None and getattr(groups, "rank", None) is not None:
        raise TypeError(
            f"`groups` that rank by themselves, as {type(groups).__name__} do, must have whole tensors, got a DTensor. "
            "Pass groups with `fold(shape)`, for example Folding.by_index, or .full_tensor() on every rank."
        )
    whole = {n: a if (a := alive[n]) is not None else v for n, v in values.items()}
    if by_itself is not None:
        _rule.refuse_floors(least, groups)
        _rule.same_shapes(values, alive)
    sets = plan(elements() if by_itself else groups, {n: t.shape for n, t in whole.items()})
    p, mean = _rule.norm_of(groups)
    magnitude = by_magnitude or p is not None
    if key is None:
        plain = _rule.plain_sets(sets, values, alive, p, magnitude)
    else:
        _rule.same_shapes(values, alive)
        plain = [_first(members).into is None for members in sets]
    by_item = {n: v for n, v in values.items() if v.shape != whole[n].shape}
    layouts = {n: _layout.layout(t, mesh, _read.place(n, "scores")) for n, t in whole.items()}
    local = {n: _ranked_by(n, v, plain_of(sets, plain, n), seed, layouts) for n, v in values.items()}
    masks = {n: None if a is None else _layout.local(a) for n, a in alive.items()}
    by_number = counting, number.item() if isinstance(number, Tensor) else number
    floors = _rule.floors_of(least, sets, groups)
    options = by_number, floors, p, mean, magnitude, plain, None if seed is None else int(seed), _shown_groups(groups)
    given = {n: _layout.layout(v, mesh, _read.place(n, "scores")) for n, v in by_item.items()}
    own, said = _own_sets(groups, layouts), _said(options, sets, values, alive)
    return Call(*by_number, sets, own, plain, floors, p, mean, magnitude, local, masks, layouts, given, said)


def _ranked_by(name: str, value: Tensor, plain: bool, seed: Tensor | None, layouts: Mapping[str, Layout]) -> Tensor:
    """What is here of what a tensor is ranked by: its numbers, or noise."""
    here = _layout.local(value)
    if plain and seed is not None:
        return selection.noise_at(seed, name, selection.ELEMENTS, layouts[name].flat()).to(here.device)
    return here.abs() if plain and here.is_complex() else here


def plain_of(sets: Sequence[Set], plain: Sequence[bool], name: str) -> bool:
    """Whether a tensor's numbers are ranked as they are."""
    return any(flag for members, flag in zip(sets, plain) if name in members)


def _own_sets(groups: Any, layouts: Mapping[str, Layout]) -> Sequence[Set] | None:
    """The plan of the shards' own shapes, which may not fit."""
    try:
        return plan(groups, {n: torch.Size(at.sizes) for n, at in layouts.items()})
    except Exception:  # of a value of the user's own, for a shape that it was never meant for
        return None


def _said(numbers: Any, sets: Sequence[Set], values: Any, alive: Any) -> bytes:
    """What all ranks must have in common, plain tensors to the bit."""
    folds = [[(n, f.pools, f.items, f.elements, f.padded) for n, f in s.items()] for s in sets]
    tensors = [(n, _shown(v), _shown(alive[n])) for n, v in sorted(values.items())]
    return repr((numbers, folds, tensors)).encode()


def _shown_groups(groups: Any) -> str:
    """The groups as text, if that is the same on all ranks: one of another module may show where it lies in memory."""
    ours = type(groups).__module__.startswith("masklib.") and not hasattr(groups, "rank_shards")
    return repr(groups) if ours else ""


def _shown(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    shown = tuple(tensor.shape), tensor.dtype
    if _read.is_sharded(tensor):
        return (*shown, tensor.placements)  # type: ignore[attr-defined]
    return (*shown, digest(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()))


# ---- rank -----------------------------------------------------------------------------------------------------------


def _masks(wire: Wire, call: Call, key: Any) -> dict[str, Tensor]:
    """The local masks by name."""
    masks: dict[str, Tensor] = {}
    parts: dict[int, Part] = {}
    finished: dict[int, list[Tensor]] = {}
    own = [i for i, members in enumerate(call.sets) if _first(members).pools is not None]
    for i in own:
        mask = _whole_pools(wire, call, i)
        if mask is not None:
            finished[i] = [mask]
    for i, members in enumerate(call.sets):
        if i not in own and _lies_as_it_is(call, i):
            parts[i] = _part_of_elements(call, next(iter(members)))
    others = [i for i in range(len(call.sets)) if i not in finished and i not in parts]
    items = Items(wire, wire.agree(lambda: [_item_set(wire, call, i, key) for i in others]), call.p, call.mean)
    if others:
        parts.update(zip(others, items.parts()))
        _refuse_unranked(wire, call, [i for i in others if not call.plain[i] and key is None], parts)
    fates = _fates(wire, call, own, parts, finished)
    if others:
        finished.update(zip(others, items.masks([fates[i] for i in others])))
    for i, members in enumerate(call.sets):
        for name, mask in zip(members, finished.get(i) or [_only(fates[i], call, members)]):
            masks[name] = mask if name not in masks else masks[name] & mask
    return masks


def _first(members: Set) -> Folding:
    return next(iter(members.values()))


def _lies_as_it_is(call: Call, i: int) -> bool:
    """Whether the entries of a tensor are the items of the pool, in order."""
    return call.plain[i] and _first(call.sets[i]).into is None


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
    for name, folding in members.items():
        own = call.own[i].get(name) if call.own is not None and i < len(call.own) else None
        at = call.layouts[name]
        scores = call.scores[name] if name not in call.given else _ones(call.alive[name])
        held.append(Member(grouped(folding, own, at), scores, call.alive[name], at.owns))
    first, name = _first(members), next(iter(members))
    noise = None if key is None else partial(selection.noise_at, _read.key(key), name, selection.ITEMS)
    scored = _scored(call, name) if name in call.given else None
    return ItemSet(held, first.rows, first.elements, call.plain[i], noise, scored)


def _scored(call: Call, name: str) -> Piece:
    """The scores of items that this rank owns."""
    at, scores = call.given[name], call.scores[name]
    return Piece(scores, None, at) if at.owns else Piece(scores.new_empty(0), None, Rows())


def _ones(alive: Tensor | None) -> Tensor:
    assert alive is not None  # scores of items have a mask of the elements
    return torch.ones_like(alive)


def _fates(
    wire: Wire, call: Call, own: Sequence[int], parts: Mapping[int, Part], finished: Mapping[int, Any]
) -> dict[int, tuple[Tensor, Tensor]]:
    """Which items stay, in the pool of all tensors and in the pools that sets have to themselves."""
    fates: dict[int, tuple[Tensor, Tensor]] = {}
    shared = [i for i in range(len(call.sets)) if i not in own]
    names = [next(iter(call.sets[i])) for i in shared]
    magnitude = bool(shared) and call.magnitude and call.plain[shared[0]]
    with _NaNs(wire, call, names):
        found = lowest(wire, [parts[i] for i in shared], call.number, call.counting, names, magnitude, call.floors)
    fates.update(zip(shared, found))
    for i in own:
        if i in finished:
            continue
        folding, name = _first(call.sets[i]), next(iter(call.sets[i]))
        pools = Pools(
            folding.pools or 0, folding.items, folding.padded, call.counting, call.number, name,
            call.magnitude and call.plain[i], call.plain[i],
        )  # fmt: skip
        with _NaNs(wire, call, [name]):
            fates[i] = lowest_in_pools(wire, parts[i], pools)
    return fates


def _whole_pools(wire: Wire, call: Call, i: int) -> Tensor | None:
    """The mask of a tensor whose pools of single elements are whole, each on one rank; None if one is cut."""
    members = call.sets[i]
    if len(members) > 1 or not call.plain[i]:
        return None
    ((name, folding),) = members.items()
    own = call.own[i].get(name) if call.own is not None and i < len(call.own) else None
    if not wire.rows(lambda: [int(_are_whole(folding, own, call.layouts[name]))], 1).all():
        return None
    with _NaNs(wire, call, [name]):
        return wire.agree(lambda: _ranked(call, name, folding, own))


def _are_whole(folding: Folding, own: Folding | None, at: Layout) -> bool:
    """Whether the pools of a shard's own shape are pools of the whole."""
    if not np.prod(at.sizes, dtype=np.int64):
        return True
    if own is None or own.padded or own.pools is None or own.items != folding.items or folding.padded:
        return False
    rows = own.matrix(rows_of(folding, at)).view(own.pools, own.items)
    first = rows[:, :1]
    return bool((first % folding.items == 0).all()) and bool((rows - first == torch.arange(own.items)).all())


def _ranked(call: Call, name: str, folding: Folding, own: Folding | None) -> Tensor:
    scores, alive, magnitude = call.scores[name], call.alive[name], call.magnitude
    if not np.prod(call.layouts[name].shape, dtype=np.int64):  # pools without items cannot meet every number
        empty = scores.new_empty(folding.pools or 0, folding.items)
        selection.lowest_in_rows(empty, None, None, call.number, call.counting, name, magnitude)
    if own is None or not scores.numel():
        return torch.zeros_like(scores, dtype=torch.bool)
    shape = own.pools or 0, own.items
    matrix, live = own.matrix(scores).view(shape), None if alive is None else own.matrix(alive).view(shape)
    kept = selection.lowest_in_rows(matrix, live, None, call.number, call.counting, name, magnitude)
    return own.restore(kept.reshape(-1, 1), scores.shape).contiguous()


# ---- what is refused ------------------------------------------------------------------------------------------------


class _NaNs:
    """Tell in which tensors the NaN are that a selection met."""

    def __init__(self, wire: Wire, call: Call, names: Sequence[str]) -> None:
        self._refuse = lambda: _refuse_nan(wire, call, names)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None and (issubclass(kind, HasNaN) or "NaN in scores" in str(error)):
            self._refuse()  # counted over all ranks


def _refuse_nan(wire: Wire, call: Call, names: Sequence[str]) -> None:
    no_nan(wire, [_owned(call, n) for n in names], names)


def _owned(call: Call, name: str) -> tuple[Tensor, Tensor | None]:
    """Scores and mask of a tensor, empty where another rank counts them."""
    at = call.given.get(name, call.layouts[name])
    scores, alive = call.scores[name], None if name in call.given else call.alive[name]
    return (scores, alive) if at.owns else (scores.new_empty(0), None)


def _refuse_unranked(wire: Wire, call: Call, reduced: Sequence[int], parts: Mapping[int, Part]) -> None:
    """Refuse items whose score is no number: NaN among their elements, or inf - inf."""
    if not reduced:
        return
    counts = wire.rows(lambda: [int(parts[i].owned.scores.isnan().sum()) for i in reduced], len(reduced)).sum(0)
    for i, count in zip(reduced, counts):
        if count or call.p == 0:
            names = list(call.sets[i])
            _refuse_nan(wire, call, names)
            _refusals.refuse_opposite_infinities(int(count), names)
