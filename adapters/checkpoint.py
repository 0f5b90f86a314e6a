"""State dicts of pruned and of dense modules, and the way from one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from . import _site
from ._sites import dotted, plain_names, pruned_names
from .prune import custom_from_mask, undo

State = Mapping[str, Any]


def to_dense(state_dict: State) -> dict[str, Any]:
    """Turn a pruned state dict into a dense one: where(mask, orig, 0) under the plain name, at its place.

    Args:
        state_dict: of a pruned module, from here or from torch.nn.utils.prune.

    Returns:
        A new dict, which a module that is not pruned loads.

    Raises:
        ValueError: if a `_orig` has no `_mask` or the other way round, or a mask does not fit.

    >>> m = prune.custom_from_mask(nn.Linear(2, 1), "weight", torch.tensor([[1, 0]]))
    >>> list(to_dense(m.state_dict()))
    ['weight', 'bias']
    """
    names = _pairs(state_dict)
    dense: dict[str, Any] = {}
    for key, value in state_dict.items():
        if key.removesuffix("_orig") in names and key.endswith("_orig"):
            name = key.removesuffix("_orig")
            kept = _site.checked_mask(state_dict[f"{name}_mask"], value, None, repr(name))
            dense[name] = _site.effective(value, kept.to(value.dtype))
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
    unknown = [name for name in masks if name not in state_dict]
    if unknown:
        raise ValueError(f"`masks` has names that `state_dict` lacks: {unknown}. Its keys: {list(state_dict)}.")
    pruned = {f"{k}_orig" if k in masks else k: v for k, v in state_dict.items()}
    for name, mask in masks.items():
        kept = _site.checked_mask(mask, state_dict[name], None, repr(name))
        pruned[f"{name}_mask"] = _site.as_buffer(kept, state_dict[name])
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
        ValueError: if keys or shapes do not match, or half a pair is missing; nothing is changed then.

    >>> saved = prune.l1_unstructured(nn.Linear(4, 2), "weight", 3).state_dict()
    >>> int((load_pruned(nn.Linear(4, 2), saved).weight == 0).sum())
    3
    """
    names = _pairs(state_dict)
    _refuse_mismatch(module, state_dict, names)
    masks = {n: _site.checked_mask(state_dict[f"{n}_mask"], state_dict[f"{n}_orig"], None, repr(n)) for n in names}
    with _site.unchanged_on_error(list(module.modules())):
        for name in set(pruned_names(module)):
            undo(*dotted(module, name))
        for name, mask in masks.items():
            site = dotted(module, name)
            custom_from_mask(*site, mask.to(_site.parameter(*site).device))
        module.load_state_dict(state_dict)
    return module


def _pairs(state_dict: State) -> list[str]:
    """The names that are pruned in a state dict."""
    originals = [k.removesuffix("_orig") for k in state_dict if k.endswith("_orig")]
    masks = [k.removesuffix("_mask") for k in state_dict if k.endswith("_mask")]
    names = [n for n in originals if n in masks]
    halves = [f"{n}_orig" for n in originals if n not in masks] + [f"{n}_mask" for n in masks if n not in originals]
    if halves:
        raise ValueError(f"`state_dict` has half a pair: {halves}. A pruned tensor needs both `_orig` and `_mask`.")
    return names


def _refuse_mismatch(module: nn.Module, state_dict: State, names: list[str]) -> None:
    """Compare the dict with what the module will hold once the names are pruned."""
    expected = {k: tuple(v.shape) for k, v in _dense_state(module).items()}
    found = {k: tuple(v.shape) for k, v in to_dense(state_dict).items() if isinstance(v, Tensor)}
    if expected != found:
        missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        shapes = {k: (expected[k], found[k]) for k in expected.keys() & found.keys() if expected[k] != found[k]}
        raise ValueError(f"`state_dict` does not fit: missing {missing}, unknown {unknown}, shapes {shapes}.")
    lacking = [name for name in names if name not in plain_names(module)]
    if lacking:
        raise ValueError(f"`state_dict` has pruned tensors that are no parameters of the module: {lacking}.")


def _dense_state(module: nn.Module) -> dict[str, Tensor]:
    state = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    return to_dense(state) if pruned_names(module) else state
