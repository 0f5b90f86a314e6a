"""Methods that also change weights: what survives in a linear layer takes over from what is removed.

(weight, statistics, default_mask, *, amount | keep | sparsity, groups) -> (weight, mask)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._names import Tensors, TensorsT, like, named
from masklib._statistics import damping_of, numbers_of, refuse_indefinite, refuse_values, statistics_of, weights_of
from masklib.groups import elements
from masklib.groups._plan import folded, folds
from masklib.methods import compute_mask, identity
from masklib.scores import Hessian
from masklib.scores._common import no_autocast


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
        ValueError: if shapes disagree, the weight does not fit the groups, a pool cannot meet the number, or the
            statistics hold no inputs, values that are not finite, or too few inputs for `damping=0`.

    >>> x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.1, 1.0]])
    >>> state = scores.add_hessian(None, x)
    >>> w, mask = sparsegpt(torch.tensor([[1.0, 2.0, 4.0]]), state, amount=1, damping=0.0)
    >>> mask, (x @ (w[0] - torch.tensor([1.0, 2.0, 4.0]))).abs().max() < 0.1
    (tensor([[False,  True,  True]]), tensor(True))

    Reference: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2023,
    algorithm 1.
    """
    weights, pools = weights_of(weight), elements() if groups is None else groups
    states = statistics_of(statistics, weight)
    numbers = {n: numbers_of(n, weights, amount=amount, keep=keep, sparsity=sparsity) for n in weights}
    alive = named(identity(weight, default_mask))  # type: ignore[type-var]
    columns, ridge = _read.integer(block, "block", "block=128"), damping_of(damping)
    runs = {n: _runs(pools, n, tuple(w.shape), columns) for n, w in weights.items()}
    done = {n: _sparsegpt(n, w, states[n], alive[n], numbers[n], pools, runs[n], ridge) for n, w in weights.items()}
    return like(weight, {n: w for n, (w, _) in done.items()}), like(weight, {n: m for n, (_, m) in done.items()})


Run = tuple[int, int]  # columns from one to before another
Blocks = list[list[Run]]  # the runs of columns that are chosen together, block by block


def _sparsegpt(
    name: str,
    weight: Tensor,
    state: tuple[Tensor, int],
    alive: Tensor,
    numbers: Mapping[str, Any],
    groups: Any,
    blocks: Blocks,
    damping: float,
) -> tuple[Tensor, Tensor]:
    total, count = state
    wide = torch.promote_types(torch.promote_types(weight.dtype, total.dtype), torch.float32)
    curved = total.detach().to(wide) * (2 / count)
    factor = _surgeon(curved, damping, count, _read.place(name, "statistics"))
    values = _batched(weight.detach().to(wide).masked_fill(curved.diagonal() == 0, 0), alive, *numbers.values())
    masks = [torch.zeros_like(alive[:, :0])]
    with no_autocast(weight):
        for runs in blocks:
            start, stop = runs[0][0], runs[-1][1]
            errors = torch.zeros_like(values[:, start:stop])
            for first, last in runs:
                saliency = (values[:, first:last] / factor.diagonal()[first:last]) ** 2
                chosen = compute_mask({name: saliency}, {name: alive[:, first:last]}, groups=groups, **numbers)
                masks.append(chosen[name])
                _make_up(values[:, first:stop], factor[first:stop, first:stop], masks[-1], errors[:, first - start :])
            values[:, stop:] -= errors @ factor[start:stop, stop:]
    mask = torch.cat(masks, 1)
    return values.where(mask, 0).to(weight.dtype), mask


def _make_up(values: Tensor, factor: Tensor, mask: Tensor, errors: Tensor) -> None:
    """Let the columns of a block to the right take over what the first ones lose, in place."""
    for j in range(mask.shape[1]):
        errors[:, j] = values[:, j].where(~mask[:, j], 0) / factor[j, j]
        values[:, j:] -= errors[:, j, None] * factor[j, j:]


def _batched(values: Tensor, *others: Any) -> Tensor:
    """The values, with a batch dim wherever `vmap` gives one to what decides over them: they change in place."""
    for other in others:
        if isinstance(other, Tensor):
            values = values + torch.zeros_like(other, dtype=values.dtype)
    return values


# ---- the factor -----------------------------------------------------------------------------------------------------


