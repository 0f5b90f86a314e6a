"""The criteria of the field: values from the papers, slow oracles, conservation, dtypes, transforms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

import masklib as ml
from masklib import scores

W = torch.tensor([[0.5, -1, 0.25, 2], [1, 0.75, -0.5, 0.1]])
X = torch.tensor([[int(c) for c in row] for row in ("1010", "0110", "1101", "0011", "2100", "0102")]).float()
SMALL = st.lists(st.integers(-6, 6), min_size=1, max_size=12)

# ---- weights --------------------------------------------------------------------------------------------------------


def test_lamp_of_the_paper():
    got = scores.lamp(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert got.tolist() == pytest.approx([1 / 30, 4 / 29, 9 / 25, 1])


@given(SMALL)
def test_lamp_is_its_definition(values):
    """Ties are in order of index; zeros score zero."""
    order = sorted(range(len(values)), key=lambda i: (abs(values[i]), i))
    expected = [0.0] * len(values)
    for place, i in enumerate(order):
        tail = sum(values[j] ** 2 for j in order[place:])
        expected[i] = values[i] ** 2 / tail if tail else 0.0
    got = scores.lamp(torch.tensor(values, dtype=torch.float64))
    assert got.tolist() == pytest.approx(expected, abs=1e-12)


def test_lamp_of_equal_weights_rises_with_the_index():
    assert torch.allclose(scores.lamp(torch.ones(100)), 1 / torch.arange(100, 0, -1))


def test_lamp_leaves_no_layer_empty():
    params = {n: torch.randn(3, 7, generator=torch.Generator().manual_seed(i)) * 10.0**i for i, n in enumerate("abcd")}
    masks = ml.compute_mask(scores.lamp(params), keep=4)
    assert [int(c) for c in ml.count(masks, per_name=True).values()] == [1, 1, 1, 1]


@given(st.sampled_from([0, 1, -1]))
def test_fpgm_is_the_sum_of_distances(dim):
    w = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    got, filters = scores.fpgm(w, dim=dim), w.movedim(dim, 0)
    for i, channel in enumerate(got.movedim(dim, 0)):
        expected = sum(float((filters[i] - other).norm()) for other in filters)
        assert channel.flatten().tolist() == pytest.approx([expected] * channel.numel(), rel=1e-5)


def test_fpgm_prunes_what_is_in_the_middle():
    w = {"a": torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]]), "b": torch.tensor([[0.0], [0.1]])}
    masks = ml.layerwise(ml.compute_mask)(scores.fpgm(w), amount=1, groups=ml.channels(0, mean=True))
    assert masks["a"].any(1).tolist() == [True, False, True]


def test_batch_norm_scales_rank_channels():
    conv = torch.randn(3, 2, 2, 2)
    got = scores.batch_norm(conv, torch.tensor([0.3, -2.0, 0.1]))
    mask = ml.compute_mask(got, amount=1, groups=ml.channels(0, mean=True))
    assert mask.flatten(1).any(1).tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"must have shape \(3,\), one value for each index"):
        scores.batch_norm(conv, torch.ones(2))


# ---- inputs ---------------------------------------------------------------------------------------------------------


def test_wanda_of_the_paper():
    """The metric, and half of each row pruned, ties by index."""
    state = None
    for batch in X.split(2):
        state = scores.add_input_norms(state, batch[None])
    expected = [[0.5 * math.sqrt(6), 2, math.sqrt(3) / 4, 2 * math.sqrt(6)], [math.sqrt(6), 1.5, math.sqrt(3) / 2, 0]]
    expected[1][3] = 0.1 * math.sqrt(6)
    got = scores.wanda(W, state)
    assert got.flatten().tolist() == pytest.approx([x for row in expected for x in row], rel=1e-6)
    assert (got / math.sqrt(6)).flatten().tolist() == pytest.approx(
        [0.5, 0.816497, 0.176777, 2, 1, 0.612372, 0.353553, 0.1], abs=1e-6
    )
    pruned = ~ml.compute_mask(got, amount=0.5, groups=ml.rows())
    assert [row.nonzero().flatten().tolist() for row in pruned] == [[0, 2], [2, 3]]


def test_wanda_of_a_convolution_shares_the_norm_of_a_channel():
    w, state = torch.randn(4, 3, 2, 2), scores.InputNorms(torch.tensor([1.0, 4.0, 9.0]), 1)
    assert torch.allclose(scores.wanda(w, state), w.abs() * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1))


# ---- gradients ------------------------------------------------------------------------------------------------------


def test_taylor_fisher_and_movement():
    w, g = torch.tensor([2.0, -1.0, 3.0]), torch.tensor([0.5, 3.0, -1.0])
    assert scores.taylor(w, g).tolist() == [1, 9, 9]
    state = scores.add_squared_grads(scores.add_squared_grads(None, g), 3 * g)
    assert state.count == 2
    assert scores.fisher(w, state).tolist() == [0.5 * 4 * 1.25, 0.5 * 45, 0.5 * 9 * 5]
    moved = scores.add_movement(scores.add_movement(None, w, g), w, -2 * g)
    assert scores.movement(moved).tolist() == [1, -3, -3]


def test_fisher_is_the_loss_of_a_quadratic():
    """At the minimum of a loss with second derivatives h, zeroing w costs h w**2 / 2; h is E[g**2] of a Gaussian."""
    h, w = torch.tensor([1.0, 4.0]), torch.tensor([3.0, 2.0])
    assert scores.fisher(w, scores.SquaredGrads(h, 1)).tolist() == (h * w**2 / 2).tolist()


def test_grasp_is_the_weight_times_hessian_times_gradient():
    a = torch.randn(4, 4, dtype=torch.float64)
    a, w = a @ a.T, torch.randn(4, dtype=torch.float64)
    got = scores.grasp(w, lambda p, b: p @ a @ p / 2 + b @ p, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(got, w * (a @ (a @ w + 1)))


def test_pruning_by_grasp_keeps_more_gradient_flow_than_the_contrary():
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1)), torch.randn(64, 6), torch.randn(64, 1)
    params = {n: p.detach() for n, p in net.named_parameters()}

    def loss(p):
        return (functional_call(net, p, (x,)) - y).square().mean()

    def flow(sign):
        ranked = {n: sign * s for n, s in scores.grasp(params, loss).items()}
        grads = torch.func.grad(loss)(ml.apply(params, ml.compute_mask(ranked, sparsity=0.3)))
        return sum(float(g.square().sum()) for g in grads.values())

    assert flow(1) > flow(-1)


def relu_net():
    torch.manual_seed(0)
    return nn.Sequential(*(m for i in range(3) for m in (nn.Linear(12, 12, bias=False), nn.ReLU()))).double()


def test_synaptic_flow_is_conserved():
    """Tanaka et al. 2020, theorem 2: the scores of each layer add up to the same; here also after pruning."""
    net = relu_net()
    model, x = lambda p, x: functional_call(net, p, (x,)), torch.zeros(1, 12, dtype=torch.float64)
    params = {n: p.detach() for n, p in net.named_parameters()}
    target, masks = ml.schedules.exponential(1 - 0.1 ** (1 / 20)), ml.identity(params)
    for step in range(1, 21):
        flow = scores.synflow(ml.apply(params, masks), model, x)
        sums = [float(f.sum()) for f in flow.values()]
        assert sums == pytest.approx([sums[0]] * 3, rel=1e-9)
        masks = ml.compute_mask(flow, masks, sparsity=target(step))
    assert ml.sparsity(masks).item() == pytest.approx(0.9, abs=0.003)
    assert all(ml.count(masks, per_name=True).values())  # no layer collapses


# ---- all of them ----------------------------------------------------------------------------------------------------

CALLS = {
    "saliency": lambda w: scores.saliency(w, w),
    "taylor": lambda w: scores.taylor(w, w),
    "fisher": lambda w: scores.fisher(w, scores.add_squared_grads(None, w)),
    "movement": lambda w: scores.movement(scores.add_movement(None, w, w)),
    "lamp": scores.lamp,
    "fpgm": scores.fpgm,
    "wanda": lambda w: scores.wanda(w, scores.add_input_norms(None, w)),
    "batch_norm": lambda w: scores.batch_norm(w, ones_along_0(w)),
    "grasp": lambda w: scores.grasp(w, lambda p: sum((t.double() ** 3).sum() for t in values(p))),
    "synflow": lambda w: scores.synflow(w, lambda p, x: sum(t.double().sum() for t in values(p)), torch.zeros(1)),
}
over_calls = pytest.mark.parametrize("score", CALLS.values(), ids=CALLS)


def values(p):
    return list(p.values()) if isinstance(p, dict) else [p]


def ones_along_0(w):
    return {n: t[:, 0] for n, t in w.items()} if isinstance(w, dict) else w[:, 0]


@over_calls
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_of_the_weights_shapes_and_wide(score, dtype):
    w = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    got = score(w)
    assert got.shape == w.shape
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    assert not got.requires_grad
    assert got.untyped_storage().data_ptr() != w.untyped_storage().data_ptr()


@over_calls
def test_a_mapping_is_each_of_its_tensors(score):
    w = {n: torch.randn(4, 4, generator=torch.Generator().manual_seed(i)) for i, n in enumerate("ba")}
    got = score(w)
    assert list(got) == list(w)
    assert all(torch.allclose(got[n], score(w[n])) for n in w)


@over_calls
def test_batched_and_compiled(score):
    w = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.vmap(score)(w), torch.stack([score(x) for x in w]))
    torch._dynamo.reset()
    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(w[0]), score(w[0]))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "`params` must be floating", lambda: scores.lamp(torch.ones(2, dtype=torch.int64))),
        (ValueError, "`grads` must have the shape", lambda: scores.taylor(torch.ones(2), torch.ones(3))),
        (
            ValueError,
            "exactly the names of `params`",
            lambda: scores.taylor({"a": torch.ones(2)}, {"b": torch.ones(2)}),
        ),
        (ValueError, "`state`", lambda: scores.fisher(torch.ones(2), scores.SquaredGrads(torch.ones(3), 1))),
        (ValueError, "must have shape \\(4,\\)", lambda: scores.wanda(W, scores.InputNorms(torch.ones(3), 1))),
        (IndexError, "`dim`", lambda: scores.fpgm(torch.ones(2, 2), dim=2)),
        (
            ValueError,
            "must have the shape of `state`",
            lambda: scores.add_squared_grads(scores.add_squared_grads(None, torch.ones(2)), torch.ones(3)),
        ),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("score", [scores.fpgm, scores.magnitude, scores.lamp])
def test_a_conjugate_that_is_not_resolved_is_a_tensor_like_any_other(score):
    weight = torch.randn(3, 4, dtype=torch.complex64)
    assert torch.equal(score(weight.conj()), score(weight.conj().resolve_conj()))


def test_lamp_of_what_has_no_square_and_of_what_is_not_a_number():
    inf, nan = float("inf"), float("nan")
    for size in (1e-200, 1e200):  # whose squares are 0 and inf
        values = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        assert torch.allclose(scores.lamp(values * size), scores.lamp(values), rtol=1e-14)
    assert scores.lamp(torch.tensor([inf, 1.0, -inf])).tolist() == [1.0, 0.0, 1.0]
    got = scores.lamp(torch.tensor([nan, 3.0, 4.0]))
    assert got.isnan().tolist() == [True, False, False]
    assert torch.equal(got[1:], scores.lamp(torch.tensor([3.0, 4.0])))
    assert scores.lamp(torch.empty(0, 3)).shape == (0, 3)
