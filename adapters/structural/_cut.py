"""Tensors without the positions of dead units, and a copy of the model that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from masklib.masking import masked

from .._module.trial import copied, tensors
from ._sets import Set
from ._structure import Structure


def dead_units(structure: Structure, masks: Mapping[str, Tensor]) -> list[Tensor]:
    """For each set, which units are dead: all that belongs to them is."""
    return [_dead(each, masks) for each in structure.sets]


def _dead(each: Set, masks: Mapping[str, Tensor]) -> Tensor:
    dead = torch.ones(each.units, dtype=torch.bool, device="cpu")
    for d in each.dims:
        if d.name not in masks:
            return torch.zeros(each.units, dtype=torch.bool, device="cpu")
        alive = masks[d.name].movedim(d.dim, 0).flatten(1).any(1) if masks[d.name].dim() > 1 else masks[d.name]
        dead &= ~alive.cpu()[d.places].any(1)
    return dead


def roots_of(structure: Structure, dead: list[Tensor]) -> Any:
    """What the walk calls the dead units."""
    return np.concatenate([s.roots[d.numpy()] for s, d in zip(structure.sets, dead)]) if dead else np.zeros(0, int)


def kept_places(structure: Structure, dead: list[Tensor], shapes: Mapping[str, Any]) -> dict[str, dict[int, Tensor]]:
    """By tensor and dim, the positions that stay, where some go."""
    kept: dict[str, dict[int, Tensor]] = {}
    for each, gone in zip(structure.sets, dead):
        for d in (*each.dims, *each.buffers) if gone.any() else ():
            whole = torch.ones(shapes[d.name][d.dim], dtype=torch.bool, device="cpu")
            stay = kept.setdefault(d.name, {}).setdefault(d.dim, whole)
            stay[d.places[gone].reshape(-1)] = False
    return {name: {dim: stay.nonzero()[:, 0] for dim, stay in dims.items()} for name, dims in kept.items()}


def sliced(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """A tensor of its own with the positions that stay."""
    for dim, places in kept.items():
        tensor = tensor.index_select(dim, places.to(tensor.device))
    return tensor if kept else tensor.clone()


def smaller(model: nn.Module, masks: Mapping[str, Tensor], kept: Mapping[str, Mapping[int, Tensor]]) -> nn.Module:
    """A copy of the model with tensors masked and cut; what was tied stays tied."""
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for name, tensor in tensors(model):
            if id(tensor) not in memo:
                memo[id(tensor)] = _new(tensor, masks.get(name), kept.get(name, {}))
    return copied(model, memo)


def _new(tensor: Tensor, mask: Tensor | None, kept: Mapping[int, Tensor]) -> Tensor:
    value = tensor.detach() if mask is None else masked(tensor.detach(), mask)
    value = sliced(value, kept)
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
