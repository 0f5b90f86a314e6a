"""Keep dead weights dead through an optimizer's steps: weight decay and momentum move them otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ._site import current_mask, parameter
from ._sites import dotted, pruned_names


def keep_zero(optimizer: Optimizer, module: nn.Module, masks: Mapping[str, Tensor] | None = None) -> RemovableHandle:
    """Hold masked entries, and every optimizer state of their shape, at exactly zero after each step.

    Any optimizer will do: a state tensor of a parameter's shape (momentum, averages, sums of squares) is treated like
    the parameter itself. Takes effect at once and after every step, also after `remove`. Without it nothing is lost
    while a module is pruned, since masked entries are not seen; but `remove` and the steps after it would revive them.
    The dense values behind a mask are zeroed too, so `undo` no longer brings them back.

    Args:
        optimizer: it must hold the parameters.
        module: the module, pruned or not.
        masks: by dotted parameter name, bool or 0/1, True = kept; the masks of the pruned parameters, as they are at
            each step, if None.

    Returns:
        A handle whose `remove()` ends it.

    Raises:
        ValueError: if nothing is masked, a shape does not fit, or a parameter is not the optimizer's.

    >>> layer = prune.l1_unstructured(nn.Linear(4, 2), "weight", 3)
    >>> optimizer = torch.optim.AdamW(layer.parameters())
    >>> handle = keep_zero(optimizer, layer)
    >>> int((layer.weight_orig == 0).sum())
    3
    """
    held = _held(optimizer, module, masks)

    def hold(*_: Any) -> None:
        for site, entry in held.items():
            live = current_mask(*site) if masks is None else None
            entry["mask"] = entry["mask"] if live is None else live
            _zero(optimizer, entry["parameter"], ~entry["mask"])

    hold()
    return optimizer.register_step_post_hook(hold)


def _held(optimizer: Optimizer, module: nn.Module, masks: Mapping[str, Tensor] | None) -> dict[Any, dict[str, Any]]:
    """The parameters to hold, by site, with their masks as bool."""
    names = pruned_names(module) if masks is None else list(masks)
    if not names:
        raise ValueError("`module` has no pruned parameter: prune it first, or pass masks={name: mask}.")
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    held = {}
    for name in names:
        site = dotted(module, name)
        param = parameter(*site)
        mask = current_mask(*site) if masks is None else masks[name] != 0
        if id(param) not in owned:
            raise ValueError(f"`optimizer` does not hold {name!r}. Make it from module.parameters().")
        if mask is None or mask.shape != param.shape:
            raise ValueError(f"the mask of {name!r} must have its shape, {tuple(param.shape)}.")
        held[site] = {"parameter": param, "mask": mask.to(param.device)}
    return held


@torch.no_grad()
def _zero(optimizer: Optimizer, param: Tensor, dead: Tensor) -> None:
    state = optimizer.state.get(param, {}).values()
    for value in (param, *state):
        if isinstance(value, Tensor) and value.shape == param.shape:
            value.masked_fill_(dead.to(value.device), 0)
