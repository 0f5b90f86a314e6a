"""What a report is made of: weights by name, their masks, and what stands behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from masklib import _read

from .._module import state
from .._module.parametrized import masks_in, originals
from .._module.sites import dotted, plain_names, pruned_names
from .._module.values import check_values
from .._module.weights import skipped, weights
from ..training import Pruning
from ._notes import lost, not_honoured

_UNDO = "`undo` brings them back; `remove` and `bake` lose them."
_IMPOSE = "Call masklib.apply(params, masks), or train with masklib.adapters.training.attach."


class Source(NamedTuple):
    """What was given, read.

    Attributes:
        tensors: by name, masks or weights with zeros; what is dead is counted in these.
        dtypes: of the weights, where those are known.
        left_out: the other parameters, and why.
        others: how many numbers those have.
        other_bytes: and bytes.
        notes: what was found while reading.
        model: the module, if there is one.
    """

    tensors: Mapping[str, Tensor]
    dtypes: Mapping[str, torch.dtype] = {}
    left_out: Mapping[str, str] = {}
    others: int = 0
    other_bytes: int = 0
    notes: tuple[str, ...] = ()
    model: nn.Module | None = None


def read(pruned: Any, masks: Any) -> Source:
    """Read a model, a pruning that `attach` returned, or tensors by name."""
    if masks is not None and not isinstance(pruned, nn.Module):
        raise TypeError(f"`masks` goes with a module, got {type(pruned).__name__}. Pass the masks alone.")
    if isinstance(pruned, Pruning):
        return _of_pruning(pruned)
    if isinstance(pruned, nn.Module):
        return _of_module(pruned) if masks is None else _of_masked(pruned, masks)
    if not isinstance(pruned, Mapping):
        raise TypeError(
            "`pruned` must be a module, a pruning of `attach`, or tensors by name, got "
            f"{type(pruned).__name__}. For a file, pass masklib.adapters.files.open_checkpoint(path)."
        )
    return Source(pruned)


def whole(name: str, tensor: Any) -> Tensor:
    """Refuse what has no values here."""
    where = _read.place(name, "pruned")
    _read.is_dense(tensor, name, "pruned")
    _read.is_whole(tensor, where)
    check_values(tensor, where)
    return tensor.detach()


def _of_module(model: nn.Module) -> Source:
    """Weights as they are, or their masks where one of the two adapters prunes them."""
    sites = {name: dotted(model, name) for name in pruned_names(model)}
    known = _parameters(model)
    masks = {name: state.mask_of(*site) for name, site in sites.items()} | masks_in(model)
    values = {name: whole(name, tensor) for name, tensor in {**_weights(model), **{n: known[n] for n in masks}}.items()}
    effective = {name: getattr(*dotted(model, name)).detach() for name in masks}
    behind = {name: values[name] for name in masks}
    notes = (*not_honoured(effective, masks, "Set the mask again by `set_mask`."), *lost(behind, masks, _UNDO))
    return _source(model, {**values, **masks}, values, notes)


def _of_masked(model: nn.Module, masks: Any) -> Source:
    """Weights of a plain module under masks of somebody else."""
    known, kept = _parameters(model), _read.mapping(masks, "masks")
    _read.known_names(kept, known, "masks", "pruned")
    for name, mask in kept.items():
        _read.mask_like(whole(name, mask), known[name], _read.place(name, "masks"), _read.place(name, "pruned"))
    values = {name: whole(name, p) for name, p in {**_weights(model), **{n: known[n] for n in kept}}.items()}
    return _source(model, {**values, **kept}, values, not_honoured(values, kept, _IMPOSE))


def _of_pruning(pruning: Pruning) -> Source:
    """What `attach` holds; straight-through weights and frozen ones have values behind their masks."""
    params = {name: whole(name, p) for name, p in pruning._params.items()}
    held = pruning.update.straight_through or not pruning._values
    notes = not_honoured(params, pruning.masks, "Something has written to them since the last step: the next step "
                         "zeroes them, and `pruning.impose(model)` does now.") if held else []  # fmt: skip
    return _source(pruning.model, dict(pruning.masks), params, notes)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by the dotted names they have when they are not pruned, by either adapter."""
    plain = {name: p for name, p in plain_names(model).items() if "parametrizations." not in name}
    known = {id(p) for p in plain.values()}
    return plain | {name: p for name, p in originals(model).items() if id(p) not in known}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return dict(weights(model))


def _source(model: nn.Module, tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], notes: Any) -> Source:
    """With the other parameters, and why they are not among the tensors."""
    known = _parameters(model)
    reasons = dict.fromkeys(known, "not chosen") | skipped(model)
    left_out = {name: why for name, why in reasons.items() if name not in tensors}
    mine = {id(known[name]) for name in tensors if name in known}
    rest = {id(p): p for p in model.parameters() if id(p) not in mine}.values()
    dtypes = {name: value.dtype for name, value in values.items()}
    size, space = sum(p.numel() for p in rest), sum(p.numel() * p.itemsize for p in rest)
    return Source(tensors, dtypes, left_out, size, space, tuple(notes), model)
