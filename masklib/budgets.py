"""Budgets: one model-wide sparsity, shared out among the tensors of a mapping.

    sparsities = budgets.erk(weights, 0.9)
    masks = layerwise(l1_unstructured)(weights, sparsity=sparsities)
    masks = layerwise(l1_unstructured)(weights, keep=budgets.kept(weights, sparsities))      # the total to the element

Only names and shapes are looked at. The sparsities of a budget, weighted by size, add up to what was asked for; what
cannot be met is refused, never clamped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from torch import Tensor

from masklib import _read

Params = Mapping[str, Tensor]
Fixed = Mapping[str, float] | Callable[[str, Tensor], float | None]


def uniform(params: Params, sparsity: float, *, fixed: Fixed | None = None, least: int = 0) -> dict[str, float]:
    """Give every tensor the same sparsity.

    Args:
        params: tensors by name.
        sparsity: the dead share of all elements together, in [0, 1].
        fixed: sparsities that are given, by name or glob ("*.bias", the first that fits), or a function
            `(name, tensor) -> sparsity or None`; the other tensors make up for them.
        least: how many elements every tensor that is not fixed keeps at least.

    Returns:
        Sparsities by name.

    Raises:
        TypeError: if an argument is not what it should be.
        ValueError: if the sparsity cannot be met, or a name in `fixed` fits no tensor.

    >>> budgets.uniform({"a": torch.zeros(6), "b": torch.zeros(2)}, 0.75, fixed={"b": 0.0})
    {'a': 1.0, 'b': 0.0}
    """
    return _shared_out(params, sparsity, lambda shape: 1.0, fixed, least)


def er(params: Params, sparsity: float, *, fixed: Fixed | None = None, least: int = 0) -> dict[str, float]:
    """Give larger layers more sparsity: Erdos-Renyi.

        density(l) = e * (n_in + n_out) / (n_in * n_out),   at most 1

    with `e` such that the total is met. Kernel dims do not count; tensors of fewer than two dims have the density e.

    Args:
        params, sparsity, fixed, least: as for `uniform`.

    Returns:
        Sparsities by name.

    Raises:
        TypeError, ValueError: as for `uniform`.

    >>> weights = {"1": torch.zeros(300, 784), "2": torch.zeros(100, 300), "3": torch.zeros(10, 100)}
    >>> {name: round(s, 4) for name, s in budgets.er(weights, 0.9).items()}
    {'1': 0.9204, '2': 0.7698, '3': 0.0}

    Reference: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity", 2018.
    """
    return _shared_out(params, sparsity, lambda shape: _ratio(shape[:2]), fixed, least)


def erk(params: Params, sparsity: float, *, fixed: Fixed | None = None, least: int = 0) -> dict[str, float]:
    """Give larger layers more sparsity, kernel dims included: Erdos-Renyi-Kernel.

        density(l) = e * (sum of dims) / (product of dims),   at most 1

    with `e` such that the total is met.

    Args:
        params, sparsity, fixed, least: as for `uniform`.

    Returns:
        Sparsities by name.

    Raises:
        TypeError, ValueError: as for `uniform`.

    >>> weights = {"conv": torch.zeros(16, 6, 5, 5), "fc": torch.zeros(120, 256)}
    >>> {name: round(s, 4) for name, s in budgets.erk(weights, 0.9).items()}
    {'conv': 0.8918, 'fc': 0.9006}

    Reference: Evci et al., "Rigging the Lottery", 2020, section 3 (sparsity distribution).
    """
    return _shared_out(params, sparsity, _ratio, fixed, least)


def kept(params: Params, sparsities: Mapping[str, float]) -> dict[str, int]:
    """Turn sparsities into whole numbers whose sum is exact: how many elements each tensor keeps.

    The total is what `round` makes of the sparsities; it is shared out by largest remainder, ties by name.

    Args:
        params: tensors by name.
        sparsities: in [0, 1], with exactly these names.

    Returns:
        Counts by name, for `layerwise(method)(..., keep=counts)`.

    Raises:
        TypeError: if a sparsity is not a number.
        ValueError: if names disagree, or a sparsity is not in [0, 1].

    >>> budgets.kept({"a": torch.zeros(3), "b": torch.zeros(3), "c": torch.zeros(3)}, {"a": 0.5, "b": 0.5, "c": 0.5})
    {'a': 2, 'b': 2, 'c': 1}
    """
    sizes = _sizes(params)
    _read.same_names(sparsities, sizes, "sparsities", "params")
    dead = {n: _read.share(sparsities[n], f"sparsities[{n!r}]") * sizes[n] for n in sizes}
    alive = {n: sizes[n] - dead[n] for n in sizes}
    counts = {n: math.floor(alive[n]) for n in sizes}
    missing = sum(sizes.values()) - round(math.fsum(dead.values())) - sum(counts.values())
    for n in sorted(sizes, key=lambda n: (counts[n] - alive[n], n))[:missing]:
        counts[n] += 1
    return counts


# ---- sharing out ----------------------------------------------------------------------------------------------------


def _shared_out(
    params: Params, sparsity: float, raw: Callable[[tuple[int, ...]], float], fixed: Fixed | None, least: int
) -> dict[str, float]:
    """Sparsities whose densities are proportional to `raw`, within what each tensor can keep."""
    sizes, total = _sizes(params), _read.share(sparsity, "sparsity")
    given = _given(params, fixed)
    free = [n for n in sizes if n not in given and sizes[n]]
    alive = (1 - total) * sum(sizes.values()) - sum((1 - s) * sizes[n] for n, s in given.items())
    low = {n: _read.least(least, sizes[n], n) / sizes[n] for n in free}
    _read.reachable(total, alive, sum(low[n] * sizes[n] for n in free), sum(sizes[n] for n in free), sizes, given)
    densities = _densities({n: raw(tuple(params[n].shape)) for n in free}, sizes, low, alive)
    return {n: given[n] if n in given else 1 - densities.get(n, 0.0) for n in sizes}


def _densities(
    raw: Mapping[str, float], sizes: Mapping[str, int], low: Mapping[str, float], alive: float
) -> dict[str, float]:
    """clip(e * raw, low, 1) with the e that keeps `alive` elements: set what hits a bound aside until nothing does."""
    densities: dict[str, float] = {}
    free = dict(raw)
    while free:
        left = alive - sum(densities[n] * sizes[n] for n in densities)
        e = left / sum(free[n] * sizes[n] for n in free)
        over = {n: 1.0 for n, r in free.items() if e * r > 1}
        under = {n: low[n] for n, r in free.items() if e * r < low[n]}
        if not over and not under:
            return densities | {n: e * r for n, r in free.items()}
        excess = sum((e * free[n] - 1) * sizes[n] for n in over) - sum((low[n] - e * free[n]) * sizes[n] for n in under)
        bound = over if excess >= 0 else under
        densities |= bound
        free = {n: r for n, r in free.items() if n not in bound}
    return densities


def _ratio(shape: tuple[int, ...]) -> float:
    return sum(shape) / math.prod(shape) if len(shape) > 1 else 1.0


def _sizes(params: Params) -> dict[str, int]:
    return {n: t.numel() for n, t in _read.mapping(params, "params").items()}


def _given(params: Params, fixed: Fixed | None) -> dict[str, float]:
    """The sparsities that are given, by name."""
    if fixed is None:
        return {}
    if callable(fixed):
        values = {n: fixed(n, t) for n, t in params.items()}
        return {n: _read.share(s, f"fixed({n!r})") for n, s in values.items() if s is not None}
    _read.patterns_fit(fixed, params, fnmatchcase)
    first = {n: [p for p in fixed if fnmatchcase(n, p)][:1] for n in params}
    return {n: _read.share(fixed[p[0]], f"fixed[{p[0]!r}]") for n, p in first.items() if p}
