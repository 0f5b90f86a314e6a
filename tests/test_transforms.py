"""Everything works under torch.func, torch.compile and torch.export, errors included."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from registry import CASES, METHODS, bind
from torch._dynamo.testing import CompileCounter
from torch.func import functional_call, grad, vmap

import masklib as ml

S = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
M = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.7
MIXED = {"b": S, "a": torch.arange(24.0).view(4, 6).bfloat16(), "c": S.double()}
HISTORY = (
    partial(ml.l1_unstructured, amount=0.2),
    partial(ml.random_unstructured, key=3, amount=2),
    partial(ml.ln_structured, n=2, dim=0, amount=0.25),
    partial(ml.layerwise(ml.l1_unstructured), sparsity=0.5),
)
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_method = pytest.mark.parametrize("case", METHODS.values(), ids=METHODS)


def example(case):
    return bind(case, {"keep": 1} if case.takes == ("keep",) else {"amount": 0.5})


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def compiled(f, backend="aot_eager"):
    return torch.compile(f, fullgraph=True, backend=backend)


# ---- compile ---------------------------------------------------------------------------------------------------------


@every_case
def test_compile_equals_eager(case):
    f = example(case)
    assert torch.equal(compiled(f)(S, M), f(S, M))


@every_case
def test_compile_of_a_mapping_equals_eager(case):
    f = example(case)
    got, expected = compiled(f)(MIXED, None), f(MIXED, None)
    assert all(torch.equal(got[n], expected[n]) for n in MIXED)


def test_compile_of_a_mixed_history_equals_eager():
    f = partial(ml.fold, HISTORY)
    got, expected = compiled(f)(MIXED), f(MIXED)
    assert all(torch.equal(got[n], expected[n]) for n in MIXED)


def test_compile_of_algebra_and_apply_equals_eager():
    def f(s, m):
        mask = ml.union(ml.l1_unstructured(s, amount=0.5), ml.complement(m))
        return ml.apply(s, mask), ml.sparsity(mask), ml.count(mask), ml.overlap(mask, m), ml.scores.random(s, key=1)

    for got, expected in zip(compiled(f)(S, M), f(S, M)):
        assert torch.equal(got, expected)


def test_inductor_compiles_a_pruned_model_and_its_gradient():
    def loss(w, x):
        return (x @ ml.apply(w, ml.l1_unstructured(w, amount=0.5)).t()).pow(2).sum()

    f, x = grad(loss), torch.randn(3, 6)
    torch.testing.assert_close(torch.compile(f, fullgraph=True)(S, x), f(S, x))


@every_method
def test_one_graph_serves_a_whole_schedule(case):
    number = case.takes[0]
    counter = CompileCounter()
    f = torch.compile(lambda s, m, a: case.method(s, m, **{number: a}), fullgraph=True, backend=counter)
    values = torch.tensor([0, 1, 2]) if number == "keep" else torch.linspace(0, 1, 7, dtype=torch.float64)
    for value in values:
        assert torch.equal(f(S, M, value), case.method(S, M, **{number: value}))
    assert counter.frame_count == 1


def test_one_graph_serves_all_keys():
    counter = CompileCounter()
    f = torch.compile(lambda k: ml.random_unstructured(S, key=k, amount=5), fullgraph=True, backend=counter)
    for key in range(5):
        assert torch.equal(f(torch.tensor(key)), ml.random_unstructured(S, key=key, amount=5))
    assert counter.frame_count == 1


def test_python_numbers_are_constants_of_the_graph():
    f = compiled(lambda s, a: ml.l1_unstructured(s, amount=a))
    for amount in (0.2, 0.5, 3, 4):
        assert torch.equal(f(S, amount), ml.l1_unstructured(S, amount=amount))


@pytest.mark.parametrize("number", [{"amount": np.float64(0.3)}, {"sparsity": np.float32(0.5)}, {"keep": np.int64(7)}])
def test_numpy_numbers_are_constants_of_the_graph(number):
    f = partial(ml.l1_unstructured, **number)
    assert torch.equal(compiled(f)(S), f(S))
    argument, value = next(iter(number.items()))
    traced = compiled(lambda s: ml.l1_unstructured(s, **{argument: type(value)(value)}))
    assert torch.equal(traced(S), f(S))


def test_one_graph_serves_all_shapes():
    heads = ml.heads(2), ml.heads(1, 1, parts=(1, 1), p=2)
    for groups in (ml.elements(), ml.rows(), ml.channels(0, p=2), *heads, ml.blocks((2, 2)), ml.windows(2)):
        torch._dynamo.reset()
        f = torch.compile(
            lambda s, groups=groups: ml.compute_mask(s, amount=0.5, groups=groups),
            fullgraph=True,
            backend="aot_eager",
            dynamic=True,
        )
        for shape in ((4, 6), (6, 8), (2, 4)):
            s = torch.randn(shape)
            assert torch.equal(f(s), ml.compute_mask(s, amount=0.5, groups=groups))


@pytest.mark.parametrize("value", [float("nan"), 5.0])
def test_errors_on_data_are_raised_inside_compiled_graphs(value):
    bad = S.clone()
    bad[0, 0] = value
    amount = 30 if value == 5.0 else 1
    with pytest.raises(ValueError, match=r"NaN in scores|must be between 0 and 24"):
        compiled(lambda s: ml.compute_mask(s, amount=amount))(bad)


# ---- export ----------------------------------------------------------------------------------------------------------


class Pruner(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, scores, default_mask):
        return self.f(scores, default_mask)


@every_case
def test_export_equals_eager(case):
    f = example(case)
    program = torch.export.export(Pruner(f), (S, M)).module()
    other = S.flip(0)
    assert torch.equal(program(other, M), f(other, M))
    got, expected = torch.export.export(Pruner(f), (MIXED, None)).module()(MIXED, None), f(MIXED, None)
    assert all(torch.equal(got[n], expected[n]) for n in MIXED)


def test_export_of_an_amount_tensor():
    f = partial(ml.fold, HISTORY[:2])
    program = torch.export.export(
        Pruner(lambda s, a: ml.l1_unstructured(s, f(s), amount=a)), (S, torch.tensor(0.5, dtype=torch.float64))
    )
    for amount in (0.0, 0.3, 1.0):
        value = torch.tensor(amount, dtype=torch.float64)
        assert torch.equal(program.module()(S, value), ml.l1_unstructured(S, f(S), amount=amount))


# ---- vmap and grad ---------------------------------------------------------------------------------------------------


@every_method
def test_vmap_over_numbers(case):
    number = case.takes[0]
    values = torch.tensor([0, 1, 2]) if number == "keep" else torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    got = vmap(lambda v: case.method(S, M, **{number: v}))(values)
    assert torch.equal(got, torch.stack([case.method(S, M, **{number: v}) for v in values]))


def test_vmap_over_keys():
    keys = torch.arange(5)
    for f in (
        lambda k: ml.random_unstructured(S, M, key=k, amount=4),
        lambda k: ml.random_structured(S, M, dim=1, key=k, amount=2),
    ):
        assert torch.equal(vmap(f)(keys), torch.stack([f(k) for k in keys]))


def test_vmap_over_everything_at_once_and_nested():
    s, m, a = torch.randn(2, 3, 8), torch.rand(2, 3, 8) < 0.8, torch.rand(2, 3, dtype=torch.float64)
    for groups in (
        ml.elements(),
        ml.windows(4),
        ml.channels(0),
        ml.heads(2, parts=(3, 1)),
        ml.labels(torch.arange(8) // 2),
    ):

        def f(s, m, a, groups=groups):
            return ml.compute_mask(s, m, amount=a, groups=groups)

        expected = torch.stack([torch.stack([f(*row) for row in zip(*pair)]) for pair in zip(s, m, a)])
        assert torch.equal(vmap(vmap(f))(s, m, a), expected)


def test_regrowth_of_each_row_compiles():
    def f(s, m, g):
        return vmap(lambda s, m, g: ml.regrow(s, m, grow_scores=g, amount=0.5))(s, m, g)

    assert torch.equal(compiled(f)(S, M, S.flip(1)), f(S, M, S.flip(1)))


def test_vmap_with_other_in_dims():
    s = torch.randn(4, 3, 6)
    f = partial(ml.l1_unstructured, amount=0.5)
    assert torch.equal(vmap(f, in_dims=1)(s), torch.stack([f(s[:, i]) for i in range(3)]))
    assert torch.equal(vmap(f, in_dims=1, out_dims=2)(s), torch.stack([f(s[:, i]) for i in range(3)], 2))


def test_vmap_over_a_mapping():
    s = {"a": torch.randn(3, 4), "b": torch.randn(3, 2, 2)}
    got = vmap(partial(ml.l1_unstructured, amount=0.5))(s)
    for i in range(3):
        expected = ml.l1_unstructured({n: t[i] for n, t in s.items()}, amount=0.5)
        assert all(torch.equal(got[n][i], expected[n]) for n in s)


def test_vmap_raises_what_the_stack_raises():
    bad = torch.randn(3, 4)
    bad[1, 2] = float("nan")
    with pytest.raises(ValueError, match="1 NaN in scores"):
        vmap(partial(ml.compute_mask, amount=1))(bad)
    with pytest.raises(ValueError, match=r"`amount` must be between 0 and 4 .*, got 5"):
        vmap(lambda a: ml.compute_mask(torch.zeros(4), amount=a))(torch.tensor([1, 5]))


def test_gradients_stop_at_masks_and_pass_through_apply():
    def loss(w):
        return ml.apply(w, ml.l1_unstructured(w, amount=0.5)).pow(2).sum()

    kept = ml.l1_unstructured(S, amount=0.5)
    assert torch.equal(grad(loss)(S), torch.where(kept, 2 * S, 0))
    assert torch.equal(vmap(grad(loss))(torch.stack([S, S])), torch.stack([grad(loss)(S)] * 2))
    leaf = S.clone().requires_grad_()
    assert not ml.compute_mask(leaf, amount=1).requires_grad
    loss(leaf).backward()
    assert torch.equal(leaf.grad, grad(loss)(S))


def test_functional_call_end_to_end():
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    params = dict(model.named_parameters())
    masks = ml.l1_unstructured(ml.select(params, lambda name, p: p.dim() > 1), amount=0.5)
    x = torch.randn(5, 6)

    def loss(params):
        return functional_call(model, ml.apply(params, masks), (x,)).square().mean()

    grads = grad(loss)(params)
    assert all(bool((grads[n][~mask] == 0).all()) for n, mask in masks.items())
    sparse = functional_call(model, ml.apply(params, masks), (x,))
    levels = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    weights = {n: params[n].detach() for n in masks}

    def at(level):
        return functional_call(
            model, {**params, **ml.apply(weights, ml.l1_unstructured(weights, sparsity=level))}, (x,)
        )

    torch.testing.assert_close(vmap(at)(levels)[1], sparse)


def test_vmap_over_an_empty_batch():
    s = {"a": torch.zeros(0, 4), "b": torch.zeros(0, 2, 2)}
    for f in (partial(ml.l1_unstructured, amount=0.5), partial(ml.compute_mask, keep=1, groups=ml.channels(0))):
        assert {n: m.shape for n, m in vmap(f)(s).items()} == {n: t.shape for n, t in s.items()}
    assert vmap(lambda key: ml.random_unstructured(S, key=key, amount=1))(torch.zeros(0).long()).shape == (0, 4, 6)


def test_vmap_over_a_batch_of_one():
    s = {"w": torch.tensor([[3.0, -1.0, 2.0]]), "b": torch.tensor([[-0.5]])}
    got = torch.vmap(partial(ml.l1_unstructured, amount=2))(s)
    assert {n: m.tolist() for n, m in got.items()} == {"w": [[True, False, True]], "b": [[False]]}


def test_vmap_over_scalars():
    s = torch.tensor([2.0, -1.0, 3.0])
    assert vmap(partial(ml.l1_unstructured, amount=1))(s).tolist() == [False] * 3
    assert vmap(partial(ml.l1_unstructured, amount=0))(s).tolist() == [True] * 3
