"""The laws of the one rule: how many die in each pool, and who; of groups, and of the labels that say the same.

`groups` is a groups value, `ranks` what is ranked of one score, a Python number.
"""

from __future__ import annotations

import copy
import math
import pickle
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

Ranks = Callable[[Any], Any]

# ---- what happened --------------------------------------------------------------------------------------------------


class Fate(NamedTuple):
    """An item that was alive: its label, its score, how many of its elements lived before and live after."""

    label: Any
    score: Any
    before: int
    after: int


def _shapes(scores: Any) -> dict[str, tuple[int, ...]]:
    return {n: tuple(t.shape) for n, t in named(scores).items()}


def _fates(got: Any, groups: Any, ranks: Ranks, s: Any, m: Any) -> Iterator[tuple[list[Fate], int]]:
    """Of each pool the items that were alive, by label, and how many items it has."""
    values = {n: [ranks(x) for x in oracle.flat(t)] for n, t in named(s).items()}
    start, end = ({n: oracle.flat(t) for n, t in named(v).items()} for v in (ml.identity(s, m), got))
    reduce = oracle.reduction(getattr(groups, "p", None), getattr(groups, "mean", False))
    shapes = _shapes(s)
    pools = oracle.by_pool(*oracle.labelled(groups, shapes), start, oracle.one_pool(groups))
    for members in pools.values():
        living = sorted((item, live) for item, live in members.items() if live)
        yield [_fate(item, live, values, end, reduce) for item, live in living], len(members)


def _fate(item: Any, live: list[tuple[str, int]], values: Any, end: Any, reduce: Any) -> Fate:
    return Fate(item, reduce([values[n][i] for n, i in live]), len(live), sum(end[n][i] for n, i in live))


def possible(groups: Any, number: Number, s: Any, m: Any) -> bool:
    """Whether every pool has as many items as a number says."""
    try:
        oracle.compute_mask(s, m, groups, magnitude=True, **number)
    except oracle.Impossible:
        return False
    return True


# ---- laws of the one rule -------------------------------------------------------------------------------------------


def is_exact(method: Method, groups: Any, number: Number, s: Any, m: Any) -> None:
    """In each pool exactly as many live items die as the number says, under any ties."""
    for fates, items in _fates(method(s, m, **number), groups, _one, s, m):
        died = sum(not fate.after for fate in fates)
        assert died == oracle.dying(len(fates), items, **number)


def _one(score: Any) -> int:
    return 1


def takes_items_whole(method: Method, groups: Any, number: Number, s: Any, m: Any) -> None:
    """All live elements of an item die, or none."""
    for fates, _ in _fates(method(s, m, **number), groups, _one, s, m):
        assert all(fate.after in (0, fate.before) for fate in fates)


def takes_the_lowest(method: Method, groups: Any, ranks: Ranks, number: Number, s: Any, m: Any) -> None:
    """In each pool no item that dies scores above one that survives."""
    for fates, _ in _fates(method(s, m, **number), groups, ranks, s, m):
        died = [fate.score for fate in fates if not fate.after]
        lived = [fate.score for fate in fates if fate.after]
        assert not died or not lived or _at_most(max(died), min(lived), groups)


def _at_most(a: Any, b: Any, groups: Any) -> bool:
    """a <= b, but for rounding of float64 where scores are added up."""
    itemized = type(groups).__name__ in ("Channels", "Heads", "Blocks", "Coupled", "Labels")
    return a <= b or (itemized and math.isclose(a, b, rel_tol=1e-12))


def takes_the_lower_index_of_equals(method: Method, groups: Any, ranks: Ranks, number: Number, s: Any, m: Any) -> None:
    """Among equal scores of a pool the lower index dies first; in a mapping, names in sorted order.

    It holds of norms whose sums are whole; where p is broken or below 0 they are rounded, and nothing is said.
    """
    p = getattr(groups, "p", None) or 1
    if not math.isinf(p) and (p < 0 or p % 1):
        return
    for fates, _ in _fates(method(s, m, **number), groups, ranks, s, m):
        lives = {fate.score: False for fate in fates}
        for fate in fates:
            assert fate.after or not lives[fate.score]
            lives[fate.score] |= bool(fate.after)


