"""Pruning on torch.nn.utils.parametrize: the modern form, for new code.

The mask is a bool buffer of a parametrization; the parameter is `parametrizations.<name>.original`. Methods are the
core's, so anything composes: histories, groups, scores, layerwise budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import masklib

from ._sites import Site, dotted
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

    Args:
        module: any module.
        method: `(scores, default_mask) -> mask` on mappings by name, such as `partial(l1_unstructured, amount=0.5)`;
            the scores it sees are the parameters under their masks.
        names: dotted parameter names; `masklib.adapters.weights` if None.

    Returns:
        The module.

    Raises:
        TypeError, ValueError: whatever the method raises; nothing is changed then.

    >>> layer = prune(nn.Linear(4, 2), partial(masklib.l1_unstructured, amount=3))
    >>> sorted(layer.state_dict())
    ['bias', 'parametrizations.weight.0.mask', 'parametrizations.weight.original']
    """
    chosen = _plain_weights(module) if names is None else list(names)
    sites = {name: dotted(module, name) for name in chosen}
    scores = {name: getattr(*site).detach() for name, site in sites.items()}
    kept = method(scores, {n: _mask_of(site, scores[n]) for n, site in sites.items()})
    kept = masklib.custom_from_mask(scores, mask=dict(kept))
    for name, site in sites.items():
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
    found = {}
    for prefix, owner in module.named_modules():
        for name, chain in getattr(owner, "parametrizations", {}).items() if parametrize.is_parametrized(owner) else ():
            for part in chain:
                if isinstance(part, Masked):
                    found[f"{prefix}.{name}" if prefix else name] = part.mask
    return found


def remove(module: nn.Module, names: Iterable[str] | None = None) -> nn.Module:
    """Make the pruning permanent: plain parameters with zeros where the masks are False.

    Args:
        module: a module pruned by `prune`.
        names: dotted parameter names; all that are pruned if None.

    Returns:
        The module.

    Raises:
        ValueError: if a name is not pruned.

    >>> layer = remove(prune(nn.Linear(2, 2), partial(masklib.l1_unstructured, amount=1)))
    >>> list(layer.state_dict()), int((layer.weight == 0).sum())
    (['weight', 'bias'], 1)
    """
    pruned = masks(module)
    chosen = list(pruned) if names is None else list(names)
    unknown = [name for name in chosen if name not in pruned]
    if unknown:
        raise ValueError(f"`names` must be pruned parameters, got {unknown}. Pruned are: {list(pruned)}.")
    for name in chosen:
        _put_back(dotted(module, name))
    return module


def _put_back(site: Site) -> None:
    """Write the zeros into the parameter itself, then give it its name and its place back."""
    module, name = site
    chain: Any = module.parametrizations[name]  # type: ignore[index]
    order = next(part.order for part in chain if isinstance(part, Masked))
    with torch.no_grad():
        chain.original.copy_(chain())
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    parameters = dict(module._parameters)
    names = [n for n in parameters if n != name]
    later = [n for n in order[order.index(name) + 1 :] if n in names]
    names.insert(names.index(later[0]) if later else len(names), name)
    module._parameters.clear()
    module._parameters.update({n: parameters[n] for n in names})


def _plain_weights(module: nn.Module) -> list[str]:
    """The weights to prune, under the names they have without parametrizations."""
    suffix, prefix = ".original", "parametrizations."
    names = []
    for name in [*weights(module), *masks(module)]:
        plain = name.replace(prefix, "").removesuffix(suffix) if prefix in name else name
        if plain not in names:
            names.append(plain)
    return names


def _mask_of(site: Site, tensor: Tensor) -> Tensor:
    part = _masked(site)
    return torch.ones_like(tensor, dtype=torch.bool) if part is None else part.mask


def _masked(site: Site) -> Masked | None:
    if not parametrize.is_parametrized(site.module, site.name):
        return None
    chain = site.module.parametrizations[site.name]  # type: ignore[index]
    return next((part for part in chain if isinstance(part, Masked)), None)


def _set_mask(site: Site, kept: Tensor) -> None:
    part = _masked(site)
    if part is None:
        order = tuple(site.module._parameters)
        parametrize.register_parametrization(site.module, site.name, Masked(kept, order))
    else:
        part.mask = kept
