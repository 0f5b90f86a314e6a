"""State dicts of pruned and of dense modules, and the way from one to the other."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from masklib import _read
from masklib._shards._layout import local
from masklib._shards._parts import on_part

from ._module import state
from ._module.atomic import unchanged_on_error
from ._module.sharded import reshard
from ._module.sites import dotted, plain_names, pruned_names
from ._module.values import a_module, as_buffer, check_values, checked_mask
from .prune import custom_from_mask, undo

__all__ = ["load_pruned", "to_dense", "to_pruned"]


def __dir__() -> list[str]:
    """List the public names."""
    return __all__


State = Mapping[str, Any]


def to_dense(state_dict: State) -> dict[str, Any]:
    """Turn a pruned state dict into a dense one: where(mask, orig, 0) under the plain name, at its place.

    A `_mask` without an `_orig`, such as a causal `attn_mask`, is a value like any other.

    Args:
        state_dict: of a pruned module, from here or from torch.nn.utils.prune.

    Returns:
        A new dict, which a module that is not pruned loads.

    Raises:
        ValueError: if an `_orig` has no `_mask`, or one that does not fit, or stands beside its plain name; or if a
            tied weight is not pruned alike under all of its names, which no dense state dict of the module can hold.

    >>> m = prune.custom_from_mask(nn.Linear(2, 1), "weight", torch.tensor([[1, 0]]))
    >>> list(to_dense(m.state_dict()))
    ['weight', 'bias']
    """
    _a_state_dict(state_dict)
    names = _pairs(state_dict, [key.removesuffix("_orig") for key in state_dict if key.endswith("_orig")])
    _refuse_taken(state_dict, names)
    _refuse_tied(state_dict, names)
    dense = _like(state_dict, {})
    for key, value in state_dict.items():
        if key.removesuffix("_orig") in names and key.endswith("_orig"):
            name = key.removesuffix("_orig")
            kept = checked_mask(state_dict[f"{name}_mask"], value, None, repr(name))
            dense[name] = state.effective(value, on_part(Tensor.to, kept, value.dtype))
        elif not (key.endswith("_mask") and key.removesuffix("_mask") in names):
            dense[key] = value
    return dense


def to_pruned(state_dict: State, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Turn a dense state dict into a pruned one: `name_orig` and `name_mask` instead of `name`.

    Args:
        state_dict: of a module that is not pruned.
        masks: bool or 0/1 by parameter name, True = kept.

    Returns:
        A new dict, which `load_pruned`, a pruned module, or torch.nn.utils.prune's loads.

    Raises:
        ValueError: if a mask has no parameter, or not its shape, or the dict is pruned already.

    >>> list(to_pruned({"weight": torch.ones(2)}, {"weight": torch.tensor([True, False])}))
    ['weight_orig', 'weight_mask']
    """
    _a_state_dict(state_dict)
    _read.mapping(masks, "masks")
    unknown = [name for name in masks if name not in state_dict]
    if unknown:
        raise ValueError(f"`masks` has names that `state_dict` lacks: {unknown}. Its keys: {list(state_dict)}.")
    _refuse_taken(state_dict, [f"{name}{end}" for name in masks for end in ("_orig", "_mask")])
    pruned = _like(state_dict, {f"{k}_orig" if k in masks else k: v for k, v in state_dict.items()})
    for name, mask in masks.items():
        _read.is_dense(state_dict[name], name, "state_dict")
        kept = checked_mask(mask, state_dict[name], None, repr(name))
        pruned[f"{name}_mask"] = as_buffer(kept, state_dict[name])
    return pruned


def load_pruned(module: nn.Module, state_dict: State) -> nn.Module:
    """Load a state dict, pruned or dense, into a module, pruned or dense.

    Parameters that are pruned in the dict become pruned in the module, the others plain.

    Args:
        module: of the architecture that the dict was saved from.
        state_dict: from here or from torch.nn.utils.prune.

    Returns:
        The module.

    Raises:
        ValueError: if half a pair is missing, or a mask does not fit; nothing is changed then.
        RuntimeError: if `load_state_dict` finds keys or shapes that do not match; nothing is changed then.

    >>> saved = prune.l1_unstructured(nn.Linear(4, 2), "weight", 3).state_dict()
    >>> int((load_pruned(nn.Linear(4, 2), saved).weight == 0).sum())
    3
    """
    for owner in a_module(module).modules():
        reshard(owner)
    parameters = plain_names(module)
    _a_state_dict(state_dict)
    names = _pairs(state_dict, [name for name in parameters if name not in state_dict])
    for name in names:
        check_values(parameters[name], repr(name))
    kept = {n: checked_mask(state_dict[f"{n}_mask"], parameters[n], None, repr(n)) for n in names}
    masks = {dotted(module, n): mask for n, mask in kept.items()}
    values = [(t, t.detach().clone()) for t in _tensors(module)]
    try:
        with unchanged_on_error(list(module.modules())):
            for name in pruned_names(module):
                undo(*dotted(module, name))
            for site, mask in masks.items():
                custom_from_mask(*site, mask)
            module.load_state_dict(state_dict)
    except BaseException:
        for tensor, before in values:
            tensor.detach().copy_(before)
        raise
    return module


def _a_state_dict(value: Any) -> None:
    """Refuse what is no state dict."""
    if not isinstance(value, Mapping):
        raise TypeError(f"`state_dict` must be a mapping, got {type(value).__name__}. For example model.state_dict().")
    for name in value:
        _read.is_name(name, "state_dict")


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """All parameters and buffers that have values."""
    for tensor in (*module.parameters(), *module.buffers()):
        if not isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)):
            yield tensor


def _like(state_dict: State, entries: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Entries as a state dict with the versions of modules that the given one carries."""
    result: Any = OrderedDict(entries)
    if hasattr(state_dict, "_metadata"):
        result._metadata = copy.copy(state_dict._metadata)
    return result


def _refuse_taken(state_dict: State, names: Iterable[str]) -> None:
    taken = [name for name in names if name in state_dict]
    if taken:
        raise ValueError(f"`state_dict` already has {taken}, which would be overwritten. Rename them first.")


def _refuse_tied(state_dict: State, names: list[str]) -> None:
    """Refuse a tensor that is pruned under one name and not, or otherwise, under another."""
    first: dict[Any, str] = {}
    masks = {f"{name}_orig": state_dict[f"{name}_mask"] for name in names}
    for key in sorted(state_dict, key=lambda key: key not in masks):
        value = state_dict[key]
        part = local(value) if isinstance(value, Tensor) else None
        if part is not None and part.numel() and not part.is_meta and not key.endswith("_mask"):
            other = first.setdefault((part.data_ptr(), part.shape, part.stride(), part.dtype, part.device), key)
            if other != key and other in masks and not (key in masks and torch.equal(masks[other], masks[key])):
                raise ValueError(
                    f"`state_dict` holds one tensor as {other!r} and {key!r} (tied weights), pruned differently. "
                    "Prune all names of it, prune.custom_from_mask(..., root=model), or save prune.bake(model)."
                )


def _pairs(state_dict: State, names: Iterable[str]) -> list[str]:
    """Which of the names are pruned in a state dict."""
    found = {n: [f"{n}{end}" for end in ("_orig", "_mask") if f"{n}{end}" in state_dict] for n in names}
    halves = [keys[0] for keys in found.values() if len(keys) == 1]
    if halves:
        raise ValueError(f"`state_dict` has half a pair: {halves}. A pruned tensor needs both `_orig` and `_mask`.")
    return [name for name, keys in found.items() if keys]
