"""Scores and the counter-based noise."""

from __future__ import annotations

import noise_oracle as oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import masklib as ml
from masklib.selection import ITEMS, noise
from masklib.testing import scored
from masklib.testing._strategies import NAMES, SEEDS

GOLDEN = {
    (0, ""): [968999591178511036, 8524995788417003113],
    (-1, ""): [-4166672980652862585, -3018895058059795013],
}


@given(scored(), st.floats(0, 1))
def test_l1_unstructured_ranks_magnitudes(case, share):
    s, m = case
    expected = ml.compute_mask(ml.scores.magnitude(s), m, amount=share)
    got = ml.l1_unstructured(s, m, amount=share)
    assert str(got) == str(expected)


@given(scored(), SEEDS, st.floats(0, 1))
def test_random_unstructured_ranks_noise(case, key, share):
    s, m = case
    expected = ml.compute_mask(ml.scores.random(s, key=key), m, amount=share)
    assert str(ml.random_unstructured(s, m, key=key, amount=share)) == str(expected)


def test_magnitude_of_every_kind():
    assert ml.scores.magnitude(torch.tensor([-1.5, 2.0])).tolist() == [1.5, 2.0]
    assert ml.scores.magnitude(torch.tensor([3 + 4j])).tolist() == [5.0]
    assert ml.scores.magnitude({"w": torch.tensor([-1], dtype=torch.int8)})["w"].dtype == torch.uint8
    w = torch.randn(3, requires_grad=True)
    assert not ml.scores.magnitude(w).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_saliency_is_the_magnitude_of_weight_times_gradient(dtype):
    w, g = torch.randn(5, dtype=dtype), torch.randn(5, dtype=dtype)
    got = ml.scores.saliency({"w": w}, {"w": g})["w"]
    wide = torch.promote_types(dtype, torch.float32)
    assert got.dtype == wide
    assert torch.equal(got, (w.to(wide) * g.to(wide)).abs())


def test_saliencies_of_half_precision_do_not_vanish():
    """The products of these are below the least float16."""
    w, g = torch.full((4,), 2.0**-14, dtype=torch.float16), torch.tensor([3, 1, 4, 2]).half() * 2.0**-14
    assert ml.compute_mask(ml.scores.saliency(w, g), keep=2).tolist() == [True, False, True, False]


def test_complex_weights_are_ranked_by_their_absolute_value():
    w = torch.tensor([3 + 4j, 1 + 0j, 0 + 2j])
    assert ml.l1_unstructured(w, amount=1).tolist() == [True, False, True]
    assert ml.ln_structured(w.view(3, 1), n=2, dim=0, amount=1).flatten().tolist() == [True, False, True]


# ---- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "name"), GOLDEN)
def test_golden_values(key, name):
    assert [oracle.noise(key, name, 0, i) for i in range(2)] == GOLDEN[key, name]
    assert ml.scores.random({name: torch.zeros(2)}, key=key)[name].tolist() == GOLDEN[key, name]


@given(SEEDS | st.integers(-(2**63), 2**64 - 1), st.sampled_from(NAMES), st.integers(0, 300))
def test_noise_is_the_documented_hash(key, name, n):
    got = ml.scores.random({name: torch.zeros(n)}, key=key)[name]
    assert got.tolist() == [oracle.noise(key, name, 0, i) for i in range(n)]
    items = noise(torch.tensor(key if key < 2**63 else key - 2**64), name, ITEMS, [n], torch.device("cpu"))
    assert items.tolist() == [oracle.noise(key, name, 1, i) for i in range(n)]


def test_noise_of_many_chunks_is_the_documented_hash():
    got = ml.scores.random(torch.zeros(2**17 + 5), key=3)
    for i in (0, 2**16 - 1, 2**16, 2**17, 2**17 + 4):
        assert got[i] == oracle.noise(3, "", 0, i)
    assert got.unique().numel() == got.numel()


def test_noise_depends_on_key_name_and_index_alone():
    s = torch.zeros(4, 6)
    expected = ml.scores.random({"w": s}, key=5)["w"]
    others = {
        "dtype": s.bfloat16(),
        "layout": torch.zeros(6, 4).t(),
        "expanded": torch.zeros(1, 1).expand(4, 6),
        "values": s + float("nan"),
    }
    for other in others.values():
        assert torch.equal(ml.scores.random({"v": s, "w": other}, key=5)["w"], expected)
    assert torch.equal(ml.scores.random({"w": s.view(24)}, key=5)["w"], expected.view(24))
    assert torch.equal(ml.scores.random({"w": s[:2]}, key=5)["w"], expected[:2])
    assert torch.equal(ml.scores.random({"w": s}, key=torch.tensor(5))["w"], expected)
    assert not torch.equal(ml.scores.random({"w": s}, key=6)["w"], expected)
    assert not torch.equal(ml.scores.random({"x": s}, key=5)["x"], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_random_pruning_is_uniform_in_every_dtype(dtype):
    """The share that dies in each tenth of the tensor is that of the whole, to 5 standard deviations."""
    n = 200_000
    dead = ~ml.random_unstructured(torch.zeros(n, dtype=dtype), key=11, amount=0.3)
    assert dead.sum() == 60_000
    tenths = dead.view(10, -1).double().mean(1)
    assert (tenths - 0.3).abs().max() < 5 * (0.3 * 0.7 / (n / 10)) ** 0.5


def test_random_methods_do_not_look_at_values():
    s = torch.full((4, 6), float("nan"))
    assert ml.random_unstructured(s, key=0, amount=5).sum() == 19
    assert ml.random_structured(s, dim=0, key=0, amount=1).sum() == 18
