"""The specification in slow, plain Python: lists, `sorted`, `round`. Every fast path is tested against it.

It imports nothing of masklib: a groups value is read by its name and fields.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

Label = Any  # hashable and sortable; the lower label dies first among equals
Labels = dict[str, list[Label]]  # a label of every element by name, in flat order
Shape = tuple[int, ...]


def flat(tensor: Tensor) -> list[Any]:
    """Values in logical row-major order, as Python numbers."""
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return [int(x) for x in tensor.contiguous().view(-1).numpy()]
    return tensor.detach().reshape(-1).tolist()


def named(value: Any) -> dict[str, Any]:
    """A bare value is the mapping {'': value}."""
    return dict(value) if isinstance(value, Mapping) else {"": value}


# ---- how many -------------------------------------------------------------------------------------------------------


def is_fraction(number: Any) -> bool:
    """Whether a number is a share (floating of any kind) and not a count."""
    return isinstance(number, float) or "float" in str(getattr(number, "dtype", ""))


class Impossible(Exception):
    """A pool has not as many items as the number says."""


def dying(alive: int, items: int, *, amount: Any = None, keep: Any = None, sparsity: Any = None) -> int:
    """How many items of a pool die."""
    number = next(x for x in (amount, keep, sparsity) if x is not None)
    most = 1 if is_fraction(number) else alive if keep is None else items
    if not 0 <= number <= most:
        raise Impossible
    if keep is not None:
        return max(0, alive - int(keep))
    if sparsity is not None:
        return max(0, round(float(sparsity) * items) - (items - alive))
    return round(float(amount) * alive) if is_fraction(amount) else int(amount)


# ---- groups: the item and the pool of every element -----------------------------------------------------------------


def labelled(groups: Any, shapes: Mapping[str, Shape]) -> tuple[Labels, Labels]:
    """The items and the pools of a groups value over named shapes."""
    if type(groups).__name__ == "Coupled":
        return _coupled(groups, shapes), {name: [0] * math.prod(shape) for name, shape in shapes.items()}
    both = {name: _labels(groups, name, shape) for name, shape in shapes.items()}
    return {n: items for n, (items, _) in both.items()}, {n: pools for n, (_, pools) in both.items()}


def _coupled(groups: Any, shapes: Mapping[str, Shape]) -> Labels:
    """The i-th items of all tensors of a set are one; sets go in the order of their least name."""
    items = {}
    for members in groups.members:
        least = min(name for name, _ in members)
        for name, member in members:
            labels, _ = _labels(member, name, shapes[name])
            place = {label: i for i, label in enumerate(sorted(set(labels)))}
            items[name] = [(least, place[label]) for label in labels]
    return items


def _run(index: int, length: int, heads: Any) -> int:
    """The run that an index along the dim is in, within its part."""
    start = 0
    for share in heads.parts:
        part = length * share // sum(heads.parts)
        if index < start + part:
            return (index - start) // (part // heads.count)
        start += part
    raise IndexError(index)


def _labels(groups: Any, name: str, shape: Shape) -> tuple[list[Label], list[Label]]:
    """Labels of one tensor; an item's begins with the name wherever items do not span tensors."""
    at = list(product(*map(range, shape)))
    singles, one_pool = [(name, i) for i in range(len(at))], [0] * len(at)
    kind = type(groups).__name__
    if kind == "Elements":
        return singles, one_pool
    if kind == "Rows":
        return singles, [(name, p[groups.dim]) for p in at]
    if kind == "Windows":
        d = groups.dim % len(shape)
        return singles, [(name, p[:d], p[d + 1 :], p[d] // groups.of) for p in at]
    if kind == "Channels":
        return [(name, p[groups.dim]) for p in at], one_pool
    if kind == "Heads":
        return [(name, _run(p[groups.dim], shape[groups.dim], groups)) for p in at], one_pool
    if kind == "Blocks":
        lead = len(shape) - len(groups.shape)
        return [(name, p[:lead] + tuple(x // n for x, n in zip(p[lead:], groups.shape))) for p in at], one_pool
    pools = groups.pools
    return flat(named(groups.items)[name]), one_pool if pools is None else flat(named(pools)[name])


def one_pool(groups: Any) -> bool:
    """Whether there is one pool, even of nothing."""
    return type(groups).__name__ not in ("Rows", "Windows") and getattr(groups, "pools", None) is None


def integers(labels: Labels, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The same labels as integers in the same order, as tensors."""
    rank = {label: i for i, label in enumerate(sorted({x for part in labels.values() for x in part}))}
    return {n: torch.tensor([rank[x] for x in labels[n]], dtype=torch.int64).view(shapes[n]) for n in labels}


# ---- what an item scores --------------------------------------------------------------------------------------------


def reduction(p: float | None = None, mean: bool = False) -> Callable[[list[Any]], Any]:
    """The score of an item from its live scores: their sum or p-norm, divided by (the p-th root of) their count."""

    def reduce(values: list[Any]) -> Any:
        count = len(values) if mean else 1
        if p is None:
            return values[0] if len(values) == 1 else math.fsum(values) / count
        if math.isinf(p):
            return (max if p > 0 else min)(map(abs, values))
        if p < 0 and not all(values):
            return 0.0  # the limit
        return (math.fsum(abs(v) ** p for v in values) / count) ** (1 / p)

    return reduce


# ---- the one rule ---------------------------------------------------------------------------------------------------


def select(
    scores: Mapping[str, list[Any]],
    alive: Mapping[str, list[bool]],
    items: Labels,
    pools: Labels,
    one: bool,
    how_many: Mapping[str, Any],
    reduce: Callable[[list[Any]], Any] = reduction(),
) -> dict[str, list[bool]]:
    """Kill the lowest live items of each pool."""
    dead = set()
    for members in by_pool(items, pools, alive, one).values():
        living = {item: [scores[n][i] for n, i in live] for item, live in members.items() if live}
        order = sorted(living, key=lambda item: (reduce(living[item]), item))
        dead |= set(order[: dying(len(living), len(members), **how_many)])
    return {n: [a and item not in dead for a, item in zip(alive[n], items[n])] for n in scores}


def by_pool(
    items: Labels, pools: Labels, alive: Mapping[str, list[bool]], one: bool
) -> dict[Label, dict[Label, list[tuple[str, int]]]]:
    """Of each pool its items, and of each item where its live elements are."""
    members: dict[Label, dict[Label, list[tuple[str, int]]]] = defaultdict(lambda: defaultdict(list))
    if one and items:
        members[0] = defaultdict(list)
    for n in items:
        for i, (item, pool) in enumerate(zip(items[n], pools[n])):
            members[pool][item].extend([(n, i)] if alive[n][i] else [])
    return members


def compute_mask(scores: Any, default_mask: Any, groups: Any, *, magnitude: bool = False, **how_many: Any) -> Any:
    """`masklib.compute_mask` by the specification; of the absolute scores if `magnitude`."""
    tensors = named(scores)
    shapes = {n: tuple(t.shape) for n, t in tensors.items()}
    masks = {n: torch.ones(s) > 0 for n, s in shapes.items()} if default_mask is None else named(default_mask)
    result = select(
        {n: [abs(x) if magnitude else x for x in flat(t)] for n, t in tensors.items()},
        {n: flat(masks[n]) for n in tensors},
        *labelled(groups, shapes),
        one_pool(groups),
        how_many,
        reduction(getattr(groups, "p", None), getattr(groups, "mean", False)),
    )
    built = {n: torch.tensor(result[n], dtype=torch.bool).view(shapes[n]) for n in tensors}
    return built if isinstance(scores, Mapping) else built[""]


# ---- noise ----------------------------------------------------------------------------------------------------------

GOLDEN = 0x9E3779B97F4A7C15
ELEMENTS, ITEMS = 0, 1


def mix(x: int) -> int:
    """The finalizer of SplitMix64."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def fnv1a(name: str) -> int:
    """The 64-bit FNV-1a hash."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def noise(key: int, name: str, stream: int, i: int) -> int:
    """The documented hash of (key, name, stream, index) as an int64."""
    seed = mix(mix((key + (1 + stream) * GOLDEN) % 2**64) ^ fnv1a(name))
    value = mix((seed + (i + 1) * GOLDEN) % 2**64)
    return value - 2**64 if value >= 2**63 else value
