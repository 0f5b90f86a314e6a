"""Rules of operators that go along dims: reduce, join, split, pick."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ._plain import pointwise, read, table
from ._silence import both
from ._walk import Act, Rule, Walk, fixed, made_of

GOES_ALONG = "goes along it, so that what is left would change"


def _given_dims(a: SimpleNamespace, count: int) -> set[int]:
    dims = getattr(a, "dim", None)
    if dims is None or dims == []:
        return set(range(count))
    return {d % count for d in (dims if isinstance(dims, (list, tuple)) else [dims])} if count else set()


def reduces(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Mean, sum, max and their like over dims: of these, none can be cut."""
    if getattr(a, "other", None) is not None:  # of two tensors, point by point
        return pointwise(walk, a, out)
    act = a.all[0]
    over = _given_dims(a, len(act.dims))
    if over == {len(act.dims) - 1} and walk.kind == "mean" and folds(walk, act):
        over = set()
    for d in over:
        walk.fix(act.dims[d], "takes all of it together, so that what is left would change")
    silent = act.silent if walk.kind in ("sum", "mean") and over else ()  # over other dims, zeros make zeros
    over, keep = over or {len(act.dims) - 1}, getattr(a, "keepdim", False)
    dims = [np.zeros(1, np.int64) if d in over else x for d, x in enumerate(act.dims) if keep or d not in over]
    result = Act(tuple(dims), act.weight, silent)
    return made_of(out, lambda t: result if len(dims) == len(t.shape) else Act(fixed(t.shape)))


def folds(walk: Walk, act: Act) -> bool:
    """Whether what a cut of the last dim changes is folded into the weight of the norm whose code this is."""
    if walk.path not in walk.norms or not act.silent:
        return False
    walk.folds[walk.path] = act.dims[-1]
    read(walk, act.dims[-1], act, norm=True)
    return True


def along(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Softmax, cumsum, sort and their like along a dim: it cannot be cut, and has another size perhaps."""
    act = a.all[0]
    first = out[0] if isinstance(out, (list, tuple)) else out
    over = _given_dims(a, len(act.dims)) | {d for d, n in enumerate(first.shape) if n != len(act.dims[d])}
    for d in over:
        walk.fix(act.dims[d], GOES_ALONG)
    dims = tuple(np.zeros(int(n), np.int64) if d in over else act.dims[d] for d, n in enumerate(first.shape))
    return made_of(out, lambda t: Act(dims))


def glu(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """The first half by the gates of the second."""
    dim = a.dim % len(a.self.dims)
    values, gates = np.split(a.self.dims[dim], 2)
    return Act((*a.self.dims[:dim], walk.unite(values, gates), *a.self.dims[dim + 1 :]), silent=a.self.silent)


def cat(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    parts = [x for x in a.tensors if x.shape != (0,)]
    dim = a.dim % len(out.shape)
    dims = [walk.unite(*(x.dims[d] for x in parts)) for d in range(len(out.shape)) if d != dim]
    dims.insert(dim, np.concatenate([x.dims[dim] for x in parts]))
    return Act(tuple(dims), all(x.weight for x in parts), both(*(x.silent for x in parts)))


def stack(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    dims = [walk.unite(*(x.dims[d] for x in a.tensors)) for d in range(len(out.shape) - 1)]
    dims.insert(a.dim % len(out.shape), np.zeros(len(a.tensors), np.int64))
    return Act(tuple(dims), all(x.weight for x in a.tensors))


def flip(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    over = _given_dims(SimpleNamespace(dim=a.dims), len(a.self.dims))
    return Act(tuple(x[::-1] if d in over else x for d, x in enumerate(a.self.dims)), a.self.weight)


def roll(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    over = _given_dims(SimpleNamespace(dim=a.dims), len(a.self.dims))
    return Act(tuple(walk.fix(x, "rolls along it") if d in over else x for d, x in enumerate(a.self.dims)))


RULES: dict[str, Rule] = {
    **table(reduces, "mean sum var std prod amax amin max min argmax argmin any all norm logsumexp"),
    **table(reduces, "linalg_vector_norm"),
    **table(along, "cumprod gather index_select"),
    **table(along, "cummax diff"),
    **table(reduces, "median nansum var_mean std_mean aminmax count_nonzero"),
    **table(along, "take_along_dim logcumsumexp argsort"),
    **table(cat, "cat concat concatenate"),
    "stack": stack,
    "glu": glu,
    "flip": flip,
    "roll": roll,
}
