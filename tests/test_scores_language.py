"""RIA, factored curvature and REAP: values by hand, and what they have in common with what they are made of."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import masklib as ml
from masklib import scores

W = torch.tensor([[0.5, -1, 0.25, 2], [1, 0.75, -0.5, 0.1]])
X = torch.tensor([[float(c) for c in row] for row in ("1010", "0110", "1101", "0011", "2100", "0102")])
STATE, GRADS = scores.add_input_norms(None, X), scores.add_input_norms(None, torch.tensor([[1.0, 2.0], [3.0, 0.0]]))


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- RIA ------------------------------------------------------------------------------------------------------------


def test_ria_by_hand():
    """Rows add up to 3.75 and 2.35, columns to 1.5, 1.75, .75, 2.1; squared norms are 6, 4, 3, 6."""
    got = scores.ria(W, STATE)
    assert got[0, 0] == pytest.approx((0.5 / 3.75 + 0.5 / 1.5) * 6**0.25)
    assert got[0, 3] == pytest.approx((2 / 3.75 + 2 / 2.1) * 6**0.25)
    assert got[1, 1] == pytest.approx((0.75 / 2.35 + 0.75 / 1.75) * 4**0.25)
    assert got[1, 2] == pytest.approx((0.5 / 2.35 + 0.5 / 0.75) * 3**0.25)
    expected = [[0.730373, 1.185246, 0.52643, 2.325269], [1.709383, 1.057436, 1.157398, 0.141127]]
    torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=2e-6)


@given(st.integers(0, 999), st.floats(0.1, 10))
def test_ria_is_blind_to_the_size_of_weights(seed, factor):
    w = drawn(3, 4, seed=seed)
    torch.testing.assert_close(scores.ria(w * factor, STATE), scores.ria(w, STATE))


def test_ria_without_power_looks_at_weights_alone():
    shares = W.abs() / W.abs().sum(0) + W.abs() / W.abs().sum(1, keepdim=True)
    torch.testing.assert_close(scores.ria(W, STATE, power=0), shares)


def test_ria_of_other_layouts():
    torch.testing.assert_close(scores.ria(W.T, STATE, dim=0), scores.ria(W, STATE).T)
    kernel, state = drawn(5, 4, 3, 3), scores.add_input_norms(None, drawn(9, 4))
    unfolded = scores.InputNorms(state.total.repeat_interleave(9), state.count)
    torch.testing.assert_close(scores.ria(kernel, state).flatten(1), scores.ria(kernel.flatten(1), unfolded))


def test_ria_of_zeros_is_zero():
    w = W.clone()
    w[:, 1], w[0] = 0, 0
    got = scores.ria(w, STATE)
    assert (got[w == 0] == 0).all()
    assert (got[w != 0] > 0).all()


# ---- curvature ------------------------------------------------------------------------------------------------------


def test_curvature_by_hand():
    """Of 6 inputs squares 6, 4, 3, 6, of two gradients squares 10 and 4."""
    got = scores.curvature(W, STATE, GRADS)
    assert got[0, 1] == pytest.approx(1.0 * 5.0 * (4 / 6) / 2)
    assert got[1, 3] == pytest.approx(0.01 * 2.0 * 1.0 / 2)


def test_curvature_of_one_example_is_fishers():
    """The gradient of one example is the outer product of its parts."""
    x, g = drawn(4), drawn(3, seed=1)
    w = drawn(3, 4, seed=2)
    both = (scores.add_input_norms(None, v) for v in (x, g))
    expected = scores.fisher(w, scores.add_squared_grads(None, torch.outer(g, x)))
    torch.testing.assert_close(scores.curvature(w, *both), expected)


def test_curvature_of_other_layouts():
    torch.testing.assert_close(scores.curvature(W.T, STATE, GRADS, dim=0), scores.curvature(W, STATE, GRADS).T)
    mixed = scores.curvature({"a": W, "b": drawn(2, 4, 3)}, *(same(s) for s in (STATE, GRADS)), dim=1)
    assert mixed["b"].shape == (2, 4, 3)


def same(state):
    return type(state)({"a": state.total, "b": state.total}, {"a": state.count, "b": state.count})


# ---- REAP -----------------------------------------------------------------------------------------------------------


def test_reap_by_hand():
    """Three tokens, three experts; norms 5, 1 and 2; the second expert sees two tokens, the third none."""
    outputs = torch.tensor([[[3.0, 4], [1, 0], [9, 9]], [[0, 5], [0, 3], [9, 9]], [[1, 0], [2, 0], [9, 9]]])
    gates = torch.tensor([[0.6, 0.4, 0], [0, 1.0, 0], [1.0, 0, 0]])
    state = scores.add_expert_norms(None, outputs, gates)
    assert state.count.tolist() == [2, 2, 0]
    torch.testing.assert_close(scores.reap(state), torch.tensor([(0.6 * 5 + 1) / 2, (0.4 + 3) / 2, 0.0]))
    mask = ml.compute_mask(scores.reap(state), keep=2)
    assert mask.tolist() == [True, True, False]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_parts_of_tokens_add_up(sizes):
    outputs, gates = drawn(sum(sizes), 4, 3), drawn(sum(sizes), 4, seed=1).clamp(min=0)
    state = None
    for f, g in zip(outputs.split(sizes), gates.split(sizes)):
        state = scores.add_expert_norms(state, f, g)
    whole = scores.add_expert_norms(None, {"moe": outputs}, {"moe": gates})
    torch.testing.assert_close(state.total, whole.total["moe"])
    assert torch.equal(state.count, whole.count["moe"])
    torch.testing.assert_close(scores.reap(state), scores.reap(whole)["moe"])


def test_outputs_of_experts_that_are_not_routed_to_are_not_looked_at():
    outputs, gates = drawn(5, 4, 3), drawn(5, 4, seed=1).clamp(min=0)
    spoilt = outputs.masked_fill((gates == 0)[..., None], float("nan"))
    expected = scores.add_expert_norms(None, outputs, gates)
    torch.testing.assert_close(scores.add_expert_norms(None, spoilt, gates), expected)


def test_norms_and_16_bits():
    outputs, gates = drawn(5, 4, 3), drawn(5, 4, seed=1).abs()
    norms = outputs.norm(dim=-1)[..., None]
    expected = scores.add_expert_norms(None, outputs, gates)
    torch.testing.assert_close(scores.add_expert_norms(None, norms, gates), expected)
    large = scores.add_expert_norms(None, torch.full((2, 1, 9), 3e4).half(), torch.ones(2, 1).half())
    assert large.total.tolist() == [pytest.approx(2 * 3 * 3e4, rel=1e-3)]


# ---- bad calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "`state` must be what the `add_...` functions", lambda: scores.ria(W, X)),
        (ValueError, "must have shape (4,)", lambda: scores.ria(W, scores.InputNorms(torch.ones(3), 1))),
        (ValueError, "`power` must be finite and not negative", lambda: scores.ria(W, STATE, power=-1)),
        (TypeError, "`power` must be a number", lambda: scores.ria(W, STATE, power="a")),
        (ValueError, "`params` must have two dims or more", lambda: scores.ria(W[0], STATE)),
        (ValueError, "`grads` must have shape (2,)", lambda: scores.curvature(W, STATE, STATE)),
        (ValueError, "`grads` must hold", lambda: scores.curvature(W, STATE, scores.InputNorms(torch.ones(2), 0))),
        (ValueError, "`gates` must have shape (..., experts)", lambda: scores.add_expert_norms(None, W, W)),
        (TypeError, "`outputs` must be real", lambda: scores.add_expert_norms(None, W[None] * 1j, W[None, :, 0])),
        (TypeError, "`state` must be what add_expert_norms returns", lambda: scores.reap(STATE)),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()
