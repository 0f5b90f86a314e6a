"""One pruning call: compute and check, then write everything or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _site
from ._base import BasePruningMethod, PruningContainer
from ._methods import CustomFromMask, Identity, L1Unstructured, LnStructured
from ._record import Record
from ._sites import Site


def prune_sites(
    sites: list[Site], make: Callable[[], BasePruningMethod], importance_scores: Tensor | None
) -> BasePruningMethod:
    """Prune one parameter at all of its sites; the first one's hook is returned."""
    with _site.unchanged_on_error([site.module for site in sites]):
        first = sites[0]
        hook_or_none(first)
        orig, alive = _site.parameter(*first), _site.current_mask(*first)
        method = make()
        determined = importance_scores is None and type(method) in (Identity, L1Unstructured, LnStructured)
        now = orig.detach() if alive is None else torch.where(alive, orig.detach(), 0)
        scores = _site.scores_for(now, importance_scores, f"parameter {first.name} of {first.module}")
        kept = _site.checked_mask(_mask_of(method, scores, orig, alive), orig, alive, repr(first.name))
        hooks = [_commit(site, make() if i else method, orig, alive, kept, determined) for i, site in enumerate(sites)]
    return hooks[0]


def _mask_of(method: BasePruningMethod, scores: Tensor, orig: Tensor, alive: Tensor | None) -> Any:
    """The first call sees the whole tensor, later ones what is alive."""
    if alive is None:
        return method.compute_mask(scores, default_mask=torch.ones_like(orig.detach()))
    return method.on_living(scores, alive.to(orig.dtype))


def _commit(
    site: Site, method: BasePruningMethod, orig: Tensor, alive: Tensor | None, kept: Tensor, determined: bool
) -> BasePruningMethod:
    method._tensor_name = site.name
    old = hook_or_none(site)
    hook = method if old is None else _contained(old, method)
    record = Record(orig.shape) if old is None else old._record
    record.add(alive, kept, method if determined else None)
    hook._record = record
    if isinstance(method, CustomFromMask):
        method._recorded(record)
    _site.enter(site.module, site.name, hook, _site.as_buffer(kept, orig))
    if isinstance(old, PruningContainer):
        old.add_pruning_method(method)
    return hook


def _contained(old: BasePruningMethod, method: BasePruningMethod) -> PruningContainer:
    """The container of an old hook: itself if it is one (the method is added last of all), else a new one."""
    if isinstance(old, PruningContainer):
        return old
    container = PruningContainer(old, method)
    container._owner = old._owner  # type: ignore[attr-defined]
    return container


def hooks(site: Site) -> list[tuple[Any, BasePruningMethod]]:
    entries = site.module._forward_pre_hooks.items()
    return [(k, h) for k, h in entries if isinstance(h, BasePruningMethod) and h._tensor_name == site.name]


def hook_or_none(site: Site) -> BasePruningMethod | None:
    found = hooks(site)
    if len(found) > 1:
        raise AssertionError(
            f"Avoid adding multiple pruning hooks to the same tensor {site.name} of module {site.module}. "
            "Use a PruningContainer."
        )
    return found[0][1] if found else None
