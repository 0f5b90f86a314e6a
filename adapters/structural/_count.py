"""What a cut leaves, in parameters and in multiplications, and the cut that leaves no more than that."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib import _read
from masklib.methods import compute_mask

from ._cut import dead_units, roots_of
from ._structure import Structure


class Count(NamedTuple):
    """How large a model is.

    Args:
        parameters: how many numbers its parameters have, tied ones once.
        macs: how many products its linear layers, convolutions, attention and recurrent layers sum for the example
            inputs, the whole batch.
    """

    parameters: int
    macs: int


def count(structure: Structure, masks: Mapping[str, Tensor] | None = None) -> Count:
    """Count what is left once the units that masks have killed are cut.

    Args:
        structure: of the model.
        masks: bool, by parameter name; None for the model as it is.

    Returns:
        The numbers of parameters and of multiplications, as `shrink` would leave them.

    Raises:
        TypeError: if `structure` is not what `structure()` returns, or a mask is not bool.
        ValueError: if a mask is of no parameter of the structure, not of its shape, or on the meta device.

    >>> found = structure(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), (torch.ones(1, 2),))
    >>> count(found)
    Count(parameters=13, macs=9)
    """
    _refuse_other(structure)
    dead = dead_units(structure, {} if masks is None else _checked(masks, structure))
    return _Counter(structure).left(roots_of(structure, dead))


class _Counter:
    """Sizes by what the walk calls their positions, found once for many counts."""

    def __init__(self, structure: Structure) -> None:
        roots = structure.walk.labels.roots
        known = {n: a for n, a in structure.known.items() if n in structure.parameters}
        self.plain = sum(prod(shape) for n, shape in structure.parameters.items() if n not in known)
        self.tensors = [[roots(d) for d in act.dims] for act in known.values()]
        self.products = [[roots(d) for d in dims] for dims in structure.walk.products]
        self.gone = np.zeros(structure.walk.labels.used, dtype=bool)

    def left(self, gone: Any) -> Count:
        """Count what is left without some roots."""
        self.gone[:] = False
        self.gone[gone] = True
        parameters, macs = (sum(self._size(dims) for dims in each) for each in (self.tensors, self.products))
        return Count(self.plain + parameters, macs)

    def _size(self, dims: Any) -> int:
        return prod(len(d) - int(self.gone[d].sum()) for d in dims)


def within(
    structure: Structure,
    scores: Mapping[str, Tensor],
    *,
    parameters: int | None = None,
    macs: int | None = None,
    groups: Any = None,
    least: Any = 1,
) -> dict[str, Tensor]:
    """Keep as many units as a budget of parameters, or of multiplications, has room for.

        the most units for which count(structure, masks) is within the budget; the lowest scores go

    Args:
        structure: of the model.
        scores: of exactly `structure.names`.
        parameters: how many parameters may remain in the whole model.
        macs: how many multiplications may remain, for the example inputs.
        groups: `structure.groups(...)`, one pool; None for the root mean square, `structure.groups(p=2, mean=True)`.
        least: how many units each set keeps at least, as in `compute_mask`.

    Returns:
        Masks as from `compute_mask`.

    Raises:
        TypeError: if a budget is not an int, or `structure` is not what `structure()` returns.
        ValueError: if not exactly one budget is given, or even the smallest cut has no room in it.

    >>> net = nn.Sequential(nn.Linear(2, 30), nn.ReLU(), nn.Linear(30, 1))
    >>> found = structure(net, (torch.ones(1, 2),))
    >>> masks = within(found, {name: net.get_parameter(name) for name in found.names}, parameters=50)
    >>> count(found, masks)
    Count(parameters=49, macs=36)
    """
    _refuse_other(structure)
    which, budget = _budget(parameters, macs)
    groups = structure.groups(p=2, mean=True) if groups is None else groups
    counter, units = _Counter(structure), sum(each.units for each in structure.sets)

    def cut(keep: int) -> tuple[dict[str, Tensor], int]:
        masks: Any = compute_mask(scores, keep=keep, groups=groups, least=least)
        return masks, getattr(counter.left(roots_of(structure, dead_units(structure, masks))), which)

    cut(units)  # compute_mask refuses what is wrong with the scores, the groups and `least`
    low, high = _floors(structure, least), units
    best, size = cut(low)
    if size > budget:
        raise ValueError(
            f"`{which}` must leave room for what cannot be cut and for {least!r} units of each set: at least {size}, "
            f"got {budget}."
        )
    while low < high:
        middle = (low + high + 1) // 2
        masks, size = cut(middle)
        if size <= budget:
            low, best = middle, masks
        else:
            high = middle - 1
    return best


def _budget(parameters: Any, macs: Any) -> tuple[str, int]:
    given = {n: v for n, v in (("parameters", parameters), ("macs", macs)) if v is not None}
    if len(given) != 1:
        raise ValueError(
            f"exactly one of `parameters` and `macs` must be given, got {len(given)}. For example macs=1_200_000_000."
        )
    ((which, value),) = given.items()
    return which, _read.integer(value, which, f"{which}=1_000_000")


def _floors(structure: Structure, least: Any) -> int:
    """How many units stay in all at least."""
    floors = least if isinstance(least, Mapping) else dict.fromkeys(structure.names, least or 0)
    return sum(min(each.units, max(int(floors.get(d.name, 0)) for d in each.dims)) for each in structure.sets)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse_other(structure: Any) -> None:
    if not isinstance(structure, Structure):
        raise TypeError(f"`structure` must be what structure(model, inputs) returns, got {type(structure).__name__}.")


def _checked(masks: Any, structure: Structure) -> Mapping[str, Tensor]:
    """Masks of parameters of the structure; of tied ones by the first name."""
    _read.known_names(_read.tensors(masks, "masks"), structure.parameters, "masks", "structure")
    for name, mask in masks.items():
        shape, place = tuple(structure.parameters[name]), _read.place(name, "masks")
        if mask.dtype != torch.bool:
            raise TypeError(f"{place} must be bool (True = kept), got {mask.dtype}. For example mask > 0.5.")
        if tuple(mask.shape) != shape or mask.is_meta:
            raise ValueError(f"{place} must be of shape {shape}, got {tuple(mask.shape)} on {mask.device}.")
    return dict(masks)
