"""The laws of the one rule: how many die in each pool, and who.

`groups` is a groups value; `ranks` is the score that is ranked, a function of a tensor of scores.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import masklib as ml
from masklib.testing import _oracle as oracle
from masklib.testing._oracle import named
from masklib.testing.laws._compare import like, same
from masklib.testing.laws._methods import Method, Number

Ranks = Callable[[Tensor], Tensor]

# ---- what happened --------------------------------------------------------------------------------------------------


class Fate(NamedTuple):
    """An item that was alive: its label, its score, how many of its elements lived before and live after."""

    label: Any
    score: Any
    before: int
    after: int


def ranked(ranks: Ranks, scores: Any) -> Any:
    """Apply the score that a method promises to rank to each tensor, exactly.

    Integers are widened before; a magnitude is that of `masklib.scores`, which does not wrap at the least integer.

    >>> ranked(torch.abs, torch.tensor([-128], dtype=torch.int8))
    tensor([128], dtype=torch.uint64)
    """
    exact = ml.scores.magnitude if ranks in (torch.abs, abs) else ranks
    return like(scores, {n: exact(_widened(t.detach())) for n, t in named(scores).items()})


def _widened(scores: Tensor) -> Tensor:
    return scores if scores.is_floating_point() else scores.long()


def _shapes(scores: Any) -> dict[str, tuple[int, ...]]:
    return {n: tuple(t.shape) for n, t in named(scores).items()}


def _lists(values: Any) -> dict[str, list[Any]]:
    return {n: oracle.flat(t) for n, t in named(values).items()}


def _fates(got: Any, groups: Any, ranks: Ranks, s: Any, m: Any) -> Iterator[tuple[list[Fate], int]]:
    """Of each pool the items that were alive, in the order in which ties die, and how many items it has."""
    values, start, end = _lists(ranked(ranks, s)), _lists(ml.identity(s, m)), _lists(got)
    reduce = oracle.reduction(getattr(groups, "p", None), getattr(groups, "mean", False))
    for pool in oracle.pools(groups, _shapes(s)):
        live = oracle.living(pool, start)
        yield [_fate(item, places, values, end, reduce) for item, places in live.items()], len(pool)


def _fate(item: Any, live: list[tuple[str, int]], values: Any, end: Any, reduce: Any) -> Fate:
    return Fate(item, reduce([values[n][i] for n, i in live]), len(live), sum(end[n][i] for n, i in live))


def overlap(groups: Any, s: Any) -> bool:
    """Whether some element belongs to several items, as in a chain of coupled layers.

    >>> chain = coupled({"a": channels(0), "b": channels(1)}, {"b": channels(0)})
    >>> overlap(chain, {"a": torch.ones(2, 3), "b": torch.ones(4, 2)})
    True
    """
    return oracle.overlaps(oracle.pools(groups, _shapes(s)))


def possible(groups: Any, number: Number, s: Any, m: Any) -> bool:
    """Whether every pool has as many items as a number says.

    >>> possible(rows(), {"keep": 3}, torch.ones(2, 3), None), possible(rows(), {"keep": 4}, torch.ones(2, 3), None)
    (True, False)
    """
    alive = _lists(ml.identity(s, m))
    try:
        for pool in oracle.pools(groups, _shapes(s)):
            oracle.dying(len(oracle.living(pool, alive)), len(pool), **number)
    except oracle.Impossible:
        return False
    return True


# ---- laws of the one rule -------------------------------------------------------------------------------------------


def is_exact(method: Method, groups: Any, number: Number, s: Any, m: Any) -> None:
    """In each pool exactly as many live items die as the number says, under any ties.

    Where an element is in several items, one of them may die with others, so that more are dead.

    >>> is_exact(compute_mask, elements(), {"amount": 0.5}, torch.ones(2, 2), None)
    """
    more = overlap(groups, s)
    for fates, items in _fates(method(s, m, **number), groups, torch.zeros_like, s, m):
        died, asked = sum(not fate.after for fate in fates), oracle.dying(len(fates), items, **number)
        assert died >= asked if more else died == asked


def takes_items_whole(method: Method, groups: Any, number: Number, s: Any, m: Any) -> None:
    """All live elements of an item die, or none, unless other items have them too.

    >>> takes_items_whole(partial(compute_mask, groups=rows()), rows(), {"keep": 1}, torch.ones(2, 2), None)
    """
    if overlap(groups, s):
        return
    for fates, _ in _fates(method(s, m, **number), groups, torch.zeros_like, s, m):
        assert all(fate.after in (0, fate.before) for fate in fates)


def takes_the_lowest(method: Method, groups: Any, ranks: Ranks, number: Number, s: Any, m: Any) -> None:
    """In each pool no item that dies scores above one that survives.

    Of items that share elements nothing is said: what dies with others may score above.

    >>> takes_the_lowest(l1_unstructured, elements(), torch.abs, {"amount": 1}, torch.tensor([-2.0, 1.0]), None)
    """
    if overlap(groups, s):
        return
    norm = getattr(groups, "p", None) is not None
    for fates, _ in _fates(method(s, m, **number), groups, ranks, s, m):
        died = [fate.score for fate in fates if not fate.after]
        lived = [fate.score for fate in fates if fate.after]
        rounds = norm or any(fate.before > 1 for fate in fates)
        assert not died or not lived or _at_most(max(died), min(lived), rounds)


def _at_most(a: Any, b: Any, rounds: bool) -> bool:
    """a <= b, but for rounding of float64 where scores are added up."""
    return a <= b or (rounds and math.isclose(a, b, rel_tol=1e-12))


def takes_the_lower_index_of_equals(method: Method, groups: Any, ranks: Ranks, number: Number, s: Any, m: Any) -> None:
    """Among equal scores of a pool the lower index dies first; in a mapping, names in sorted order.

    It holds of norms whose sums are whole; where p is broken or below 0 they are rounded, and nothing is said.

    >>> takes_the_lower_index_of_equals(compute_mask, elements(), torch.abs, {"amount": 1}, torch.ones(2), None)
    """
    p = getattr(groups, "p", None) or 1
    if overlap(groups, s) or (not math.isinf(p) and (p < 0 or p % 1)):
        return
    for fates, _ in _fates(method(s, m, **number), groups, ranks, s, m):
        lives = {fate.score: False for fate in fates}
        for fate in fates:
            assert fate.after or not lives[fate.score]
            lives[fate.score] |= bool(fate.after)


def refuses_the_impossible(method: Method, groups: Any, number: Number, s: Any, m: Any) -> None:
    """method(s, m, number) raises ValueError if some pool has not as many items.

    >>> refuses_the_impossible(compute_mask, elements(), {"amount": 5}, torch.ones(2), None)
    """
    if not possible(groups, number, s, m):
        assert raises(partial(method, **number), s, m)


def refuses_nan(f: Method, s: Any, m: Any) -> None:
    """f(s, m) raises ValueError if a live score is NaN.

    >>> refuses_nan(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    tensors = named(s)
    alive = {n: mask & tensors[n].is_floating_point() for n, mask in named(ml.identity(s, m)).items()}
    everywhere = {n: _poison(t, alive[n]) for n, t in tensors.items()}
    once = [tensors | {n: _poison(t, _last(alive[n]))} for n, t in tensors.items() if alive[n].any()]
    for poisoned in (everywhere, *once) if once else ():
        assert raises(f, like(s, poisoned), m)


def _poison(scores: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, float("nan"), scores) if where.any() else scores


def _last(mask: Tensor) -> Tensor:
    """The mask of its last True alone."""
    flat = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
    flat[mask.reshape(-1).nonzero()[-1]] = True
    return flat.view(mask.shape)


def raises(f: Method, *arguments: Any) -> bool:
    """Whether a call raises ValueError.

    >>> raises(partial(l1_unstructured, amount=3), torch.ones(2)), raises(identity, torch.ones(2))
    (True, False)
    """
    try:
        f(*arguments)
    except ValueError:
        return True
    return False


def follows_the_rule(method: Method, groups: Any, number: Number, s: Any, m: Any, ranks: Ranks = operator.pos) -> None:
    """method(s, m, number) = the lowest live items of each pool die, the lower index first among equals.

    It is a ValueError if, and only if, some pool has not as many.

    >>> follows_the_rule(compute_mask, elements(), {"amount": 1}, torch.ones(2), None)
    """
    if not possible(groups, number, s, m):
        assert raises(partial(method, **number), s, m)
        return
    assert same(method(s, m, **number), oracle.compute_mask(ranked(ranks, s), m, groups, **number))


def keeps_the_least(method: Method, groups: Any, least: int, number: Number, s: Any, m: Any) -> None:
    """method(s, m, number, least) = the rule with the highest `least` items of each tensor or set left out of it.

    It is a ValueError if, and only if, so many cannot die then.

    >>> keeps_the_least(compute_mask, elements(), 1, {"amount": 1}, {"a": torch.ones(2), "b": torch.zeros(1)}, None)
    """
    try:
        expected = oracle.compute_mask(s, m, groups, least=least, **number)
    except oracle.Impossible:
        assert raises(partial(method, least=least, **number), s, m)
    else:
        assert same(method(s, m, least=least, **number), expected)


def looks_at_order_only(f: Method, s: Tensor, m: Any) -> None:
    """f(g(s), m) = f(s, m) for every g that increases strictly on the values present.

    >>> looks_at_order_only(partial(compute_mask, amount=1), torch.tensor([2.0, 1.0]), None)
    """
    place = {value: i for i, value in enumerate(sorted({x + 0 for x in oracle.flat(s)}))}
    ranks = [place[x] for x in oracle.flat(s)]
    increasing: tuple[Callable[[int], float], ...] = (lambda i: i - 5, lambda i: 2.0**i * 1e-20, lambda i: i / 1e300)
    for g in increasing:
        image = torch.tensor([g(i) for i in ranks], dtype=torch.float64).view(s.shape)
        assert same(f(image, m), f(s, m))


def counts_beyond_float32(method: Method, number: Number) -> None:
    """Of 2**24 + 3 elements exactly as many die as the number says, which float32 cannot count.

    >>> counts_beyond_float32(compute_mask, {"keep": 2**24 + 1})
    """
    s = torch.arange(2**24 + 3, dtype=torch.int32, device="cpu").remainder_(113).to(torch.int8)
    died = int((~method(s, None, **number)).sum())
    assert died == oracle.dying(s.numel(), s.numel(), **number)
