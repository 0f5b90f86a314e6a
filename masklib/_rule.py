"""From a call to its masks: planned from shapes, ranked by selection, unfolded again.

A set is what `groups._plan` makes of a groups value: tensors whose i-th items are one item. Most sets have one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from masklib import _read, _streaming, selection
from masklib._amounts import how_many
from masklib._names import like
from masklib.groups._folding import Folding
from masklib.groups._norm import norm
from masklib.groups._plan import Set, folded, is_groups, plan
from masklib.selection import at_hand, streamed

Values = Mapping[str, Tensor]
Alive = Mapping[str, Tensor | None]
HowMany = tuple[str, Any]
Items = tuple[Tensor, Tensor | None, bool]  # what a set's items are ranked by, which live, and whether by magnitude


def apply_rule(
    scores: Any,
    default_mask: Any,
    numbers: tuple[Any, Any, Any],
    groups: Any,
    *,
    by_magnitude: bool = False,
    least: Any = None,
) -> Any:
    """Kill the lowest items of each pool; the numbers are `amount`, `keep` and `sparsity`, one of which is given."""
    number = how_many(*numbers)
    refuse_groups(groups)
    if isinstance(scores, Tensor) and least is None:
        mask = _of_one(scores, default_mask, number, groups, by_magnitude)
        if mask is not None:
            return mask
    values, alive = read(scores, default_mask)
    own = getattr(groups, "rank", None)
    if own is not None:
        refuse_floors(least, groups)
        same_shapes(values, alive)
        return like(scores, own(*({n: at_hand(t) for n, t in ts.items()} for ts in (values, alive)), *number))
    shapes = {n: _shape(v, alive[n]) for n, v in values.items()}
    sets = plan(groups, shapes)
    items = _scored(sets, values, alive, *norm_of(groups), by_magnitude)
    return like(scores, kill(sets, items, values, alive, number, floors_of(least, sets, groups)))


def _of_one(scores: Tensor, default_mask: Any, how_many: HowMany, groups: Any, by_magnitude: bool) -> Tensor | None:
    """The mask of one tensor whose entries compete as they lie; None if there is more to plan.

    The general way without its lists and mappings, which take longer than ranking a thousand elements does.
    """
    _read.is_dense(scores, "", "scores")
    alive = None if default_mask is None else _read.masks_of_any_shape(default_mask, scores, "default_mask")[""]
    if alive is not None and alive.shape != scores.shape:
        return None  # scores of items, or a mask that does not fit
    folding = folded(groups, "", scores.shape) if hasattr(groups, "fold") else None
    if folding is None or folding.into is not None or folding.pools is not None or scores.dtype not in _read.RANKABLE:
        return None
    p, _ = norm_of(groups)
    if p == 0:
        return None
    magnitude = by_magnitude or p is not None
    return selection.lowest([scores.detach()], [alive], how_many[1], how_many[0], [""], magnitude)[0]


def norm_of(groups: Any) -> tuple[float | None, bool]:
    """How the groups score an item; a value of the user's own may say so too."""
    return norm(getattr(groups, "p", None), getattr(groups, "mean", False))


def read(scores: Any, default_mask: Any) -> tuple[dict[str, Tensor], Alive]:
    """Check scores and masks but for their shapes, and detach the scores."""
    values = _read.tensors(scores, "scores")
    alive: Alive = dict.fromkeys(values)
    if default_mask is not None:
        alive = _read.masks_of_any_shape(default_mask, scores, "default_mask")
    for name, tensor in values.items():
        if type(tensor) is Tensor:
            _read.is_not_batched(tensor, _read.place(name, "scores"))
    return {n: v.detach() for n, v in values.items()}, alive


def same_shapes(values: Values, alive: Alive) -> None:
    """Refuse masks that are not of the scores' shapes."""
    for name, mask in alive.items():
        if mask is not None:
            _read.same_shape(mask, values[name], _read.place(name, "default_mask"), _read.place(name, "scores"))


# ---- what items are ranked by ---------------------------------------------------------------------------------------


def _scored(
    sets: Sequence[Set], values: Values, alive: Alive, p: float | None, mean: bool, by_magnitude: bool
) -> list[Items]:
    """Scores of the items of each set, as they are if each is one number, else reduced in float64.

    Numbers as they are keep their dtype, so that integers beyond float64 rank exactly; one pool cannot hold both kinds.
    """
    magnitude = by_magnitude or p is not None
    plain = plain_sets(sets, values, alive, p, magnitude)
    return [
        _as_they_are(members, values, alive, magnitude) if flag else _reduced(members, values, alive, p, mean)
        for flag, members in zip(plain, sets)
    ]


