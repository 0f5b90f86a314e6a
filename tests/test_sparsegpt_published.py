"""SparseGPT is the published algorithm, column by column; with a mask given it is exact surgery."""

from __future__ import annotations

import pytest
import torch
from test_sparsegpt import problem

import masklib as ml


def published(weight, h, choose, block, damping=0.01):
    """Algorithm 1 as it is written down: each block is chosen from the weights as they are by then."""
    curved = 2 * h.total / h.count
    curved = curved + damping * curved.diagonal().mean() * torch.eye(len(curved), dtype=curved.dtype)
    u = torch.linalg.cholesky(torch.linalg.inv(curved), upper=True)
    w, mask = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    for start in range(0, w.shape[1], block):
        run = slice(start, start + block)
        mask[:, run] = choose((w[:, run] / u.diagonal()[run]) ** 2)
        for j in range(*run.indices(w.shape[1])):
            errors = torch.where(mask[:, j], 0.0, w[:, j]) / u[j, j]
            w[:, j:] -= errors[:, None] * u[j, j:]
    return w * mask, mask


@pytest.mark.parametrize("block", [4, 7, 24])
@pytest.mark.parametrize(
    "numbers",
    [{"amount": 0.5}, {"sparsity": 0.7, "groups": ml.rows()}, {"keep": 2, "groups": ml.channels(1)}],
    ids=repr,
)
def test_blocks_are_chosen_as_published(block, numbers):
    weight, _, h = problem()
    got, mask = ml.sparsegpt(weight, h, block=block, **numbers)
    expected, wanted = published(weight, h, lambda s: ml.compute_mask(s, **numbers), block)
    assert torch.equal(mask, wanted)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("of", [2, 4, 8])
def test_patterns_are_chosen_as_published(of):
    weight, _, h = problem()
    got, mask = ml.sparsegpt(weight, h, keep=of // 2, groups=ml.windows(of), block=24)
    expected, wanted = published(weight, h, lambda s: ml.compute_mask(s, keep=of // 2, groups=ml.rows()), of)
    assert torch.equal(mask, wanted)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


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
    torch.testing.assert_close(got, surgery(weight, h.total, alive), rtol=1e-7, atol=1e-9)
