"""Budgets that look at names and shapes alone, or at numbers of your own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from masklib import _read
from masklib.budgets._sharing import Fixed, Params, in_proportion, shared_out
from masklib.groups import elements
from masklib.groups._plan import folded, folds

_ELEMENTS = elements()


def uniform(params: Params, sparsity: float, *, fixed: Fixed | None = None, least: int = 0) -> dict[str, float]:
    """Give every tensor the same sparsity.

    Args:
        params: tensors by name.
        sparsity: the dead share of all elements together, in [0, 1].
        fixed: sparsities that are given, by name or glob (`*.bias`, the first that fits), or a function
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
    return _in_proportion(params, sparsity, {n: _density(densities[n], n) for n in params}, fixed, least)


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
        groups: what the items are, as for `compute_mask`; each tensor must be one pool.

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


def _by_shape(
    params: Params, sparsity: float, raw: Callable[[tuple[int, ...]], float], fixed: Fixed | None, least: int
) -> dict[str, float]:
    """`proportional` to a function of the shape; tensors without elements have none."""
    tensors = _read.mapping(params, "params")
    ratios = {n: raw(tuple(t.shape)) if t.numel() else 1.0 for n, t in tensors.items()}
    return _in_proportion(params, sparsity, ratios, fixed, least)


def _in_proportion(
    params: Params, sparsity: float, ratios: Mapping[str, float], fixed: Fixed | None, least: int
) -> dict[str, float]:
    """What is in no proportion to the others keeps the least."""
    bare = [n for n, ratio in ratios.items() if not ratio]
    return shared_out(params, sparsity, in_proportion(ratios), fixed, least, bare)


def _ratio(shape: tuple[int, ...]) -> float:
    return sum(shape) / math.prod(shape) if len(shape) > 1 else 1.0


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
