"""The named methods: the table of the design, what the numbers mean, ties, dtypes, NaN."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import half

import masklib as ml
from masklib.testing import fractions, laws, masks, numbers, scored
from masklib.testing._strategies import DTYPES, FLOATS, INTEGERS, KEYS

# ---- the table is a law ---------------------------------------------------------------------------------------------


@given(scored(), fractions())
def test_l1_unstructured_ranks_magnitudes(case, share):
    s, m = case
    for number in ({"amount": share}, {"sparsity": share}, {"keep": 0}):
        expected = ml.compute_mask(ml.scores.magnitude(s), m, **number)
        assert laws.same(ml.l1_unstructured(s, m, **number), expected)


@given(scored(), KEYS, fractions())
def test_random_unstructured_ranks_noise(case, key, share):
    s, m = case
    expected = ml.compute_mask(ml.scores.random(s, key=key), m, amount=share)
    assert laws.same(ml.random_unstructured(s, m, key=key, amount=share), expected)


@given(
    scored(shape=(2, 4), kinds=("many", "few")),
    st.sampled_from([1, 2, 0.5, 3, math.inf, -math.inf, 0, np.float32(2)]),
    st.sampled_from([0, 1, -1]),
    fractions(),
)
def test_ln_structured_ranks_norms_of_channels(case, n, dim, share):
    s, m = case
    expected = ml.compute_mask(s, m, sparsity=share, groups=ml.channels(dim, p=n))
    assert laws.same(ml.ln_structured(s, m, n=n, dim=dim, sparsity=share), expected)


@given(scored(shape=(4, 6)), st.integers(0, 2), st.sampled_from([-1, 0, 1]))
def test_n_of_m_keeps_so_many_of_each_window(case, keep, dim):
    s, m = case
    expected = ml.compute_mask(s, m, keep=keep, groups=ml.windows(2, dim))
    assert laws.same(ml.n_of_m(s, m, keep=keep, of=2, dim=dim), expected)


@given(scored())
def test_identity_and_custom_from_mask(case):
    s, m = case
    start = ml.identity(s, m)
    assert m is None or laws.same(start, m)
    assert laws.below(start, ml.identity(s))
    assert ml.sparsity(ml.identity(s)) == 0
    assert laws.same(ml.custom_from_mask(s, m, mask=half(s)), ml.intersection(start, half(s)))


@given(scored(mapping=False))
def test_compute_mask_of_elements_is_the_default(case):
    s, m = case
    expected = ml.compute_mask(s, m, amount=0.3, groups=ml.elements())
    assert laws.same(ml.compute_mask(s, m, amount=0.3), expected)


def test_n_of_m_keeps_the_highest_of_each_window():
    s = torch.tensor([[4.0, 1.0, 3.0, 2.0, -1.0, -1.0, -1.0, -1.0]])
    assert ml.n_of_m(s, keep=2, of=4).int().tolist() == [[1, 0, 1, 0, 0, 0, 1, 1]]
    conv = ml.scores.magnitude(torch.randn(8, 4, 3, 3))
    kept = ml.n_of_m(conv, keep=2, of=4, dim=1)
    assert bool((kept.sum(1) == 2).all())
    assert bool((conv.where(kept, math.inf).amin(1) >= conv.where(~kept, 0).amax(1)).all())


# ---- how many -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "of", "dies"),
    [
        *[(0.4, 17, 7), (1, 17, 1), (1.0, 17, 17), (0.5, 17, 8), (0.5, 15, 8), (0.5, 1, 0), (0, 9, 0), (0.0, 9, 0)],
        *[(0.29, 100, 29), (0.5, 3, 2), (0.3, 10, 3), (0.35, 10, 4), (0.25, 10, 2), (17, 17, 17)],
    ],
)
def test_amounts_round_half_to_even_in_float64(amount, of, dies):
    """29 % of 100 is 29: the product in float64 is 28.999999999999996."""
    assert of - ml.count(ml.compute_mask(torch.arange(float(of)), amount=amount)) == dies
    assert of - ml.count(ml.compute_mask(torch.arange(float(of)), sparsity=float(dies / of))) == dies


def forms(number):
    """The same number in every form a number may take."""
    if isinstance(number, float):
        wraps = [float, np.float64, np.float32, np.float16, *(partial(torch.tensor, dtype=d) for d in FLOATS)]
    else:
        wraps = [int, np.int64, np.int8, np.uint16, *(partial(torch.tensor, dtype=d) for d in INTEGERS)]
    return [wrap(number) for wrap in wraps]


@pytest.mark.parametrize("number", [{"amount": 0.5}, {"amount": 3}, {"keep": 2}, {"sparsity": 0.75}, {"amount": 1}])
def test_numbers_of_every_kind_mean_the_same(number):
    s = torch.randn(9, generator=torch.Generator().manual_seed(0))
    ((argument, value),) = number.items()
    for form in forms(value):
        assert torch.equal(ml.compute_mask(s, **{argument: form}), ml.compute_mask(s, **number)), repr(form)


def test_a_fraction_tensor_is_taken_at_its_exact_value():
    """0.3 in bfloat16 is 0.30078125: of 1,000,000 that is 300,781 (half to even of 300,781.25)."""
    s = torch.zeros(1, dtype=torch.int8).expand(1_000_000)
    for dtype, dies in ((torch.bfloat16, 300_781), (torch.float64, 300_000), (torch.float32, 300_000)):
        assert 1_000_000 - ml.count(ml.compute_mask(s, amount=torch.tensor(0.3, dtype=dtype))) == dies


@given(scored(mapping=False, shape=(12,)), masks((12,)), fractions(), st.integers(0, 12))
def test_keep_and_sparsity_count_the_whole_and_revive_nothing(case, m, share, keep):
    s, _ = case
    alive = int(m.sum())
    assert ml.count(ml.compute_mask(s, m, keep=keep)) == min(alive, keep)
    assert ml.count(ml.compute_mask(s, m, sparsity=share)) == min(alive, 12 - round(share * 12))


def test_amount_is_taken_from_what_is_alive():
    s, m = torch.arange(10.0), torch.arange(10) >= 4
    assert ml.compute_mask(s, m, amount=0.5).nonzero().flatten().tolist() == [7, 8, 9]
    assert ml.compute_mask(s, m, sparsity=0.5).nonzero().flatten().tolist() == [5, 6, 7, 8, 9]
    assert ml.compute_mask(s, m, keep=5).nonzero().flatten().tolist() == [5, 6, 7, 8, 9]


def test_half_of_equal_scores_is_half_of_them():
    assert ml.count(ml.compute_mask(torch.ones(1000), amount=0.5)) == 500


# ---- ties, zeros, infinities, NaN -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (2, 3), (3, 2), (1, 6, 1), (1, 3, 2, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_among_equals_the_lower_index_dies_first(shape, dtype):
    s = torch.ones(shape, dtype=dtype)
    for equal in (s, s.transpose(0, -1).contiguous().transpose(0, -1), s[(0,) * s.dim()].expand(shape)):
        for f in (ml.compute_mask, ml.l1_unstructured):
            assert f(equal, amount=2).flatten().tolist() == [False] * 2 + [True] * 4


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_are_equal_and_infinities_are_ordinary(dtype):
    s = torch.tensor([0.0, -0.0, math.inf, -math.inf, 0.0, -0.0], dtype=dtype)
    assert ml.compute_mask(s, amount=1).tolist() == [True, True, True, False, True, True]
    assert ml.compute_mask(s, amount=3).tolist() == [False, False, True, False, True, True]
    assert ml.compute_mask(s, keep=1).tolist() == [False, False, True, False, False, False]
    assert ml.l1_unstructured(s, keep=2).tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("dtype", FLOATS)
def test_denormals_are_told_apart(dtype):
    tiny = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    s = torch.tensor([3 * tiny, tiny, 0.0, 2 * tiny, -tiny], dtype=dtype)
    assert ml.compute_mask(s, amount=2).tolist() == [True, True, False, True, False]
    assert ml.l1_unstructured(s, amount=2).tolist() == [True, False, False, True, True]


NAN_METHODS = {
    "compute_mask": partial(ml.compute_mask, amount=1),
    "l1_unstructured": partial(ml.l1_unstructured, amount=1),
    "ln_structured": partial(ml.ln_structured, n=2, dim=0, amount=1),
    "ln_structured max": partial(ml.ln_structured, n=math.inf, dim=0, amount=1),
    "n_of_m": partial(ml.n_of_m, keep=1, of=3),
    **{
        str(g): partial(ml.compute_mask, amount=1, groups=g)
        for g in (ml.rows(), ml.rows(1), ml.channels(1), ml.blocks((1, 3), p=-1), ml.windows(3))
    },
}


@pytest.mark.parametrize("method", NAN_METHODS.values(), ids=NAN_METHODS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_raises_where_it_is_alive(method, dtype):
    s = torch.arange(12.0).view(4, 3).to(dtype)
    s[1, 1] = s[2, 2] = math.nan
    m = torch.ones(4, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^2 NaN in scores\b"):
        method(s)
    m[1, 1] = False
    with pytest.raises(ValueError, match=r"^1 NaN in scores of 'fc1\.weight'"):
        method({"fc1.weight": s, "z": m.float()}, {"fc1.weight": m, "z": m})
    m[2, 2] = False
    assert laws.below(method(s, m), m)


def test_nan_in_several_tensors_names_each():
    s = {"b": torch.tensor([math.nan, 1.0]), "a": torch.tensor([math.nan, math.nan]), "c": torch.ones(2)}
    with pytest.raises(ValueError, match=r"2 NaN in scores of 'a', 1 NaN in scores of 'b'\."):
        ml.compute_mask(s, amount=1)


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def test_one_pool_compares_mixed_floating_dtypes_by_value():
    s = {
        "half": torch.tensor([1.0, 2.0], dtype=torch.float16),
        "brain": torch.tensor([1.0, 1.9921875], dtype=torch.bfloat16),
        "single": torch.tensor([1 + 2**-20, 2 - 2**-20]),
        "double": torch.tensor([1 + 2**-40, 2 - 2**-40], dtype=torch.float64),
    }
    order = [("brain", 0), ("half", 0), ("double", 0), ("single", 0), ("brain", 1), ("single", 1), ("double", 1)]
    for k in range(8):
        mask = ml.compute_mask(s, amount=k)
        assert {(n, i) for n in s for i in range(2) if not mask[n][i]} == set(order[:k])


@given(scored(dtypes=INTEGERS), numbers())
def test_integers_of_mixed_widths_compete_by_value(case, number):
    laws.follows_the_rule(ml.compute_mask, ml.elements(), number, *case)


def test_complex_weights_rank_by_their_absolute_value():
    w = torch.tensor([3 + 4j, 1 + 0j, 0 + 2j])
    assert ml.l1_unstructured(w, amount=1).tolist() == [True, False, True]
    for n in (1, 2, math.inf):
        assert ml.ln_structured(w.view(3, 1), n=n, dim=0, amount=1).flatten().tolist() == [True, False, True]
    assert ml.l1_unstructured({"a": w, "b": torch.tensor([1.5, 6.0])}, amount=2)["b"].tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint64])
def test_methods_that_look_at_no_scores_take_any_dtype(dtype):
    s = torch.ones(2, 2, dtype=dtype)
    assert ml.identity(s).all()
    assert ml.count(ml.random_unstructured(s, key=0, amount=3)) == 1
    assert ml.count(ml.random_structured(s, dim=1, key=0, amount=1)) == 2
    assert laws.same(ml.custom_from_mask(s, mask=half(s)), half(s))


# ---- what may be passed ---------------------------------------------------------------------------------------------


def test_mappings_of_any_kind_give_a_dict_in_their_order():
    s = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([0.0, 3.0])}
    for kind in (dict, OrderedDict, MappingProxyType):
        got = ml.l1_unstructured(kind(s), kind({n: t >= 0 for n, t in s.items()}), amount=1)
        assert type(got) is dict
        assert {n: m.tolist() for n, m in got.items()} == {"b": [True, True], "a": [False, True]}
        assert list(got) == ["b", "a"]


def test_parameters_are_tensors():
    module = torch.nn.Linear(3, 2)
    got = ml.l1_unstructured(dict(module.named_parameters()), amount=0.5)
    assert {type(m) for m in got.values()} == {torch.Tensor}
    assert ml.count(got) == 4


def test_a_tensor_of_one_number():
    for s in (torch.tensor(3.0), torch.tensor(-2), torch.tensor(1.0).expand(1)):
        assert ml.compute_mask(s, amount=1).shape == s.shape
        assert not ml.compute_mask(s, amount=1)
        assert ml.l1_unstructured(s, keep=1)


@pytest.mark.parametrize("number", [{"amount": 300}, {"keep": 700}])
def test_counts_are_those_of_long_tensors_too(number):
    assert int(ml.count(ml.compute_mask(torch.arange(1000.0), **number))) == 700
