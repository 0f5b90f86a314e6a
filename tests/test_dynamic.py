"""Dynamic sparse training: regrowth, dense gradients, the straight-through estimator."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import masklib as ml

VALUES = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.booleans()), min_size=1, max_size=30)


def by_hand(scores, grow, alive, drop):
    """The rule in plain Python: the lowest live ones die, lower index first; the highest of the rest grow."""
    live = sorted((i for i in range(len(scores)) if alive[i]), key=lambda i: (scores[i], i))
    kept = set(live[drop:])
    others = sorted((i for i in range(len(scores)) if i not in kept), key=lambda i: (grow[i], i))
    return kept, kept | set(others[len(others) - drop :])


@given(VALUES, st.floats(0, 1))
def test_regrow_equals_the_rule(values, share):
    s, g, m = (torch.tensor(x) for x in zip(*values))
    drop = round(share * int(m.sum()))
    kept, expected = by_hand(s.tolist(), g.tolist(), m.tolist(), drop)
    for amount in (share, drop, torch.tensor(drop)):
        got = ml.regrow(s, m, grow_scores=g, amount=amount)
        assert set(got.nonzero().flatten().tolist()) == expected
    assert got.sum() == m.sum()
    assert ml.count(ml.difference(got, m)) <= drop
    assert all(got[i] for i in kept)


@given(VALUES)
def test_nothing_dropped_nothing_grown(values):
    s, g, m = (torch.tensor(x) for x in zip(*values))
    for amount in (0, 0.0):
        assert torch.equal(ml.regrow(s, m, grow_scores=g, amount=amount), m)


def test_just_dropped_entries_may_grow_again():
    s, g = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([9.0, 0.0, 0.0])
    assert ml.regrow(s, torch.tensor([True, True, False]), grow_scores=g, amount=1).tolist() == [True, True, False]


def test_a_mapping_is_one_pool_and_layerwise_makes_a_pool_of_each():
    generator = torch.Generator().manual_seed(0)
    s = {n: torch.rand(4, 5, generator=generator) for n in "ab"}
    g = {n: torch.rand(4, 5, generator=generator) for n in "ab"}
    m = {n: torch.rand(4, 5, generator=generator) < 0.5 for n in "ab"}
    whole = ml.regrow(s, m, grow_scores=g, amount=0.4)
    flat = ml.regrow(
        *(torch.stack([x["a"], x["b"]]) for x in (s, m)), grow_scores=torch.stack([g["a"], g["b"]]), amount=0.4
    )
    assert torch.equal(torch.stack([whole["a"], whole["b"]]), flat)
    each = ml.layerwise(ml.regrow)(s, m, grow_scores=g, amount={"a": 0.4, "b": torch.tensor(0.2).double()})
    assert torch.equal(each["a"], ml.regrow(s["a"], m["a"], grow_scores=g["a"], amount=0.4))
    assert torch.equal(each["b"], ml.regrow(s["b"], m["b"], grow_scores=g["b"], amount=0.2))


def test_layerwise_takes_masks_by_name():
    s = {"a": torch.rand(3), "b": torch.rand(2, 2)}
    masks = {n: t > 0.5 for n, t in s.items()}
    got = ml.layerwise(ml.custom_from_mask)(s, mask=masks)
    assert all(torch.equal(got[n], masks[n]) for n in s)


def test_compiled_and_batched():
    s, g = torch.randn(3, 20), torch.randn(3, 20)
    m = torch.rand(3, 20) < 0.5
    share = torch.tensor(0.3, dtype=torch.float64)

    def step(s, m, g, share):
        return ml.regrow(s, m, grow_scores=g, amount=share)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    one_by_one = torch.stack([step(s[i], m[i], g[i], share) for i in range(3)])
    assert torch.equal(torch.vmap(step, in_dims=(0, 0, 0, None))(s, m, g, share), one_by_one)
    assert torch.equal(compiled(s[0], m[0], g[0], share), one_by_one[0])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "`amount` must be between 0 and 2", lambda s, m: ml.regrow(s, m, grow_scores=s, amount=3)),
        (ValueError, "shape", lambda s, m: ml.regrow(s, m, grow_scores=s[:2], amount=1)),
        (ValueError, "NaN", lambda s, m: ml.regrow(s, m, grow_scores=s * math.nan, amount=1)),
        (TypeError, "Give exactly one", lambda s, m: ml.regrow(s, m, grow_scores=s, amount=None)),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=message):
        call(torch.arange(4.0), torch.tensor([True, True, False, False]))


# ---- gradients ------------------------------------------------------------------------------------------------------


def test_dense_gradients_are_those_at_the_effective_weights():
    p = {"w": torch.tensor([2.0, math.nan]), "b": torch.tensor(1.0)}
    m = {"w": torch.tensor([True, False])}
    x = torch.tensor([3.0, 5.0])
    got = ml.dense_grad(p, m, lambda p, x: (p["w"] @ x + p["b"]) ** 2, x)
    assert got["w"].tolist() == [2 * 7 * 3, 2 * 7 * 5]
    assert got["b"] == 14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_straight_through_is_where_forward_and_identity_backward(dtype):
    p = torch.tensor([2.0, 5.0, -1.0, math.inf], dtype=dtype, requires_grad=True)
    m = torch.tensor([True, False, True, False])
    out = ml.apply(p, m, straight_through=True)
    assert out.tolist() == [2, 0, -1, 0]
    out.backward(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype))
    assert p.grad.tolist() == [1, 2, 3, 4]


def test_straight_through_under_func_and_compile():
    p, m = torch.randn(3, 4), torch.rand(3, 4) < 0.5

    def loss(p, m):
        return (ml.apply(p, m, straight_through=True) ** 2).sum()

    expected = 2 * p * m
    assert torch.equal(torch.func.grad(loss)(p, m), expected)
    assert torch.equal(torch.vmap(torch.func.grad(loss))(p, m), expected)
    torch._dynamo.reset()
    weight = p.clone().requires_grad_()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(weight, m).backward()
    assert torch.equal(weight.grad, expected)


def test_rigl_and_set_train_at_a_constant_sparsity():
    """Two hundred steps of a small regression; the count never changes, and RigL finds the inputs that matter."""
    torch.manual_seed(0)
    x = torch.randn(256, 40)
    truth = torch.zeros(40).index_fill(0, torch.tensor([3, 11, 30]), 2.0)
    share = ml.schedules.cosine(0.0, initial=0.3, stop=150, every=10)

    def loss(params):
        return ((x @ params["w"]) - x @ truth).square().mean()

    for grow in ("gradient", "random"):
        params, masks = {"w": torch.zeros(40)}, ml.random_unstructured({"w": torch.zeros(40)}, key=1, keep=6)
        for step in range(200):
            params = ml.apply(params, masks)
            grads = ml.dense_grad(params, masks, loss)
            if share.due(step):
                order = grads if grow == "gradient" else ml.scores.random(params, key=step)
                order = {n: t.abs() for n, t in order.items()}
                masks = ml.regrow(ml.scores.magnitude(params), masks, grow_scores=order, amount=share(step))
            params = {n: p - 0.1 * grads[n] * masks[n] for n, p in params.items()}
            assert ml.count(masks) == 6
        assert grow == "random" or loss(ml.apply(params, masks)) < 1e-3


def test_tensors_without_dims_are_pruned_and_regrown_layer_by_layer():
    s, m = {"a": torch.tensor(1.0), "b": torch.rand(3)}, {"a": torch.tensor(True), "b": torch.ones(3) > 0}
    grown = ml.layerwise(ml.regrow)(s, m, grow_scores=s, amount={"a": torch.tensor(1), "b": 0.5})
    assert grown["a"].item() is True
    kept = ml.layerwise(ml.custom_from_mask)(s, mask={"a": torch.tensor(False), "b": m["b"]})
    assert kept["a"].item() is False
    assert ml.layerwise(ml.l1_unstructured)(s, amount={"a": torch.tensor(1), "b": 1})["a"].item() is False
