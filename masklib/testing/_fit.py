"""Shapes that a groups value fits, found by trying: nothing is asked of the value but how it folds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from masklib.testing._oracle import Shape, named

Count = tuple[int, int]  # items of each pool, and pools; 0 for the pool of all tensors


def fitting(groups: Any) -> SearchStrategy[Any]:
    """Draw shapes that a groups value fits, mappings by name for one that spans tensors.

    >>> find(fitting(masklib.windows(4)), lambda shape: len(shape) == 2)
    (1, 4)
    """
    if hasattr(groups, "items"):
        shapes = {n: tuple(t.shape) for n, t in named(groups.items).items()}
        return st.just(shapes if isinstance(groups.items, Mapping) else shapes[""])
    fit = spanning(_members(groups)) if hasattr(groups, "sets") else list(_fit(groups))
    if not fit:
        raise ValueError(f"`shapes` is needed: no small shape fits {groups!r}. For example shapes=(64, 64).")
    return st.sampled_from(fit)


def spanning(sets: list[dict[str, Any]]) -> list[dict[str, Shape]]:
    """Shapes by name such that the tensors of each set have as many items each."""
    tables = [{name: _by_items(value) for name, value in members.items()} for members in sets]
    counts = [sorted(set.intersection(*map(set, table.values()))) for table in tables]
    found = []
    for items in product(*(few[:_MANY] for few in counts)):
        shapes = _common(tables, items)
        found += _chosen(shapes) if all(shapes.values()) else []
    return found


_MANY = 4  # numbers of items to try of each set, the smallest
_CHOICES = 24  # shapes of a tensor with so many items, the simplest


def _common(tables: list[dict[str, dict[Count, list[Shape]]]], items: tuple[Count, ...]) -> dict[str, list[Shape]]:
    """By name the shapes that have as many items in each of the sets it is in."""
    shapes: dict[str, list[Shape]] = {}
    for table, count in zip(tables, items):
        for name, by_items in table.items():
            here = by_items[count]
            shapes[name] = here if name not in shapes else [shape for shape in shapes[name] if shape in here]
    return shapes


def _chosen(shapes: dict[str, list[Shape]]) -> list[dict[str, Shape]]:
    """A dozen choices of a shape for each name, all of them different where there are as many."""
    return [{n: fit[(7 * k + i) % len(fit)] for i, (n, fit) in enumerate(shapes.items())} for k in range(12)]


def _by_items(groups: Any) -> dict[Count, list[Shape]]:
    """The shapes that one value fits, by the number of items."""
    table: dict[Count, list[Shape]] = {}
    for shape in _fit(groups):
        folding = groups.fold(torch.Size(shape))
        fit = table.setdefault((folding.items, folding.pools or 0), [])
        if math.prod(shape) and len(fit) < _CHOICES:
            fit.append(shape)
    return {key: fit for key, fit in table.items() if fit}


def _fit(groups: Any) -> Iterator[Shape]:
    """The small shapes that a value of one tensor fits; larger ones if none is."""
    small = [shape for shape in _small() if _fits(groups, shape)]
    yield from small if any(map(math.prod, small)) else (shape for shape in _large() if _fits(groups, shape))


def _members(groups: Any) -> list[dict[str, Any]]:
    """Of a value that spans tensors the sets, by name the value of one tensor."""
    if not hasattr(groups, "members"):
        raise ValueError(f"`shapes` is needed for {groups!r}, which spans tensors: shapes={{'a': (4, 2), 'b': (4,)}}.")
    return [dict(each) for each in groups.members]


def _fits(groups: Any, shape: Shape) -> bool:
    try:
        groups.fold(torch.Size(shape))
    except (IndexError, ValueError):
        return False
    return True


def itemized(groups: Any) -> bool:
    """Whether items have several elements, so that scores are added up.

    >>> itemized(masklib.channels(0)), itemized(masklib.rows())
    (True, False)
    """
    if not hasattr(groups, "fold"):
        return True
    return any(groups.fold(torch.Size(shape)).elements > 1 for shape in _fit(groups))


@cache
def _small() -> list[Shape]:
    """Shapes of up to three dims and 36 elements, the simplest first; some are empty."""
    sides = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 18, 24, 36)
    every = [shape for dims in range(4) for shape in product(sides, repeat=dims) if math.prod(shape) <= 36]
    return [*sorted(every, key=lambda shape: (len(shape), math.prod(shape))), (0,), (0, 4), (4, 0), (2, 0, 3)]


def _large() -> Iterator[Shape]:
    """Shapes of one to three dims, one of which is up to 256."""
    for length in range(37, 257):
        for dims in range(1, 4):
            for place in range(dims):
                yield tuple(length if i == place else 2 for i in range(dims))
    yield from product(range(4, 33, 4), repeat=2)
