"""The one rule, and the named methods made from it: `method(scores, default_mask, **params) -> mask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from masklib import _check, selection
from masklib import groups as _groups
from masklib._names import TensorsT, each, like, named
from masklib.groups import Blocks, Channels, Coupled, Elements, Groups, Heads, Labels, Member, Rows, Windows
from masklib.scores import random as random_scores

_POOLED, _ITEMIZED = (Rows, Windows), (Channels, Heads, Blocks, Coupled)
_ALL = (Elements, *_POOLED, *_ITEMIZED, Labels)
_HowMany = tuple[str, Tensor]


def compute_mask(
    scores: TensorsT,
    default_mask: TensorsT | None = None,
    *,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
    groups: Groups = _groups.elements(),
) -> TensorsT:
    """Kill the lowest-scoring live items of each pool: the one rule.

        dies(pool) = amount                                     an int: that many of the live items
                   | round(amount * alive)                      a float in [0, 1]: a share of the live items
                   | max(0, alive - keep)                       an int: what may remain
                   | max(0, round(sparsity * items) - dead)     a float in [0, 1]: the dead share of all items

    `round` goes to even at a half, in float64. Among equal scores the lower index dies first. Numbers may be Python or
    numpy numbers, or 0-d tensors (integer = items, floating = a fraction).

    Args:
        scores: importance of each element (higher = more important), a tensor of any shape or a mapping of tensors
            by name, which competes as one pool (`rows` and `windows` pools never span tensors).
        default_mask: bool, what is alive now, with the shapes and names of the scores; None for all.
        amount: how many items to take away from what is alive, per pool.
        keep: how many items may remain, per pool.
        sparsity: the share of items to be dead afterwards, per pool.
        groups: what forms an item and what a pool.

    Returns:
        The mask: bool, True = kept, with the scores' shape, device and names; a subset of `default_mask`, never
        sharing its memory.

    Raises:
        TypeError: if not exactly one number is given, or a dtype has no order.
        ValueError: if a live score is NaN, shapes or names disagree, or a pool cannot meet the number.
        IndexError: if the groups name a dim that the scores do not have.

    >>> compute_mask(torch.tensor([3.0, 1.0, 2.0, 4.0]), amount=0.5)
    tensor([ True, False, False,  True])
    >>> compute_mask(torch.tensor([[3.0, 1.0], [2.0, 4.0]]), keep=1, groups=rows())
    tensor([[ True, False],
            [False,  True]])
    """
    return _select(scores, default_mask, _check.how_many(amount, keep, sparsity), groups, by_magnitude=False)


def identity(scores: TensorsT, default_mask: TensorsT | None = None) -> TensorsT:
    """Kill nothing: `default_mask`, or all True.

    Args:
        scores: a tensor or a mapping by name; only names, shapes and devices are looked at.
        default_mask: bool, what is alive now; None for all.

    Returns:
        A new mask equal to `default_mask`.

    Raises:
        TypeError: if `default_mask` is not bool.
        ValueError: if shapes, devices or names disagree.

    >>> identity(torch.randn(3))
    tensor([True, True, True])
    """
    values, alive = _read(scores, default_mask)
    return like(scores, {n: _start(values[n], alive[n]) for n in values})


def custom_from_mask(scores: TensorsT, default_mask: TensorsT | None = None, *, mask: TensorsT) -> TensorsT:
    """Kill what a given mask kills: `default_mask & mask`.

    Args:
        scores: a tensor or a mapping by name; only names, shapes and devices are looked at.
        default_mask: bool, what is alive now; None for all.
        mask: bool, what may stay, with the shapes and names of the scores.

    Returns:
        A new mask, the intersection of both.

    Raises:
        TypeError: if a mask is not bool.
        ValueError: if shapes, devices or names disagree.

    >>> custom_from_mask(torch.randn(3), mask=torch.tensor([True, False, True]))
    tensor([ True, False,  True])
    """
    allowed = _check.masks(mask, scores, "mask")
    start = identity(scores, default_mask)
    return each(torch.logical_and, start, like(scores, allowed))


def l1_unstructured(
    scores: TensorsT,
    default_mask: TensorsT | None = None,
    *,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
) -> TensorsT:
    """Kill the elements of least magnitude.

        l1_unstructured(s, m, amount=a) = compute_mask(abs(s), m, amount=a)

    Args:
        scores: weights or scores, real or complex, a tensor or a mapping by name (one pool: global pruning).
        default_mask, amount, keep, sparsity: as for `compute_mask`.

    Returns:
        The mask, a subset of `default_mask`.

    Raises:
        TypeError, ValueError: as `compute_mask`.

    >>> l1_unstructured(torch.tensor([3.0, -1.0, 2.0, -4.0]), amount=2)
    tensor([ True, False, False,  True])

    Reference: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015.
    """
    how_many = _check.how_many(amount, keep, sparsity)
    return _select(scores, default_mask, how_many, _groups.elements(), by_magnitude=True)


def random_unstructured(
    scores: TensorsT,
    default_mask: TensorsT | None = None,
    *,
    key: Any,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
) -> TensorsT:
    """Kill elements at random.

        random_unstructured(s, m, key=k, amount=a) = compute_mask(scores.random(s, key=k), m, amount=a)

    Args:
        scores: a tensor or a mapping by name (one pool); only names, shapes and devices are looked at.
        default_mask, amount, keep, sparsity: as for `compute_mask`.
        key: a 64-bit int, Python or a 0-d int64 tensor: the same key gives the same mask on every device.

    Returns:
        The mask, a subset of `default_mask`.

    Raises:
        TypeError, ValueError: as `compute_mask`, and if `key` is not a 64-bit int.

    >>> random_unstructured(torch.zeros(6), key=0, amount=3)
    tensor([ True,  True, False, False, False,  True])
    """
    how_many = _check.how_many(amount, keep, sparsity)
    return _select(random_scores(scores, key=key), default_mask, how_many, _groups.elements(), by_magnitude=False)


def ln_structured(
    scores: TensorsT,
    default_mask: TensorsT | None = None,
    *,
    n: float,
    dim: int,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
) -> TensorsT:
    """Kill the slices along `dim` of least Ln norm.

        ln_structured(s, m, n=n, dim=d, amount=a) = compute_mask(s, m, amount=a, groups=channels(d, p=n))

    The norm is over the live entries of the slice, in float64.

    Args:
        scores: weights or scores, real or complex, a tensor or a mapping by name (slices of all compete).
        default_mask, amount, keep, sparsity: as for `compute_mask`, counted in slices.
        n: the order of the norm, any number, inf and -inf included.
        dim: the dim whose indices are the slices; 0 is the output channels of a Linear or Conv weight.

    Returns:
        The mask, a subset of `default_mask`.

    Raises:
        TypeError, ValueError, IndexError: as `compute_mask`.

    >>> ln_structured(torch.tensor([[3.0, -1.0], [1.0, 1.0]]), n=2, dim=0, amount=1)
    tensor([[ True,  True],
            [False, False]])

    Reference: Li et al., "Pruning Filters for Efficient ConvNets", 2017.
    """
    how_many = _check.how_many(amount, keep, sparsity)
    return _select(scores, default_mask, how_many, _groups.channels(dim, p=_check.order(n, "n")), by_magnitude=False)


def random_structured(
    scores: TensorsT,
    default_mask: TensorsT | None = None,
    *,
    dim: int,
    key: Any,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
) -> TensorsT:
    """Kill slices along `dim` at random.

    Args:
        scores: a tensor or a mapping by name (slices of all compete); only names, shapes and devices are looked at.
        default_mask, amount, keep, sparsity: as for `compute_mask`, counted in slices.
        dim: the dim whose indices are the slices.
        key: a 64-bit int, Python or a 0-d int64 tensor.

    Returns:
        The mask, a subset of `default_mask`.

    Raises:
        TypeError, ValueError, IndexError: as `compute_mask`, and if `key` is not a 64-bit int.

    >>> random_structured(torch.zeros(3, 2), dim=0, key=0, amount=1)
    tensor([[False, False],
            [ True,  True],
            [ True,  True]])
    """
    how_many, groups, seed = _check.how_many(amount, keep, sparsity), _groups.channels(dim), _check.key(key)
    values, alive = _read(scores, default_mask)
    items = {n: _random_items(values[n], alive[n], groups, seed, n) for n in values}
    return like(scores, _kill_items(values, alive, _sets(groups, scores), items, how_many))


def n_of_m(
    scores: TensorsT,
    default_mask: TensorsT | None = None,
    *,
    keep: Any,
    of: int,
    dim: int = -1,
) -> TensorsT:
    """Keep the `keep` highest scores of each run of `of` along `dim`: N:M sparsity.

        n_of_m(s, m, keep=n, of=m) = compute_mask(s, m, keep=n, groups=windows(m))

    Scores are ranked as given: pass `scores.magnitude(weight)` for magnitudes.

    Args:
        scores: a tensor or a mapping by name; (out, in) for a Linear weight.
        default_mask: bool, what is alive now; None for all.
        keep: how many elements may remain in each window, at most `of`.
        of: the length of a window, which must divide the length of the dim.
        dim: the dim along which windows run; -1 is in_features, 1 the input channels of a convolution.

    Returns:
        The mask, a subset of `default_mask`, with at most `keep` True in each window.

    Raises:
        TypeError, ValueError, IndexError: as `compute_mask`.

    >>> n_of_m(torch.tensor([[4.0, 1.0, 3.0, 2.0]]), keep=2, of=4)
    tensor([[ True, False,  True, False]])

    Reference: Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", 2021.
    """
    return compute_mask(scores, default_mask, keep=keep, groups=_groups.windows(of, dim))


# ---- from groups to selection ---------------------------------------------------------------------------------------


def _select(scores: Any, default_mask: Any, how_many: _HowMany, groups: Groups, *, by_magnitude: bool) -> Any:
    _check.group_value(groups, _ALL)
    values, alive = _read(scores, default_mask)
    if isinstance(groups, _POOLED):
        _check.rankable_each(values)
        masks = {n: _kill_rows(values[n], alive[n], how_many, groups, n) for n in values}
    elif isinstance(groups, _ITEMIZED):
        _check.rankable_each(values, magnitude=groups.p is not None)
        sets = _sets(groups, scores)
        items = {n: _score_items(values, alive, sets[n], groups.p, groups.mean) for n in sets}
        masks = _kill_items(values, alive, sets, items, how_many)
    else:
        _check.rankable(values, by_magnitude)
        masks = _kill_lowest(values, alive, how_many, groups, by_magnitude)
    return like(scores, masks)


def _read(scores: Any, default_mask: Any) -> tuple[dict[str, Tensor], Mapping[str, Tensor | None]]:
    """Check scores and `default_mask`, and detach the scores."""
    values = _check.tensors(scores, "scores")
    alive = _check.default_masks(default_mask, scores)
    return {n: v.detach() for n, v in values.items()}, alive


def _start(scores: Tensor, alive: Tensor | None) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool) if alive is None else alive.clone()


def _kill_lowest(
    values: Mapping[str, Tensor],
    alive: Mapping[str, Tensor | None],
    how_many: _HowMany,
    groups: Elements | Labels,
    by_magnitude: bool = False,
) -> dict[str, Tensor]:
    """One pool over all the names, in sorted order."""
    names = sorted(values)
    counting, number = how_many
    tensors = [v.abs() if v.is_complex() else v for v in (values[n] for n in names)]
    masks = [alive[n] for n in names]
    if isinstance(groups, Labels):
        items, pools = (_labels(part, values, argument) for part, argument in zip(groups, ("items", "pools")))
        return dict(zip(names, selection.lowest_labelled(tensors, masks, items, pools, number, counting, names)))
    return dict(zip(names, selection.lowest(tensors, masks, number, counting, names, by_magnitude)))


def _labels(labels: Any, values: Mapping[str, Tensor], argument: str) -> Sequence[Tensor]:
    """The label tensors in the order of sorted names; none at all for None."""
    if labels is None:
        return []
    entries = _check.labels_like(labels, values, argument)
    return [entries[n] for n in sorted(values)]


def _kill_rows(scores: Tensor, alive: Tensor | None, how_many: _HowMany, groups: Rows | Windows, name: str) -> Tensor:
    where = _check.place(name, "scores")
    counting, number = how_many
    matrix, live = groups.matrix(scores, where), None if alive is None else groups.matrix(alive, where)
    mask = selection.lowest_in_rows(matrix, live, None, number, counting, name, False)
    return groups.restore(mask, scores.shape).contiguous()


_Items = tuple[Tensor, Tensor]  # (items,) scores and (items,) bool: which are alive
_Set = Mapping[str, Member]  # by name, in sorted order: groups with as many items each, the i-th of which are one


def _sets(groups: Channels | Heads | Blocks | Coupled, scores: Any) -> dict[str, _Set]:
    """The sets of items by least name; each name is one, unless names are coupled."""
    if not isinstance(groups, Coupled):
        return {n: {n: groups} for n in named(scores)}
    _check.coupled_scores(groups, scores)
    return {members[0][0]: dict(members) for members in groups.sets}


def _score_items(
    values: Mapping[str, Tensor], alive: Mapping[str, Tensor | None], members: _Set, p: float | None, mean: bool
) -> _Items:
    matrices = [_matrix(values[n], groups, n) for n, groups in members.items()]
    _check.same_items([matrix.shape[0] for matrix in matrices], members)
    live = [_matrix(alive[n], groups, n) for n, groups in members.items()]
    return selection.item_scores(matrices, live, p, mean, list(members))


def _matrix(tensor: Any, groups: Member, name: str) -> Any:
    """Scores or masks as (items, elements); None stays None."""
    return None if tensor is None else groups.matrix(tensor, _check.place(name, "scores"))


def _random_items(scores: Tensor, alive: Tensor | None, groups: Channels, key: Tensor, name: str) -> _Items:
    live = groups.matrix(_start(scores, alive), _check.place(name, "scores")).any(1)
    return selection.noise(key, name, selection.ITEMS, list(live.shape), scores.device), live


def _kill_items(
    values: Mapping[str, Tensor],
    alive: Mapping[str, Tensor | None],
    sets: Mapping[str, _Set],
    items: Mapping[str, _Items],
    how_many: _HowMany,
) -> dict[str, Tensor]:
    """One pool of items over all the sets; each item's fate is its elements'."""
    scores, live = ({n: item[part] for n, item in items.items()} for part in (0, 1))
    kept = _kill_lowest(scores, live, how_many, _groups.elements())
    members = ((kept[least], n, groups) for least, members in sets.items() for n, groups in members.items())
    return {n: _spread(survivors, values[n], alive[n], groups) for survivors, n, groups in members}


def _spread(kept: Tensor, scores: Tensor, alive: Tensor | None, groups: Member) -> Tensor:
    """The mask of the elements from the mask of the items."""
    items = kept.shape[0]
    width = scores.numel() // items if items else 0
    mask = groups.restore(kept[:, None].to(scores.device).expand(items, width), scores.shape)
    return mask.clone(memory_format=torch.contiguous_format) if alive is None else mask & alive
