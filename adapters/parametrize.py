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
from torch.nn.utils import parametrize

import masklib

from ._attribute import MARK
from ._site import unchanged_on_error
from ._sites import Site, dotted, known_names
from .weights import weights

Method = Callable[[dict[str, Tensor], dict[str, Tensor]], Mapping[str, Tensor]]


class Masked(nn.Module):
    """The parametrization: where(mask, weight, 0), with the mask as a bool buffer of the weight's shape."""

    mask: Tensor

    def __init__(self, mask: Tensor, order: tuple[str, ...]) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.order = order  # of the module's parameters before, for `remove`

    def forward(self, weight: Tensor) -> Tensor:
        """Zero what the mask kills."""
        return masklib.apply(weight, self.mask)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Take an assigned value as it is."""
        return weight


def prune(module: nn.Module, method: Method, names: Iterable[str] | None = None) -> nn.Module:
    """Prune parameters of a module by a method of the core; what one call names is one pool.

    A parameter that occurs under several (tied) names counts once, under the first, and is pruned under all of them.

    Args:
        module: any module.
        method: `(scores, default_mask) -> mask` on mappings by name, such as `partial(l1_unstructured, amount=0.5)`;
            the scores it sees are the parameters under their masks.
        names: dotted parameter names; `masklib.adapters.weights` if None.

    Returns:
        The module.

    Raises:
        TypeError, ValueError: if a name is no parameter, or whatever the method raises; nothing is changed then.

    >>> layer = prune(nn.Linear(4, 2), partial(masklib.l1_unstructured, amount=3))
    >>> sorted(layer.state_dict())
    ['bias', 'parametrizations.weight.0.mask', 'parametrizations.weight.original']
    """
    chosen = _chosen(module, names)
    with unchanged_on_error([site.module for sites in chosen.values() for site in sites]):
        scores = {name: getattr(*sites[0]).detach().clone() for name, sites in chosen.items()}
        kept = method(scores, {name: _mask_of(sites, scores[name]) for name, sites in chosen.items()})
        kept = masklib.custom_from_mask(scores, mask=dict(kept))
        for name, sites in chosen.items():
            for site in sites:
                _set_mask(site, kept[name])
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
    parts = {name: _masked(dotted(module, name)) for name in originals(module)}
    return {name: part.mask for name, part in parts.items() if part is not None}


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
    pruned = masks(module)
    wanted = known_names(pruned if names is None else names, pruned, "pruned parameters")
    sites = list(dict.fromkeys(dotted(module, name) for name in wanted))
    for site in sites:
        _refuse_others(site)
    values = [_chain(site)().detach() for site in sites]
    for site, value in zip(sites, values):
        _put_back(site, value)
    return module


def originals(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by every dotted name they have without parametrizations, those made of several tensors left out."""
    found: dict[str, nn.Parameter] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        if not isinstance(owner, parametrize.ParametrizationList):
            chains: Any = owner.parametrizations if parametrize.is_parametrized(owner) else {}
            originals = {n: chain.original for n, chain in chains.items() if "original" in chain._parameters}
            own = {n: p for n, p in owner._parameters.items() if p is not None} | originals
            found |= {f"{prefix}.{n}" if prefix else n: p for n, p in own.items()}
    return found


def _chosen(module: nn.Module, names: Iterable[str] | None) -> dict[str, list[Site]]:
    """The sites of each chosen parameter, by the first of its names."""
    known = originals(module)
    wanted = [*weights(module), *masks(module)] if names is None else known_names(names, known, "parameters")
    chosen: dict[int, tuple[str, list[Site]]] = {}
    for name in wanted:
        if isinstance(known[name], nn.parameter.UninitializedParameter):
            raise ValueError(f"{name!r} is not initialized. Run a forward pass first.")
        sites = list(dict.fromkeys(dotted(module, n) for n, p in known.items() if p is known[name]))
        chosen.setdefault(id(known[name]), (name, sites))
    for _, sites in chosen.values():
        for site in sites:
            _refuse_drop_in(site)
    return dict(chosen.values())


def _refuse_drop_in(site: Site) -> None:
    """A module has one kind of pruning: the drop-in's attributes and torch's parametrized class exclude each other."""
    if site.module.__dict__.get(MARK):
        raise ValueError(f"{type(site.module).__name__} is pruned by adapters.prune: remove or undo that first.")


def _mask_of(sites: list[Site], tensor: Tensor) -> Tensor:
    """Who is alive at every site."""
    parts = [part for site in sites if (part := _masked(site)) is not None]
    return reduce(torch.logical_and, [part.mask for part in parts], torch.ones_like(tensor, dtype=torch.bool))


def _masked(site: Site) -> Masked | None:
    return next((part for part in _chain(site) if isinstance(part, Masked)), None)


def _chain(site: Site) -> Any:
    """The parametrizations of a site."""
    return site.module.parametrizations[site.name] if parametrize.is_parametrized(*site) else ()  # type: ignore[index]


@torch.inference_mode(False)
def _set_mask(site: Site, kept: Tensor) -> None:
    """Set a copy of the mask, which training can use later."""
    kept = kept.clone()
    part = _masked(site)
    if part is None:
        parametrize.register_parametrization(*site, Masked(kept, _order(site.module)))
    else:
        part.mask = kept


def _order(module: nn.Module) -> tuple[str, ...]:
    """The order that the module's parameters had before any of them was pruned."""
    parts = [part for name in getattr(module, "parametrizations", ()) if (part := _masked(Site(module, name)))]
    return parts[0].order if parts else tuple(module._parameters)


def _refuse_others(site: Site) -> None:
    others = [type(part).__name__ for part in _chain(site) if not isinstance(part, Masked)]
    if others:
        raise ValueError(
            f"{site.what} has other parametrizations too, {others}, and torch removes all or none. To end them all: "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {site.name!r})."
        )


def _put_back(site: Site, value: Tensor) -> None:
    """Write the pruned values into the parameter itself, then give it its name and its place back."""
    module, name = site
    order = _order(module)
    with torch.no_grad():
        _chain(site).original.copy_(value)
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    parameters = dict(module._parameters)
    names = [n for n in parameters if n != name]
    later = [n for n in order[order.index(name) + 1 :] if n in names] if name in order else []
    names.insert(names.index(later[0]) if later else len(names), name)
    module._parameters.clear()
    module._parameters.update({n: parameters[n] for n in names})
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
