"""Distances of hidden states: by hand, and what they have in common with angles."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import masklib as ml
from masklib import scores

X = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angle(x, y):
    """In plain Python."""
    dot, norms = (sum(a * b for a, b in zip(x, y)), math.hypot(*x) * math.hypot(*y))
    return math.acos(max(-1.0, min(1.0, dot / norms))) / math.pi


def test_angles_by_hand():
    turned = torch.tensor([[0.0, 1.0], [0.0, 5.0], [-1.0, -1.0]])
    state = scores.add_angles(None, X, turned)
    assert (state.total.item(), state.count) == (pytest.approx(0.5 + 0 + 1), 3)
    state = scores.add_influences(None, X, turned)
    assert (scores.distance(state).item(), state.count) == (pytest.approx((1 + 0 + 2) / 3), 3)


@given(st.integers(0, 999), st.integers(1, 5), st.floats(1e-3, 1e3))
def test_angles_are_those_of_plain_python_and_blind_to_length(seed, tokens, factor):
    x, y = drawn(tokens, 4, seed=seed), drawn(tokens, 4, seed=seed + 1)
    expected = sum(angle(a, b) for a, b in zip(x.tolist(), y.tolist()))
    for after in (y, y * factor):
        assert scores.add_angles(None, x, after).total.item() == pytest.approx(expected, abs=1e-9)
    assert scores.add_angles(None, x, x * factor).total.item() == pytest.approx(0, abs=1e-6)
    assert scores.add_angles(None, x, -x).total.item() == pytest.approx(tokens, abs=1e-6)
    cosines = scores.add_influences(None, x, y).total.item()
    assert cosines == pytest.approx(sum(1 - math.cos(math.pi * angle(a, b)) for a, b in zip(x.tolist(), y.tolist())))


@pytest.mark.parametrize("add", [scores.add_angles, scores.add_influences])
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_parts_add_up_and_names_are_apart(add, sizes):
    x, y = drawn(2, sum(sizes), 3), drawn(2, sum(sizes), 3, seed=1)
    state = None
    for before, after in zip(x.split(sizes, 1), y.split(sizes, 1)):
        state = add(state, {"a": before, "b": before}, {"a": after, "b": before})
    whole = add(None, x, y)
    torch.testing.assert_close(state.total["a"], whole.total)
    assert state.count == {"a": whole.count, "b": whole.count}
    if whole.count:
        found = scores.distance(state)
        assert 0 <= found["b"] < 1e-7
        assert ml.compute_mask(found, amount=1) == {"a": torch.tensor(True), "b": torch.tensor(False)}


def test_small_angles_of_16_bits_are_no_noise():
    """In float32 a state has an angle of up to 1e-4 with itself."""
    x = drawn(64, 256).to(torch.bfloat16)
    assert scores.distance(scores.add_angles(None, x, x)) < 1e-8
    assert scores.distance(scores.add_angles(None, x * 1e-30, x * 1e-30)) < 1e-8


def test_zeros_have_no_direction():
    zeros = torch.zeros(2, 3)
    assert scores.distance(scores.add_angles(None, zeros, zeros)) == 0.5


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "`state` must be what the `add_...` functions", lambda: scores.distance(X)),
        (TypeError, "with one total", lambda: scores.distance(scores.add_input_norms(None, X))),
        (ValueError, "must hold a hidden state", lambda: scores.distance(scores.add_angles(None, X[:0], X[:0]))),
        (TypeError, "`inputs` must be real", lambda: scores.add_angles(None, X * 1j, X)),
        (ValueError, "shape", lambda: scores.add_angles(None, X, X.T)),
        (ValueError, "features along its last dim", lambda: scores.add_angles(None, X[:, :0], X[:, :0])),
        (TypeError, "`outputs`", lambda: scores.add_angles(None, {"a": X}, X)),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()
