"""The sets of a structure as a groups value of the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from masklib.groups import Folding

from ._sets import Dim, Set


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Units:
    """Each unit of each set an item, all of them one pool, or each set a pool of its own."""

    members: tuple[Set, ...]
    shapes: Mapping[str, tuple[int, ...]]
    p: float | None = None
    mean: bool = False
    layerwise: bool = False

    def __repr__(self) -> str:
        sets = f"{len(self.members)} sets of units" + (", each a pool," if self.layerwise else "")
        return f"<{sets} in {len(self.shapes)} tensors, p={self.p}, mean={self.mean}>"

    def sets(self, shapes: Mapping[str, Sequence[int]]) -> list[dict[str, Folding]]:
        """The foldings of each set, by the names of its tensors."""
        _refuse(self.shapes, shapes)
        return [self._set(each) for each in self.members]

    def _set(self, each: Set) -> dict[str, Folding]:
        dims: dict[str, list[Dim]] = {}
        for d in each.dims:
            dims.setdefault(d.name, []).append(d)
        return {name: folding(found, self.shapes[name], self.layerwise) for name, found in dims.items()}


def folding(dims: Sequence[Dim], shape: Sequence[int], own_pool: bool = False) -> Folding:
    """Fold a tensor by the positions of units along one or more of its dims; what two dims share counts once."""
    units = dims[0].places.shape[0]
    widths = [d.places.shape[1] * prod(shape) // shape[d.dim] for d in dims]
    owned = [_owned(dims[: i + 1], shape) for i in range(len(dims))]

    def into(tensor: Tensor) -> Tensor:
        return torch.cat([_gathered(d, tensor, own) for d, own in zip(dims, owned)], 1)

    def back(matrix: Tensor) -> Tensor:
        parts = matrix.reshape(units, -1).split(widths, 1)
        mask = _scattered(dims[0], parts[0], shape)
        for d, part in zip(dims[1:], parts[1:]):
            mask = mask & _scattered(d, part, shape)
        return mask

    return Folding(1 if own_pool else None, units, sum(widths), into, back, padded=len(dims) > 1)


def _places(d: Dim, device: torch.device) -> Tensor:
    return d.places.reshape(-1).to(device)


def _gathered(d: Dim, tensor: Tensor, own: Tensor | None) -> Tensor:
    rows = tensor.movedim(d.dim, 0)[_places(d, tensor.device)].reshape(d.places.shape[0], -1)
    return rows if own is None else torch.where(own.to(rows.device), rows, rows.new_zeros(()))


def _scattered(d: Dim, part: Tensor, shape: Sequence[int]) -> Tensor:
    rest = [*shape[: d.dim], *shape[d.dim + 1 :]]
    rows = part.new_ones([shape[d.dim], *rest])
    return rows.index_copy(0, _places(d, part.device), part.reshape([-1, *rest])).movedim(0, d.dim)


def _owned(dims: Sequence[Dim], shape: Sequence[int]) -> Tensor | None:
    """Which entries of a unit along the last dim it does not have along an earlier one; None for all."""
    last = dims[-1]
    if len(dims) == 1:
        return None
    units, places = last.places.shape
    own = torch.ones([units, places, *shape[: last.dim], *shape[last.dim + 1 :]], dtype=torch.bool, device="cpu")
    for d in dims[:-1]:
        along = 2 + d.dim - (d.dim > last.dim)
        index = d.places.reshape([units, *[1] * (along - 1), -1, *[1] * (own.dim() - along - 1)])
        sizes = list(own.shape)
        sizes[along] = index.shape[along]
        own = own.scatter(along, index.expand(sizes), False)
    return own.reshape(units, -1)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse(known: Mapping[str, tuple[int, ...]], shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse scores that are not of exactly these tensors."""
    if list(shapes) == [""]:
        raise TypeError(
            "`scores` must be a mapping of tensors by name for the groups of a structure, got a Tensor. "
            "Pass {name: scores[name] for name in structure.names}."
        )
    missing, unknown = [n for n in known if n not in shapes], [n for n in shapes if n not in known]
    if missing or unknown:
        raise ValueError(
            f"`scores` must have exactly the names of the structure: missing {missing}, unknown {unknown}. "
            "Pass {name: scores[name] for name in structure.names}."
        )
    wrong = {n: tuple(shapes[n]) for n in known if tuple(shapes[n]) != known[n]}
    if wrong:
        name = next(iter(wrong))
        raise ValueError(
            f"`scores[{name!r}]` must have the shape {known[name]} of the model that the structure is of, "
            f"got {wrong[name]}. For a model that has been cut since, call structure(model, example_inputs) again."
        )
