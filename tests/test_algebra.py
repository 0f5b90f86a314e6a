"""Masks form a lattice under intersection and union; counts and measures agree with plain arithmetic."""

from __future__ import annotations

import laws
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import NAMES, generator, masks

import masklib as ml


@st.composite
def families(draw, n=3):
    """Some masks of one form: tensors of one shape, or mappings of them."""
    if draw(st.booleans()):
        first = draw(masks())
        return [first, *(draw(masks(tuple(first.shape))) for _ in range(n - 1))]
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    shapes = {name: tuple(draw(masks()).shape) for name in names}
    return [{name: draw(masks(shapes[name])) for name in names} for _ in range(n)]


@given(families())
def test_lattice_laws(family):
    a, b, c = family
    both, either, no = ml.intersection, ml.union, ml.complement
    equalities = {
        "commutative": [(both(a, b), both(b, a)), (either(a, b), either(b, a))],
        "associative": [(both(a, both(b, c)), both(both(a, b), c)), (either(a, either(b, c)), either(either(a, b), c))],
        "absorption": [(both(a, either(a, b)), a), (either(a, both(a, b)), a)],
        "distributive": [(both(a, either(b, c)), either(both(a, b), both(a, c)))],
        "idempotent": [(both(a, a), a), (either(a, a), a)],
        "De Morgan": [(no(both(a, b)), either(no(a), no(b))), (no(either(a, b)), both(no(a), no(b)))],
        "involution": [(no(no(a)), a), (no(no(both(a, b), within=b), within=b), both(a, b))],
        "difference": [(ml.difference(a, b), both(a, no(b))), (no(a, within=b), ml.difference(b, a))],
    }
    for law, pairs in equalities.items():
        for left, right in pairs:
            assert laws.same(left, right), law


@given(families(2))
def test_counts_and_measures(family):
    a, b = family
    kept = sum(int(m.sum()) for m in laws.named(a).values())
    size = sum(m.numel() for m in laws.named(a).values())
    assert ml.count(a) == kept
    assert ml.sparsity(a) == ((size - kept) / size if size else 0)
    union, inter = ml.count(ml.union(a, b)), ml.count(ml.intersection(a, b))
    assert ml.overlap(a, b) == (int(inter) / int(union) if union else 1)
    measures = (ml.count(a), ml.sparsity(a), ml.overlap(a, b))
    assert [m.dtype for m in measures] == [torch.int64, torch.float64, torch.float64]
    assert [m.dim() for m in measures] == [0, 0, 0]


def test_per_name():
    masks = {"a": torch.tensor([True, False]), "b": torch.tensor([True, True])}
    assert {n: int(c) for n, c in ml.count(masks, per_name=True).items()} == {"a": 1, "b": 2}
    assert {n: float(c) for n, c in ml.sparsity(masks, per_name=True).items()} == {"a": 0.5, "b": 0.0}
    assert {n: float(c) for n, c in ml.overlap(masks, masks, per_name=True).items()} == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("empty", [{}, torch.zeros(0, dtype=torch.bool), {"a": torch.zeros(0, 3, dtype=torch.bool)}])
def test_empty_masks_have_counts(empty):
    assert ml.count(empty) == 0
    assert ml.sparsity(empty) == 0
    assert ml.overlap(empty, empty) == 1


def test_results_share_no_memory():
    a = torch.rand(5, generator=generator(0)) < 0.5
    for result in (ml.intersection(a, a), ml.union(a, a), ml.complement(a), ml.identity(a.float(), a)):
        result.logical_not_()
    assert torch.equal(a, torch.rand(5, generator=generator(0)) < 0.5)


def test_select():
    params = {"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)}
    chosen = ml.select(params, lambda name, p: p.dim() > 1)
    assert list(chosen) == ["a.weight"]
    assert chosen["a.weight"] is params["a.weight"]
    assert ml.select({}, lambda name, p: True) == {}
