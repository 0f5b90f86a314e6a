"""Short pools that lie item by item in memory are ranked as those that lie pool by pool."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masklib import selection

SIZES = st.tuples(st.integers(1, 30), st.integers(1, 12))


def drawn(size, seed, ties):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(size, generator=draw, dtype=torch.float64)
    return (scores.round() if ties else scores).to(torch.float32 if seed % 2 else torch.float64)


def lowest(scores, alive, number, counting):
    return selection.lowest_in_rows(scores, alive, None, number, counting, "w", False)


@given(SIZES, st.integers(0, 999), st.booleans(), st.booleans(), st.sampled_from(["keep", "sparsity", "amount"]))
def test_the_layout_makes_no_difference(size, seed, ties, dead, counting):
    scores = drawn(size, seed, ties)
    alive = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.7 if dead else None
    number = {"keep": size[1] // 2, "sparsity": 0.6, "amount": 0.4}[counting]
    turned = scores.T.contiguous().T
    assert turned.stride()[0] == 1 or 1 in size
    got = lowest(turned, alive, number, counting)
    assert torch.equal(got, lowest(scores, alive, number, counting))
    assert torch.equal(
        lowest(
            turned, alive, torch.tensor(number, dtype=torch.int64 if counting == "keep" else torch.float64), counting
        ),
        got,
    )


@pytest.mark.parametrize("dead", [True, False])
def test_a_number_for_each_pool(dead):
    scores, numbers = drawn((6, 4), 1, True), torch.tensor([0, 1, 2, 3, 4, 2])
    alive = torch.ones(6, 4, dtype=torch.bool) if dead else None
    got = lowest(scores.T.contiguous().T, alive, numbers, "keep")
    assert torch.equal(got, lowest(scores, alive, numbers, "keep"))
    assert got.sum(1).tolist() == numbers.tolist()


def test_nan_is_told_where_it_lives():
    scores = drawn((6, 4), 0, False)
    scores[2, 1] = torch.nan
    alive = torch.ones(6, 4, dtype=torch.bool)
    for live in (None, alive):
        with pytest.raises(ValueError, match="1 NaN in scores of 'w'"):
            lowest(scores.T.contiguous().T, live, 2, "keep")
    alive[2, 1] = False
    assert lowest(scores.T.contiguous().T, alive, 2, "keep").sum(1).tolist() == [2] * 6


def test_infinities_and_zeros_are_ordinary():
    scores = torch.tensor([[-torch.inf, 0.0, -0.0, torch.inf]] * 3)
    got = lowest(scores.T.contiguous().T, None, 2, "keep")
    assert got.tolist() == [[False, False, True, True]] * 3
