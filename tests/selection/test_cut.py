"""A cut makes the same mask of the whole and of its pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masklib.selection._cut import ALL, END, Cut, survivors

VALUES = [-np.inf, -2.0, -0.0, 0.0, 1.0, 1.5, np.inf]


def by_definition(values, cut, alive):
    """The definition, element by element."""
    above = [cut.value is None or x > cut.value or (x == cut.value and i >= cut.index) for i, x in enumerate(values)]
    return [bool(a) and (alive is None or bool(alive[i])) for i, a in enumerate(above)]


@st.composite
def cuts(draw):
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int8, np.uint8, np.uint64, np.int64]))
    info = None if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
    among = VALUES if info is None else [info.min, 0, 1, 2, info.max]
    values = np.array(draw(st.lists(st.sampled_from(among), max_size=30)), dtype)
    alive = np.array(draw(st.lists(st.booleans(), min_size=values.size, max_size=values.size)), bool)
    value = dtype(draw(st.sampled_from(among)))
    index = draw(st.sampled_from([0, END]) | st.integers(0, 31))
    cut = draw(st.sampled_from([ALL, Cut(value, index)]))
    return values, cut, draw(st.sampled_from([None, alive]))


@given(cuts())
def test_the_mask_of_the_whole_is_the_definition(case):
    values, cut, alive = case
    assert survivors(values, 0, cut, alive).tolist() == by_definition(values, cut, alive)


@given(cuts(), st.lists(st.integers(0, 30), max_size=4))
def test_the_masks_of_pieces_are_the_mask_of_the_whole(case, places):
    values, cut, alive = case
    bounds = [0, *sorted(min(p, values.size) for p in places), values.size]
    parts = []
    for start, stop in pairwise(bounds):
        out = np.ones(stop - start, bool)
        survivors(values[start:stop], start, cut, None if alive is None else alive[start:stop], out)
        parts.append(out)
    assert np.concatenate(parts).tolist() == by_definition(values, cut, alive)


def test_what_is_passed_is_not_written():
    values, alive = np.array([1.0, 1.0, 2.0]), np.array([True, False, True])
    survivors(values, 0, Cut(1.0, 1), alive)
    assert values.tolist() == [1.0, 1.0, 2.0]
    assert alive.tolist() == [True, False, True]
