"""The best weights that a mask allows."""

from __future__ import annotations

import torch
from torch import Tensor

from masklib import _read
from masklib._names import Tensors, TensorsT, like
from masklib.scores import Hessian
from masklib.scores._common import no_autocast
from masklib.selection._op import each_example
from masklib.surgery._factors import curvature, finite
from masklib.surgery._statistics import damping_of, statistics_of, weights_of, width


def reconstruct(weight: TensorsT, statistics: Hessian, mask: Tensors, *, damping: float = 0.01) -> TensorsT:
    """Find the weights that a mask allows whose outputs are nearest to those of the weight: masked least squares.

        minimize tr((Q - W) H (Q - W)^T) over Q = mask * Q,   row by row   Q(S) = W H(:, S) H(S, S)^-1

    with H = total / count + damping * mean(diag H) * I. No other weights with this mask have a smaller error, those of
    `sparsegpt` and `admm` included. It takes a factorization of what each output keeps: rows x kept^3 / 3 operations,
    once for all rows if these keep the same.

    Args:
        weight: of shape (out, in), a tensor or a mapping by name.
        statistics: of the layer's inputs, as `scores.add_hessian` returns them.
        mask: bool, True = kept, with the names and shapes of the weight.
        damping: how much of the mean curvature is added to each diagonal entry.

    Returns:
        The new weight, with exact zeros where the mask is False, in the weight's dtype. With a mask of True it is the
        weight, but for features that are always zero, whose weights become 0.

    Raises:
        TypeError: if a weight is not real floating, the statistics are none, or the mask is not bool.
        ValueError: if shapes or names disagree, the weight or the statistics hold values that are not finite, or the
            statistics no inputs or too few for `damping=0`.

    >>> x = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    >>> reconstruct(torch.tensor([[1.0, 3.0]]), scores.add_hessian(None, x), torch.tensor([[False, True]]), damping=0.0)
    tensor([[0.0000, 3.6667]])

    Reference: LeCun et al., "Optimal Brain Damage", 1990; Hassibi and Stork, "Optimal Brain Surgeon", 1993, equation 5.
    """
    weights, states, ridge = weights_of(weight), statistics_of(statistics, weight), damping_of(damping)
    masks = _read.masks(mask, weight, "mask", "weight")
    return like(weight, {n: _reconstruct(n, w, states[n], masks[n], ridge) for n, w in weights.items()})


def _reconstruct(name: str, weight: Tensor, state: tuple[Tensor, int], mask: Tensor, damping: float) -> Tensor:
    total, count = state
    wide = width(weight.dtype, total.dtype)
    with no_autocast(weight):
        mean = total.detach().to(wide) / count
        curved = curvature(mean, damping, count, _read.place(name, "statistics"))
        dense = finite(weight.detach(), _read.place(name, "weight")).to(wide).masked_fill(mean.diagonal() == 0, 0)
        best = _best(dense, curved, mask)
    return best.where(mask, 0).to(weight.dtype)


@torch.library.custom_op("masklib::masked_least_squares", mutates_args=())
def _best(dense: Tensor, curved: Tensor, mask: Tensor) -> Tensor:
    """The solution of each row, one factorization for all rows with the same mask.

    An operator, as the sizes of the systems are data.
    """
    if not dense.numel():
        return torch.zeros_like(dense)
    patterns, of_row = torch.unique(mask, dim=0, return_inverse=True)
    slopes, best = dense @ curved, torch.zeros_like(dense)
    for i, pattern in enumerate(patterns):
        kept, rows = pattern.nonzero()[:, 0], (of_row == i).nonzero()
        lower = torch.linalg.cholesky(curved[kept[:, None], kept])
        best[rows, kept] = torch.cholesky_solve(slopes[rows, kept].T, lower).T
    return best


@_best.register_fake
def _(dense: Tensor, curved: Tensor, mask: Tensor) -> Tensor:
    return torch.empty_like(dense, memory_format=torch.contiguous_format)


_best.register_vmap(each_example(_best))
