"""ADMM and masked least squares: the published rounds, error orderings, exact counts, and what both solvers refuse."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_sparsegpt import W, X, known, problem

import masklib as ml
from masklib import scores

SOLVERS = {"sparsegpt": ml.sparsegpt, "admm": ml.admm}
over_solvers = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
NUMBERS = [
    ({"amount": 0.5}, ml.elements(), 72),
    ({"sparsity": 0.25}, ml.rows(), 36),
    ({"keep": 2}, ml.windows(4), 72),
    ({"keep": 1}, ml.channels(0), 120),
]
over_numbers = pytest.mark.parametrize(("number", "groups", "dead"), NUMBERS)


GROWING = (0.1, 0.163, 0.264, 0.43, 0.698, 1.135, 1.845, 3.0)
PLAIN = {"penalty": GROWING, "relaxation": 1.0}


def error(x, weight, new):
    return float(((x @ (new - weight).T) ** 2).sum())


def published(weight, total, penalties, keep, relaxation, damping=0.1):
    """The rounds as they are written down, with an inverse and a sort."""
    sizes = total.diagonal().sqrt() + 1e-8
    g = total / torch.outer(sizes, sizes) + damping * torch.eye(len(total), dtype=total.dtype)
    v = z = dense = weight * sizes
    xy, u, before = dense @ g, torch.zeros_like(dense), penalties[0]
    for i, rho in enumerate(penalties):
        u = u * (before / rho)
        if i:
            v = relaxation * v + (1 - relaxation) * z
        if i < len(penalties) - len(penalties) // 4:
            mask = torch.zeros(weight.numel(), dtype=torch.bool)
            mask[(v + u).abs().flatten().argsort(descending=True)[:keep]] = True
            mask = mask.view(weight.shape)
        z = mask * (v + u)
        u = u + v - z
        v = (xy + rho * (z - u)) @ torch.linalg.inv(g + rho * torch.eye(len(g), dtype=g.dtype))
        before = rho
    return mask * (v + u) / sizes, mask


@pytest.mark.parametrize("penalty", [GROWING, (1.0,) * 20, (0.5,)])
@pytest.mark.parametrize("relaxation", [1.0, 1.3, 0.7])
def test_the_rounds_as_they_are_written_down(penalty, relaxation):
    weight, _, h = problem()
    got, mask = ml.admm(weight, h, amount=90, penalty=penalty, relaxation=relaxation)
    expected, kept = published(weight, h.total, penalty, weight.numel() - 90, relaxation)
    assert torch.equal(mask, kept)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_a_small_example():
    weight, mask = ml.admm(W, scores.add_hessian(None, X), amount=4, **PLAIN)
    assert mask.tolist() == [[False, True, False, True], [True, True, False, False]]
    expected = torch.tensor([[0, -0.5841, 0, 1.9344], [0.9406, 0.7512, 0, 0]]).double()
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rho", [0.1, 1.0])
def test_with_a_mask_given_the_rounds_lead_to_masked_least_squares(rho):
    weight, _, h = problem()
    alive = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    got, mask = ml.admm(weight, h, alive, amount=0, damping=0.0, penalty=(rho,) * 2000)
    assert torch.equal(mask, alive)
    torch.testing.assert_close(got, ml.reconstruct(weight, h, alive, damping=0.0), rtol=1e-6, atol=5e-9)


def test_masked_least_squares_is_that_of_the_inputs():
    weight, x, h = problem()
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[1], mask[2] = mask[0], False
    got, best = ml.reconstruct(weight, h, mask, damping=0.0), torch.zeros_like(weight)
    for i, row in enumerate(mask):
        best[i, row] = torch.linalg.lstsq(x[:, row], x @ weight[i]).solution
    torch.testing.assert_close(got, best)


@given(st.integers(0, 2**16), st.floats(0.1, 0.9))
def test_nothing_is_better_than_masked_least_squares(seed, share):
    draw = torch.Generator().manual_seed(seed)
    weight, x, h = problem()
    mask = torch.rand(weight.shape, generator=draw) > share
    best = error(x, weight, ml.reconstruct(weight, h, mask, damping=0.0))
    others = [weight * mask, ml.sparsegpt(weight, h, mask, amount=0)[0], ml.admm(weight, h, mask, amount=0)[0]]
    others.append(
        ml.reconstruct(weight, h, mask, damping=0.0) + 1e-3 * mask * torch.randn(weight.shape, generator=draw)
    )
    assert all(best <= error(x, weight, other) * (1 + 1e-9) for other in others)


@over_solvers
@over_numbers
def test_errors_are_in_order(solve, number, groups, dead):
    """Masked least squares <= the solver; ADMM <= SparseGPT, where entries of an output compete with one another."""
    weight, x, h = problem(rows=6, columns=24, inputs=400)
    got, mask = solve(weight, h, groups=groups, **number)
    best = ml.reconstruct(weight, h, mask, damping=0.0)
    assert error(x, weight, best) <= error(x, weight, got) * (1 + 1e-9)
    if groups != ml.channels(0):
        assert error(x, weight, ml.admm(weight, h, groups=groups, **number)[0]) <= error(x, weight, got)


@over_numbers
def test_counts_are_exact(number, groups, dead):
    weight, _, h = problem()
    got, mask = ml.admm(weight, h, groups=groups, **number)
    assert int((~mask).sum()) == dead
    assert torch.equal(got == 0, ~mask)


@over_solvers
def test_what_is_dead_stays_dead_and_counts(solve):
    weight, _, h = problem()
    alive = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    _, mask = solve(weight, h, alive, sparsity=0.75)
    assert not (mask & ~alive).any()
    assert ml.sparsity(mask) == 0.75


def test_survivors_stay_when_inputs_are_independent():
    weight, h = problem()[0], known(torch.diag(torch.rand(24, dtype=torch.float64) + 0.5))
    alive = torch.rand(weight.shape) < 0.5
    torch.testing.assert_close(ml.admm(weight, h, alive, amount=0)[0], weight * alive)
    got, mask = ml.admm(weight, h, amount=0.4, penalty=(2.0,) * 6)
    assert torch.equal(mask, ml.compute_mask(weight.abs() * h.total.diagonal().sqrt(), amount=0.4))
    torch.testing.assert_close(got, weight * mask)
    torch.testing.assert_close(ml.reconstruct(weight, h, mask), weight * mask)


def test_the_order_of_inputs_and_outputs_makes_no_difference_to_admm():
    """As it does to SparseGPT, whose columns make up for those to their left alone."""
    weight, _, h = problem()
    over, along = torch.randperm(6), torch.randperm(24)
    got, mask = ml.admm(weight[over][:, along], known(h.total[along][:, along]), amount=0.5)
    expected, kept = ml.admm(weight, h, amount=0.5)
    assert torch.equal(mask, kept[over][:, along])
    torch.testing.assert_close(got, expected[over][:, along])


@pytest.mark.parametrize("factor", [1e-12, 7.0, 1e12])
def test_only_the_ratios_of_statistics_matter(factor):
    weight, _, h = problem()
    mask = torch.rand(weight.shape) < 0.5
    for solve in (ml.admm, ml.sparsegpt):
        got, expected = (solve(weight, known(t), amount=0.5) for t in (h.total * factor, h.total))
        assert torch.equal(got[1], expected[1])
        torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(ml.reconstruct(weight, known(h.total * factor), mask), ml.reconstruct(weight, h, mask))


def test_dead_features_go_first_and_do_no_harm():
    weight, x, _ = problem()
    x[:, 3] = 0
    h = scores.add_hessian(None, x)
    got, mask = ml.admm(weight, h, amount=6)
    assert not mask[:, 3].any()
    torch.testing.assert_close(got[mask], weight[mask])
    kept = ml.reconstruct(weight, h, torch.ones_like(mask))
    torch.testing.assert_close(kept, weight * (torch.arange(24) != 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    weight, _, h = problem()
    got, mask = ml.admm(weight.to(dtype), known(h.total.float()), amount=0.5)
    assert got.dtype == ml.reconstruct(weight.to(dtype), known(h.total.float()), mask).dtype == dtype
    assert int((~mask).sum()) == 72


@over_solvers
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_16_bits_are_taken_as_float32(solve, dtype):
    weight, _, h = problem()
    total = (h.total / h.total.diagonal().amax()).to(dtype)
    got, mask = solve(weight.float(), known(total), amount=0.5)
    expected, kept = solve(weight.float(), known(total.float()), amount=0.5)
    assert torch.equal(got, expected)
    assert torch.equal(mask, kept)


def test_a_mapping_is_each_of_its_tensors():
    weight, x, _ = problem()
    weights, state = {"b": weight, "a": weight.flip(0)[:4]}, scores.add_hessian(None, {"a": x.flip(1), "b": x})
    got, masks = ml.admm(weights, state, sparsity={"a": 0.25, "b": 0.5})
    best = ml.reconstruct(weights, state, masks)
    assert [list(m) for m in (got, masks, best)] == [["b", "a"]] * 3
    for (n, w), level in zip(weights.items(), (0.5, 0.25)):
        own = known(state.total[n], state.count[n])
        expected, mask = ml.admm(w, own, sparsity=level)
        assert torch.equal(got[n], expected)
        assert torch.equal(masks[n], mask)
        assert torch.equal(best[n], ml.reconstruct(w, own, mask))
    assert ml.admm({}, scores.Hessian({}, {}), amount=1) == ({}, {})
    assert ml.reconstruct({}, scores.Hessian({}, {}), {}) == {}


def test_vmap_is_the_stack():
    weight, x, h = problem()
    weights, masks = torch.stack([weight, weight.flip(0)]), torch.rand(2, 6, 24) < 0.7
    totals = torch.stack([h.total, (x[:90].T @ x[:90])])
    levels = torch.tensor([0.5, 0.75], dtype=torch.float64)

    def prune(w, total, mask, level):
        new, kept = ml.admm(w, known(total), mask, sparsity=level)
        return new, kept, ml.reconstruct(w, known(total), kept)

    for dims in (
        (0, 0, 0, 0),
        (0, None, None, None),
        (None, 0, None, None),
        (None, None, 0, None),
        (None, None, None, 0),
    ):
        args = [t if d == 0 else t[0] for t, d in zip((weights, totals, masks, levels), dims)]
        got = torch.vmap(prune, in_dims=dims)(*args)
        for i in range(2):
            expected = prune(*(t[i] if d == 0 else t for t, d in zip(args, dims)))
            torch.testing.assert_close([g[i] for g in got], list(expected))


@pytest.mark.skipif(torch.__version__ < "2.7", reason="its compiler takes no values for constants")
def test_compiled():
    weight, _, h = problem()

    def prune(w, total):
        new, mask = ml.admm(w, known(total), keep=2, groups=ml.windows(4))
        return new, mask, ml.reconstruct(w, known(total), mask)

    torch._dynamo.reset()
    got = torch.compile(prune, fullgraph=True, backend="aot_eager")(weight, h.total)
    torch.testing.assert_close(list(got), list(prune(weight, h.total)))


def test_autocast_makes_no_difference():
    weight, x, _ = problem()
    weight, h = weight.float(), scores.add_hessian(None, x.float())
    works = [partial(ml.admm, weight, h, amount=0.5), partial(ml.reconstruct, weight, h, weight > 0)]
    for work in works:
        expected = work()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(work(), expected, rtol=0, atol=0)


def test_nothing_given_is_changed():
    weight, _, h = problem()
    weight.requires_grad_()
    alive = weight > -1
    before = weight.detach().clone(), h.total.clone(), alive.clone()
    got, mask = ml.admm(weight, h, alive, amount=0.5)
    best = ml.reconstruct(weight, h, mask)
    assert all(torch.equal(a, b) for a, b in zip(before, (weight, h.total, alive)))
    assert not any(t.requires_grad for t in (got, best))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
@pytest.mark.parametrize("groups", [ml.elements(), ml.rows(), ml.windows(4), ml.channels()])
def test_a_weight_without_entries_stays_so(shape, groups):
    state = scores.add_hessian(None, torch.randn(5, shape[1]))
    weight, mask = ml.admm(torch.empty(shape), state, sparsity=0.5, groups=groups)
    assert weight.shape == mask.shape == ml.reconstruct(torch.empty(shape), state, mask).shape == shape


# ---- bad statistics and bad calls -----------------------------------------------------------------------------------

BAD = torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.5]))
CURVED = torch.eye(4) + 2 * (torch.eye(4).flip(0))
WORKS = {
    "sparsegpt": partial(ml.sparsegpt, amount=1),
    "admm": partial(ml.admm, amount=1),
    "reconstruct": lambda w, s, **k: ml.reconstruct(w, s, {n: t > 0 for n, t in w.items()}, **k),
}


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize(
    ("total", "options", "message"),
    [
        (torch.eye(4) * float("nan"), {}, "has 16 entries that are not finite"),
        (torch.diag(torch.tensor([1.0, 1, 1, 1e999])).nan_to_num(0, 1e999), {}, "has 1 entries that are not finite"),
        (torch.ones(4, 4), {"damping": 0.0}, "its 3 inputs do not span its 4 features. Pass damping=0.01"),
        (BAD, {}, "is not positive definite with damping="),
        (BAD, {"damping": 0.0}, "is not positive definite with damping=0.0"),
        (CURVED, {}, "it is not a sum of x x^T"),
        (torch.eye(4) + torch.ones(4, 4).triu(), {}, "must be symmetric"),
        (torch.eye(3), {}, "must be of the 4 inputs of `weight` of 'up', a total of shape (in, in), got (3, 3)"),
    ],
)
def test_bad_statistics_name_the_layer(work, total, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        work({"up": W.float()}, known({"up": total}, {"up": 3}), **options)
    assert "`statistics` of 'up'" in str(caught.value)
    assert type(caught.value) is ValueError


EYE, INF = known(torch.eye(4)), float("inf")


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            TypeError,
            "`penalty` must be a sequence of numbers",
            lambda: ml.admm(W, EYE, keep=1, penalty=1.0),
        ),
        (
            TypeError,
            "`penalty` must be a sequence of numbers",
            lambda: ml.admm(W, EYE, keep=1, penalty=()),
        ),
        (ValueError, "`penalty` must hold positive, finite", lambda: ml.admm(W, EYE, keep=1, penalty=(1.0, 0.0))),
        (ValueError, "`penalty` must hold positive, finite", lambda: ml.admm(W, EYE, keep=1, penalty=(1.0, INF))),
        (ValueError, "`damping` must be at least 0 and finite", lambda: ml.reconstruct(W, EYE, W > 0, damping=INF)),
        (ValueError, "`relaxation` must be in (0, 2), got 0.0", lambda: ml.admm(W, EYE, keep=1, relaxation=0.0)),
        (ValueError, "`relaxation` must be in (0, 2), got 2.0", lambda: ml.admm(W, EYE, keep=1, relaxation=2.0)),
        (TypeError, "`relaxation` must be a number in (0, 2)", lambda: ml.admm(W, EYE, keep=1, relaxation="1.3")),
        (TypeError, "`groups` must fold a weight", lambda: ml.admm(W, EYE, keep=1, groups=ml.rows)),
        (ValueError, "`weight` does not fit windows(of=3)", lambda: ml.admm(W, EYE, keep=1, groups=ml.windows(3))),
        (ValueError, "`amount` must be between 0 and 8", lambda: ml.admm(W, EYE, amount=9)),
        (TypeError, "exactly one", lambda: ml.admm(W, EYE)),
        (TypeError, "`mask` must be bool", lambda: ml.reconstruct(W, EYE, W)),
        (ValueError, "`mask` must have the shape of `weight`", lambda: ml.reconstruct(W, EYE, W[0] > 0)),
        (TypeError, "`statistics` must be real", lambda: ml.reconstruct(W, known(torch.eye(4) * 1j), W > 0)),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert type(caught.value) is error
