"""Budgets from scores: OWL and the pool of all scores, by hand and by law."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import masklib as ml
from masklib import budgets

BUDGETS = {"owl": budgets.owl, "pooled": budgets.pooled}
over_budgets = pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=5)


def drawn(sizes, seed=0, power=1.0):
    draw = torch.Generator().manual_seed(seed)
    return {f"{i}": torch.randn(n, generator=draw).abs() ** power * (i + 1) for i, n in enumerate(sizes)}


def total(tensors, sparsities):
    return math.fsum(sparsities[n] * t.numel() for n, t in tensors.items())


def test_owl_of_three_layers_by_hand():
    """Shares 0, 1/8 and 2/8 above twice the mean; lambda .08: densities .3 - .08, .3, .3 + .08."""
    scores = {
        "none": torch.ones(8),
        "one": torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 8]),
        "two": torch.tensor([1.0, 1, 1, 1, 1, 1, 9, 9]),
    }
    got = budgets.owl(scores, 0.7, outliers=2.0)
    assert got == pytest.approx({"none": 0.78, "one": 0.70, "two": 0.62})


def test_owl_as_published():
    """All layers of one size: r rescaled to [0, 2 lambda], its mean taken away, 1 - s added."""
    scores = drawn([500] * 6, power=3.0)
    r = torch.tensor([(t > 5 * t.mean()).double().mean() for t in scores.values()])
    r = (r - r.min()) / (r.max() - r.min()) * 0.16
    expected = 1 - (r - r.mean() + 0.3)
    assert list(budgets.owl(scores, 0.7).values()) == pytest.approx(expected.tolist())


def test_owl_of_equal_shares_is_uniform():
    assert budgets.owl({"a": torch.ones(4), "b": torch.ones(6)}, 0.3) == pytest.approx({"a": 0.3, "b": 0.3})


def test_pooled_by_hand():
    scores = {"a": torch.arange(8.0), "b": torch.arange(8.0) + 4}
    assert budgets.pooled(scores, 0.5, margin=1.0) == {"a": 0.75, "b": 0.25}  # 4 ... 7 tie: above 6 two and six
    assert budgets.pooled(scores, 0.5, margin=0.0) == pytest.approx({"a": 0.5, "b": 0.5})


@given(SIZES, st.floats(0, 1), st.integers(0, 99))
def test_without_a_margin_it_is_one_pool(sizes, sparsity, seed):
    scores = drawn(sizes, seed)
    masks = ml.compute_mask(scores, sparsity=sparsity)
    got = budgets.pooled(scores, sparsity, margin=1.0)
    for n, mask in masks.items():
        assert abs(got[n] * mask.numel() - int((~mask).sum())) <= 1 + 1e-6  # one element is shared out


@over_budgets
@given(SIZES, st.floats(0, 1), st.integers(0, 99), st.booleans())
def test_totals_are_exact(budget, sizes, sparsity, seed, tied):
    scores = drawn(sizes, seed)
    scores = {n: t.round() for n, t in scores.items()} if tied else scores
    got = budget(scores, sparsity)
    assert total(scores, got) == pytest.approx(sparsity * sum(sizes), abs=1e-6)
    assert all(-1e-9 <= s <= 1 + 1e-9 for s in got.values())
    kept = budgets.kept(scores, {n: min(max(s, 0.0), 1.0) for n, s in got.items()})
    assert sum(kept.values()) == sum(sizes) - round(math.fsum(got[n] * len(t) for n, t in scores.items()))


@given(SIZES, st.floats(0, 1), st.floats(0, 0.5), st.integers(0, 99))
def test_densities_stay_within_the_margin(sizes, sparsity, margin, seed):
    got = budgets.pooled(drawn(sizes, seed), sparsity, margin=margin)
    assert all(abs(s - sparsity) <= margin + 1e-9 for s in got.values())


@over_budgets
def test_equal_scores_are_uniform(budget):
    got = budget({"a": torch.ones(4), "b": torch.ones(60)}, 0.3)
    assert got == pytest.approx({"a": 0.3, "b": 0.3})


@over_budgets
def test_what_is_fixed_is_made_up_for(budget):
    scores = drawn([30, 40, 50])
    got = budget(scores, 0.5, fixed={"1": 0.9}, least=2)
    assert got["1"] == 0.9
    assert total(scores, got) == pytest.approx(60)


def test_infinities_and_integers_are_ordinary_scores():
    scores = {"a": torch.tensor([-torch.inf, 0.0, 1.0, torch.inf]), "b": torch.tensor([-5, 2, 3, 4])}
    assert budgets.pooled(scores, 0.5, margin=1.0) == {"a": 0.75, "b": 0.25}
    assert budgets.pooled(scores, 0.25, margin=1.0) == {"a": 0.25, "b": 0.25}


def test_a_weights_scale_decides():
    """A layer whose scores are all higher keeps more."""
    got = budgets.pooled({"low": torch.rand(100), "high": torch.rand(100) + 1}, 0.5, margin=0.1)
    assert got == pytest.approx({"low": 0.6, "high": 0.4})


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "NaN", lambda: budgets.owl({"a": torch.tensor([1.0, torch.nan])}, 0.5)),
        (ValueError, "NaN", lambda: budgets.pooled({"a": torch.tensor([1.0, torch.nan])}, 0.5)),
        (TypeError, "`scores` must be a mapping", lambda: budgets.owl(torch.ones(2), 0.5)),
        (TypeError, "`scores` of 'a' must be real", lambda: budgets.pooled({"a": torch.ones(2) * 1j}, 0.5)),
        (ValueError, "`scores` of 'a' must have values", lambda: budgets.owl({"a": torch.ones(2, device="meta")}, 0.5)),
        (ValueError, "`outliers` must be positive", lambda: budgets.owl({"a": torch.ones(2)}, 0.5, outliers=0)),
        (
            ValueError,
            "`margin` must be a number in [0, 1]",
            lambda: budgets.pooled({"a": torch.ones(2)}, 0.5, margin=2),
        ),
        (ValueError, "`sparsity` must be a number in [0, 1]", lambda: budgets.pooled({"a": torch.ones(2)}, 1.5)),
        (
            ValueError,
            "`margin` must leave room for what `least` keeps",
            lambda: budgets.pooled({"a": torch.ones(2), "b": torch.ones(8)}, 0.5, margin=0.01, least=2),
        ),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()
