"""Hypothesis strategies of groups values, with scores and masks that fit them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

import masklib as ml
from masklib.testing._strategies import (
    DTYPES,
    KIN,
    KINDS,
    NAMES,
    Shape,
    dims,
    divisors,
    draw_bytes,
    masks,
    norms,
    scores,
    shapes,
)


@st.composite
def groups(draw: DrawFn, shape: Shape, *, of: Sequence[str] | None = None) -> Any:
    """Draw groups values that fit a shape.

    Args:
        shape: the shape of the scores.
        of: names of groups to draw from, such as ["rows", "channels"]; None for all that fit.

    Returns:
        A strategy of groups values.

    >>> find(groups((4, 6)), lambda value: "blocks" in repr(value))
    blocks(shape=(1,))
    """
    names = of or [name for name, fit in _FIT.items() if fit(shape)]
    return draw(_MAKE[draw(st.sampled_from(names))](shape))


@st.composite
def grouped(
    draw: DrawFn,
    of: Sequence[str] = ("elements", "rows", "windows", "channels", "heads", "blocks", "labels"),
    *,
    dtypes: Sequence[torch.dtype] = DTYPES,
    kinds: Sequence[str] = KINDS,
) -> tuple[Any, Tensor, Tensor | None]:
    """Draw a groups value, with scores that fit it, and a mask that fits these.

    Args:
        of: names of groups to draw from.
        dtypes: the dtypes to draw from.
        kinds: which values to draw from; see `scores`.

    Returns:
        A strategy of triples: groups value, scores, and a bool mask or None for all True.

    >>> find(grouped(["windows"]), lambda case: case[0].of == 2 and case[1].numel() > 0)[0]
    windows(of=2, dim=0)
    """
    kind = draw(st.sampled_from(of))
    shape = draw(shapes(0 if kind in ("elements", "labels") else 2, 3, max_side=4))
    multiple = tuple(n * m for n, m in zip(shape, draw(_multiples(len(shape)))))
    shape = multiple if kind in ("windows", "heads", "blocks") else shape
    value = draw(groups(shape, of=[kind]))
    return value, draw(scores(shape, dtypes=dtypes, kinds=kinds)), draw(st.none() | masks(shape))


def _multiples(count: int) -> SearchStrategy[list[int]]:
    return st.lists(st.integers(1, 3), min_size=count, max_size=count)


@st.composite
def _windows(draw: DrawFn, shape: Shape) -> Any:
    dim = draw(dims(len(shape)))
    return ml.windows(draw(divisors(shape[dim], 6)), dim)


PARTS = ((1,), (1, 1), (2, 1), (1, 1, 1), (2, 1, 1), (1, 3))


@st.composite
def _heads(draw: DrawFn, shape: Shape) -> Any:
    dim = draw(dims(len(shape)))
    parts = draw(st.sampled_from([p for p in PARTS if shape[dim] % sum(p) == 0]))
    return ml.heads(draw(divisors(shape[dim] // sum(parts), 4)), dim, parts=parts, **draw(norms()))


@st.composite
def _blocks(draw: DrawFn, shape: Shape) -> Any:
    tiled = shape[-draw(st.integers(1, min(2, len(shape)))) :]
    return ml.blocks([draw(divisors(length, 3)) for length in tiled], **draw(norms()))


@st.composite
def _labels(draw: DrawFn, shape: Shape) -> Any:
    """Items by any small labels; pools constant within each item."""
    items = torch.tensor([0, 3, -2, 7, 1]).take(draw_bytes(draw, shape) % 5)
    pools = draw(st.sampled_from([None, items % 2, items.abs() // 3, items]))
    return ml.labels(items, pools)


def _channels(shape: Shape) -> SearchStrategy[Any]:
    along = dims(len(shape))
    return st.builds(ml.channels, along) | st.builds(lambda dim, norm: ml.channels(dim, **norm), along, norms())


_MAKE: Mapping[str, Callable[[Shape], SearchStrategy[Any]]] = {
    "elements": lambda shape: st.just(ml.elements()),
    "rows": lambda shape: dims(len(shape)).map(ml.rows),
    "channels": _channels,
    "windows": _windows,
    "heads": _heads,
    "blocks": _blocks,
    "labels": _labels,
}
_FIT: Mapping[str, Callable[[Shape], bool]] = {
    name: (lambda shape: True) if name in ("elements", "labels") else (lambda shape: len(shape) > 0) for name in _MAKE
}


# ---- coupled --------------------------------------------------------------------------------------------------------


@st.composite
def coupled(
    draw: DrawFn,
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    kinds: Sequence[str] = KINDS,
) -> tuple[Any, dict[str, Tensor], dict[str, Tensor] | None]:
    """Draw a coupled groups value, with scores by name that fit it, and masks that fit these.

    Args:
        dtypes: the dtypes to draw from, for each tensor anew; None for all, but no int64 beside floating ones.
        kinds: which values to draw from; see `scores`.

    Returns:
        A strategy of triples: groups value, scores, and bool masks by name or None for all True.

    >>> groups, scores, masks = find(coupled(), lambda case: len(case[1]) == 2)
    >>> sorted(scores)
    ['a.weight', 'w']
    """
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=4))
    sets = [draw(st.integers(0, 2)) for _ in names]
    items = [draw(st.integers(1, 3)) for _ in range(3)]
    members = {name: draw(_members(items[i])) for name, i in zip(names, sets)}
    by_set = ({n: members[n] for n, j in zip(names, sets) if j == i} for i in range(3))
    groups = ml.coupled(*filter(None, by_set), **draw(norms()))
    shape = {name: draw(shape_of(members[name], items[i])) for name, i in zip(names, sets)}
    kin = dtypes or draw(st.sampled_from(KIN))
    s = {name: draw(scores(shape[name], dtypes=kin, kinds=kinds)) for name in names}
    return groups, s, draw(st.none() | st.fixed_dictionaries({name: masks(shape[name]) for name in names}))


def _members(items: int) -> SearchStrategy[Any]:
    """Groups values that can cut a tensor into so many items."""
    tiles = st.lists(st.integers(1, 2), min_size=1, max_size=2)
    heads = st.builds(lambda dim, parts: ml.heads(items, dim, parts=parts), dims(), st.sampled_from(PARTS))
    return dims().map(ml.channels) | heads | tiles.map(ml.blocks) | st.just(ml.elements())


@st.composite
def shape_of(draw: DrawFn, member: Any, items: int) -> Shape:
    """Shapes that an uncoupled groups value cuts into so many items."""
    if not hasattr(member, "dim"):
        sides = [1, *getattr(member, "shape", (1,))]
        sides[draw(st.integers(0, len(sides) - 1))] *= items
        return tuple(sides)
    least = member.dim + 1 if member.dim >= 0 else -member.dim
    sides = draw(st.lists(st.integers(1, 3), min_size=least, max_size=least + 1))
    sides[member.dim] = items * (sum(member.parts) * draw(st.integers(1, 2)) if hasattr(member, "parts") else 1)
    return tuple(sides)
