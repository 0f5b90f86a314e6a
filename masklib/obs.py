"""Pruning that makes up for what it removes: the survivors of a linear layer take over (optimal brain surgeon)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from masklib import _check
from masklib.groups import elements
from masklib.groups._elements import Elements
from masklib.groups._rows import Rows
from masklib.groups._windows import Windows

Groups = Any
from masklib.methods import compute_mask, identity


def sparsegpt(
    weight: Tensor,
    hessian: Tensor,
    default_mask: Tensor | None = None,
    *,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
    groups: Groups | None = None,
    block: int = 128,
    damping: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Prune a weight column by column, and let the columns to the right make up for each error.

        U = upper Cholesky factor of the inverse of H + damping * mean(diag H) * I
        S(i, j) = (W(i, j) / U(j, j))**2                                  lowest first, within each block of columns
        W(i, j:) -= (W(i, j) - Q(i, j)) / U(j, j) * U(j, j:)              Q(i, j) = W(i, j) where kept, else 0

    The outputs of the layer change little: far less than if the same elements were only zeroed. Features that are
    always zero (a zero on the diagonal of H) are pruned first, as their weights do nothing.

    Args:
        weight: of shape (out, in).
        hessian: of shape (in, in), `scores.add_hessian(...).value`; in float64 all is computed in float64.
        default_mask: bool, what is alive now; None for all.
        amount, keep, sparsity: as for `compute_mask`, counted in each block of columns, or in each window.
        groups: `elements()`, `rows()` or `windows(of)`, the pools within a block.
        block: how many columns are chosen at a time; windows must divide it.
        damping: how much of the mean curvature is added to each diagonal entry.

    Returns:
        The new weight, with exact zeros where the mask is False, in the weight's dtype; and the mask.

    Raises:
        TypeError: if an argument is not what it should be.
        ValueError: if shapes disagree, or a pool cannot meet the number.

    >>> x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.1, 1.0]])
    >>> state = scores.add_hessian(None, x)
    >>> w, mask = sparsegpt(torch.tensor([[1.0, 2.0, 4.0]]), state.value, amount=1, damping=0.0)
    >>> mask, (x @ (w[0] - torch.tensor([1.0, 2.0, 4.0]))).abs().max() < 0.1
    (tensor([[False,  True,  True]]), tensor(True))

    Reference: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2023,
    algorithm 1.
    """
    pools = elements() if groups is None else groups
    _check.reconstructed(weight, hessian, pools, (Elements, Rows, Windows), block, damping)
    numbers = {"amount": amount, "keep": keep, "sparsity": sparsity}
    wide = torch.promote_types(torch.promote_types(weight.dtype, hessian.dtype), torch.float32)
    mask = identity(weight, default_mask)
    dead = hessian.diagonal() == 0
    values, factor = weight.detach().to(wide).masked_fill(dead, 0), _factor(hessian.detach().to(wide), dead, damping)
    step = pools.of if isinstance(pools, Windows) else block
    for start in range(0, weight.shape[1], block):
        stop = min(start + block, weight.shape[1])
        errors = torch.zeros_like(values[:, start:stop])
        for first in range(start, stop, step):
            chosen = slice(first, min(first + step, stop))
            saliency = (values[:, chosen] / factor.diagonal()[chosen]) ** 2
            mask[:, chosen] = compute_mask(saliency, mask[:, chosen].clone(), groups=pools, **numbers)
            for j in range(chosen.start, chosen.stop):
                errors[:, j - start] = values[:, j].where(~mask[:, j], 0) / factor[j, j]
                values[:, j:stop] -= errors[:, j - start, None] * factor[j, j:stop]
        values[:, stop:] -= errors @ factor[start:stop, stop:]
    return values.where(mask, 0).to(weight.dtype), mask


def _factor(hessian: Tensor, dead: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse, dead features and damping seen to."""
    curved = hessian + torch.diag(dead.to(hessian.dtype))
    curved = curved + damping * curved.diagonal().mean() * torch.eye(
        len(curved), dtype=curved.dtype, device=curved.device
    )
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(curved))
    return torch.linalg.cholesky(inverse, upper=True)