def plain_sets(sets: Sequence[Set], values: Values, alive: Alive, p: float | None, magnitude: bool) -> list[bool]:
    """Which sets' items are ranked as they are; refuses shapes and dtypes that cannot be ranked."""
    _refuse_item_scores(sets, values, alive)
    plain = [p != 0 and _is_plain(members, values, alive) for members in sets]
    together = all(flag for flag, members in zip(plain, sets) if _pools(members) is None)
    plain = [flag and (together or _pools(members) is not None) for flag, members in zip(plain, sets)]
    _read.rankable_each(values, magnitude=magnitude)
    _read.rankable({n: values[n] for flag, s in zip(plain, sets) if flag and _pools(s) is None for n in s}, magnitude)
    return plain


def _pools(members: Set) -> int | None:
    return next(iter(members.values())).pools


def _is_plain(members: Set, values: Values, alive: Alive) -> bool:
    """Whether each item of a set is one number: a single element, or an item whose score is given."""
    name, folding = next(iter(members.items()))
    return len(members) == 1 and (folding.elements == 1 or values[name].shape != _shape(values[name], alive[name]))


def _as_they_are(members: Set, values: Values, alive: Alive, magnitude: bool) -> Items:
    ((name, folding),) = members.items()
    scores, live = values[name], alive[name]
    if scores.is_complex():
        scores = scores.abs()
    if folding.into is None or (folding.pools is not None and streamed((scores, live))):
        return scores, live, magnitude
    matrix, live = _matrix(folding, at_hand(scores), at_hand(live))
    return matrix[:, 0], None if live is None else live[:, 0], magnitude


def _reduced(members: Set, values: Values, alive: Alive, p: float | None, mean: bool) -> Items:
    def totals(members: Set, values: Values, alive: Alive) -> tuple[Tensor, Tensor]:
        pairs = [_matrix(folding, values[n], alive[n]) for n, folding in members.items()]
        return selection.item_scores([s for s, _ in pairs], [m for _, m in pairs], p, mean, list(members))

    scored, live = items_of(members, values, alive, totals)
    return scored, live, False


def items_of(members: Set, values: Values, alive: Alive, reduce: Any) -> Any:
    """`reduce(members, values, alive)`, whose results have an entry for each item."""
    if streamed([t for n in members for t in (values[n], alive[n])]):
        return _streaming.in_parts(members, values, alive, reduce)
    return reduce(members, values, alive)