@torch.library.custom_op("masklib::surgeon", mutates_args=())
def _surgeon(hessian: Tensor, damping: float, count: int, where: str) -> Tensor:
    """The upper Cholesky factor of the inverse of (..., n, n), dead features and damping seen to.

    An operator, so that what is wrong with the data is told the same under every transform.
    """
    refuse_values(hessian, where)
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    ridge = (diagonal == 0) + damping * (diagonal + (diagonal == 0)).mean(-1, keepdim=True)
    lower, failed = torch.linalg.cholesky_ex(hessian + torch.diag_embed(ridge))
    refuse_indefinite(failed, damping, count, hessian.shape[-1], where)
    factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    refuse_indefinite(failed, damping, count, hessian.shape[-1], where)
    return factor


@_surgeon.register_fake
def _(hessian: Tensor, damping: float, count: int, where: str) -> Tensor:
    return torch.empty_like(hessian, memory_format=torch.contiguous_format)


@_surgeon.register_vmap
def _(info: Any, in_dims: Any, hessian: Tensor, damping: float, count: int, where: str) -> tuple[Tensor, int]:
    return _surgeon(hessian.movedim(in_dims[0], 0), damping, count, where), 0


# ---- blocks and pools -----------------------------------------------------------------------------------------------


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _runs(groups: Any, name: str, shape: tuple[int, ...], block: int) -> Blocks:
    """The columns that are chosen together: block by block, and within a block as few as no pool spans."""
    if not folds(groups):
        raise TypeError(
            f"`groups` must fold a weight by `fold(shape)`, as elements(), rows() or windows(4) do, got {groups!r}."
        )
    if not 1 <= block < 2**63:
        raise ValueError(f"`block` must be a positive number of columns, got {block}. For example block=128.")
    _refuse_cut_items(groups, name, shape, block)
    starts = range(0, shape[1], block)
    return [[(s + a, s + b) for a, b in _narrow(groups, (shape[0], min(block, shape[1] - s)), block)] for s in starts]


def _narrow(groups: Any, shape: tuple[int, int], block: int) -> list[Run]:
    """The narrowest runs of columns of a block that no pool crosses."""
    folding = _fold_block(groups, shape, block)
    if folding.pools is None:
        return [(0, shape[1])]
    low, high = _spans(folding, shape, folding.pools)
    crossed = torch.zeros(shape[1] + 1, dtype=torch.int64, device="cpu")
    crossed.index_add_(0, low, torch.ones_like(low)).index_add_(0, high, -torch.ones_like(high))
    ends = [i + 1 for i, pools in enumerate(crossed.cumsum(0)[: shape[1]].tolist()) if not pools]
    runs = list(zip([0, *ends], ends))
    return runs if all(_folds(groups, (shape[0], b - a)) for a, b in runs) else [(0, shape[1])]


def _spans(folding: Any, shape: tuple[int, ...], rows: int) -> tuple[Tensor, Tensor]:
    """The first and the last column of each of so many rows of a folding; padding counts for nothing."""
    places = torch.arange(1, shape[1] + 1, device="cpu").expand(shape)
    matrix = folding.matrix(places)
    if not matrix.numel():
        return matrix.new_zeros(0), matrix.new_zeros(0)
    matrix = matrix.reshape(rows, -1)
    first = matrix.masked_fill(matrix == 0, shape[1]).amin(1)
    return first - 1, matrix.amax(1).clamp(min=1) - 1


def _folds(groups: Any, shape: tuple[int, int]) -> bool:
    try:
        groups.fold(torch.Size(shape))
    except (IndexError, TypeError, ValueError):
        return False
    return True


def _refuse_cut_items(groups: Any, name: str, shape: tuple[int, ...], block: int) -> None:
    """Refuse a weight that does not fit the groups, and items that lie in two blocks."""
    folding = folded(groups, name, torch.Size(shape), "weight")
    if folding.elements == 1:
        return
    low, high = _spans(folding, shape, folding.rows)
    if bool((low // block != high // block).any()):
        raise ValueError(
            f"`block` must be a multiple of the columns that an item of {groups!r} spans, got {block}. "
            f"For example block={shape[1]}, all columns."
        )


def _fold_block(groups: Any, shape: tuple[int, int], block: int) -> Any:
    try:
        return groups.fold(torch.Size(shape))
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"`block` must be a width that {groups!r} fits, got {block}: {error}") from error
