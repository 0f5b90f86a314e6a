"""Sets of dims that are cut together, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._walk import Walk


class Dim(NamedTuple):
    """Where the units of a set lie along a dim of a tensor.

    Args:
        name: of a parameter or buffer, the first of its names.
        dim: which of its dims.
        places: int64 (units, count), the positions that belong to each unit.
    """

    name: str
    dim: int
    places: Tensor

    def __repr__(self) -> str:
        count = self.places.shape[1]
        return f"{self.name}[{self.dim}]" + (f" x {count}" if count > 1 else "")


# Dims that a line shows: four projections of an attention with biases. The width of a language model is in hundreds.
_FEW = 8


class Set(NamedTuple):
    """Units that can be cut one by one, each from all dims at once.

    Args:
        units: how many there are.
        dims: of parameters, in the order of the model.
        buffers: dims of buffers that go along.
        roots: int64 (units,), what the graph's walk calls them.
    """

    units: int
    dims: tuple[Dim, ...]
    buffers: tuple[Dim, ...]
    roots: Any

    def __str__(self) -> str:
        return self._first(None)

    def __repr__(self) -> str:
        return self._first(_FEW)

    def _first(self, few: int | None) -> str:
        """The units and some of their dims."""
        dims = self.dims + self.buffers
        more = f", and {len(dims) - few} more" if few is not None and len(dims) > few else ""
        return f"{self.units} units of " + ", ".join(map(repr, dims[:few])) + more


class Fixed(NamedTuple):
    """Positions of a dim that cannot be cut, and why.

    Args:
        name: of a parameter.
        dim: which of its dims.
        positions: how many of its positions.
        why: the reasons.
    """

    name: str
    dim: int
    positions: int
    why: tuple[str, ...]


def sets_of(walk: Walk, known: Mapping[str, Any], parameters: Any, *, experts: bool = False) -> list[Set]:
    """Join positions of one root to a unit, and units that lie in the same dims to a set: of units, or of experts."""
    places = [(name, d, array) for name, act in known.items() for d, array in enumerate(act.dims) if len(array)]
    if not places:
        return []
    number = np.concatenate([np.full(len(array), i) for i, (_, _, array) in enumerate(places)])
    position = np.concatenate([np.arange(len(array)) for _, _, array in places])
    labels = np.concatenate([array for _, _, array in places])
    live = walk.labels.alive(labels) & (walk.labels.experts(labels) == experts)
    roots, number, position = walk.labels.roots(labels)[live], number[live], position[live]
    order = np.lexsort((position, number, roots))
    roots, number, position = roots[order], number[order], position[order]
    groups: dict[bytes, list[tuple[int, int]]] = {}
    starts = np.flatnonzero(np.r_[True, roots[1:] != roots[:-1]]) if len(roots) else np.zeros(0, np.int64)
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(roots)]):
        groups.setdefault(number[start:end].tobytes(), []).append((start, end))
    found = []
    for runs in groups.values():
        runs.sort(key=lambda run: tuple(position[run[0] : run[1]]))
        rows = np.stack([position[start:end] for start, end in runs])
        which = number[runs[0][0] : runs[0][1]]
        found.append(_set(places, which, rows, roots[[start for start, _ in runs]], parameters))
    return [each for each in found if each.dims]


def _set(places: Any, which: Any, rows: Any, roots: Any, parameters: Any) -> Set:
    dims = []
    for i in np.unique(which).tolist():
        name, dim, _ = places[i]
        dims.append(Dim(name, dim, torch.from_numpy(rows[:, which == i].copy())))
    mine = tuple(d for d in dims if d.name in parameters)
    return Set(len(rows), mine, tuple(d for d in dims if d.name not in parameters), roots)


def fixed_of(walk: Walk, known: Mapping[str, Any], parameters: Any) -> list[Fixed]:
    """What cannot be cut of parameters, and why."""
    reasons, found = walk.labels.reasons(), []
    for name, act in known.items():
        for dim, array in enumerate(act.dims if name in parameters else ()):
            dead = array[~walk.labels.alive(array)]
            roots = np.unique(walk.labels.roots(dead)).tolist()
            why = dict.fromkeys(reason for root in roots for reason in reasons.get(root, []))
            if len(dead):
                found.append(Fixed(name, dim, len(dead), tuple(why)))
    return found
