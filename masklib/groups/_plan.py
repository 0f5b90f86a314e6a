"""The plan of a call: how every tensor folds, from shapes alone.

A groups value needs `fold(shape)`. One that spans several tensors has `sets(shapes)` instead: a sequence of mappings
from name to folding, in which the i-th items of all tensors of one mapping are one item. Sets are in the order in which
ties die.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from masklib import _read
from masklib.groups._folding import Folding

Groups = Any  # whatever has `fold(shape)`, or `sets(shapes)`, or ranks by itself in `rank(...)`
Set = Mapping[str, Folding]
Shapes = Mapping[str, Sequence[int]]


def plan(groups: Any, shapes: Shapes, argument: str = "scores") -> list[Set]:
    """The sets of items of a call: each tensor by itself, in sorted order, unless the groups say otherwise."""
    own = getattr(groups, "sets", None)
    sets = [{n: folded(groups, n, shapes[n], argument)} for n in sorted(shapes)] if own is None else list(own(shapes))
    for members in sets:
        _same_items(members, groups)
    _same_names(groups, {name for members in sets for name in members}, shapes, argument)
    return sets


def folded(groups: Any, name: str, shape: Sequence[int], argument: str = "scores") -> Folding:
    """The folding of one tensor; what does not fit is told with the tensor's name."""
    try:
        folding = groups.fold(shape)
    except (IndexError, TypeError, ValueError) as error:
        kind = next(k for k in (IndexError, TypeError, ValueError) if isinstance(error, k))
        raise kind(f"{_read.place(name, argument)} does not fit {groups!r}: {error}") from error
    if not isinstance(folding, Folding):
        raise TypeError(
            f"`fold(shape)` of {groups!r} must return a Folding, got {type(folding).__name__}. "
            "For example Folding.by_index(index, shape)."
        )
    return folding


def is_groups(value: Any) -> bool:
    """Whether a value has what the plan asks for."""
    return not isinstance(value, type) and any(callable(getattr(value, n, None)) for n in ("fold", "sets", "rank"))


def _same_items(members: Set, groups: Any) -> None:
    """Refuse tensors of a set that do not have as many items each."""
    counts = {name: (folding.pools, folding.items) for name, folding in members.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{_shown(*count)} of {name!r}" for name, count in counts.items())
        raise ValueError(
            f"the tensors of a set must have as many items each, got {found} by {groups!r}. An (out, in) weight has "
            "the outputs as channels(0), the inputs as channels(1), and runs of either as heads(count, dim)."
        )


def _shown(pools: int | None, items: int) -> str:
    return f"{items}" if pools is None else f"{pools} pools of {items}"


def _same_names(groups: Any, names: set[str], shapes: Shapes, argument: str) -> None:
    """Refuse tensors that no set has."""
    missing = [n for n in shapes if n not in names]
    if missing:
        raise ValueError(f"{groups!r} leaves out {missing} of `{argument}`. Leave their scores out too.")
