"""What has to be dead for a unit to be zero, or the same for all inputs, in a tensor of the graph.

A tensor's `silent` holds ways for a unit to be zero: of each way, the parameters all of whose entries of the unit have
to be dead. `relu(x @ w.T + b)` has the one way {w, b}; `silu(gate(x)) * up(x)` has two. A tensor's `steady` is the way
for a unit to be a constant: {w} for the former, since a unit that nothing enters is relu(b).
"""

from __future__ import annotations

from itertools import product
from typing import Any

Way = frozenset[str]
Ways = tuple[Way, ...]

ALWAYS: Ways = (frozenset(),)
# A parameter of which a view or a computation has lost the name: zero if all that belongs to the unit is, but of a
# single tensor it cannot be said.
UNNAMED: Ways = (frozenset({""}),)
# Sums of gated layers over a residual stream would double the ways with each layer.
_MOST = 4


def told(act: Any) -> Ways:
    """The ways of a tensor; of no tensor, as of a bias that a layer does not have, always."""
    return ALWAYS if act is None else act.silent or (UNNAMED if act.weight else ())


def both(*given: Ways) -> Ways:
    """All have to be zero, as in a sum."""
    return tuple(dict.fromkeys(frozenset().union(*ways) for ways in product(*(each[:_MOST] for each in given))))[:_MOST]


def either(*given: Ways) -> Ways:
    """One zero is enough, as in a product."""
    return tuple(dict.fromkeys(way for each in given for way in each))[:_MOST]


def named(act: Any) -> Way | None:
    """The parameter that a tensor is."""
    return act.silent[0] if act.weight and len(act.silent) == 1 and "" not in act.silent[0] else None


# Operators beside those that work point by point by which a constant stays one, at every position.
_PASSING = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose"),
    *("contiguous", "clone", "detach", "alias", "to", "_to_copy", "dropout", "slice", "split", "chunk", "cat", "flip"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("mean", "amax", "glu", "expand", "repeat_interleave"),
}


def steady(kind: str, pointwise: bool, given: list[Any], dims: Any) -> Way | None:
    """The parameters whose dead rows make a unit of a result a constant; None if it may be none."""
    ways = [each.steady for each in given]
    if not given or None in ways or not (pointwise or kind in _PASSING):
        return None
    fits = not pointwise or all(covers(each, dims) or not each.steady for each in given)
    return frozenset().union(*ways) if fits else None


def covers(act: Any, dims: Any) -> bool:
    """Whether a tensor that is broadcast has all dims of the result of which units can go."""
    own = (0,) * (len(dims) - len(act.dims)) + act.shape
    return all(size == len(labels) or not labels.any() for size, labels in zip(own, dims))