def _matrix(folding: Folding, scores: Tensor, alive: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Scores as (items, elements) and which of them live; an item whose score is given is one element."""
    if alive is not None and scores.shape != alive.shape:
        return scores[:, None], folding.matrix(alive).any(1, keepdim=True)
    if folding.padded and alive is None:
        alive = torch.ones_like(scores, dtype=torch.bool)
    return folding.matrix(scores), None if alive is None else folding.matrix(alive)


# ---- who stays ------------------------------------------------------------------------------------------------------


def kill(
    sets: Sequence[Set],
    items: Sequence[Items],
    values: Values,
    alive: Alive,
    how_many: HowMany,
    floors: Sequence[int] = (),
) -> dict[str, Tensor]:
    """The masks of the elements in which the lowest items of each pool die."""
    kept = _survivors_of_all(sets, items, how_many, floors)
    masks: dict[str, Tensor] = {}
    for i, members in enumerate(sets):
        fates = kept[i] if i in kept else _survivors_of_own(members, items[i], values, alive, how_many)
        for name, folding in members.items():
            mask = _unfolded(folding, fates, values[name], alive[name], alone=len(members) == 1)
            masks[name] = mask if name not in masks else masks[name] & mask
    return masks


def _survivors_of_all(
    sets: Sequence[Set], items: Sequence[Items], how_many: HowMany, floors: Sequence[int]
) -> dict[int, Tensor]:
    """Which items stay in the one pool of all tensors, by the number of their set."""
    shared = [i for i, members in enumerate(sets) if _pools(members) is None]
    if not shared:
        return {}
    scores, live = [items[i][0] for i in shared], [items[i][1] for i in shared]
    names, magnitude = [next(iter(sets[i])) for i in shared], items[shared[0]][2]
    return dict(zip(shared, selection.lowest(scores, live, how_many[1], how_many[0], names, magnitude, floors)))


def _survivors_of_own(members: Set, items: Items, values: Values, alive: Alive, how_many: HowMany) -> Tensor:
    """Which items stay in the pools that a set has to itself."""
    name, folding = next(iter(members.items()))
    scores, live, magnitude = items
    if streamed((scores, live)):
        return _streaming.own_pools(members, {name: scores}, {name: live}, partial(of_part, magnitude, how_many))
    shape = folding.rows // max(folding.items, 1), folding.items
    real = None
    if folding.padded:
        whole = torch.ones(_shape(values[name], alive[name]), dtype=torch.bool, device=scores.device)
        real = folding.matrix(whole).any(1).view(shape).sum(1)
    pools = scores.reshape(shape), None if live is None else live.reshape(shape)
    return selection.lowest_in_rows(*pools, real, how_many[1], how_many[0], name, magnitude)


def of_part(magnitude: bool, how_many: HowMany, members: Set, values: Values, alive: Alive) -> Tensor:
    """The mask of a part of a tensor that has pools of single elements."""
    ((name, folding),) = members.items()
    items = _as_they_are(members, values, alive, magnitude)
    fates = _survivors_of_own(members, items, values, alive, how_many)
    return _unfolded(folding, fates, values[name], alive[name], alone=True)


def _unfolded(folding: Folding, kept: Tensor, scores: Tensor, alive: Tensor | None, alone: bool) -> Tensor:
    """The mask of the elements from that of the items, in memory of its own."""
    shape = _shape(scores, alive)
    if streamed((scores, alive)):
        return kept if streamed((kept,)) else _streaming.unfolded(folding, kept, scores, alive)
    if alone and folding.into is None and kept.shape == shape:
        return kept
    mask = folding.restore(kept.reshape(folding.rows, 1).expand(folding.rows, folding.elements), shape)
    single = folding.elements == 1
    each_once = single and alone and not folding.padded and folding.rows == shape.numel()
    if alive is not None and not each_once:
        return mask.to(scores.device) & alive  # a dead element may belong to an item that stays, or to none
    return (mask.contiguous() if single else mask.clone(memory_format=torch.contiguous_format)).to(scores.device)


def _shape(scores: Tensor, alive: Tensor | None) -> torch.Size:
    """The shape of the elements."""
    return scores.shape if alive is None else alive.shape


# ---- what is refused ------------------------------------------------------------------------------------------------


def refuse_groups(groups: Any) -> None:
    """Refuse what says nothing about items and pools."""
    if not is_groups(groups):
        raise TypeError(
            f"`groups` must be a groups value, with `fold(shape)`, got {groups!r}. "
            "For example groups=elements() or groups=rows(0)."
        )


def _refuse_item_scores(sets: Sequence[Set], values: Values, alive: Alive) -> None:
    """Refuse masks of other shapes than the scores', unless the scores are those of the items."""
    for members in sets:
        for name, folding in members.items():
            by_item = folding.into is not None and folding.pools is None and values[name].shape == (folding.items,)
            if not by_item:
                same_shapes({name: values[name]}, {name: alive[name]})


def floors_of(least: Any, sets: Sequence[Set], groups: Any) -> list[int]:
    """How many items each set of the pool of all tensors keeps at least; nothing for none."""
    if least is None:
        return []
    if any(_pools(members) is not None for members in sets):
        refuse_floors(least, groups)
    names = {name for members in sets for name in members}
    if isinstance(least, Mapping):
        _read.known_names(least, dict.fromkeys(names), "least", "scores")
        floors = {name: _floor(count, f"least[{name!r}]") for name, count in least.items()}
    else:
        floors = dict.fromkeys(names, _floor(least, "least"))
    return [max(floors.get(name, 0) for name in members) for members in sets]


def _floor(value: Any, argument: str) -> int:
    count = _read.integer(value, argument, "least=1")
    if not 0 <= count < 2**63:
        raise ValueError(f"`{argument}` must be at least 0, and no more than a tensor has, got {count}. For example 1.")
    return count


def refuse_floors(least: Any, groups: Any) -> None:
    """Refuse floors where the items of a tensor are not in one pool with those of others."""
    if least is not None:
        raise ValueError(
            "`least` counts items of tensors that compete in one pool, so that others die instead, "
            f"got least={least!r} with {groups!r}. In a pool of its own nothing can: the number alone says how many "
            "stay. Pass one that leaves as many, such as keep=2, or groups of one pool."
        )
