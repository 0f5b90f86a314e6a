"""Who hears whom under masks: which units say nothing, or always the same, and which lead to what the model returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._sets import Dim, Set
from ._silence import Way
from ._structure import Structure
from ._walk import Read

Key = tuple[str, int]  # a dim of a parameter
Vectors = dict[Key, Tensor]  # bool, by position along it
Ways = Callable[[Read], list[Way]]


class Flow:
    """The units of a structure between the parameters that write and those that read them.

    Args:
        structure: of the model.
        masks: bool, by the first names of parameters; all entries of others live.
    """

    def __init__(self, structure: Structure, masks: Mapping[str, Tensor]) -> None:
        self.sets = structure.sets
        self.masks = {n: _mask(masks, n, shape) for n, shape in structure.shapes.items()}
        self.lies: dict[Key, list[tuple[int, Dim]]] = {}
        for i, each in enumerate(self.sets):
            for d in each.dims:
                self.lies.setdefault((d.name, d.dim), []).append((i, d))
        self.reads = _reads(structure, self.lies)
        roots = structure.walk.labels.roots
        self.norms = [(read, roots(read.labels)) for read in structure.walk.reads if read.norm]
        computed = [roots(labels) for labels in structure.walk.computed]
        self.normed = [_among(each, *(labels for _, labels in self.norms)) for each in self.sets]
        self.computed = [_among(each, *computed) for each in self.sets]

    # ---- forward: what units say -------------------------------------------------------------------------------------

    def silence(self) -> tuple[Vectors, list[Tensor]]:
        """Which positions of the dims that are read are zero, and which units a norm hears something of."""
        quiet = self._quiet(lambda read: list(read.silent))
        loud = {key: self._loud(key, quiet) for key in self.lies}
        return quiet, [self._in_norms(i, loud) for i in range(len(self.sets))]

    def constants(self, silent: Vectors) -> Vectors:
        """Which positions of the dims that are read are the same for all inputs, zeros among them."""
        return self._quiet(lambda read: [] if read.steady is None else [read.steady], silent)

    def _quiet(self, ways: Ways, known: Vectors | None = None) -> Vectors:
        """Which positions hear nothing new, by a way of each read: the most that there can be, since units that hear
        only quiet ones are quiet."""
        found = {key: self.spread(key, [~c for c in self.computed], False) for key in self.reads}
        while True:
            loud = {key: self._loud(key, found) for key in self.lies}
            new = {key: found[key] & self._silenced(key, loud, ways) for key in self.reads}
            new = {key: v | known[key] if known else v for key, v in new.items()}
            if all(torch.equal(found[key], new[key]) for key in new):
                return found
            found = new

    def _loud(self, key: Key, quiet: Vectors) -> Tensor:
        """Which slices have an entry that lives and does not read from a quiet position."""
        return self._any(key, {k: ~quiet[k] for k in self._others(key) if k in quiet})

    def _silenced(self, key: Key, loud: Vectors, ways: Ways) -> Tensor:
        units = [torch.zeros(s.units, dtype=torch.bool, device="cpu") for s in self.sets]
        for i, _ in self.lies[key]:
            units[i] = reduce(torch.logical_and, [self._holds(i, ways(read), loud) for read in self.reads[key]])
        return self.spread(key, units, False)

    def _holds(self, i: int, ways: list[Way], loud: Vectors) -> Tensor:
        """For which units of a set one of the ways holds: of the parameters that it names, theirs are not loud."""
        found = torch.zeros(self.sets[i].units, dtype=torch.bool, device="cpu")
        for way in ways:
            dims = [d for d in self.sets[i].dims if d.name in way and self._writes(i, d)]
            if dims and "" not in way:
                found |= ~torch.stack([loud[d.name, d.dim][d.places].any(1) for d in dims]).any(0)
        return found

    def _writes(self, i: int, d: Dim) -> bool:
        """Whether a dim is one along which a parameter makes a unit; the recurrent weight has both."""
        mine = [e for e in self.sets[i].dims if e.name == d.name]
        return (d.name, d.dim) not in self.reads or all((e.name, e.dim) in self.reads for e in mine)

    def _in_norms(self, i: int, loud: Vectors) -> Tensor:
        """Which units of a set a norm hears."""
        heard = torch.zeros(self.sets[i].units, dtype=torch.bool, device="cpu")
        for read, roots in self.norms:
            heard |= _among(self.sets[i], roots) & ~self._holds(i, list(read.silent), loud)
        return heard

    # ---- backward: where units lead ----------------------------------------------------------------------------------

    def needed(self, quiet: Vectors, normed: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Which units of each set lead to what the model returns, or to a norm; and which of them by a weight.

        The least such answer: units that lead only to one another lead nowhere.
        """
        need, heard = [n | c for n, c in zip(normed, self.computed)], [torch.zeros_like(n) for n in normed]
        while True:
            before = [n.clone() for n in need]
            for i in reversed(range(len(self.sets))):
                for d in [d for d in self.sets[i].dims if (d.name, d.dim) in self.reads]:
                    key = (d.name, d.dim)
                    alive = self._any(key, {k: self.spread(k, need, True) for k in self._others(key)}) & ~quiet[key]
                    heard[i] |= alive[d.places].any(1)
                need[i] |= heard[i]
            if all(map(torch.equal, before, need)):
                return need, heard

    # ---- what follows ------------------------------------------------------------------------------------------------

    def said(self, quiet: Vectors) -> list[Tensor]:
        """Which units of each set are quiet wherever they are read."""
        found = [torch.ones(s.units, dtype=torch.bool, device="cpu") for s in self.sets]
        for key, vector in quiet.items():
            for i, d in self.lies[key]:
                found[i] &= vector[d.places].all(1)
        return found

    def without(self, gone: list[Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks with some units dead in all their tensors."""
        found = dict(masks)
        for (name, dim), lying in self.lies.items():
            if any(gone[i].any() for i, _ in lying):
                mask = found.get(name, self.masks[name])
                stay = ~self.spread((name, dim), gone, False).to(mask.device)
                found[name] = mask & stay.view([-1 if d == dim else 1 for d in range(mask.dim())])
        return found

    # ---- both --------------------------------------------------------------------------------------------------------

    def _others(self, key: Key) -> list[Key]:
        return [k for k in self.lies if k[0] == key[0] and k != key]

    def _any(self, key: Key, along: Vectors) -> Tensor:
        """Which slices have an entry that lives at positions of the other dims that count."""
        alive = self.masks[key[0]]
        for (_, dim), counts in along.items():
            if not counts.all():
                alive = alive & counts.view([-1 if d == dim else 1 for d in range(alive.dim())])
        return alive.movedim(key[1], 0).flatten(1).any(1) if alive.dim() > 1 else alive

    def alive(self, key: Key) -> Tensor:
        """Which slices have an entry that lives."""
        return self._any(key, {})

    def spread(self, key: Key, units: list[Tensor], rest: bool) -> Tensor:
        """What holds of units, by position along a dim; positions of no unit have `rest`."""
        found = torch.full((self.masks[key[0]].shape[key[1]],), rest, device="cpu")
        for i, d in self.lies[key]:
            found[d.places] = units[i][:, None].expand(d.places.shape)
        return found


def _mask(masks: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    return masks[name].cpu() if name in masks else torch.ones(shape, dtype=torch.bool, device="cpu")


def _reads(structure: Structure, lies: Mapping[Key, Any]) -> dict[Key, list[Read]]:
    """The reads through each dim of a parameter, by the labels that are its own."""
    owner = np.full(structure.walk.labels.used, -1)
    keys = list(lies)
    for number, (name, dim) in enumerate(keys):
        owner[structure.known[name].dims[dim]] = number
    found: dict[Key, list[Read]] = {}
    for read in structure.walk.reads:
        for number in np.unique(owner[read.labels]).tolist() if not read.norm else ():
            if number >= 0:
                found.setdefault(keys[number], []).append(read)
    return found


def _among(each: Set, *roots: Any) -> Tensor:
    """Which units of a set have one of some roots."""
    return torch.from_numpy(np.isin(each.roots, np.concatenate(roots) if roots else []))
