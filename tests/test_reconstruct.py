"""SparseGPT: the published example, exact surgery on what is left, error orderings, exact counts."""

from __future__ import annotations

import pytest
import torch

import masklib as ml
from masklib import scores

W = torch.tensor([[0.5, -1, 0.25, 2], [1, 0.75, -0.5, 0.1]], dtype=torch.float64)
X = torch.tensor([[int(c) for c in row] for row in ("1010", "0110", "1101", "0011", "2100", "0102")]).double()


def problem(rows=6, columns=24, inputs=200):
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    x = torch.randn(inputs, columns, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), x, scores.add_hessian(None, x).value


def test_the_example_of_the_reference_implementation():
    h = scores.add_hessian(None, X).value
    weight, mask = ml.sparsegpt(W, h, keep=2, groups=ml.windows(4))
    assert mask.tolist() == [[False, True, False, True], [True, True, False, False]]
    expected = [[0, -0.5229, 0, 1.887342], [1, 0.75, 0, 0]]
    assert weight.flatten().tolist() == pytest.approx([x for row in expected for x in row], abs=1e-4)


def surgery(weight, h, mask):
    """Optimal brain surgeon, one column after the other, on the inverse of what is left of the Hessian."""
    w = weight.clone()
    for j in range(w.shape[1]):
        inverse = torch.linalg.inv(h[j:, j:])
        for i in range(len(w)):
            if not mask[i, j]:
                w[i, j:] -= w[i, j] / inverse[0, 0] * inverse[0]
    return w * mask


@pytest.mark.parametrize("block", [4, 7, 24, 128])
def test_given_a_mask_it_is_exact_surgery(block):
    """With everything that the mask kills dead from the start, whatever the blocks are."""
    weight, _, h = problem()
    alive = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    got, mask = ml.sparsegpt(weight, h, alive, amount=0, block=block, damping=0.0)
    assert torch.equal(mask, alive)
    torch.testing.assert_close(got, surgery(weight, h, alive), rtol=1e-7, atol=1e-9)


def test_errors_are_in_order():
    """Masked least squares <= SparseGPT <= the same mask without an update."""
    weight, x, h = problem()
    got, mask = ml.sparsegpt(weight, h, amount=0.5)
    best = torch.zeros_like(weight)
    for i, row in enumerate(mask):
        best[i, row] = torch.linalg.lstsq(x[:, row], x @ weight[i]).solution
    error = [float(((x @ (w - weight).T) ** 2).sum()) for w in (best, got, weight * mask)]
    assert error[0] <= error[1] < 0.8 * error[2]


def test_survivors_stay_when_inputs_are_independent():
    weight = problem()[0]
    got, mask = ml.sparsegpt(weight, torch.diag(torch.rand(24, dtype=torch.float64) + 0.5), amount=0.4)
    assert torch.equal(got, weight * mask)


@pytest.mark.parametrize("block", [8, 24, 128])
@pytest.mark.parametrize(
    ("number", "groups", "dead"),
    [
        ({"amount": 0.5}, ml.elements(), 72),
        ({"sparsity": 0.25}, ml.rows(), 36),
        ({"keep": 2}, ml.windows(4), 72),
        ({"keep": 1}, ml.windows(8), 126),
    ],
)
def test_counts_are_exact(block, number, groups, dead):
    weight, _, h = problem()
    got, mask = ml.sparsegpt(weight, h, groups=groups, block=block, **number)
    assert int((~mask).sum()) == dead
    assert torch.equal(got == 0, ~mask)


def test_dead_features_go_first_and_do_no_harm():
    weight, x, _ = problem()
    x[:, 3] = 0
    h = scores.add_hessian(None, x).value
    got, mask = ml.sparsegpt(weight, h, amount=6)
    assert not mask[:, 3].any()
    torch.testing.assert_close(got[mask], weight[mask])


def test_hessians_of_other_inputs_do_not_add_up():
    state = ml.scores.add_hessian(None, torch.ones(2, 3))
    with pytest.raises(ValueError, match="`state`"):
        ml.scores.add_hessian(state, torch.ones(2, 4))


def test_the_hessian_adds_up():
    _, x, h = problem()
    state = None
    for part in x.split(30):
        state = scores.add_hessian(state, part[None])
    torch.testing.assert_close(state.value, h)
    torch.testing.assert_close(h, 2 * x.T @ x / len(x))
    by_name = scores.add_hessian(scores.add_hessian(None, {"a": x, "b": X}), {"a": x, "b": X})
    torch.testing.assert_close(by_name.value["a"], h)
    assert by_name.inputs == {"a": 400, "b": 12}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    weight, _, h = problem()
    got, mask = ml.sparsegpt(weight.to(dtype), h.float(), amount=0.5)
    assert got.dtype == dtype
    assert int((~mask).sum()) == 72


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            ValueError,
            "`hessian` \\(in, in\\), got \\(2, 4\\) and \\(3, 3\\)",
            lambda: ml.sparsegpt(W, torch.eye(3), amount=1),
        ),
        (TypeError, "`weight` must be a floating tensor", lambda: ml.sparsegpt(W.long(), torch.eye(4), amount=1)),
        (TypeError, "`groups` must be", lambda: ml.sparsegpt(W, torch.eye(4), amount=1, groups=ml.channels(0))),
        (ValueError, "`block` must be", lambda: ml.sparsegpt(W, torch.eye(4), keep=2, groups=ml.windows(4), block=6)),
        (ValueError, "`damping` must be", lambda: ml.sparsegpt(W, torch.eye(4), amount=1, damping=-1)),
        (ValueError, "`amount` must be between 0 and 8", lambda: ml.sparsegpt(W, torch.eye(4), amount=9)),
        (TypeError, "exactly one", lambda: ml.sparsegpt(W, torch.eye(4))),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=message):
        call()
