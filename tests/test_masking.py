"""Applying masks."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from hypothesis import given

import masklib as ml
from masklib.testing import masks, scores
from masklib.testing._strategies import FLOATS


@given(scores(shape=(3, 4), dtypes=FLOATS), masks((3, 4)))
def test_apply_is_where(p, m):
    assert torch.equal(ml.apply(p, m), torch.where(m, p, torch.zeros((), dtype=p.dtype)))
    assert ml.apply(p, m).dtype == p.dtype


def test_no_nan_or_inf_leaks():
    p = torch.tensor([float("nan"), float("inf"), 1.0], requires_grad=True)
    m = torch.tensor([False, False, True])
    out = ml.apply({"w": p}, {"w": m})["w"]
    assert out.tolist() == [0, 0, 1]
    out.sum().backward()
    assert p.grad.tolist() == [0, 0, 1]


def test_parameters_without_a_mask_pass_through():
    params = {"w": torch.ones(2), "b": torch.ones(3)}
    out = ml.apply(params, {"w": torch.tensor([True, False])})
    assert list(out) == ["w", "b"]
    assert out["b"] is params["b"]
    assert params["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.bool, torch.complex64, torch.float64, torch.float16, torch.float8_e4m3fn]
)
def test_apply_takes_every_dtype(dtype):
    p = torch.ones(2, dtype=dtype)
    assert ml.apply(p, torch.tensor([True, False])).tolist() == [p[0].item(), p.new_zeros(()).item()]
    assert ml.apply(p, torch.tensor([True, False])).dtype == dtype


# ---- histories ----------------------------------------------------------------------------------------------------


def test_iterative_magnitude_pruning_leaves_the_published_share():
    """Frankle & Carbin 2019: each round removes 20 % (10 % of the output layer) of what remains."""
    s = {"fc1": torch.randn(300, 784), "fc2": torch.randn(100, 300), "fc3": torch.randn(10, 100)}
    step = partial(ml.layerwise(ml.l1_unstructured), amount={"fc1": 0.2, "fc2": 0.2, "fc3": 0.1})
    remaining = [100 * (1 - ml.sparsity(m).item()) for m in ml.scan([step] * 18, s)]
    published = {3: 51.28, 7: 21.07, 12: 6.95, 15: 3.58, 18: 1.85}
    assert {r: round(remaining[r], 2) for r in published} == published


def test_a_history_is_data():
    history = (partial(ml.l1_unstructured, amount=0.5), partial(ml.layerwise(ml.l1_unstructured), amount=1))
    s = torch.randn(10)
    again = pickle.loads(pickle.dumps(ml.chain(*history)))
    assert torch.equal(again(s), ml.fold(history, s))
    assert torch.equal(ml.fold((), s), torch.ones(10, dtype=torch.bool))
    assert len(ml.scan(history, s)) == 3
    assert torch.equal(ml.chain()(s, s > 0), s > 0)


def test_n_of_m_keeps_the_highest_of_each_window():
    s = torch.tensor([[4.0, 1.0, 3.0, 2.0, -1.0, -1.0, -1.0, -1.0]])
    assert ml.n_of_m(s, keep=2, of=4).int().tolist() == [[1, 0, 1, 0, 0, 0, 1, 1]]
    conv = torch.randn(8, 4, 3, 3)
    kept = ml.n_of_m(conv.abs(), keep=2, of=4, dim=1)
    assert (kept.sum(1) == 2).all()


@pytest.mark.parametrize(("amount", "dies"), [(0.4, 7), (1, 1), (1.0, 17), (0.5, 8), (0, 0)])
def test_amounts_round_half_to_even(amount, dies):
    assert 17 - ml.count(ml.compute_mask(torch.randn(17), amount=amount)) == dies


def test_half_of_equal_scores_is_half_of_them():
    assert ml.count(ml.compute_mask(torch.ones(1000), amount=0.5)) == 500
