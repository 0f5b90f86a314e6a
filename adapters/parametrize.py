"""Pruning on torch.nn.utils.parametrize: the modern form, for new code.

The mask is a bool buffer of a parametrization; the parameter is `parametrizations.<name>.original`. Methods are the
core's, so anything composes: histories, groups, scores, layerwise budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

import masklib
from masklib import _read
from masklib._shards._parts import each_part

from ._module.atomic import unchanged_on_error
from ._module.computed import MARK
from ._module.held import note
from ._module.parametrized import (
    Masked,
    behind,
    chains,
    mask_parametrized,
    masked_part,
    masked_parts,
    masks_in,
    originals,
    others,
    unparametrize,
)
from ._module.sharded import aligned, copied
from ._module.sites import Site, dotted, known_names
from ._module.values import a_module, checked_mask, masks_by_name, scores_for
from ._module.weights import pickable

__all__ = ["Masked", "bake", "is_pruned", "masks", "prune", "remove", "set_mask", "undo"]


def __dir__() -> list[str]:
    """List the public names."""
    return __all__


Method = Callable[[dict[str, Tensor], dict[str, Tensor]], Mapping[str, Tensor]]


def prune(
    module: nn.Module,
    method: Method,
    names: Iterable[str] | None = None,
    *,
    importance_scores: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Prune parameters of a module, as one pool, by a method of the core.

    A parameter that occurs under several (tied) names counts once, under the first, and is pruned under all of them.

    Args:
        module: any module.
        method: `(scores, default_mask) -> mask` on mappings by name, such as `partial(l1_unstructured, amount=0.5)`.
        names: dotted parameter names; if None, those of `importance_scores`, or else `masklib.adapters.weights`, with a
            warning if a normed weight is left out.
        importance_scores: scores by dotted name, of the parameters' shapes, for each of the names; the parameters under
            their masks if None.

    Returns:
        The module.

    Raises:
        TypeError: if the method cannot be called, or the scores are not a mapping of tensors.
        ValueError: if a name is no parameter, scores do not fit, there is nothing to prune, or whatever the method
            raises; nothing is changed then.

    >>> layer = prune(nn.Linear(4, 2), partial(masklib.l1_unstructured, amount=3))
    >>> sorted(layer.state_dict())
    ['bias', 'parametrizations.weight.0.mask', 'parametrizations.weight.original']
    """
    _read.function(method, "method", "partial(masklib.l1_unstructured, amount=0.5)")
    given = None if importance_scores is None else dict(_read.mapping(importance_scores, "importance_scores"))
    chosen = _chosen(a_module(module), given if names is None and given is not None else names)
    if given is not None:
        _read.same_names(given, chosen, "importance_scores", "names")
    with unchanged_on_error([site.module for sites in chosen.values() for site in sites]):
        current = {name: getattr(*sites[0]).detach() for name, sites in chosen.items()}
        ranked = {n: scores_for(t, (given or {}).get(n), repr(n)) for n, t in current.items()}
        alive = {name: _alive(sites, current[name]) for name, sites in chosen.items()}
        kept = masklib.custom_from_mask(current, mask=masks_by_name(method(each_part(torch.clone, ranked), alive)))
        for name, sites in chosen.items():
            for site in sites:
                mask_parametrized(*site, kept[name])
    return module


def set_mask(module: nn.Module, name: str, mask: Tensor) -> nn.Module:
    """Set the mask of a parameter, whatever it was before: dead entries may come back, with the values they have.

    Args:
        module: any module.
        name: the dotted name of a parameter, pruned or not; it is set under all names of a tied one.
        mask: bool or 0/1 mask of the parameter's shape, who lives from now on; it is copied.

    Returns:
        The module.

    Raises:
        TypeError, ValueError: if the mask or the name does not fit; nothing is changed then.

    >>> layer = prune(nn.Linear(2, 1), partial(masklib.l1_unstructured, amount=2))
    >>> masks(set_mask(layer, "weight", torch.tensor([[True, False]])))
    {'weight': tensor([[ True, False]])}
    """
    known = originals(module)
    known_names([name], known, "one of the parameters", "name")
    kept, sites = checked_mask(mask, known[name], None, repr(name)), _chosen(module, [name])[name]
    with unchanged_on_error([site.module for site in sites]):
        for site in sites:
            mask_parametrized(*site, kept)
    return module


def masks(module: nn.Module) -> dict[str, Tensor]:
    """Read the masks of a module.

    Args:
        module: any module.

    Returns:
        Bool masks by dotted parameter name.

    >>> masks(prune(nn.Linear(2, 1), partial(masklib.l1_unstructured, amount=2)))
    {'weight': tensor([[False, False]])}
    """
    return masks_in(module)


def is_pruned(module: nn.Module) -> bool:
    """Whether the module or any module in it is pruned by `prune`.

    Args:
        module: any module.

    Returns:
        True if any parametrization is a mask.

    >>> is_pruned(nn.Linear(2, 1))
    False
    """
    return bool(masked_parts(module))


