"""A call on DTensors as one rank reads it, and what of it must be the same on all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib import _read, _rule, selection
from masklib._amounts import how_many
from masklib._shards import _layout
from masklib._shards._layout import Layout
from masklib._shards._wire import digest
from masklib.groups._elements import elements
from masklib.groups._folding import Folding
from masklib.groups._plan import Set, plan


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


def read(scores: Any, default_mask: Any, numbers: Any, groups: Any, by_magnitude: bool, least: Any, key: Any) -> Call:
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
        plain = [first(members).into is None for members in sets]
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


def first(members: Set) -> Folding:
    """The folding of the first tensor of a set."""
    return next(iter(members.values()))


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
