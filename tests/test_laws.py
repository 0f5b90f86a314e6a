"""Laws x registry: every law on every method it applies to."""

from __future__ import annotations

import hypothesis
import laws_own
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import CASES, EVEN, METHODS, RULES, bind, numbers_of

import masklib as ml
from masklib.testing import check_method, fractions, histories, laws, mappings, numbers, scored, scores, shapes
from masklib.testing._oracle import named
from masklib.testing._strategies import FLOATS, SEEDS

SIDES = st.sampled_from(EVEN)


def over(cases):
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


def data(case, mapping=None, **options):
    """Scores and masks a case can take; items get small whole numbers, whose sums are exact and finite."""
    if case.itemized or not case.groups:
        options |= {"kinds": ("small", "few")}
    return st.sampled_from(case.shapes).flatmap(lambda sides: scored(mapping, sides, **options))


def bound(case, small=0.3, large=0.6):
    return [bind(case, number) for number, _ in numbers_of(case, small, large)]


@over(CASES)
def test_every_law_of_methods(case):
    """All that `check_method` knows, for each number the method takes; where it is called from, for the first one."""
    given = {"amount": 0.3, "sparsity": 0.6, "keep": 2}
    for i, number in enumerate([{name: given[name]} for name in case.takes] or [{}]):
        check_method(
            case.method,
            **case.promises,
            without=laws.ANYWHERE if i else (),
            shapes=st.sampled_from(case.shapes),
            kinds=("small", "few") if case.itemized or not case.groups else None,
            vmap=True,
            forks=not i,
            examples=hypothesis.settings.default.max_examples,
            **number,
        )


@over(CASES)
@given(st.data())
def test_needs_no_mask(case, draw):
    s, m = draw.draw(data(case))
    for f in bound(case):
        laws.needs_no_mask(f, s, m)


@over(CASES)
@given(st.data())
def test_folds(case, draw):
    s, m = draw.draw(data(case))
    laws_own.folds(bound(case)[0], bound(case)[-1], s, m)


@given(histories(), histories(), SIDES.flatmap(lambda sides: scored(None, sides, dtypes=FLOATS, kinds=("small",))))
def test_a_history_folds_in_two_parts(a, b, case):
    s, m = case
    assert laws.same(ml.fold(a + b, s, m), ml.fold(b, s, ml.fold(a, s, m)))
    assert laws.same(ml.fold(a + b, s, m), ml.chain(ml.chain(*a), ml.chain(*b))(s, m))


# ---- the rule -------------------------------------------------------------------------------------------------------


@over(RULES)
@given(st.data())
def test_the_rule(case, draw):
    """Equal to the oracle: exact in items of each pool, the lowest first, ties by index, whatever the number is."""
    s, m = draw.draw(data(case))
    number = draw.draw(numbers(case.takes, most=2))
    laws_own.follows_the_rule(case.method, case.groups, number, s, m, case.ranks)


FLOORED = {name: case for name, case in RULES.items() if case.method is ml.compute_mask or "channels" in name}


@over(FLOORED)
@given(st.data())
def test_floors(case, draw):
    """Equal to the oracle: the highest few of each tensor stay, as many die as without."""
    s, m = draw.draw(data(case))
    number, least = draw.draw(numbers(case.takes, most=2)), draw.draw(st.integers(0, 3))
    laws.keeps_the_least(case.method, case.groups, least, number, s, m)


@over({name: case for name, case in METHODS.items() if case.order_only})
@given(st.data())
def test_only_the_order_of_scores_matters(case, draw):
    s, m = draw.draw(data(case, mapping=False))
    for f in bound(case):
        laws.looks_at_order_only(f, s, m)


@given(scored(mapping=True, dtypes=FLOATS), fractions())
def test_a_mapping_is_its_concatenation(case, share):
    s, m = case
    for method in (ml.compute_mask, ml.l1_unstructured):
        for argument in ("amount", "sparsity"):
            laws.is_its_concatenation(lambda s, m, f=method, a=argument: f(s, m, **{a: share}), s, m)


@given(st.data())
def test_layerwise(draw):
    s, m = draw.draw(SIDES.flatmap(lambda sides: scored(True, sides)))
    for name in ("l1_unstructured", "random_unstructured", "ln_structured"):
        shares = {n: {"amount": draw.draw(fractions())} for n in s}
        laws_own.is_layerwise(METHODS[name].method, shares, s, m)


@over({name: case for name, case in METHODS.items() if case.per_tensor})
@given(st.data())
def test_pools_of_these_never_span_tensors(case, draw):
    s, m = draw.draw(data(case, mapping=True))
    for f in bound(case):
        got = f(s, m)
        for n in s:
            assert laws.same({n: got[n]}, f({n: s[n]}, None if m is None else {n: m[n]}))


@over({name: case for name, case in CASES.items() if case.noisy})
@given(st.data())
def test_noise_and_given_masks_look_at_no_scores(case, draw):
    s, m = draw.draw(data(case, mapping=False, dtypes=FLOATS))
    for f in bound(case):
        assert laws.same(f(torch.full_like(s, float("nan")), m), f(s, m))


# ---- regrowth and budgets -------------------------------------------------------------------------------------------

REGROWTH = (laws_own.keeps_the_count, laws_own.keeps_who_was_not_dropped, laws_own.grows_the_highest)


@given(st.data(), fractions())
def test_regrowth(draw, share):
    s, m = draw.draw(scored(dtypes=FLOATS))
    g = laws.like(s, {n: draw.draw(scores(tuple(t.shape), dtypes=FLOATS)) for n, t in named(s).items()})
    for law in REGROWTH:
        law(s, m, g, share)
    laws_own.regrows_nothing_for_nothing(s, m, g)


@pytest.mark.parametrize("budget", [ml.budgets.uniform, ml.budgets.er, ml.budgets.erk])
@given(mappings(shapes(2, 4, max_side=9).filter(all)), st.floats(0, 1))
def test_budgets(budget, sides, sparsity):
    laws.adds_up(budget, {n: torch.empty(shape, device="meta") for n, shape in sides.items()}, sparsity)


# ---- transforms and edges -------------------------------------------------------------------------------------------


@over(CASES)
@given(SEEDS)
def test_vmap(case, seed):
    g = torch.Generator().manual_seed(seed)
    batch, masks = torch.randn(3, 4, 6, generator=g).round(), torch.rand(3, 4, 6, generator=g) < 0.7
    for f in bound(case):
        laws.vmaps(f, batch, masks)
        laws.vmaps(f, {"b": batch, "a": batch.flip(1)}, {"a": masks, "b": masks.flip(2)})


@over(CASES)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0, 2)])
def test_tensors_without_elements(case, shape):
    for f in bound(case._replace(takes=tuple(n for n in case.takes if n != "keep") or case.takes)):
        for s in (torch.zeros(shape), {"a": torch.zeros(shape), "b": torch.zeros(shape, dtype=torch.float64)}):
            laws.is_a_mask(f, s, None)


@over(CASES)
def test_an_empty_mapping_gives_an_empty_mapping(case):
    for f in bound(case):
        assert f({}) == {}
        assert f({}, {}) == {}


@over(CASES)
def test_dead_stays_dead(case):
    """From nothing, whatever share is asked for, nothing is left to kill."""
    s = torch.arange(24.0).view(4, 6)
    dead = torch.zeros(4, 6, dtype=torch.bool)
    for f in bound(case):
        assert torch.equal(f(s, dead), dead)
