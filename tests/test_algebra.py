"""Masks form a Boolean lattice under intersection and union; counts and measures agree with plain arithmetic."""

from __future__ import annotations

from functools import partial
from inspect import signature

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws_algebra import ALGEBRA

import masklib as ml
from masklib import complement, count, difference, intersection, overlap, sparsity, union
from masklib.testing import laws, masks
from masklib.testing._oracle import named
from masklib.testing._strategies import NAMES


@st.composite
def families(draw, n=3):
    """Some masks of one form: tensors of one shape, or mappings of them in any order of names."""
    if draw(st.booleans()):
        first = draw(masks())
        return [first, *(draw(masks(tuple(first.shape))) for _ in range(n - 1))]
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    shapes = {name: tuple(draw(masks()).shape) for name in names}
    return [{name: draw(masks(shapes[name])) for name in draw(st.permutations(names))} for _ in range(n)]


@pytest.mark.parametrize("law", ALGEBRA, ids=lambda law: law.__name__)
@given(families())
def test_law(law, family):
    law(*family[: len(signature(law).parameters)])


@given(families(2))
def test_counts_and_measures(family):
    a, b = family
    kept = {n: int(m.sum()) for n, m in named(a).items()}
    size = {n: m.numel() for n, m in named(a).items()}
    both = {n: int((m & named(b)[n]).sum()) for n, m in named(a).items()}
    either = {n: int((m | named(b)[n]).sum()) for n, m in named(a).items()}
    assert count(a) == sum(kept.values())
    assert sparsity(a) == dead_share(sum(kept.values()), sum(size.values()))
    assert overlap(a, b) == jaccard(sum(both.values()), sum(either.values())) == overlap(b, a)
    measures = (count(a), sparsity(a), overlap(a, b))
    assert [(m.dtype, m.dim()) for m in measures] == [(torch.int64, 0), (torch.float64, 0), (torch.float64, 0)]
    assert as_numbers(count(a, per_name=True)) == kept
    assert as_numbers(sparsity(a, per_name=True)) == {n: dead_share(kept[n], size[n]) for n in kept}
    assert as_numbers(overlap(a, b, per_name=True)) == {n: jaccard(both[n], either[n]) for n in kept}


def dead_share(kept, size):
    return (size - kept) / size if size else 0


def jaccard(both, either):
    return both / either if either else 1


def as_numbers(measures):
    return {n: x.item() for n, x in named(measures).items()}


@pytest.mark.parametrize("empty", [{}, torch.zeros(0, dtype=torch.bool), {"a": torch.zeros(0, 3, dtype=torch.bool)}])
def test_empty_masks_have_measures(empty):
    assert count(empty) == 0
    assert sparsity(empty) == 0
    assert overlap(empty, empty) == 1


def test_two_dead_masks_overlap_wholly():
    assert overlap(torch.zeros(3) > 0, torch.zeros(3) > 0) == 1


def test_the_algebra_maps_over_batches():
    a, b = (torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5).unbind()
    functions = (intersection, union, difference, complement, partial(complement, within=b[0]))
    for f in functions:
        laws.vmaps(f, *((a, b) if f in functions[:3] else (a,)))
    for f in (count, sparsity):
        assert torch.equal(torch.vmap(f)(a), torch.stack([f(m) for m in a]))
    assert torch.equal(torch.vmap(overlap)(a, b), torch.stack([overlap(m, n) for m, n in zip(a, b)]))
    got = torch.vmap(lambda a, b: ml.count({"x": a, "y": b}))(a, b)
    assert torch.equal(got, a.sum(1) + b.sum(1))
