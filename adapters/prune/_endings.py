"""The ends of pruning: made permanent, taken back, or made permanent in a copy."""

from __future__ import annotations

import torch
from torch import nn

from .._module import state
from .._module.atomic import unchanged_on_error
from .._module.computed import MARK
from .._module.sharded import copied
from .._module.sites import Site, sites_of, tied_sites
from .._module.values import a_module, a_name
from ._step import hooks


def remove(module: nn.Module, name: str, *, root: nn.Module | None = None) -> nn.Module:
    """Make the pruning of a parameter permanent: zeros where the mask is 0, the plain parameter in its place.

    The parameter object, its storage and its place in the order are those from before.

    Args:
        module: the pruned module.
        name: the parameter's name in it.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        ValueError: if the parameter is not pruned.

    >>> m = remove(l1_unstructured(nn.Linear(2, 3), "weight", amount=2), "weight")
    >>> list(dict(m.named_parameters())), int((m.weight == 0).sum())
    (['weight', 'bias'], 2)
    """
    sites = _pruned_sites(module, name, root, "removed")
    for site in sites:
        state.look(*site)
    values = state.parameter(module, name) if len(sites) > 1 else None  # else they are written last of all
    with unchanged_on_error([site.module for site in sites], values, draws=False, records=False):
        for site in sites:
            hook = state.hook_of(*site)
            _drop_hooks(site)
            hook.remove(site.module)
    return module


def undo(module: nn.Module, name: str, *, root: nn.Module | None = None) -> nn.Module:
    """Take the pruning of a parameter back: the dense values that `name_orig` holds, under the plain name.

    Args:
        module: the pruned module.
        name: the parameter's name in it.
        root: a module in which to look for other names of the same (tied) parameter.

    Returns:
        The module.

    Raises:
        ValueError: if the parameter is not pruned.

    >>> m = nn.Linear(2, 3)
    >>> before = m.weight.clone()
    >>> torch.equal(undo(l1_unstructured(m, "weight", amount=2), "weight").weight, before)
    True
    """
    sites = _pruned_sites(module, name, root, "undone")
    with unchanged_on_error([site.module for site in sites], draws=False, records=False):
        for site in sites:
            state.leave(*site)
            _drop_hooks(site)
    return module


def bake(module: nn.Module) -> nn.Module:
    """Copy a module with all its pruning made permanent, for scripting, fusion and quantisation.

    A tied weight that is pruned otherwise elsewhere, or not at all, is a weight of its own in the copy.

    Args:
        module: any module, pruned or not; it is left as it is.

    Returns:
        A deep copy without pruning hooks, masks and renamed parameters, which computes the same.

    Raises:
        ValueError: if the module is under `fully_shard`, which torch does not copy.

    >>> m = l1_unstructured(nn.Linear(2, 3), "weight", amount=2)
    >>> is_pruned(m), is_pruned(bake(m)), int((bake(m).weight == 0).sum())
    (True, False, 2)
    """
    clean = copied(a_module(module))
    for sites in tied_sites(clean):
        pruned = [site for site in sites if state.is_marked(*site)]
        while pruned and not _alike(sites):
            _untie(pruned[0])
            remove(*pruned[0])
            sites.remove(pruned.pop(0))
        for site in pruned:
            remove(*site)
    return clean


def _alike(sites: list[Site]) -> bool:
    """Whether a parameter reads the same at all of its sites."""
    if len(sites) == 1:
        return True
    masks = [state.mask_of(*site) for site in sites if state.is_marked(*site)]
    return len(masks) == len(sites) and all(torch.equal(masks[0], mask) for mask in masks)


def _untie(site: Site) -> None:
    """Give a site a parameter of its own."""
    orig = state.parameter(*site)
    site.module._parameters[f"{site.name}_orig"] = nn.Parameter(orig.detach().clone(), orig.requires_grad)


def _pruned_sites(module: nn.Module, name: str, root: nn.Module | None, action: str) -> list[Site]:
    a_module(module)
    if not state.is_marked(module, a_name(name)):
        raise ValueError(
            f"parameter {name!r} of {type(module).__name__} has to be pruned before pruning can be {action}. "
            f"Pruned are: {list(module.__dict__.get(MARK, ()))}."
        )
    return [site for site in sites_of(module, name, root) if state.is_marked(*site)]


def _drop_hooks(site: Site) -> None:
    for key in hooks(site):
        del site.module._forward_pre_hooks[key]
