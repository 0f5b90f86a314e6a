"""Scores of items: exact against decimals of fifty digits, whatever the order, the chunking and the context."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import masklib as ml
from masklib.selection import _items, item_scores

ORDERS = [None, 0.0, 1.0, 2.0, 3.0, 0.5, -1.0, -2.5, 200.0, -200.0, 2000.0, 0.001, -0.001, math.inf, -math.inf]
NUMBERS = st.sampled_from([0.0, 1.0, -2.0, 3.5, 1e-3, 1e-200, -1e200, 1e-300, 7e30, math.inf])


def log_norm(values, p, mean):
    """The logarithm of the norm of a row, in decimals."""
    sizes = [abs(Decimal(v)) for v in values]
    if p == 0:
        return Decimal(sum(s != 0 for s in sizes))
    if math.isinf(p):
        return (max if p > 0 else min)(sizes).ln()
    if p < 0 and not all(sizes):
        return Decimal("-Infinity")
    if any(s.is_infinite() for s in sizes) and (p > 0 or all(s.is_infinite() for s in sizes)):
        return Decimal("Infinity")
    total = sum(s ** Decimal(p) for s in sizes if s and s.is_finite())
    return (total / (len(sizes) if mean else 1)).ln() / Decimal(p) if total else Decimal("-Infinity")


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=2, max_size=5)))
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("p", [p for p in ORDERS if p is not None])
def test_norms_neither_overflow_nor_underflow(p, mean, rows):
    if p == 0 and mean:
        return
    got = item_scores([torch.tensor(rows, dtype=torch.float64)], [None], p, mean, ["w"])[0].tolist()
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 50, 10**15, -(10**15)
        expected = [log_norm(row, p, mean) for row in rows]
        for a, x in zip(got, expected):
            for b, y in zip(got, expected):
                if x < y and y - x > Decimal("1e-9") * max(1, abs(y) if y.is_finite() else 1):
                    assert a < b


@pytest.mark.parametrize("p", [200, 0.001, -200])
def test_norms_of_extreme_orders_rank(p):
    rows = torch.tensor([[1e-2] * 3, [1e-3] * 3, [1e-1] * 3])
    mask = ml.compute_mask(rows, amount=1, groups=ml.channels(0, p=p))
    assert mask.any(1).tolist() == [True, False, True]


def test_the_root_mean_square_of_tiny_and_huge_numbers():
    for size in (1e-200, 1e200):
        rows = torch.tensor([[2.0, 2.0], [1.0, 1.0], [3.0, 0.0]], dtype=torch.float64) * size
        assert item_scores([rows], [None], 2, True, [""])[0].div(size).tolist() == pytest.approx([2, 1, 4.5**0.5])


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8])
def test_equal_rows_score_alike_and_chunks_make_no_difference(monkeypatch, p, dtype):
    """To the bit, in rows of several segments, in chunks of one row and of many, for one thread and for two."""
    row = torch.randn(3, 40_001, generator=torch.Generator().manual_seed(0)).mul(20).to(dtype)
    scores = row[[0, 1, 0, 2, 1, 0, 2]]
    alive = (torch.rand(3, 40_001, generator=torch.Generator().manual_seed(1)) < 0.9)[[0, 1, 0, 2, 1, 0, 2]]
    before, found = torch.get_num_threads(), []
    try:
        for threads, reduced in ((1, 2**20), (2, 2**20), (2, 1), (2, 90_000)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(_items, "REDUCED", reduced)
            found += [item_scores([scores], [m], p, False, [""])[0] for m in (None, alive)]
    finally:
        torch.set_num_threads(before)
    for dense, masked in zip(found[::2], found[1::2]):
        assert torch.equal(dense, found[0])
        assert torch.equal(masked, found[1])
        assert torch.equal(dense[[0, 1, 0, 3, 1, 0, 3]], dense)


@pytest.mark.parametrize("p", [None, 2, 3])
def test_neither_autocast_nor_the_default_dtype_matters(p):
    scores = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    expected = item_scores([scores], [None], p, True, [""])[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(item_scores([scores], [None], p, True, [""])[0], expected)
    torch.set_default_dtype(torch.float16)
    try:
        assert torch.equal(item_scores([scores], [None], p, True, [""])[0], expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_dead_items_and_dead_elements_count_for_nothing():
    scores = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [2.0, 4.0]])
    alive = torch.tensor([[True, False], [False, False], [True, True]])
    for p, expected in ((None, [1, 0, 3]), (1, [1, 0, 3]), (-math.inf, [1, 0, 2]), (0, [1, 0, 1]), (-1, [1, 0, 8 / 3])):
        got, live = item_scores([scores], [alive], p, p != 0, [""])
        assert got.tolist() == pytest.approx(expected if p != 0 else [1, 0, 2])
        assert live.tolist() == [True, False, True]


@pytest.mark.parametrize("p", ORDERS)
def test_nan_is_told_for_every_order(p):
    scores = torch.tensor([[1.0, torch.nan], [1.0, 1.0]])
    with pytest.raises(ValueError, match="1 NaN in scores of 'w'"):
        item_scores([scores], [None], p, False, ["w"])
