"""Applying masks."""

from __future__ import annotations

import math
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given
from torch.func import grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import masklib as ml
from masklib import masking
from masklib.testing import masks, scores
from masklib.testing._strategies import FLOATS


@given(scores(shape=(3, 4), dtypes=FLOATS), masks((3, 4)))
def test_apply_is_where(p, m):
    assert torch.equal(ml.apply(p, m), torch.where(m, p, torch.zeros((), dtype=p.dtype)))
    assert ml.apply(p, m).dtype == p.dtype


def test_no_nan_or_inf_leaks():
    p = torch.tensor([float("nan"), float("inf"), 1.0], requires_grad=True)
    m = torch.tensor([False, False, True])
    out = ml.apply({"w": p}, {"w": m})["w"]
    assert out.tolist() == [0, 0, 1]
    out.sum().backward()
    assert p.grad.tolist() == [0, 0, 1]


def test_parameters_without_a_mask_pass_through():
    params = {"w": torch.ones(2), "b": torch.ones(3)}
    out = ml.apply(params, {"w": torch.tensor([True, False])})
    assert list(out) == ["w", "b"]
    assert out["b"] is params["b"]
    assert params["w"].tolist() == [1, 1]


UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize(
    "dtype", [torch.int32, *UNSIGNED, torch.bool, torch.complex64, torch.float64, torch.float16, torch.float8_e4m3fn]
)
def test_apply_takes_every_dtype(dtype):
    p = torch.ones(2, dtype=dtype)
    assert ml.apply(p, torch.tensor([True, False])).tolist() == [p[0].item(), p.new_zeros(()).item()]
    assert ml.apply(p, torch.tensor([True, False])).dtype == dtype


# ---- memory ---------------------------------------------------------------------------------------------------------

LARGE = masking._SMALL + 2  # beyond it the bool mask is kept
FORWARD = pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's own, from 2.14 on, when it loads forward mode


def both(n=LARGE, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, generator=generator).to(dtype), torch.rand(n, generator=generator) < 0.5


def saved(function):
    """What autograd keeps of a call, as it is."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        function()
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_bool_mask_alone_is_kept_for_backward(dtype):
    p, m = both(dtype=dtype)
    leaf = p.requires_grad_()
    for straight_through, expected in ((False, [m.data_ptr()]), (True, [])):
        kept = saved(lambda: ml.apply(leaf, m, straight_through=straight_through))
        assert [t.data_ptr() for t in kept] == expected
    assert [t.dtype for t in saved(lambda: torch.where(m, leaf, 0))] == [torch.bool]


@FORWARD
@pytest.mark.parametrize("n", [10, LARGE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_derivatives_of_every_kind(n, dtype):
    """By tape, by transforms, forward and reverse, once and twice, batched on either side, compiled."""
    p, m = both(n, dtype)
    g = both(n, dtype)[0].flip(0)
    zero = torch.zeros((), dtype=dtype)
    expected, twice = torch.where(m, g, zero), torch.where(m, 6 * p * g, zero)

    def weighed(p, m):
        return (ml.apply(p, m) * g).sum()

    def cubes(p):
        return (ml.apply(p, m) ** 3).sum()

    leaf = p.clone().requires_grad_()
    weighed(leaf, m).backward()
    assert torch.equal(leaf.grad, expected)
    assert torch.equal(grad(weighed)(p, m), expected)
    assert torch.equal(jvp(lambda p: ml.apply(p, m), (p,), (g,))[1], expected)
    torch.testing.assert_close(jvp(grad(cubes), (p,), (g,))[1], twice)
    torch.testing.assert_close(grad(lambda p: (grad(cubes)(p) * g).sum())(p), twice)
    (first,) = torch.autograd.grad(cubes(leaf), leaf, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad((first * g).sum(), leaf)[0], twice)
    masks, others = torch.stack([m, ~m]), torch.where(m, zero, g)
    assert torch.equal(vmap(grad(weighed), in_dims=(None, 0))(p, masks), torch.stack([expected, others]))
    assert torch.equal(vmap(grad(weighed), in_dims=(0, None))(torch.stack([p, p]), m), torch.stack([expected] * 2))


@pytest.mark.parametrize("n", [10, LARGE])
def test_compiled(n):
    p, m = both(n)
    torch._dynamo.reset()
    leaf = p.clone().requires_grad_()
    for straight_through in (False, True):
        f = torch.compile(partial(ml.apply, straight_through=straight_through), fullgraph=True, backend="aot_eager")
        leaf.grad = None
        out = f(leaf, m)
        out.backward(torch.ones(n))
        assert torch.equal(out, torch.where(m, p, 0))
        assert torch.equal(leaf.grad, torch.ones(n) if straight_through else m.float())


@pytest.mark.parametrize("n", [10, LARGE])
def test_no_nan_gradient_comes_through(n):
    p, m = both(n)
    leaf = p.requires_grad_()
    ml.apply(leaf, m).backward(torch.full((n,), math.nan).masked_fill(m, 1.0))
    assert torch.equal(leaf.grad, m.float())


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64, torch.int32, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("straight_through", [False, True])
def test_the_memory_format_stays(dtype, straight_through):
    p = torch.randn(4, 3, 5, 5).to(dtype).to(memory_format=torch.channels_last)
    m = torch.rand(4, 3, 5, 5) < 0.5
    for mask in (m, m.to(memory_format=torch.channels_last)):
        out = ml.apply(p, mask, straight_through=straight_through)
        assert out.stride() == p.stride()
        assert torch.equal(out.to(torch.complex64), p.to(torch.complex64) * mask)
    assert ml.apply(p.mT, m.mT).stride() == p.mT.stride()


def test_the_gradient_of_a_large_parameter_has_its_memory_format():
    p = torch.randn(64, 64, 9, 9).to(memory_format=torch.channels_last).requires_grad_()
    ml.apply(p, torch.rand(p.shape) < 0.5).pow(2).sum().backward()
    assert p.grad.stride() == p.stride()


@FORWARD
@given(masks((6,)))
def test_gradients_pass_straight_through_whatever_the_values_are(m):
    p = torch.tensor([1.0, math.inf, -math.inf, math.nan, -0.0, 3e38], requires_grad=True)
    g = torch.arange(1.0, 7)
    out = ml.apply(p, m, straight_through=True)
    assert torch.equal(out.nan_to_num(7), torch.where(m, p, 0).nan_to_num(7))
    out.backward(g)
    assert torch.equal(p.grad, g)
    f = partial(ml.apply, masks=m, straight_through=True)
    assert torch.equal(jvp(f, (p.detach(),), (g,))[1], g)
    assert torch.equal(vmap(grad(lambda p: (f(p) * g).sum()))(p.detach()[None])[0], g)


# ---- exporting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask", [torch.tensor([True, False, True]), torch.tensor([1.0, 0.0, 1.0])], ids=["bool", "float"]
)
def test_what_an_exporter_to_onnx_traces_it_knows(mask, monkeypatch):
    """`threshold_backward`, the fast kernel, has no counterpart in ONNX."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    monkeypatch.setattr(masking, "_is_tracing", lambda: True)
    p = torch.randn(3)
    graph = make_fx(lambda p: masking.masked(p, mask))(p)
    names = {str(node.target) for node in graph.graph.nodes}
    assert any("where" in name for name in names)
    assert not any("threshold" in name for name in names)
    assert torch.equal(graph(p), p * mask)


