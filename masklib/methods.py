"""The one rule, and the named methods made from it: `method(scores, default_mask, **params) -> mask`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from masklib import _read, groups, selection
from masklib._amounts import how_many
from masklib._hosts import apply_rule, kill_at_random
from masklib._names import TensorsT, like
from masklib._rule import items_of, kill, read, same_shapes
from masklib._shards._parts import each_part, on_part
from masklib.groups._plan import plan
from masklib.scores import random as random_scores


def compute_mask(
    scores: TensorsT,
    default_mask: TensorsT | None = None,
    *,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
    groups: Any = groups.elements(),
    least: Any = None,
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
            by name, which competes as one pool (`rows` and `windows` pools never span tensors). Scores of items, of
            shape (items,), are ranked as they are, by magnitude if the groups have a `p`; `default_mask` then has the
            shape of the elements.
        default_mask: bool, what is alive now, with the shapes and names of the scores; None for all.
        amount: how many items to take away from what is alive, per pool.
        keep: how many items may remain, per pool.
        sparsity: the share of items to be dead afterwards, per pool.
        groups: what forms an item and what a pool; one of the library's values, or one of your own with
            `fold(shape)` (see `Folding`).
        least: how many items of each tensor, or of each set of `coupled`, stay alive at least; an int, or ints by
            name. The total is as exact as without it: others die instead.

    Returns:
        The mask: bool, True = kept, with the scores' shape, device and names; a subset of `default_mask`, never
        sharing its memory.

    Raises:
        TypeError: if not exactly one number is given, or a dtype has no order.
        ValueError: if a live score is NaN, shapes or names disagree, a tensor does not fit the groups, or a pool
            cannot meet the number, or not together with `least`.
        IndexError: if the groups name a dim that the scores do not have.

    >>> compute_mask(torch.tensor([3.0, 1.0, 2.0, 4.0]), amount=0.5)
    tensor([ True, False, False,  True])
    >>> compute_mask(torch.tensor([[3.0, 1.0], [2.0, 4.0]]), keep=1, groups=rows())
    tensor([[ True, False],
            [False,  True]])
    >>> compute_mask({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, 2.0])}, amount=2, least=1)
    {'a': tensor([False,  True]), 'b': tensor([False,  True])}
    """
    return apply_rule(scores, default_mask, (amount, keep, sparsity), groups, least=least)


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
    values = _read.tensors(scores, "scores")
    alive = _read.default_masks(default_mask, scores)
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
    start = identity(scores, default_mask)
    allowed = _read.masks(mask, scores, "mask")
    return each_part(torch.logical_and, start, like(scores, allowed))


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
    return apply_rule(scores, default_mask, (amount, keep, sparsity), groups.elements(), by_magnitude=True)


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
    if _read.is_any_sharded(scores, default_mask):
        return kill_at_random(scores, default_mask, (amount, keep, sparsity), groups.elements(), key)
    values, _ = read(scores, default_mask)
    noise = random_scores(like(scores, values), key=key)
    return apply_rule(noise, default_mask, (amount, keep, sparsity), groups.elements())


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
    slices = groups.channels(dim, p=_read.order(n, "n"))
    return apply_rule(scores, default_mask, (amount, keep, sparsity), slices)


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
    if _read.is_any_sharded(scores, default_mask):
        return kill_at_random(scores, default_mask, (amount, keep, sparsity), groups.channels(dim), key)
    number, slices, seed = how_many(amount, keep, sparsity), groups.channels(dim), _read.key(key)
    values, alive = read(scores, default_mask)
    same_shapes(values, alive)
    sets = plan(slices, {n: v.shape for n, v in values.items()})
    items = []
    for members in sets:
        ((name, folding),) = members.items()
        (live,) = items_of(members, values, alive, _live_items)
        noise = selection.noise(seed, name, selection.ITEMS, [folding.items], live.device)
        items.append((noise, live, False))
    return like(scores, kill(sets, items, values, alive, number))


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
    return compute_mask(scores, default_mask, keep=keep, groups=groups.windows(of, dim))


def _live_items(members: Any, values: Any, alive: Any) -> tuple[Tensor]:
    """Which items of a tensor have a live element."""
    ((name, folding),) = members.items()
    return (folding.matrix(_start(values[name], alive[name])).any(1),)


def _start(scores: Tensor, alive: Tensor | None) -> Tensor:
    if alive is None:
        return on_part(lambda s: torch.ones_like(s, dtype=torch.bool), scores)
    return on_part(torch.clone, alive)
