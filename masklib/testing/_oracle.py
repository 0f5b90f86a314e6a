"""The specification in slow, plain Python: lists, `sorted`, `round`. Every fast path is tested against it.

A groups value is asked for one thing, how it folds an index; that says which elements form an item and which items
compete, whatever kind of value it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Label = Any  # hashable and sortable; the lower label dies first among equals
Place = tuple[str, int]  # an element: the name of its tensor, and its flat index
Pool = dict[Label, list[Place]]  # the items of a pool by label
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


# ---- groups: the pools, their items, and the elements of each -------------------------------------------------------


def pools(groups: Any, shapes: Mapping[str, Shape]) -> list[Pool]:
    """The items of each pool of a groups value over named shapes; an element may belong to none, or to several."""
    if hasattr(groups, "items"):
        return _by_label(named(groups.items), named(groups.pools))
    found: dict[Any, Pool] = {}
    for k, members in enumerate(_sets(groups, shapes)):
        for name, folding in members.items():
            for j, items in enumerate(_cells(folding, shapes[name])):
                pool = found.setdefault((k, j) if folding.pools is not None else (), {})
                for i, indices in enumerate(items):
                    if indices:
                        pool.setdefault((k, i), []).extend((name, index) for index in indices)
    return list(found.values())


def _sets(groups: Any, shapes: Mapping[str, Shape]) -> list[Mapping[str, Any]]:
    """Which tensors share their items, in the order in which ties die: each by itself, unless a value couples them."""
    sizes = {name: torch.Size(shape) for name, shape in shapes.items()}
    if hasattr(groups, "sets"):
        return list(groups.sets(sizes))
    return [{name: groups.fold(sizes[name])} for name in sorted(shapes)]


def _cells(folding: Any, shape: Shape) -> list[list[list[int]]]:
    """Of each pool, of each item, the indices of its elements; a place that the folding adds has the number 0."""
    numbers = torch.arange(1, math.prod(shape) + 1, device="cpu").view(shape)
    matrix = folding.matrix(numbers).view(
        1 if folding.pools is None else folding.pools, folding.items, folding.elements
    )
    return [[[number - 1 for number in item if number] for item in pool] for pool in matrix.tolist()]


def overlaps(found: list[Pool]) -> bool:
    """Whether some element belongs to several items."""
    places = [place for pool in found for item in pool.values() for place in item]
    return len(set(places)) < len(places)


def _by_label(items: Mapping[str, Tensor], by_pool: Mapping[str, Tensor | None]) -> list[Pool]:
    """The same, where integers say it."""
    found: dict[Any, Pool] = {}
    if items and None in by_pool.values():
        found[0] = {}  # the one pool of all, even of nothing
    for name in sorted(items):
        labels = flat(items[name])
        own = by_pool.get(name)
        where = [0] * len(labels) if own is None else flat(own)
        for i, (label, pool) in enumerate(zip(labels, where)):
            found.setdefault(pool, {}).setdefault(label, []).append((name, i))
    return list(found.values())


def labels(groups: Any, shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """The items and the pools of every element as integers, in the order in which ties die.

    None if some element belongs to no item or to several, which labels cannot say.
    """
    found = pools(groups, shapes)
    order = sorted({label for pool in found for label in pool})
    items = {n: [-1] * math.prod(shape) for n, shape in shapes.items()}
    where = copy.deepcopy(items)
    places = [(j, label, *place) for j, pool in enumerate(found) for label in pool for place in pool[label]]
    for j, label, name, i in places:
        items[name][i], where[name][i] = order.index(label) * len(found) + j, j
    if len(places) != sum(map(math.prod, shapes.values())) or any(-1 in part for part in items.values()):
        return None
    return _shaped(items, shapes, torch.int64), _shaped(where, shapes, torch.int64)


def _shaped(values: Mapping[str, list[Any]], shapes: Mapping[str, Shape], dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: torch.tensor(values[n], dtype=dtype, device="cpu").view(shapes[n]) for n in values}


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

Lists = Mapping[str, list[Any]]


def living(pool: Pool, alive: Lists) -> dict[Label, list[Place]]:
    """The items of a pool that live, with their live elements, in the order in which ties die."""
    live = {item: [(n, i) for n, i in places if alive[n][i]] for item, places in sorted(pool.items())}
    return {item: places for item, places in live.items() if places}


def select(
    scores: Lists,
    alive: Lists,
    found: list[Pool],
    how_many: Mapping[str, Any],
    reduce: Callable[[list[Any]], Any],
    least: int = 0,
) -> dict[str, list[bool]]:
    """Kill the lowest live items of each pool, the lower label first among equals; so many of each set stay."""
    result = {n: list(entries) for n, entries in alive.items()}
    for pool in found:
        live = living(pool, alive)
        score = {item: reduce([scores[n][i] for n, i in places]) for item, places in live.items()}
        order = sorted(live, key=lambda item: score[item])
        exposed = _exposed(order, {label[0] for label in pool} if least else set(), least)
        die = dying(len(live), len(pool), **how_many)
        if die > len(exposed):
            raise Impossible
        for item in exposed[:die]:
            for n, i in live[item]:
                result[n][i] = False
    return result


def _exposed(order: list[Label], sets: set[Any], least: int) -> list[Label]:
    """All items but the highest few of each set."""
    safe: set[Label] = set()
    for each in sets:
        mine = [item for item in order if item[0] == each]
        if len(mine) < least:
            raise Impossible
        safe |= set(mine[len(mine) - least :])
    return [item for item in order if item not in safe]


def compute_mask(
    scores: Any, default_mask: Any, groups: Any, *, magnitude: bool = False, least: int = 0, **how_many: Any
) -> Any:
    """`masklib.compute_mask` by the specification; of the absolute scores if `magnitude`."""
    tensors = named(scores)
    shapes = {n: tuple(t.shape) for n, t in tensors.items()}
    masks = {n: torch.ones(s) > 0 for n, s in shapes.items()} if default_mask is None else named(default_mask)
    result = select(
        {n: [abs(x) if magnitude else x for x in flat(t)] for n, t in tensors.items()},
        {n: flat(masks[n]) for n in tensors},
        pools(groups, shapes),
        how_many,
        reduction(getattr(groups, "p", None), getattr(groups, "mean", False)),
        least,
    )
    built = _shaped(result, shapes, torch.bool)
    return built if isinstance(scores, Mapping) else built[""]
