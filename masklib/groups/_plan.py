"""The plan of a call: how every tensor folds, from shapes alone.

A groups value needs `fold(shape)`. One that spans several tensors has `sets(shapes)` instead: a sequence of mappings
from name to folding, in which the i-th items of all tensors of one mapping are one item. Sets are in the order in which
ties die.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch

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
    if not (folding.into is None and folding.pools is None and folding.elements == 1 and folding.items == prod(shape)):
        _refuse_folding(folding, groups, shape)
    return folding


def is_groups(value: Any) -> bool:
    """Whether a value has what the plan asks for."""
    return not isinstance(value, type) and any(callable(getattr(value, n, None)) for n in ("fold", "sets", "rank"))


def folds(value: Any) -> bool:
    """Whether a value folds single tensors."""
    return not isinstance(value, type) and callable(getattr(value, "fold", None))


def _refuse_folding(folding: Folding, groups: Any, shape: Sequence[int]) -> None:
    """Refuse a folding that cannot be one of the shape, whatever its maps do."""
    sizes: dict[str, Any] = {"pools": 1 if folding.pools is None else folding.pools, "items": folding.items}
    sizes["elements"] = folding.elements
    for argument, size in sizes.items():
        # torch.jit.trace makes tensors of sizes
        traced = isinstance(size, torch.Tensor) and torch._C._get_tracing_state() is not None
        if isinstance(size, bool) or not (isinstance(size, (int, torch.SymInt)) or traced) or size < 0:
            raise TypeError(f"`{argument}` of a Folding must be an int, at least 0, got {size!r} by {groups!r}.")
    if (folding.into is None) != (folding.back is None):
        raise TypeError(f"`into` and `back` of a Folding must be given together, got one of them by {groups!r}.")
    entries, size = folding.rows * folding.elements, prod(shape)
    if folding.into is None and (folding.elements != 1 or entries != size):
        raise ValueError(
            f"a Folding without `into` has one item for each of the {size} entries of shape {tuple(shape)}, got "
            f"{folding.rows} items of {folding.elements} elements by {groups!r}. Give `into` and `back`."
        )
    if entries > size and not folding.padded:
        raise ValueError(
            f"{groups!r} folds the {size} entries of shape {tuple(shape)} into {entries}. "
            "If the others are padding, pass padded=True."
        )


def _same_items(members: Set, groups: Any) -> None:
    """Refuse tensors of a set that do not have as many items each."""
    counts = {name: (folding.pools, folding.items) for name, folding in members.items()}
    found = list(counts.values())
    if any(count != found[0] for count in found):  # not by a set: symbolic sizes have no hash
        each = ", ".join(f"{_shown(*count)} of {name!r}" for name, count in counts.items())
        raise ValueError(
            f"the tensors of a set must have as many items each, got {each} by {groups!r}. An (out, in) weight has "
            "the outputs as channels(0), the inputs as channels(1), and runs of either as heads(count, dim)."
        )


def _shown(pools: int | None, items: int) -> str:
    return f"{items}" if pools is None else f"{pools} pools of {items}"


def _same_names(groups: Any, names: set[str], shapes: Shapes, argument: str) -> None:
    """Refuse tensors that no set has."""
    missing = [n for n in shapes if n not in names]
    if missing:
        raise ValueError(f"{groups!r} leaves out {missing} of `{argument}`. Leave their scores out too.")
