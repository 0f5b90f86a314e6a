"""The specification in slow, plain Python: lists, sorted, round. Every fast path is tested against it."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

import masklib

Label = Any


def flat(tensor: Tensor) -> list[Any]:
    """Values in logical row-major order."""
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return [int(x) for x in tensor.contiguous().view(-1).numpy()]
    return tensor.reshape(-1).tolist()


def dying(alive: int, items: int, *, amount: Any = None, keep: Any = None, sparsity: Any = None) -> int:
    """How many die in a pool."""
    if keep is not None:
        return max(0, alive - int(keep))
    if sparsity is not None:
        return max(0, round(float(sparsity) * items) - (items - alive))
    fraction = isinstance(amount, float) or (hasattr(amount, "dtype") and "float" in str(amount.dtype))
    return round(float(amount) * alive) if fraction else int(amount)


def select(
    scores: dict[str, Tensor],
    alive: dict[str, Tensor],
    items: dict[str, list[Label]],
    pools: dict[str, list[Label]],
    how_many: dict[str, Any],
    reduce: Any = sum,
) -> dict[str, Tensor]:
    """Kill the lowest items of each pool; labels sort by tie rule, so a lower label dies first."""
    members, pool_of = defaultdict(list), {}
    for name in sorted(scores):
        for position, (item, pool) in enumerate(zip(items[name], pools[name])):
            members[item].append((name, position))
            pool_of[item] = pool
    values, living = ({n: flat(t) for n, t in part.items()} for part in (scores, alive))
    live_values = {i: [values[n][p] for n, p in m if living[n][p]] for i, m in members.items()}
    by_pool = defaultdict(list)
    for item in members:
        by_pool[pool_of[item]].append(item)
    dead = set()
    for competing in by_pool.values():
        candidates = [i for i in competing if live_values[i]]
        k = dying(len(candidates), len(competing), **how_many)
        assert 0 <= k <= len(candidates)
        dead |= set(sorted(candidates, key=lambda i: (reduce(live_values[i]), i))[:k])
    return {
        n: torch.tensor(
            [bool(living[n][p]) and item not in dead for p, item in enumerate(items[n])], dtype=torch.bool
        ).view(scores[n].shape)
        for n in scores
    }


def labels_of(groups: Any, name: str, shape: tuple[int, ...]) -> tuple[list[Label], list[Label]]:
    """The item and the pool of every element, in flat order."""
    positions = list(index(shape))
    kind = type(groups).__name__
    if kind == "Elements":
        return [(name, i) for i in range(len(positions))], [0] * len(positions)
    if kind == "Rows":
        return [(name, i) for i in range(len(positions))], [(name, p[groups.dim]) for p in positions]
    if kind == "Windows":
        dim = groups.dim % len(shape)
        pools = [(name, p[:dim], p[dim] // groups.of, p[dim + 1 :]) for p in positions]
        return [(name, i) for i in range(len(positions))], pools
    if kind == "Channels":
        return [(name, p[groups.dim]) for p in positions], [0] * len(positions)
    lead = len(shape) - len(groups.shape)
    tiles = [p[:lead] + tuple(x // s for x, s in zip(p[lead:], groups.shape)) for p in positions]
    return [(name, t) for t in tiles], [0] * len(positions)


def index(shape: tuple[int, ...]) -> Any:
    """All indices of a shape in row-major order."""
    if not shape:
        yield ()
        return
    for i in range(shape[0]):
        for rest in index(shape[1:]):
            yield (i, *rest)


def norm(p: float | None, mean: bool) -> Any:
    """The reduction of an item's live scores."""

    def reduce(values: list[float]) -> float:
        if p is None:
            return math.fsum(values) / (len(values) if mean else 1)
        if math.isinf(p):
            return (max if p > 0 else min)(abs(v) for v in values)
        total = math.fsum(abs(v) ** p for v in values)
        return (total / (len(values) if mean else 1)) ** (1 / p)

    return reduce


def compute_mask(scores: Any, default_mask: Any, groups: Any, *, magnitude: bool = False, **how_many: Any) -> Any:
    """`masklib.compute_mask` by the specification."""
    bare = isinstance(scores, Tensor)
    named = {"": scores} if bare else dict(scores)
    given = {"": default_mask} if bare or default_mask is None else default_mask
    alive = {n: torch.ones_like(t, dtype=torch.bool) if default_mask is None else given[n] for n, t in named.items()}
    if magnitude:
        named = {n: masklib.scores.magnitude(t) for n, t in named.items()}
    labels = {n: labels_of(groups, n, tuple(t.shape)) for n, t in named.items()}
    items, pools = ({n: part[i] for n, part in labels.items()} for i in (0, 1))
    reduce = norm(groups.p, groups.mean) if hasattr(groups, "p") else sum
    result = select(named, alive, items, pools, how_many, reduce)
    return result[""] if bare else result


def noise(key: int, name: str, stream: int, i: int) -> int:
    """The documented hash, by Python ints."""
    m = 2**64

    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % m
        x = (x ^ x >> 27) * 0x94D049BB133111EB % m
        return x ^ x >> 31

    fnv = 0xCBF29CE484222325
    for byte in name.encode():
        fnv = (fnv ^ byte) * 0x100000001B3 % m
    golden = 0x9E3779B97F4A7C15
    seed = mix(mix((key + (1 + stream) * golden) % m) ^ fnv)
    value = mix((seed + (i + 1) * golden) % m)
    return value - m if value >= m // 2 else value
