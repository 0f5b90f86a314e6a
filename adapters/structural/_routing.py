"""Rules of mixtures: a router chooses experts, whose weights are packed into one tensor.

An expert is no unit that zeros silence: a router whose weights are zero still chooses. But it can be removed where
nothing but the choice goes along its dim: softmax of what is left is softmax of all, with minus infinity for the rest.
So softmax, topk and counts leave the labels as they are, and `settle` fixes them at the end unless they have turned out
to be the experts that weights are packed by.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ._along import GOES_ALONG, along
from ._labels import Array
from ._parts import index as indexed
from ._plain import contract
from ._silence import told
from ._walk import Act, Route, Rule, Walk, fixed, made_of


def chooses(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Softmax: the labels stay, for the time being."""
    _routed(walk, a.all[0], a.dim)
    return made_of(out, lambda t: Act(a.all[0].dims))


def topk(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """The largest, and which they are."""
    dim = a.dim % len(a.self.dims)
    labels = _routed(walk, a.self, dim)
    values = Act((*a.self.dims[:dim], np.zeros(int(out[0].shape[dim]), np.int64), *a.self.dims[dim + 1 :]))
    return [values, values._replace(numbers=labels)]


def _routed(walk: Walk, act: Act, dim: int) -> Array:
    """Note that something chooses along a dim."""
    labels = act.dims[dim]
    if labels.any():
        walk.routes.append(Route(walk.path, walk.call, labels, dim % len(act.dims) - len(act.dims), walk.at))
    return labels


def settle(walk: Walk) -> None:
    """Fix what is chosen along, where it is not experts."""
    for route in walk.routes:
        others = ~walk.labels.routed[walk.labels.roots(route.labels)]
        walk.labels.fix(route.labels[others], f"{route.at} {GOES_ALONG}")


def sort(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Numbers of experts stay such in another order."""
    values, order = along(walk, a, out)
    return [values._replace(numbers=a.self.numbers), order]


def histc(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """How often each expert is chosen."""
    labels = a.self.numbers
    if labels is None or a.bins != len(labels):
        return Act(fixed(out.shape))
    walk.size(labels)
    return Act((labels,), numbers=labels)


def cumsum(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Of counts, where each expert's tokens end."""
    return a.self if a.self.numbers is not None and len(a.self.dims) == 1 else along(walk, a, out)


def grouped(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """Each run of rows by the matrix of its expert."""
    rows, weight, ends = a.all[:3]
    contract(walk, rows, -1, weight, -2)
    walk.products.append((*rows.dims, weight.dims[-1]))
    if not by_expert(walk, weight, ends.numbers):
        walk.fix(weight.dims[0], "picks of it by number")
    return Act((*rows.dims[:-1], weight.dims[-1]), silent=told(weight))


def by_expert(walk: Walk, packed: Act, numbers: Array | None) -> bool:
    """Whether a tensor is packed by the experts that are numbered; they are one then."""
    if numbers is None or not packed.weight or packed.dims[0].shape != numbers.shape:
        return False
    walk.labels.route(walk.unite(packed.dims[0], numbers))
    return True


def index(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """What experts hold, by their numbers."""
    if len(a.indices) == 1 and isinstance(a.indices[0], Act) and by_expert(walk, a.self, a.indices[0].numbers):
        return Act((*fixed(a.indices[0].shape), *a.self.dims[1:]), True)
    return indexed(walk, a, out)


RULES: dict[str, Rule] = {
    **dict.fromkeys(["softmax", "_softmax", "log_softmax", "_log_softmax"], chooses),
    **dict.fromkeys(["_grouped_mm", "grouped_mm", "transformers::grouped_mm_fallback"], grouped),
    "topk": topk,
    "sort": sort,
    "histc": histc,
    "cumsum": cumsum,
    "index": index,
}
