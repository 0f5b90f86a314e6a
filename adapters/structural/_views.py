"""Rules of operators that look at the same numbers in another shape."""

from __future__ import annotations

import itertools
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

from ._labels import Array
from ._walk import Act, Rule, Walk

Sizes = tuple[int, ...]


def view(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    act, shape = a.all[0], tuple(int(n) for n in out.shape)
    dims = regroup(walk, act, shape)
    for place, array in enumerate(dims):
        walk.size(array, place)
    return Act(dims, act.weight, act.silent, act.numbers)


def regroup(walk: Walk, act: Act, shape: Sizes) -> tuple[Array, ...]:
    """Dims that merge or split, in runs of equal product; one factor of each run goes on, the others are fixed."""
    result: list[Array] = []
    for before, after in runs(act.shape, shape):
        olds = [act.dims[d] for d in before]
        if len(before) == len(after) == 1:
            result.append(olds[0])
        else:
            result.extend(_run(walk, olds, [shape[d] for d in after]))
    return tuple(result)


def runs(before: Sizes, after: Sizes) -> list[tuple[list[int], list[int]]]:
    """The least runs of dims of equal product; dims of size 1 stand alone where they can."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(left), j + len(right)
        while (a := prod(before[d] for d in left)) != (b := prod(after[d] for d in right)):
            if a < b and i < len(before):
                left.append(i)
                i += 1
            elif j < len(after):
                right.append(j)
                j += 1
            else:
                left, right = list(range(left[0], len(before))), list(range(right[0], len(after)))
                i, j = len(before), len(after)
                break
        found.append((left, right))
    return found


def factors(before: list[int], after: list[int]) -> list[int] | None:
    """The finest sizes that both are products of, if there are such."""
    ends = sorted({int(n) for sizes in (before, after) for n in np.cumprod(sizes)})
    steps = [b // a for a, b in zip([1, *ends], ends)]
    exact = all(b % a == 0 for a, b in itertools.pairwise(ends))
    return [n for n in steps if n > 1] if exact else None


def _run(walk: Walk, olds: list[Array], sizes: list[int]) -> list[Array]:
    parts = factors([len(x) for x in olds], sizes)
    if parts is None:
        for x in olds:
            walk.fix(x, "regroups it into sizes that do not divide")
        return [np.zeros(n, dtype=np.int64) for n in sizes]
    before: list[Any] = list(parts)
    lives = [live for x in olds for live in _apart(walk, x, _take(before, len(x)))]
    after: list[Any] = [*zip(parts, lives)]
    return [_together(walk, _take(after, n), n) for n in sizes]


def _take(parts: list[Any], size: int) -> list[Any]:
    """As many factors from the front as make up a size."""
    taken, made = [], 1
    while made < size:
        part = parts.pop(0)
        taken.append(part)
        made *= part[0] if isinstance(part, tuple) else part
    return taken


def _apart(walk: Walk, labels: Array, parts: list[int]) -> list[Array]:
    """A dim as several: whole runs go, unless its positions are one already in another way, or the choice differs."""
    if len(parts) < 2:
        return [labels] * len(parts)
    site = f"{walk.step} {walk.at}"
    walk.sites[site] = (len(parts), labels)
    chosen = walk.choices.get(site, _as_it_is(walk, labels, parts))
    grid = np.moveaxis(labels.reshape(parts), chosen, 0).reshape(parts[chosen], -1)
    walk.unite(*grid.T, why=f"{walk.at} regroups it with what is fixed")
    return [grid[:, 0] if i == chosen else np.zeros(n, dtype=np.int64) for i, n in enumerate(parts)]


def _as_it_is(walk: Walk, labels: Array, parts: list[int]) -> int:
    """The factor along which the positions are one already, as after a merge; else the first."""
    roots = walk.labels.roots(labels).reshape(parts)
    for i in range(len(parts)):
        grid = np.moveaxis(roots, i, 0).reshape(parts[i], -1)
        if (grid == grid[:, :1]).all() and walk.labels.alive(grid[:, 0]).any():
            return i
    return 0


def _together(walk: Walk, parts: list[tuple[int, Array]], size: int) -> Array:
    """Several dims as one: the first that can be cut goes on."""
    if not parts:
        return np.zeros(size, dtype=np.int64)
    live = [i for i, (_, x) in enumerate(parts) if walk.labels.alive(x).any()] or [0]
    for i, (_, x) in enumerate(parts):
        if i != live[0]:
            walk.fix(x, "merges it with another dim that can be cut")
    shape = [1] * len(parts)
    shape[live[0]] = -1
    return np.broadcast_to(parts[live[0]][1].reshape(shape), [n for n, _ in parts]).reshape(-1)


# ---- dims in another order ------------------------------------------------------------------------------------------


def permute(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    return Act(tuple(a.self.dims[d] for d in a.dims), a.self.weight, a.self.silent)


def movedim(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    count = len(a.self.dims)
    source, target = ([d % count for d in np.atleast_1d(x)] for x in (a.source, a.destination))
    order = [d for d in range(count) if d not in source]
    for to, come in sorted(zip(target, source)):
        order.insert(to, come)
    return Act(tuple(a.self.dims[d] for d in order), a.self.weight, a.self.silent)


def transpose(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    dims = list(a.self.dims)
    first, second = getattr(a, "dim0", getattr(a, "axis0", 0)), getattr(a, "dim1", getattr(a, "axis1", -1))
    dims[first], dims[second] = dims[second], dims[first]
    return Act(tuple(dims), a.self.weight, a.self.silent)


def turned(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    return Act(a.self.dims[::-1], a.self.weight, a.self.silent)


def unsqueeze(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    dims = list(a.self.dims)
    dims.insert(a.dim % len(out.shape), np.zeros(1, dtype=np.int64))
    return Act(tuple(dims), a.self.weight, a.self.silent)


def expand(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """New dims of one value can have any size."""
    act, shape = a.all[0], [int(n) for n in out.shape]
    olds = [np.zeros(1, dtype=np.int64)] * (len(shape) - len(act.dims)) + list(act.dims)
    dims = [x if len(x) == n else walk.labels.fresh(n) for x, n in zip(olds, shape)]
    for place, array in enumerate(dims):
        walk.size(array, place)
    return Act(tuple(dims), act.weight)


def repeat(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    olds = [np.zeros(1, dtype=np.int64)] * (len(out.shape) - len(a.self.dims)) + list(a.self.dims)
    return Act(tuple(np.tile(x, int(n) // len(x)) for x, n in zip(olds, out.shape)), a.self.weight)


def repeat_interleave(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    act, dim = a.all[0], (a.dim or 0) % len(out.shape)
    times = int(out.shape[dim]) // len(act.dims[dim])
    return Act((*act.dims[:dim], np.repeat(act.dims[dim], times), *act.dims[dim + 1 :]), act.weight, act.silent)


def pixel_shuffle(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """Each channel comes from r * r neighbours."""
    grid = a.self.dims[-3].reshape(int(out.shape[-3]), -1)
    channels = walk.unite(*grid.T)
    return Act((*a.self.dims[:-3], channels, *(np.zeros(int(n), np.int64) for n in out.shape[-2:])))


def pixel_unshuffle(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    channels = np.repeat(a.self.dims[-3], int(out.shape[-3]) // len(a.self.dims[-3]))
    return Act((*a.self.dims[:-3], channels, *(np.zeros(int(n), np.int64) for n in out.shape[-2:])))


RULES: dict[str, Rule] = {
    **dict.fromkeys(["view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "view_as"], view),
    "permute": permute,
    "movedim": movedim,
    **dict.fromkeys(["transpose", "swapaxes", "swapdims"], transpose),
    **dict.fromkeys(["t", "numpy_T", "mT", "adjoint"], turned),
    **dict.fromkeys(["expand", "expand_as", "broadcast_to"], expand),
    "unsqueeze": unsqueeze,
    "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
}
