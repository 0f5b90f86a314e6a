"""Budgets: one model-wide sparsity, shared out among the tensors of a mapping.

    sparsities = budgets.erk(weights, 0.9)
    masks = layerwise(l1_unstructured)(weights, sparsity=sparsities)
    masks = layerwise(l1_unstructured)(weights, keep=budgets.kept(weights, sparsities))      # the total to the element

Only names and shapes are looked at. The sparsities of a budget, weighted by size, add up to what was asked for; what
cannot be met is refused, never clamped. `proportional` makes a budget of densities of your own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from masklib import _read
from masklib.groups import elements
from masklib.groups._plan import folded, folds

_ELEMENTS = elements()
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
        TypeError: if `params` is not a mapping, a sparsity not a number, or `least` not an int.
        ValueError: if a sparsity is not in [0, 1], the whole cannot be met, or a name in `fixed` fits no tensor.

    >>> budgets.uniform({"a": torch.zeros(6), "b": torch.zeros(2)}, 0.75, fixed={"b": 0.0})
    {'a': 1.0, 'b': 0.0}
    """
    return _by_shape(params, sparsity, lambda shape: 1.0, fixed, least)


def proportional(
    params: Params, sparsity: float, densities: Mapping[str, float], *, fixed: Fixed | None = None, least: int = 0
) -> dict[str, float]:
    """Share out by densities of your own: budgets such as OWL's.

        density(l) = min(max(e * densities[l], least / size(l)), 1)

    with `e` such that the total is met.

    Args:
        params, sparsity, fixed, least: as for `uniform`.
        densities: numbers that are not negative, with exactly these names; only their ratios matter.

    Returns:
        Sparsities by name.

    Raises:
        TypeError: as for `uniform`, or if a density is not a number.
        ValueError: as for `uniform`, or if names disagree, or a density is negative or not finite.

    >>> weights = {"a": torch.zeros(8), "b": torch.zeros(8)}
    >>> budgets.proportional(weights, 0.5, {"a": 3.0, "b": 1.0})
    {'a': 0.25, 'b': 0.75}
    """
    _read.same_names(densities, _read.mapping(params, "params"), "densities", "params")
    return _shared_out(params, sparsity, {n: _density(densities[n], n) for n in params}, fixed, least)


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
    return _by_shape(params, sparsity, lambda shape: _ratio(shape[:2]), fixed, least)


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
    return _by_shape(params, sparsity, _ratio, fixed, least)


def kept(params: Params, sparsities: Mapping[str, float], *, groups: Any = _ELEMENTS) -> dict[str, int]:
    """Turn sparsities into whole numbers whose sum is exact: how many items each tensor keeps.

        total = sum of items - round(sum of sparsity * items)

    shared out by largest remainder, ties by name.

    Args:
        params: tensors by name.
        sparsities: in [0, 1], with exactly these names.
        groups: what the items are, as for `compute_mask`; of one pool a tensor.

    Returns:
        Counts by name, for `layerwise(method)(..., keep=counts)`.

    Raises:
        TypeError: if a sparsity is not a number, or the groups do not fold single tensors.
        ValueError: if names disagree, a sparsity is not in [0, 1], a tensor does not fit the groups, or has several
            pools.

    >>> budgets.kept({"a": torch.zeros(3), "b": torch.zeros(3), "c": torch.zeros(3)}, {"a": 0.5, "b": 0.5, "c": 0.5})
    {'a': 2, 'b': 2, 'c': 1}
    >>> budgets.kept({"a": torch.zeros(3, 4), "b": torch.zeros(5, 4)}, {"a": 0.5, "b": 0.5}, groups=channels(0))
    {'a': 2, 'b': 2}
    """
    sizes = {n: _items(groups, n, t) for n, t in _read.mapping(params, "params").items()}
    _read.same_names(sparsities, sizes, "sparsities", "params")
    dead = {n: _read.share(sparsities[n], f"sparsities[{n!r}]") * sizes[n] for n in sizes}
    alive = {n: sizes[n] - dead[n] for n in sizes}
    counts = {n: math.floor(alive[n]) for n in sizes}
    missing = sum(sizes.values()) - round(math.fsum(list(dead.values()))) - sum(counts.values())
    for n in sorted(sizes, key=lambda n: (counts[n] - alive[n], n))[:missing]:
        counts[n] += 1
    return counts


# ---- sharing out ----------------------------------------------------------------------------------------------------


def _by_shape(
    params: Params, sparsity: float, raw: Callable[[tuple[int, ...]], float], fixed: Fixed | None, least: int
) -> dict[str, float]:
    """`proportional` to a function of the shape; tensors without elements have none."""
    tensors = _read.mapping(params, "params")
    ratios = {n: raw(tuple(t.shape)) if t.numel() else 1.0 for n, t in tensors.items()}
    return _shared_out(params, sparsity, ratios, fixed, least)


