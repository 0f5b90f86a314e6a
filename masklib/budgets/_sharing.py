"""How one sparsity is shared out: what is given, what each tensor can keep, what cannot be met."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor

from masklib import _read

Params = Mapping[str, Tensor]
Fixed = Mapping[str, float] | Callable[[str, Tensor], float | None]
Sizes = Mapping[str, int]
Densities = dict[str, float]
Solve = Callable[[list[str], Sizes, Densities, float], Densities]  # free names, sizes, least densities, how many live


def shared_out(
    params: Params, sparsity: float, solve: Solve, fixed: Fixed | None, least: int, bare: Collection[str] = ()
) -> dict[str, float]:
    """Sparsities whose densities `solve` finds, of all but what is fixed; the `bare` ones keep the least."""
    sizes, total = {n: t.numel() for n, t in params.items()}, _read.share(sparsity, "sparsity")
    given, floor = _given(params, fixed), _floor(least)
    free = [n for n in sizes if n not in given and sizes[n]]
    alive = (1 - total) * sum(sizes.values()) - sum((1 - s) * sizes[n] for n, s in given.items())
    low = {n: _least(floor, sizes[n], n) / sizes[n] for n in free}
    fewest = sum(low[n] * sizes[n] for n in free)
    most = sum(low[n] * sizes[n] if n in bare else sizes[n] for n in free)
    _reachable(total, alive, fewest, most, sizes, given)
    densities = {n: low[n] for n in free if n in bare}
    left = alive - sum(density * sizes[n] for n, density in densities.items())
    densities |= solve([n for n in free if n not in bare], sizes, low, left)
    return {n: given[n] if n in given else 1 - densities.get(n, 0.0) for n in sizes}


def in_proportion(raw: Mapping[str, float]) -> Solve:
    """clip(e * raw, low, 1) with the e that keeps so many elements."""

    def densities(free: list[str], sizes: Sizes, left: float) -> Densities:
        e = left / sum(raw[n] * sizes[n] for n in free)
        return {n: e * raw[n] for n in free}

    return partial(_clipped, densities)


def shifted(raw: Mapping[str, float]) -> Solve:
    """clip(raw + c, low, 1) with the c that keeps so many elements."""

    def densities(free: list[str], sizes: Sizes, left: float) -> Densities:
        c = (left - sum(raw[n] * sizes[n] for n in free)) / sum(sizes[n] for n in free)
        return {n: raw[n] + c for n in free}

    return partial(_clipped, densities)


def _clipped(
    ask: Callable[[list[str], Sizes, float], Densities], free: list[str], sizes: Sizes, low: Densities, alive: float
) -> Densities:
    """Densities within [low, 1]: set what hits a bound aside until nothing does."""
    densities: dict[str, float] = {}
    while free:
        asked = ask(free, sizes, alive - sum(densities[n] * sizes[n] for n in densities))
        over = {n: 1.0 for n, d in asked.items() if d > 1}
        under = {n: low[n] for n, d in asked.items() if d < low[n]}
        if not over and not under:
            return densities | asked
        excess = sum((asked[n] - 1) * sizes[n] for n in over) - sum((low[n] - asked[n]) * sizes[n] for n in under)
        bound = over if excess >= 0 else under
        densities |= bound
        free = [n for n in free if n not in bound]
    return densities


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


def _floor(value: Any) -> int:
    """Read how many elements each tensor keeps at least."""
    count = _read.integer(value, "least", "least=1")
    if count < 0:
        raise ValueError(f"`least` must be at least 0, got {count}. For example least=1.")
    return count


def _least(count: int, size: int, name: str) -> int:
    """How many elements a tensor keeps at least."""
    if count > size:
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
