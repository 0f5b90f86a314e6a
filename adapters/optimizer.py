"""Keep dead weights dead through an optimizer's steps: weight decay and momentum move them otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from . import _site
from ._sites import dotted, known_names, plain_names, pruned_names
from .parametrize import originals


def keep_zero(optimizer: Optimizer, module: nn.Module, masks: Mapping[str, Tensor] | None = None) -> RemovableHandle:
    """Hold masked entries, and every optimizer state of their shape, at exactly zero after each step.

    Any optimizer will do: a state tensor of a parameter's shape (momentum, averages, sums of squares) is treated like
    the parameter itself; that of a scalar parameter cannot be told from a counter and is left alone. Takes effect at
    once and after every step, for what is pruned then, and for good for what `remove` made permanent afterwards;
    `undo` sets free. Without it nothing is lost while a module is pruned, since masked entries are not seen; but
    `remove` and the steps after it would revive them. The dense values behind a mask are zeroed too, so `undo` no
    longer brings them back.

    Args:
        optimizer: it must hold the parameters.
        module: the module, pruned or not.
        masks: by dotted parameter name, bool or 0/1, True = kept; the masks of the pruned parameters, as they are at
            each step, if None.

    Returns:
        A handle whose `remove()` ends it.

    Raises:
        TypeError: if a mask is not a tensor.
        ValueError: if nothing is masked, a name or a mask does not fit, or a parameter is not the optimizer's.

    >>> layer = prune.l1_unstructured(nn.Linear(4, 2), "weight", 3)
    >>> optimizer = torch.optim.AdamW(layer.parameters())
    >>> handle = keep_zero(optimizer, layer)
    >>> int((layer.weight_orig == 0).sum())
    3
    """
    _site.forget(module.parameters())
    entries = _masked(module) if masks is None else _given(module, masks)
    _refuse_strangers(optimizer, entries)

    def hold(*_: Any) -> None:
        for _name, param, mask in _masked(module) if masks is None else entries:
            _zero(optimizer, param, ~mask)

    hold()
    return optimizer.register_step_post_hook(hold)


Entries = list[tuple[str, nn.Parameter, Tensor]]


def _given(module: nn.Module, masks: Mapping[str, Tensor]) -> Entries:
    """Names, parameters and masks as given."""
    known = originals(module) | plain_names(module)
    names = known_names(masks, known, "parameters", "masks")
    return [(n, known[n], _site.checked_mask(masks[n], known[n], None, repr(n))) for n in names]


def _masked(module: nn.Module) -> Entries:
    """What is pruned now, and what `remove` made permanent since this was first asked."""
    known = plain_names(module)
    removed = [(n, p, mask) for n, p in known.items() if (mask := _site.watch(p)) is not None]
    pruned = [(n, known[n], _site.mask_of(*dotted(module, n))) for n in pruned_names(module)]
    return pruned + [entry for entry in removed if entry[1].shape == entry[2].shape]


def _refuse_strangers(optimizer: Optimizer, entries: Entries) -> None:
    if not entries:
        raise ValueError("`module` has no pruned parameter: prune it first, or pass masks={name: mask}.")
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    strangers = [name for name, param, _ in entries if id(param) not in owned]
    if strangers:
        raise ValueError(f"`optimizer` does not hold {strangers}. Make it from module.parameters().")


@torch.no_grad()
def _zero(optimizer: Optimizer, param: Tensor, dead: Tensor) -> None:
    state = optimizer.state.get(param, {}).values() if param.dim() else ()
    for value in (param, *state):
        if isinstance(value, Tensor) and value.shape == param.shape:
            value.masked_fill_(dead.to(value.device), 0)
