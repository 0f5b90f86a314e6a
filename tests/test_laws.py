"""Laws x registry: every law on every method."""

from __future__ import annotations

import laws
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import CASES, METHODS, bind, numbers_of
from strategies import FLOATS, INTEGERS, fractions, scored

import masklib as ml

SHAPES = st.sampled_from([(2, 2), (3, 4), (4, 6), (1, 2), (5, 2), (2, 4, 2)])
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_method = pytest.mark.parametrize("case", METHODS.values(), ids=METHODS)


def data(case, mapping=None):
    """Scores and masks a case can take; sums of opposite infinities have no value, so items get finite ones."""
    dtypes = None if not case.structured else FLOATS + INTEGERS
    if mapping is not False and case.structured:
        dtypes = FLOATS
    return SHAPES.flatmap(lambda shape: scored(mapping, shape, dtypes, infinite=not case.structured))


def methods(case, small=0.3, large=0.6):
    return [bind(case, a) for a, _ in numbers_of(case, small, large)]


@every_case
@pytest.mark.parametrize(
    "law", [laws.is_a_mask, laws.shrinks, laws.is_pure, laws.is_layout_blind], ids=lambda f: f.__name__
)
@given(st.data())
def test_law(case, law, draw):
    s, m = draw.draw(data(case))
    for f in methods(case):
        law(f, s, m)


@every_case
@given(st.data())
def test_survivors_only(case, draw):
    s, m = draw.draw(data(case))
    for f in methods(case):
        laws.survivors_only(f, s, m)


@every_method
@given(st.data(), fractions(), fractions())
def test_nested(case, draw, a, b):
    s, m = draw.draw(data(case))
    for small, large in numbers_of(case, *sorted((a, b))):
        laws.is_nested(bind(case, small), bind(case, large), s, m)


@every_method
@given(st.data(), st.integers(0, 4), st.integers(0, 4))
def test_nested_in_whole_items(case, draw, a, b):
    s, m = draw.draw(data(case, mapping=False))
    if "amount" not in case.takes:
        return
    small, large = sorted((a, b))
    try:
        killed_more = bind(case, {"amount": large})(s, m)
    except ValueError:
        return  # a pool has fewer alive
    assert laws.below(killed_more, bind(case, {"amount": small})(s, m))


@every_method
@given(st.data(), fractions())
def test_idempotent_in_keep_and_sparsity(case, draw, share):
    s, m = draw.draw(data(case))
    for number in ({"keep": 1}, {"sparsity": share}):
        if set(number) <= set(case.takes) and possible(case, number, s):
            laws.is_idempotent(bind(case, number), s, m)


def possible(case, number, s):
    try:
        bind(case, number)(s, None)
    except ValueError:  # keep=1 of an empty pool
        return False
    return True


@every_method
@given(st.data())
def test_keeping_fewer_after_more_is_keeping_fewer(case, draw):
    s, m = draw.draw(data(case))
    two, one = (bind(case, {"keep": k}) for k in (2, 1))
    if possible(case, {"keep": 2}, s):
        assert laws.same(one(s, two(s, m)), one(s, m))


@every_case
@given(st.data())
def test_folds(case, draw):
    s, m = draw.draw(data(case))
    laws.folds(methods(case)[0], methods(case)[-1], s, m)


@every_case
@given(st.data())
def test_order_of_names_makes_no_difference(case, draw):
    s, m = draw.draw(data(case, mapping=True))
    for f in methods(case):
        laws.is_order_blind(f, s, m)


@every_case
@given(st.integers(0, 2**20))
def test_vmap(case, seed):
    g = torch.Generator().manual_seed(seed)
    batch = torch.randn(3, 4, 6, generator=g).round()
    masks = torch.rand(3, 4, 6, generator=g) < 0.7
    for f in methods(case):
        laws.vmaps(f, batch, masks)


@given(scored(mapping=True))
def test_a_mapping_is_its_concatenation(case):
    s, m = case
    if not s:
        return
    names = sorted(s)
    flat = torch.cat([s[n].reshape(-1).double() for n in names])
    mask = None if m is None else torch.cat([m[n].reshape(-1) for n in names])
    for f in (ml.compute_mask, ml.l1_unstructured):
        got = f(s, m, amount=0.4)
        assert torch.equal(torch.cat([got[n].reshape(-1) for n in names]), f(flat, mask, amount=0.4))


@given(scored(mapping=False))
def test_only_the_order_of_scores_matters(case):
    s, m = case
    ranks = s.reshape(-1).double().add(0.0) if s.is_floating_point() else s.reshape(-1)
    dense = ranks.unique(return_inverse=True)[1].view(s.shape)
    increasing = torch.exp(dense.double() / 100)
    assert torch.equal(ml.compute_mask(s, m, amount=0.4), ml.compute_mask(increasing, m, amount=0.4))


@given(scored(mapping=True))
def test_layerwise_is_one_call_a_name(case):
    s, m = case
    shares = {n: i / 10 for i, n in enumerate(s)}
    got = ml.layerwise(ml.l1_unstructured)(s, m, amount=shares)
    for n in s:
        alone = ml.l1_unstructured({n: s[n]}, None if m is None else {n: m[n]}, amount=shares[n])
        assert torch.equal(got[n], alone[n])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0, 2)])
@every_case
def test_tensors_without_elements(case, shape):
    numbers = tuple(n for n in case.takes if n != "keep") or case.takes
    for f in methods(case._replace(takes=numbers)):
        for s in (torch.zeros(shape), {"a": torch.zeros(shape), "b": torch.zeros(shape, dtype=torch.float64)}):
            laws.is_a_mask(f, s, None)


def test_an_empty_mapping_gives_an_empty_mapping():
    for case in CASES.values():
        for f in methods(case):
            assert f({}, None) == {}
