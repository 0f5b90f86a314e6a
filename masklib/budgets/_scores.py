"""Budgets that look at scores: layers whose scores stand out keep more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from masklib import _read
from masklib.budgets._sharing import Densities, Fixed, Params, Sizes, Solve, shared_out, shifted
from masklib.selection._refusals import no_nan


def owl(
    scores: Params,
    sparsity: float,
    *,
    outliers: float = 5.0,
    margin: float = 0.08,
    fixed: Fixed | None = None,
    least: int = 0,
) -> dict[str, float]:
    """Let tensors with more outliers among their scores keep more: outlier weighed layerwise sparsity.

        r(l) = share of the scores of l above outliers * mean of the scores of l
        density(l) = 1 - sparsity + 2 * margin * (r(l) - least r) / (greatest r - least r) - c

    with `c` such that the total is met, and densities within [0, 1]. Equal shares give a uniform budget. The paper
    takes Wanda scores, and one share for all layers of a block.

    Args:
        scores: scores of the weights by name, such as those of `scores.wanda`.
        sparsity, fixed, least: as for `uniform`.
        outliers: how many times the mean a score must exceed, M in the paper.
        margin: half of what densities differ by at most, lambda in the paper.

    Returns:
        Sparsities by name.

    Raises:
        TypeError: as for `uniform`, or if scores are not real, or a number is none.
        ValueError: as for `uniform`, or if a score is NaN, or a number is out of range.

    >>> calm, wild = torch.ones(8), torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 93.0])
    >>> {name: round(s, 4) for name, s in budgets.owl({"a": calm, "b": wild}, 0.5).items()}
    {'a': 0.58, 'b': 0.42}

    Reference: Yin et al., "Outlier Weighed Layerwise Sparsity (OWL)", 2024, section 3.2.
    """
    values, factor, half = _scores(scores), _positive(outliers, "outliers", "5.0"), _read.share(margin, "margin")
    shares = {n: outlier_share(t, factor) for n, t in values.items() if t.numel()}
    return by_outliers(values, shares, sparsity, half, fixed, least)


def by_outliers(
    params: Params,
    shares: Mapping[str, float],
    sparsity: float,
    margin: float = 0.08,
    fixed: Fixed | None = None,
    least: int = 0,
) -> dict[str, float]:
    """`owl`, from the shares of outliers; of `params` only names and sizes are looked at."""
    low, high = min(shares.values(), default=0.0), max(shares.values(), default=0.0)
    raw = {n: 2 * margin * (r - low) / (high - low) if high > low else 0.0 for n, r in shares.items()}
    return shared_out(params, sparsity, shifted(raw), fixed, least)


def outlier_share(scores: Tensor, outliers: float = 5.0) -> float:
    """The share of scores above so many times their mean."""
    wide = scores.detach().double()
    return float((wide > outliers * wide.mean()).double().mean())


def pooled(
    scores: Params, sparsity: float, *, margin: float = 0.1, fixed: Fixed | None = None, least: int = 0
) -> dict[str, float]:
    """Give each tensor what it would keep in one pool of all scores, but not far from the mean.

        density(l) = clip(share of the scores of l above t, mean - margin, mean + margin)

    with the threshold `t` such that the total is met; among equal scores at `t` all tensors keep an equal share. With
    `margin=1.0` it is what `compute_mask` keeps of each tensor in one pool.

    Args:
        scores: scores that compare between tensors, by name: `scores.curvature`, `fisher`, `taylor`, `lamp`.
        sparsity, fixed, least: as for `uniform`; what is fixed is not in the pool.
        margin: how far a density may lie from the mean of those that are not fixed.

    Returns:
        Sparsities by name.

    Raises:
        TypeError: as for `uniform`, or if scores are not real, or `margin` is no number.
        ValueError: as for `uniform`, or if a score is NaN, `margin` is not in [0, 1], or leaves no room for `least`.

    >>> scores_by_name = {"a": torch.arange(8.0), "b": torch.arange(8.0) + 4}
    >>> budgets.pooled(scores_by_name, 0.5, margin=1.0), budgets.pooled(scores_by_name, 0.5)
    ({'a': 0.75, 'b': 0.25}, {'a': 0.6, 'b': 0.4})
    """
    values, width = _scores(scores), _read.share(margin, "margin")
    return shared_out(values, sparsity, _by_threshold(values, width), fixed, least)


def _by_threshold(scores: Params, margin: float) -> Solve:
    def solve(free: list[str], sizes: Sizes, low: Densities, alive: float) -> Densities:
        if not free:
            return {}
        mean = alive / sum(sizes[n] for n in free)
        bounds = {n: (max(low[n], mean - margin), max(low[n], min(1.0, mean + margin))) for n in free}
        _refuse_narrow(sum(bounds[n][0] * sizes[n] for n in free), alive, margin)

        def clipped(shares: Mapping[str, float]) -> tuple[Densities, float]:
            densities = {n: min(max(shares[n], bounds[n][0]), bounds[n][1]) for n in free}
            return densities, sum(densities[n] * sizes[n] for n in free)

        return _between(clipped, {n: scores[n].detach() for n in free}, alive)

    return solve


def _between(clipped: Any, scores: Params, alive: float) -> Densities:
    """Bisect the thresholds in the order of all float64 numbers, and mix the densities of the two that are left."""
    more, fewer = clipped(dict.fromkeys(scores, 1.0)), clipped(dict.fromkeys(scores, 0.0))
    low, high = _order(-np.inf) - 1, _order(np.inf)
    while high - low > 1 and fewer[1] < alive < more[1]:
        middle = (low + high) // 2
        found = clipped({n: float((t > _number(middle)).double().mean()) for n, t in scores.items()})
        if found[1] >= alive:
            more, low = found, middle
        else:
            fewer, high = found, middle
    part = min(max((alive - fewer[1]) / (more[1] - fewer[1]), 0.0), 1.0) if more[1] > fewer[1] else 1.0
    return {n: fewer[0][n] + part * (more[0][n] - fewer[0][n]) for n in scores}


def _order(number: float) -> int:
    """Where a float64 number stands among all, as an integer."""
    bits = int(np.float64(number).view(np.int64))
    return bits if bits >= 0 else -(bits & (2**63 - 1)) - 1


def _number(order: int) -> float:
    bits = order if order >= 0 else (-order - 1) - 2**63
    return float(np.int64(bits).view(np.float64))


# ---- what is refused ------------------------------------------------------------------------------------------------


def _scores(value: Any) -> Params:
    values = _read.mapping(value, "scores")
    _read.rankable_each(values)
    for name, tensor in values.items():
        _read.is_whole(tensor, _read.place(name, "scores"))
        _has_values(tensor, name)
    no_nan(list(values.values()), [None] * len(values), list(values))
    return values


def _has_values(tensor: Tensor, name: str) -> None:
    if tensor.device.type == "meta":
        raise ValueError(f"{_read.place(name, 'scores')} must have values, got a tensor on the meta device. Load it.")


def _positive(value: Any, argument: str, example: str) -> float:
    number = _read.real(value, argument, "a positive number", f"{argument}={example}")
    if not 0 < number < float("inf"):
        raise ValueError(f"`{argument}` must be positive and finite, got {value!r}. For example {argument}={example}.")
    return number


def _refuse_narrow(fewest: float, alive: float, margin: float) -> None:
    if fewest > alive * (1 + 1e-9) + 1e-9:
        raise ValueError(f"`margin` must leave room for what `least` keeps of small tensors, got {margin}. Raise it.")
