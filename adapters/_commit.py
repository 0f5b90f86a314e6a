"""One pruning call: compute and check, then write everything or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _site
from ._base import BasePruningMethod, PruningContainer
from ._global import magnitude_masks
from ._methods import DETERMINED, CustomFromMask, L1Unstructured, as_built
from ._record import Record
from ._sites import Site


def prune_sites(
    sites: list[Site], make: Callable[[], BasePruningMethod], importance_scores: Tensor | None
) -> BasePruningMethod:
    """Prune one parameter at all of its sites; the first one's hook is returned."""
    with _site.unchanged_on_error([site.module for site in sites]):
        keys = [_hook_key(site) for site in sites]
        orig, alive = _site.parameter(*sites[0]), _site.alive_at(sites)
        methods = [make() for _ in sites]
        _site.check_values(orig, sites[0].what)
        scores = None if importance_scores is None else _site.scores_for(orig, importance_scores, sites[0].what)
        kept = _kept(methods[0], scores, orig, alive, sites[0])
        determined = importance_scores is None and isinstance(methods[0], DETERMINED) and as_built(methods[0])
        hooks = [_commit(*entry, orig, alive, kept, determined) for entry in zip(sites, keys, methods)]
    return hooks[0]


def _kept(method: BasePruningMethod, scores: Tensor | None, orig: Tensor, alive: Tensor | None, site: Site) -> Tensor:
    """Who stays, as bool. Methods that are not ours get a copy, which they may write into."""
    if isinstance(method, L1Unstructured) and as_built(method):
        ranked = orig.detach() if scores is None else scores
        return magnitude_masks(method, [ranked], [_site.or_all(alive, orig)], [site])[0]
    if isinstance(method, CustomFromMask) and as_built(method):
        return _site.checked_mask(method.mask, orig, alive, site.what)
    scores = _site.now(orig, alive) if scores is None else scores
    mask = _mask_of(method, scores if as_built(method) else scores.clone(), orig, alive)
    return _site.checked_mask(mask, orig, alive, site.what)


def _mask_of(method: BasePruningMethod, scores: Tensor, orig: Tensor, alive: Tensor | None) -> Any:
    """The first call sees the whole tensor, later ones what is alive."""
    if alive is None:
        return method.compute_mask(scores, default_mask=torch.ones_like(orig.detach()))
    return method.on_living(scores, alive.to(orig.dtype))


def _commit(
    site: Site,
    key: Any,
    method: BasePruningMethod,
    orig: Tensor,
    alive: Tensor | None,
    kept: Tensor,
    determined: bool,
) -> BasePruningMethod:
    method._tensor_name = site.name
    old = _site.hook_of(*site)
    hook = method if old is None else old if isinstance(old, PruningContainer) else PruningContainer(old, method)
    hook._record = Record(orig.shape) if old is None else old._record
    hook._record.add(alive, kept, method if determined else None)
    if isinstance(method, CustomFromMask):
        method._recorded(hook._record)
    _site.enter(*site, hook, _site.as_buffer(kept, orig), key)
    if isinstance(old, PruningContainer):
        old.add_pruning_method(method)
    return hook


def hooks(site: Site) -> dict[Any, BasePruningMethod]:
    """The forward pre-hooks that act on a site, by key."""
    entries = site.module._forward_pre_hooks.items()
    return {k: h for k, h in entries if isinstance(h, BasePruningMethod) and h._tensor_name == site.name}


def _hook_key(site: Site) -> Any:
    found = hooks(site)
    if len(found) > 1:
        raise AssertionError(
            f"Avoid adding multiple pruning hooks to the same tensor {site.name} of module {site.module}. "
            "Use a PruningContainer."
        )
    return next(iter(found), None)