def remove(module: nn.Module, names: Iterable[str] | None = None) -> nn.Module:
    """Make the pruning permanent: plain parameters with zeros where the masks are False.

    Args:
        module: a module pruned by `prune`.
        names: dotted parameter names; all that are pruned if None.

    Returns:
        The module.

    Raises:
        ValueError: if a name is not pruned, or has other parametrizations too; nothing is changed then.

    >>> layer = remove(prune(nn.Linear(2, 2), partial(masklib.l1_unstructured, amount=1)))
    >>> list(layer.state_dict()), int((layer.weight == 0).sum())
    (['weight', 'bias'], 1)
    """
    sites = _pruned_sites(module, names)
    values = [_chain(site)().detach() for site in sites]
    for site, value in zip(sites, values):
        param, kept = _chain(site).original, _mask(site)
        unparametrize(*site, value)
        note(*site, param, kept)
    return module


def undo(module: nn.Module, names: Iterable[str] | None = None) -> nn.Module:
    """Take the pruning back: plain parameters with the dense values that the originals hold.

    Args:
        module: a module pruned by `prune`.
        names: dotted parameter names; all that are pruned if None.

    Returns:
        The module.

    Raises:
        ValueError: if a name is not pruned, or has other parametrizations too; nothing is changed then.

    >>> layer = undo(prune(nn.Linear(2, 2), partial(masklib.l1_unstructured, amount=1)))
    >>> int((layer.weight == 0).sum())
    0
    """
    for site in _pruned_sites(module, names):
        unparametrize(*site, None)
    return module


def bake(module: nn.Module) -> nn.Module:
    """Copy a module with all its pruning made permanent.

    A tied weight that is pruned otherwise elsewhere, or not at all, is a weight of its own in the copy.

    Args:
        module: any module, pruned or not; it is left as it is.

    Returns:
        A deep copy with plain parameters, which computes the same.

    Raises:
        ValueError: if a pruned tensor has other parametrizations too, or is under `fully_shard`: torch copies no such.

    >>> list(bake(prune(nn.Linear(2, 2), partial(masklib.l1_unstructured, amount=1))).state_dict())
    ['weight', 'bias']
    """
    clean = copied(a_module(module))
    sites, places = _pruned_sites(clean, None), _places(clean)
    for site in sites:
        original = _chain(site).original
        masks = [_mask(tied) for tied in places[id(original)]]
        if not all(mask is not None and torch.equal(mask, masks[0]) for mask in masks):
            _chain(site)._parameters["original"] = nn.Parameter(original.detach().clone(), original.requires_grad)
    return remove(clean)


# ---- sites ----------------------------------------------------------------------------------------------------------


def _chosen(module: nn.Module, names: Iterable[str] | None) -> dict[str, list[Site]]:
    """The sites of each chosen parameter, by the first of its names."""
    known, places = originals(module), _places(module)
    wanted = list(pickable(module, "names")) if names is None else known_names(names, known, "parameters")
    if not wanted:
        raise ValueError(f"`names` is empty: there is nothing to prune. The parameters are: {list(known)}.")
    chosen: dict[int, tuple[str, list[Site]]] = {}
    for name in wanted:
        _refuse_drop_in(dotted(module, name))
        _read.is_initialized(known[name], repr(name))
        chosen.setdefault(id(known[name]), (name, places[id(known[name])]))
    for _, sites in chosen.values():
        for site in sites:
            _refuse_drop_in(site)  # where a weight is tied, too
    return dict(chosen.values())


def _places(module: nn.Module) -> dict[int, list[Site]]:
    """All sites of each parameter, by identity, in one walk."""
    found: dict[int, list[Site]] = {}
    for owner in module.modules():
        if not isinstance(owner, nn.utils.parametrize.ParametrizationList):
            own = {n: p for n, p in owner._parameters.items() if p is not None} | behind(owner)
            for name, param in own.items():
                found.setdefault(id(param), []).append(Site(owner, name))
    return found


def _pruned_sites(module: nn.Module, names: Iterable[str] | None) -> list[Site]:
    pruned = masks(module)
    wanted = known_names(pruned if names is None else names, pruned, "pruned parameters")
    sites = list(dict.fromkeys(dotted(module, name) for name in wanted))
    for site in sites:
        _refuse_others(site)
    return sites


def _alive(sites: list[Site], tensor: Tensor) -> Tensor:
    """Who is alive at every site; a new tensor."""
    parts = [aligned(_mask(site), tensor) for site in sites if masked_part(_chain(site)) is not None]
    return reduce(masklib.intersection, parts, masklib.dense(tensor))


def _mask(site: Site) -> Any:
    return getattr(masked_part(_chain(site)), "mask", None)


def _chain(site: Site) -> Any:
    """The parametrizations of a site."""
    return chains(site.module).get(site.name, ())


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse_drop_in(site: Site) -> None:
    """A module has one kind of pruning: the drop-in's attributes and torch's parametrized class exclude each other."""
    if site.module.__dict__.get(MARK):
        raise ValueError(f"{type(site.module).__name__} is pruned by adapters.prune: remove or undo that first.")


def _refuse_others(site: Site) -> None:
    more = others(_chain(site))
    if more:
        raise ValueError(
            f"{site.what} has other parametrizations too, {more}, and torch removes all or none. To end them all: "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {site.name!r})."
        )
