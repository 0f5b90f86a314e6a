"""Keep dead weights dead through an optimizer's steps: weight decay and momentum move them otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from . import _site
from ._record import Record
from ._sites import Site, dotted, plain_names, pruned_names


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
    fixed = None if masks is None else _fixed(module, masks)
    _refuse_strangers(optimizer, module, pruned_names(module) if masks is None else list(masks))
    records: dict[Record, Site] = {}

    def hold(*_: Any) -> None:
        for param, mask in _pruned(module, records) if fixed is None else fixed:
            _zero(optimizer, param, ~mask)

    hold()
    return optimizer.register_step_post_hook(hold)


def _fixed(module: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
    """Parameters and their masks as given."""
    known = plain_names(module)
    unknown = [name for name in masks if name not in known]
    if unknown:
        raise ValueError(f"`masks` has names that are no parameters: {unknown}. The parameters: {list(known)}.")
    return [(known[n], _site.checked_mask(m, known[n], None, repr(n))) for n, m in masks.items()]


def _pruned(module: nn.Module, records: dict[Record, Site]) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Parameters and masks of what is pruned now, and of what was when it was removed; `records` remembers them."""
    for name in pruned_names(module):
        site = dotted(module, name)
        records[_site.hook_of(*site)._record] = site
    for record, site in list(records.items()):
        pruned = _site.is_marked(*site) and _site.hook_of(*site)._record is record
        mask = _site.current_mask(*site) if pruned else record.final
        if mask is None:  # undone
            del records[record]
        else:
            yield _site.parameter(*site), mask


def _refuse_strangers(optimizer: Optimizer, module: nn.Module, names: list[str]) -> None:
    if not names:
        raise ValueError("`module` has no pruned parameter: prune it first, or pass masks={name: mask}.")
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    strangers = [name for name in names if id(_site.parameter(*dotted(module, name))) not in owned]
    if strangers:
        raise ValueError(f"`optimizer` does not hold {strangers}. Make it from module.parameters().")


@torch.no_grad()
def _zero(optimizer: Optimizer, param: Tensor, dead: Tensor) -> None:
    state = optimizer.state.get(param, {}).values() if param.dim() else ()
    for value in (param, *state):
        if isinstance(value, Tensor) and value.shape == param.shape:
            value.masked_fill_(dead.to(value.device), 0)
