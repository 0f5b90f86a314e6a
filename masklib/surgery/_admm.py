"""ADMM: weights and mask of a layer together, in a few rounds of products of whole matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._names import Tensors, TensorsT
from masklib.groups._plan import folded
from masklib.methods import compute_mask
from masklib.scores import Hessian
from masklib.scores._common import no_autocast
from masklib.selection import direct
from masklib.surgery._blocks import refuse_others
from masklib.surgery._factors import cholesky, curvature, finite
from masklib.surgery._statistics import Prepared, damping_of, given, pair, width

# What six layers of SmolLM2-135M lose on unseen text (one split), at 50 %, 2:4 and 70 %: with these 1.85, 3.85, 6.18 %.
# Not relaxed 1.87, 3.87, 6.25. Eight from 0.1 to 3, not relaxed, in 1.6 times the time: 1.85, 3.85, 6.21. Five of 0.5:
# 1.94, 4.03, 6.52. With .45, .45, .65, .65, .9, which need two factors less, an eighth of the time of the widest layer:
# 1.86, 3.87, 6.20, but twelve blocks pruned to 70 % have perplexity 18.7 instead of 18.3. Four from 0.3 to 1: 1.87,
# 3.88, 6.28; they take a fifth less time, but the model's perplexity at 70 % is a tenth higher. SparseGPT: 2.43, 4.94,
# 8.01. To choose the mask anew in the last round too changes nothing; to leave it for two of five adds a hundredth.
_GROWING = (0.3, 0.405, 0.548, 0.74, 1.0)
_RELAXED = 1.3

Ramp = tuple[tuple[float, float, float], ...]  # of each round rho, the share of it in the next, and the relaxation


def admm(
    weight: TensorsT,
    statistics: Hessian,
    default_mask: Tensors | None = None,
    *,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
    groups: Any = None,
    penalty: Sequence[float] = _GROWING,
    relaxation: float = _RELAXED,
    damping: float = 0.1,
) -> tuple[TensorsT, TensorsT]:
    """Prune a weight and move what survives, by alternating directions: each round chooses the mask anew.

        d = sqrt(diag H),   G = H / (d d^T) + damping * I,   V0 = W d,   V = V0,   U = 0

        mask = compute_mask(abs(V + U)),   Z = mask * (V + U),   U += V - Z
        V = V0 + rho (Z - U - V0) (G + rho I)^-1
        V = relaxation * V + (1 - relaxation) * Z                         but for the last round

    The result is mask * (V + U) / d of the last round. The penalty rho grows from round to round (U is divided by what
    it grows by), so that the mask settles; it stays as it is for the last quarter of the rounds. The outputs of the
    layer change less than with `sparsegpt`: all columns make up for each, not only those behind it. Features that are
    always zero (a zero on the diagonal of H) are pruned first. Each tensor of a mapping is pruned on its own.

    Args:
        weight: of shape (out, in), a tensor or a mapping by name.
        statistics: of the layer's inputs, as `scores.add_hessian` returns them; in float64 all is computed in float64.
        default_mask: bool, what is alive now; None for all.
        amount, keep, sparsity: as for `compute_mask`, counted in each pool of the whole weight; a value, or values by
            name.
        groups: the items and pools, `elements()` by default.
        penalty: the value of rho in each round; the paper's is `(1.0,) * 20`, without relaxation.
        relaxation: how far V goes, in (0, 2); more than 1 spares rounds, 1 is the plain method.
        damping: how much of the curvature is added to each diagonal entry.

    Returns:
        The new weight, with exact zeros where the mask is False, in the weight's dtype; and the mask.

    Raises:
        TypeError: if a weight is not real floating, the statistics are none, or the groups do not fold a shape.
        ValueError: if shapes disagree, the weight does not fit the groups, a pool cannot meet the number, a number is
            out of range, the weight or the statistics hold values that are not finite, or the statistics no inputs or
            too few for `damping=0`.

    >>> x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.1, 1.0]])
    >>> state = scores.add_hessian(None, x)
    >>> w, mask = admm(torch.tensor([[1.0, 2.0, 4.0]]), state, amount=1, damping=0.01)
    >>> mask, (x @ (w[0] - torch.tensor([1.0, 2.0, 4.0]))).abs().max() < 0.1
    (tensor([[False,  True,  True]]), tensor(True))

    Reference: Boza, "Fast and Effective Weight Update for Pruned Large Language Models", 2024, algorithm 1; the growing
    penalty is ours.
    """
    weights, states, alive, numbers, pools = given(
        weight, statistics, default_mask, groups, amount=amount, keep=keep, sparsity=sparsity
    )
    ramp, ridge = _penalties(penalty, relaxation), damping_of(damping)
    refuse_others(pools)
    for n, w in weights.items():
        folded(pools, n, w.shape, "weight")
    made = getattr(statistics, "made", {})
    done = {n: _admm(n, w, states[n], made, alive[n], numbers[n], pools, ramp, ridge) for n, w in weights.items()}
    return pair(weight, done)


def prepared(
    statistics: Hessian, *, penalty: Sequence[float] = _GROWING, relaxation: float = _RELAXED, damping: float = 0.1
) -> Prepared:
    """Statistics with the factors that `admm` needs of them, which serve all weights of the same inputs."""
    total, count, wide = statistics.total, statistics.count, width(statistics.total.dtype)
    ramp, ridge = _penalties(penalty, relaxation), damping_of(damping)
    with no_autocast(total):
        sizes, lowers = _factors(total.detach().to(wide), count, ramp, ridge, "`statistics`")
        held: dict[float, Tensor] = {}
        for (rho, *_), lower in zip(ramp, lowers):
            held[rho] = held[rho] if rho in held else lower.clone()
    return Prepared(total, count, {(wide, ramp, ridge): (sizes, [held[rho] for rho, *_ in ramp])})


def _admm(
    name: str,
    weight: Tensor,
    state: tuple[Tensor, int],
    made: Mapping[Any, Any],
    alive: Tensor | None,
    numbers: Mapping[str, Any],
    groups: Any,
    ramp: Ramp,
    damping: float,
) -> tuple[Tensor, Tensor]:
    total, count = state
    wide = width(weight.dtype, total.dtype)
    place, given = _read.place(name, "statistics"), None if alive is None else {name: alive}
    with no_autocast(weight):
        known = made.get((wide, ramp, damping))
        sizes, lowers = known or _factors(total.detach().to(wide), count, ramp, damping, place)
        values = finite(weight.detach(), _read.place(name, "weight")).to(wide)
        dense = values.masked_fill(total.diagonal() == 0, 0) * sizes
        both, mask = _rounds(
            dense, lowers, ramp, lambda sizes: compute_mask({name: sizes}, given, groups=groups, **numbers)[name]
        )
        kept = mask.to(wide).mul_(both).div_(sizes).add_(0.0)  # no -0.0; and faster than to branch on a mask
        return kept.to(weight.dtype), mask


def _factors(total: Tensor, count: int, ramp: Ramp, damping: float, place: str) -> tuple[Tensor, Iterator[Tensor]]:
    """The sizes of the features, and of each round the lower factor of the curvature and the penalty."""
    sizes = _sizes(total)
    return sizes, _lowers(curvature((total / sizes).div_(sizes[:, None]), damping, count, place), ramp)


def _lowers(curved: Tensor, ramp: Ramp) -> Iterator[Tensor]:
    """One after the other, in the same memory; that of a penalty that stays is not made again."""
    raised, lower, factored = torch.empty_like(curved), curved, 0.0
    for rho, *_ in ramp:
        if rho != factored:
            raised.copy_(curved).diagonal(dim1=-2, dim2=-1).add_(rho)
            lower, factored = cholesky(raised)[0], rho
        yield lower


def _rounds(
    dense: Tensor, lowers: Iterable[Tensor], ramp: Ramp, choose: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """V + U after the last round, and its mask, which stays as it is for the last quarter of the rounds."""
    both, mask = dense, dense
    spare = [torch.empty_like(dense) for _ in range(3)] if direct(dense) else [None] * 3
    for i, ((rho, share, relaxed), lower) in enumerate(zip(ramp, lowers)):
        if i < len(ramp) - len(ramp) // 4:
            mask = choose(torch.abs(both, out=spare[1 + i % 2]))
        both = _round(dense, both, mask, lower, rho, share, relaxed, spare[0], spare[1 + i % 2])
    return both, mask


def _round(
    dense: Tensor,
    both: Tensor,
    mask: Tensor,
    lower: Tensor,
    rho: float,
    share: float,
    relaxed: float,
    sparse: Tensor | None,
    spare: Tensor | None,
) -> Tensor:
    """The next B = V + U, of which alone a round is made: Z = mask * B, and U = B - Z.

    Products, as to branch on a mask takes five times as long; and all in the same memory, if it is given.
    """
    sparse = torch.mul(both, mask, out=sparse)
    half = torch.sub(sparse, both, alpha=0.5, out=spare).sub_(dense, alpha=0.5)
    step = _solve(half, lower, None if spare is None else spare.mT).mul_(2 * rho * relaxed)
    return step.add_(dense, alpha=relaxed).add_(both, alpha=share).add_(sparse, alpha=1 - relaxed - share)


def _sizes(total: Tensor) -> Tensor:
    """Roots of the diagonal, 1 for dead features; what is no diagonal of a sum of squares is refused later."""
    diagonal = total.diagonal()
    return torch.where(diagonal > 0, diagonal, 1).sqrt()


def _solve(values: Tensor, lower: Tensor, out: Tensor | None) -> Tensor:
    """values (lower lower^T)^-1, by two triangular solves: as fast as a product with the inverse, which is not made.

    Solved are the transposes, so that what comes out lies row by row, as all that it is added to.
    """
    half = torch.linalg.solve_triangular(lower, values.mT, upper=False, out=out)
    return torch.linalg.solve_triangular(lower.mT, half, upper=True, out=out).mT


# ---- what is refused ------------------------------------------------------------------------------------------------


def _penalties(value: Any, relaxation: Any) -> Ramp:
    """Read the penalty of each round, what U is multiplied by after it, and how far V goes."""
    example = "For example penalty=(0.1, 0.3, 1.0)."
    if isinstance(value, str) or not isinstance(value, Sequence) or not len(value):
        raise TypeError(f"`penalty` must be a sequence of numbers, one a round, got {value!r}. {example}")
    penalties = [_read.real(v, "penalty", "a sequence of numbers", "penalty=(0.1, 0.3, 1.0)") for v in value]
    if not all(0 < v < float("inf") for v in penalties):
        raise ValueError(f"`penalty` must hold positive, finite numbers, got {value!r}. {example}")
    relaxed = _read.real(relaxation, "relaxation", "a number in (0, 2)", "relaxation=1.3")
    if not 0 < relaxed < 2:
        raise ValueError(f"`relaxation` must be in (0, 2), got {relaxation!r}. For example relaxation=1.3.")
    return *((now, now / later, relaxed) for now, later in pairwise(penalties)), (penalties[-1], 1.0, 1.0)