def test_a_pruned_layer_is_traced_by_fx():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3))
            self.register_buffer("mask", torch.tensor([True, False, True]))

        def forward(self, x):
            return x * masking.masked(self.weight, self.mask)

    layer, x = Layer(), torch.randn(3)
    assert torch.equal(torch.fx.symbolic_trace(layer)(x), layer(x))


# ---- histories ----------------------------------------------------------------------------------------------------


def test_iterative_magnitude_pruning_leaves_the_published_share():
    """Frankle & Carbin 2019: each round removes 20 % (10 % of the output layer) of what remains."""
    s = {"fc1": torch.randn(300, 784), "fc2": torch.randn(100, 300), "fc3": torch.randn(10, 100)}
    step = partial(ml.layerwise(ml.l1_unstructured), amount={"fc1": 0.2, "fc2": 0.2, "fc3": 0.1})
    remaining = [100 * (1 - ml.sparsity(m).item()) for m in ml.scan([step] * 18, s)]
    published = {3: 51.28, 7: 21.07, 12: 6.95, 15: 3.58, 18: 1.85}
    assert {r: round(remaining[r], 2) for r in published} == published


def test_a_history_is_data():
    history = (partial(ml.l1_unstructured, amount=0.5), partial(ml.layerwise(ml.l1_unstructured), amount=1))
    s = torch.randn(10)
    again = pickle.loads(pickle.dumps(ml.chain(*history)))
    assert torch.equal(again(s), ml.fold(history, s))
    assert torch.equal(ml.fold((), s), torch.ones(10, dtype=torch.bool))
    assert len(ml.scan(history, s)) == 3
    assert torch.equal(ml.chain()(s, s > 0), s > 0)


def test_n_of_m_keeps_the_highest_of_each_window():
    s = torch.tensor([[4.0, 1.0, 3.0, 2.0, -1.0, -1.0, -1.0, -1.0]])
    assert ml.n_of_m(s, keep=2, of=4).int().tolist() == [[1, 0, 1, 0, 0, 0, 1, 1]]
    conv = torch.randn(8, 4, 3, 3)
    kept = ml.n_of_m(conv.abs(), keep=2, of=4, dim=1)
    assert (kept.sum(1) == 2).all()


@pytest.mark.parametrize(("amount", "dies"), [(0.4, 7), (1, 1), (1.0, 17), (0.5, 8), (0, 0)])
def test_amounts_round_half_to_even(amount, dies):
    assert 17 - ml.count(ml.compute_mask(torch.randn(17), amount=amount)) == dies


def test_half_of_equal_scores_is_half_of_them():
    assert ml.count(ml.compute_mask(torch.ones(1000), amount=0.5)) == 500
