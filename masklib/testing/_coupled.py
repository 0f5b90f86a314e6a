"""Strategies of coupled groups: values, and mappings of shapes and scores that fit them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

import masklib as ml
from masklib.testing._strategies import KIN, KINDS, NAMES, PARTS, Shape, dims, masks, norms, scores


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
def shapes_of(draw: DrawFn, groups: Any) -> dict[str, Shape]:
    """Shapes by name that a coupled groups value fits."""
    of: dict[str, Shape] = {}
    for members in groups.members:
        fixed = [member.count for _, member in members if hasattr(member, "parts")]
        items = fixed[0] if fixed else draw(st.integers(1, 3))
        of |= {name: draw(shape_of(member, items)) for name, member in members}
    return of


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