def _shared_out(
    params: Params, sparsity: float, raw: Mapping[str, float], fixed: Fixed | None, least: int
) -> dict[str, float]:
    """Sparsities whose densities are proportional to `raw`, within what each tensor can keep."""
    sizes, total = {n: t.numel() for n, t in params.items()}, _read.share(sparsity, "sparsity")
    given = _given(params, fixed)
    free = [n for n in sizes if n not in given and sizes[n]]
    alive = (1 - total) * sum(sizes.values()) - sum((1 - s) * sizes[n] for n, s in given.items())
    low = {n: _least(least, sizes[n], n) / sizes[n] for n in free}
    fewest = sum(low[n] * sizes[n] for n in free)
    most = sum(sizes[n] if raw[n] else low[n] * sizes[n] for n in free)
    _reachable(total, alive, fewest, most, sizes, given)
    bare = {n: low[n] for n in free if not raw[n]}  # in no proportion: these keep the least
    left = alive - sum(density * sizes[n] for n, density in bare.items())
    densities = bare | _densities({n: raw[n] for n in free if raw[n]}, sizes, low, left)
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


def _given(params: Params, fixed: Fixed | None) -> dict[str, float]:
    """The sparsities that are given, by name: what is a name is no pattern, and comes before those that fit it."""
    if fixed is None:
        return {}
    if callable(fixed):
        values = {n: fixed(n, t) for n, t in params.items()}
        return {n: _read.share(s, f"fixed({n!r})") for n, s in values.items() if s is not None}
    _patterns_fit(fixed, params)
    patterns = [p for p in fixed if p not in params]
    first = {n: [n] if n in fixed else [p for p in patterns if fnmatchcase(n, p)][:1] for n in params}
    return {n: _read.share(fixed[p[0]], f"fixed[{p[0]!r}]") for n, p in first.items() if p}


# ---- what is refused ------------------------------------------------------------------------------------------------


def _items(groups: Any, name: str, tensor: Tensor) -> int:
    """How many items a tensor has, refusing groups whose `keep` counts in several pools."""
    if not folds(groups):
        raise TypeError(
            f"`groups` must fold single tensors by `fold(shape)`, as elements() or channels(0) do, got {groups!r}."
        )
    folding = folded(groups, name, tensor.shape, "params")
    if folding.pools not in (None, 1):
        raise ValueError(
            f"`groups` must have one pool a tensor, got {groups!r}, of which {name!r} has {folding.pools}: "
            "`keep` counts in each. Pass the sparsities themselves as sparsity=."
        )
    return folding.items


def _density(value: Any, name: str) -> float:
    """Read a number that is not negative."""
    where = f"densities[{name!r}]"
    given = value.item() if isinstance(value, Tensor) and value.dim() == 0 else value
    number = _read.real(given, where, "a number that is not negative", "{'fc1.weight': 0.5}")
    if not 0 <= number < math.inf:
        raise ValueError(f"`{where}` must be finite and not negative, got {value!r}. For example 0.5.")
    return number


def _least(value: Any, size: int, name: str) -> int:
    """Read how many elements a tensor keeps at least."""
    count = _read.integer(value, "least", "least=1")
    if not 0 <= count <= size:
        raise ValueError(f"`least` must be between 0 and the size {size} of {name!r}, got {count}. Fix that tensor.")
    return count


def _reachable(
    sparsity: float, alive: float, fewest: float, most: float, sizes: Mapping[str, int], given: Mapping[str, float]
) -> None:
    """Refuse a sparsity that the tensors which are not fixed cannot make up for."""
    slack = 1e-9 * sum(sizes.values())
    if fewest - slack <= alive <= most + slack:
        return
    everything = max(sum(sizes.values()), 1)
    low, high = (sparsity + (alive - bound) / everything for bound in (most, fewest))
    raise ValueError(
        f"`sparsity` must be between {low:.6g} and {high:.6g} with these `fixed` and `least`, got {sparsity}. "
        f"Fixed are: {dict(given)}."
    )


def _patterns_fit(patterns: Any, names: Iterable[str]) -> None:
    """Refuse a pattern that fits no name."""
    if not isinstance(patterns, Mapping):
        raise TypeError(f"`fixed` must be a mapping or a function, got {patterns!r}. For example {{'*.bias': 0.0}}.")
    for pattern in patterns:
        _read.is_name(pattern, "fixed")
    known = list(names)
    idle = [p for p in patterns if p not in known and not any(fnmatchcase(n, p) for n in known)]
    if idle:
        raise ValueError(f"`fixed` has names that fit no tensor: {idle}. The tensors: {known}.")
