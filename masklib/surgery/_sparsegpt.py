"""SparseGPT: column by column, the columns to the right make up for what the left ones lose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._names import Tensors, TensorsT
from masklib.scores import Hessian
from masklib.scores._common import no_autocast
from masklib.surgery._blocks import Blocks, chooser, runs
from masklib.surgery._factors import finite, surgeon
from masklib.surgery._settle import Block, settle_block
from masklib.surgery._statistics import Prepared, damping_of, given, pair, width


def sparsegpt(
    weight: TensorsT,
    statistics: Hessian,
    default_mask: Tensors | None = None,
    *,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
    groups: Any = None,
    block: int = 128,
    damping: float = 0.01,
) -> tuple[TensorsT, TensorsT]:
    """Prune a weight column by column, and let the columns to the right make up for each error.

        H = 2 / count * total
        U = upper Cholesky factor of the inverse of H + damping * mean(diag H) * I
        S(i, j) = (W(i, j) / U(j, j))**2                                  lowest first, within each block of columns
        W(i, j:) -= (W(i, j) - Q(i, j)) / U(j, j) * U(j, j:)              Q(i, j) = W(i, j) where kept, else 0

    The outputs of the layer change little: far less than if the same elements were only zeroed. Features that are
    always zero (a zero on the diagonal of H) are pruned first, as their weights do nothing. Each tensor of a mapping is
    pruned on its own.

    Args:
        weight: of shape (out, in), a tensor or a mapping by name.
        statistics: of the layer's inputs, as `scores.add_hessian` returns them; in float64 all is computed in float64.
        default_mask: bool, what is alive now; None for all.
        amount, keep, sparsity: as for `compute_mask`, counted in each block of columns, or in each pool that is
            narrower; a value, or values by name.
        groups: the items and pools within a block, `elements()` by default; an item must not span two blocks.
        block: how many columns are chosen at a time; windows must divide it.
        damping: how much of the mean curvature is added to each diagonal entry.

    Returns:
        The new weight, with exact zeros where the mask is False, in the weight's dtype; and the mask.

    Raises:
        TypeError: if a weight is not real floating, the statistics are none, or the groups do not fold a shape.
        ValueError: if shapes disagree, the weight does not fit the groups, a pool cannot meet the number, the weight or
            the statistics hold values that are not finite, or the statistics no inputs or too few for `damping=0`.

    >>> x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.1, 1.0]])
    >>> state = scores.add_hessian(None, x)
    >>> w, mask = sparsegpt(torch.tensor([[1.0, 2.0, 4.0]]), state, amount=1, damping=0.0)
    >>> mask, (x @ (w[0] - torch.tensor([1.0, 2.0, 4.0]))).abs().max() < 0.1
    (tensor([[False,  True,  True]]), tensor(True))

    Reference: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2023,
    algorithm 1.
    """
    weights, states, alive, numbers, pools = given(
        weight, statistics, default_mask, groups, amount=amount, keep=keep, sparsity=sparsity
    )
    columns, ridge = _read.integer(block, "block", "block=128"), damping_of(damping)
    blocks = {n: runs(pools, n, tuple(w.shape), columns) for n, w in weights.items()}
    made = getattr(statistics, "made", {})
    done = {
        n: _sparsegpt(n, w, states[n], made, alive[n], numbers[n], pools, blocks[n], ridge) for n, w in weights.items()
    }
    return pair(weight, done)


def prepared(statistics: Hessian, *, damping: float = 0.01) -> Prepared:
    """Statistics with the factor that `sparsegpt` needs of them, which serves all weights of the same inputs."""
    total, count, wide = statistics.total, statistics.count, width(statistics.total.dtype)
    ridge = damping_of(damping)
    with no_autocast(total):
        factor = surgeon(total.detach().to(wide) * (2 / count), ridge, count, "`statistics`")
    return Prepared(total, count, {(wide, ridge): factor})


def _sparsegpt(
    name: str,
    weight: Tensor,
    state: tuple[Tensor, int],
    made: Mapping[Any, Any],
    alive: Tensor | None,
    numbers: Mapping[str, Any],
    groups: Any,
    blocks: Blocks,
    damping: float,
) -> tuple[Tensor, Tensor]:
    """Settle one block after the other, in the transpose: what is read together lies together.

    What each entry loses, D = W - Q, is found from R = inverse(U) alone, as D R is zero where W is kept:

        D(:, j) = W(:, j) where pruned, else -D(:, :j) R(:j, j) / R(j, j)
    """
    total, count = state
    wide = width(weight.dtype, total.dtype)
    curved = total.detach().to(wide) * (2 / count)
    with no_autocast(weight):
        factor = made.get((wide, damping))
        if factor is None:
            factor = surgeon(curved, damping, count, _read.place(name, "statistics"))
        values = finite(weight.detach(), _read.place(name, "weight")).to(wide).masked_fill(curved.diagonal() == 0, 0)
        columns = _batched(values, alive, *numbers.values()).T.contiguous()
        choose = chooser(name, groups, numbers, columns.shape[1], blocks)
        lost, masks = torch.zeros_like(columns), []
        for runs in blocks:
            start, stop = runs[0][0], runs[-1][1]
            block = _block(columns[start:stop], factor[:stop, start:stop], lost[:start])
            own = [(first - start, last - start) for first, last in runs]
            masks += settle_block(block, lost[start:stop], own, choose(None if alive is None else alive[:, start:stop]))
    mask = torch.cat([torch.zeros_like(weight[:, :0], dtype=torch.bool), *masks], 1)
    kept = (columns - lost).T  # zero where pruned, as all of the weight is lost there
    return kept.to(weight.dtype, memory_format=torch.contiguous_format), mask


def _block(columns: Tensor, factor: Tensor, lost: Tensor) -> Block:
    """A block, from R down to its last column and what was lost before it."""
    own = factor[len(lost) :]
    sizes = own.diagonal()  # 1 / U(j, j)
    unit = own / sizes
    identity = torch.eye(len(own), dtype=own.dtype, device=own.device)
    inverse = torch.linalg.solve_triangular(unit, identity, upper=True, unitriangular=True)
    return Block(columns, (factor[: len(lost)] / sizes).T @ lost, unit, inverse, sizes[:, None])


def _batched(values: Tensor, *others: Any) -> Tensor:
    """The values, with a batch dim wherever `vmap` gives one to what decides over them: they change in place."""
    for other in others:
        if isinstance(other, Tensor):
            values = values + torch.zeros_like(other, dtype=values.dtype)
    return values
