"""The masks of a pruned model, read and set."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .._module import state
from .._module.atomic import unchanged_on_error
from .._module.computed import MARK
from .._module.sites import dotted, pruned_names, sites_of
from .._module.values import a_module, checked_mask
from ._base import BasePruningMethod
from ._methods import CustomFromMask
from ._step import commit, hook_key


def is_pruned(module: nn.Module) -> bool:
    """Whether the module or any module in it has a pruning hook.

    Args:
        module: any module.

    Returns:
        True if any forward pre-hook is a pruning method, or any parameter is pruned.

    >>> is_pruned(nn.Linear(2, 3)), is_pruned(identity(nn.Linear(2, 3), "weight"))
    (False, True)
    """
    return any(
        MARK in m.__dict__ or any(map(_prunes, m._forward_pre_hooks.values())) for m in a_module(module).modules()
    )


def _prunes(hook: Any) -> bool:
    return isinstance(hook, BasePruningMethod)


def masks(module: nn.Module) -> dict[str, Tensor]:
    """Read the masks of a module.

    Args:
        module: any module.

    Returns:
        Bool masks, True = kept, by the dotted name that the parameter has when it is not pruned; new tensors.

    Raises:
        ValueError: if a mask holds other values than 0 and 1.

    >>> masks(custom_from_mask(nn.Linear(2, 1), "weight", torch.tensor([[1, 0]])))
    {'weight': tensor([[ True, False]])}
    """
    return {name: state.mask_of(*dotted(module, name)) for name in pruned_names(a_module(module))}


def set_mask(module: nn.Module, name: str, mask: Tensor, *, root: nn.Module | None = None) -> nn.Module:
    """Set the mask of a parameter, whatever it was before: dead entries may come back, with the values they have.

    Args:
        module: the module that holds the parameter, pruned or not.
        name: the parameter's name in it.
        mask: 0/1 or bool mask of the parameter's shape, who lives from now on; it is copied.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module. If entries came back, its history begins anew with this mask.

    Raises:
        TypeError, ValueError: if the mask or the name does not fit; nothing is changed then.

    >>> m = l1_unstructured(nn.Linear(2, 1), "weight", amount=2)
    >>> set_mask(m, "weight", torch.tensor([[True, False]])).weight_mask
    tensor([[1., 0.]])
    """
    sites = sites_of(module, name, root)
    orig, alive = state.parameter(*sites[0]), state.alive_at(sites)
    kept = checked_mask(mask, orig, None, sites[0].what)
    start = None if alive is None else alive | kept  # on record, whoever comes back was alive before the step
    with unchanged_on_error([site.module for site in sites], draws=False):
        for site in sites:
            commit(site, hook_key(site), CustomFromMask(kept), orig, start, kept, None)
    return module
