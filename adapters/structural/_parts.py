"""Rules of operators that take parts of dims: split, slice, pick."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ._labels import Array
from ._plain import table
from ._walk import Act, Rule, Walk, fixed


def split(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Pieces of equal size lose the same positions, since the code holds one number for all of them."""
    dim = a.dim % len(a.self.dims)
    counts = [int(piece.shape[dim]) for piece in out]
    pieces = np.split(a.self.dims[dim], np.cumsum(counts)[:-1])
    if len(set(counts)) == 1:
        walk.unite(*pieces)
        walk.size(pieces[0])
    elif all(count in walk.bounds.get(walk.path, ()) for count in counts):
        for piece in pieces:
            _bound(walk, piece)
    else:
        pieces = [walk.fix(piece, "splits it at numbers that the code holds") for piece in pieces]
    before, behind = a.self.dims[:dim], a.self.dims[dim + 1 :]
    return [Act((*before, piece, *behind), a.self.weight, a.self.silent) for piece in pieces]


def _bound(walk: Walk, labels: Array) -> None:
    """Note the number in the code that these are as many as."""
    name = walk.bounds[walk.path][len(labels)]
    if name:
        walk.size(labels, name=name)


def unbind(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    dim = a.dim % len(a.self.dims)
    walk.fix(a.self.dims[dim], "takes it apart")
    return [Act(a.self.dims[:dim] + a.self.dims[dim + 1 :], a.self.weight, a.self.silent) for _ in out]


def select(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    dim = a.dim % len(a.self.dims)
    walk.fix(a.self.dims[dim], "takes one of it by number")
    return Act(a.self.dims[:dim] + a.self.dims[dim + 1 :], a.self.weight, a.self.silent)


def sliced(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """A part between bounds that follow: from attributes, or counted from the end where nothing goes."""
    dim = a.dim % len(a.self.dims)
    labels = a.self.dims[dim]
    given = [0 if a.start is None else a.start, len(labels) if a.end is None else a.end]
    if out.shape[dim] == len(labels) and a.step == 1:
        return a.self
    if a.step == 1 and all(_follows(walk, labels, end) for end in given):
        part = labels[slice(*given)]
    else:
        walk.fix(labels, "slices it at numbers that the code holds")
        part = np.zeros(int(out.shape[dim]), np.int64)
    return Act((*a.self.dims[:dim], part, *a.self.dims[dim + 1 :]), a.self.weight, a.self.silent)


def _follows(walk: Walk, labels: Array, end: int) -> bool:
    """Whether a bound is where it should be after a cut."""
    if end < 0:
        walk.fix(labels[end:], "counts from its end")
    elif 0 < end < len(labels):
        if end not in walk.bounds.get(walk.path, ()):
            return False
        _bound(walk, labels[:end])
    return True


def index(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """The dim that is indexed is fixed; by constants from the end, only what lies behind these."""
    at = [i for i, each in enumerate(a.indices) if isinstance(each, Act)]
    if len(at) != 1:
        return _indexed(walk, a, out)
    dim, values = at[0], a.indices[at[0]].values or (0,)
    counted = max(values) < 0
    walk.fix(a.self.dims[dim][min(values) if counted else 0 :], "is indexed by number")
    numbers = a.self.numbers if len(a.self.dims) == 1 else None
    behind = a.self.dims[dim + 1 :]
    made = fixed(out.shape[dim : len(out.shape) - len(behind)])
    return Act((*a.self.dims[:dim], *made, *behind), a.self.weight, a.self.silent, numbers)


def _indexed(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """By several tensors at once: what is behind the last stays."""
    last = len(a.indices)
    for array in a.self.dims[:last]:
        walk.fix(array, "is indexed by number")
    kept = a.self.dims[last:]
    return Act((*fixed(out.shape[: len(out.shape) - len(kept)]), *kept), a.self.weight, a.self.silent)


RULES: dict[str, Rule] = {
    **table(split, "split split_with_sizes chunk tensor_split"),
    "unbind": unbind,
    "select": select,
    "slice": sliced,
    "narrow": sliced,
    "index": index,
}