def refuses_the_impossible(method: Method, groups: Any, number: Number, s: Any, m: Any) -> None:
    """method(s, m, number) raises ValueError if some pool has not as many items."""
    if not possible(groups, number, s, m):
        assert _raises(partial(method, **number), s, m)


def refuses_nan(f: Method, s: Any, m: Any) -> None:
    """f(s, m) raises ValueError if a live score is NaN."""
    tensors = named(s)
    alive = {n: mask & tensors[n].is_floating_point() for n, mask in named(ml.identity(s, m)).items()}
    everywhere = {n: _poison(t, alive[n]) for n, t in tensors.items()}
    once = [tensors | {n: _poison(t, _last(alive[n]))} for n, t in tensors.items() if alive[n].any()]
    for poisoned in (everywhere, *once) if once else ():
        assert _raises(f, like(s, poisoned), m)


def _poison(scores: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, float("nan"), scores) if where.any() else scores


def _last(mask: Tensor) -> Tensor:
    """The mask of its last True alone."""
    flat = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
    flat[mask.reshape(-1).nonzero()[-1]] = True
    return flat.view(mask.shape)


def _raises(f: Method, *arguments: Any) -> bool:
    try:
        f(*arguments)
    except ValueError:
        return True
    return False


def follows_the_rule(method: Method, groups: Any, number: Number, s: Any, m: Any, magnitude: bool = False) -> None:
    """method(s, m, number) = the lowest live items of each pool die, the lower index first among equals.

    It is a ValueError if, and only if, some pool has not as many.
    """
    try:
        expected = oracle.compute_mask(s, m, groups, magnitude=magnitude, **number)
    except oracle.Impossible:
        return is_refused(method, number, s, m)
    assert same(method(s, m, **number), expected)


def is_refused(method: Method, number: Number, s: Any, m: Any) -> None:
    """method(s, m, number) raises a ValueError that names the argument and its limits."""
    (argument,) = number
    assert f"`{argument}` must be between 0 and" in refusal(partial(method, **number), s, m)


def refusal(f: Method, *arguments: Any) -> str:
    """What the ValueError of a call says, nothing if it raises none."""
    try:
        f(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def looks_at_order_only(f: Method, s: Tensor, m: Any) -> None:
    """f(g(s), m) = f(s, m) for every g that increases strictly on the values present."""
    place = {value: i for i, value in enumerate(sorted({x + 0 for x in oracle.flat(s)}))}
    ranks = [place[x] for x in oracle.flat(s)]
    increasing: tuple[Callable[[int], float], ...] = (lambda i: i - 5, lambda i: 2.0**i * 1e-20, lambda i: i / 1e300)
    for g in increasing:
        image = torch.tensor([g(i) for i in ranks], dtype=torch.float64).view(s.shape)
        assert same(f(image, m), f(s, m))


# ---- laws of groups -------------------------------------------------------------------------------------------------


def is_the_labels_form(groups: Any, number: Number, s: Any, m: Any, method: Method = ml.compute_mask) -> None:
    """method(s, m, groups) = method(s, m, labels(items, pools)), for sums, refusals included."""
    shapes = _shapes(s)
    items, pools = (like(s, oracle.integers(part, shapes)) for part in oracle.labelled(groups, shapes))
    general = partial(method, groups=ml.labels(items, pools))
    try:
        expected = method(s, m, groups=groups, **number)
    except ValueError:
        return is_refused(general, number, s, m)
    assert same(general(s, m, **number), expected)


def is_plain_data(groups: Any) -> None:
    """groups = copy(groups) = loads(dumps(groups)) = eval(repr(groups)), with equal hashes."""
    twins = [copy.deepcopy(groups), pickle.loads(pickle.dumps(groups))]
    if "tensor(" not in repr(groups):
        twins.append(eval(repr(groups), {**vars(ml), "inf": math.inf, "nan": math.nan}))
    for twin in twins:
        assert type(twin) is type(groups)
        assert twin == groups
        assert (twin != groups) is False
        assert hash(twin) == hash(groups)
