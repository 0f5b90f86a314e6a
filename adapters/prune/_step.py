"""One pruning call: compute and check, then write everything or nothing.

Methods are asked, never looked at: who stays (`masks`), what step of the core they are (`step`), and whether they only
read (`reads`). `knows` attaches the answers to `compute_mask` itself, so that whoever replaces that, in a subclass or
in place, has not given them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from masklib import _read

from .._module import state
from .._module.atomic import unchanged_on_error
from .._module.sharded import agreed
from .._module.sites import Site
from .._module.values import as_buffer, check_values, checked_mask, scores_for
from ._record import Record


def knows(**answers: Any) -> Callable[[Any], Any]:
    """Let a `compute_mask` answer for its method."""

    def attach(compute_mask: Any) -> Any:
        compute_mask.__dict__.update(answers)
        return compute_mask

    return attach


def answer(method: Any, question: str) -> Any:
    """What a method's `compute_mask` says about itself, None if nothing."""
    return getattr(method.compute_mask, question, None)


def masks_of(method: Any, tensors: Sequence[Tensor]) -> Any:
    """What says who stays of whole tensors, None if the method is to see what is alive of plain ones."""
    masks = answer(method, "masks")
    sharded = any(map(_read.is_sharded, tensors))
    if masks is None and (sharded or getattr(method, "key", None) is not None):
        masks = answer(method, "whole")
    if masks is None and sharded:
        raise TypeError(
            f"`method` must be one of masklib's for a sharded parameter, of which no rank has all, got "
            f"{type(method).__name__}. Pass a method of the core: prune.apply(module, name, method)."
        )
    return masks


def prune_sites(sites: list[Site], make: Callable[[], Any], importance_scores: Tensor | None) -> Any:
    """Prune one parameter at all of its sites; the first one's hook is returned."""
    methods = agreed(lambda: [make() for _ in sites], state.peek(*sites[0]))
    with unchanged_on_error([site.module for site in sites], generator=getattr(methods[0], "generator", None)):
        keys = [hook_key(site) for site in sites]
        orig, alive = state.parameter(*sites[0]), state.alive_at(sites)
        if type(orig) is not nn.Parameter or orig.is_meta:
            check_values(orig, sites[0].what)
        scores = agreed(lambda: _given(orig, importance_scores, sites[0]), orig)
        kept = _kept(methods[0], scores, orig, alive, sites[0])
        step = answer(methods[0], "step") if importance_scores is None else None
        hooks = [commit(*entry, orig, alive, kept, step) for entry in zip(sites, keys, methods)]
    return hooks[0]


def _given(orig: Tensor, importance_scores: Tensor | None, site: Site) -> Tensor | None:
    return None if importance_scores is None else scores_for(orig, importance_scores, site.what)


def _kept(method: Any, scores: Tensor | None, orig: Tensor, alive: Tensor | None, site: Site) -> Tensor:
    """Who stays, as bool. Methods that do not say that they only read get a copy, which they may write into."""
    masks = masks_of(method, [orig])
    if masks is not None:
        ranked = orig.detach() if scores is None else scores
        return masks(method, [ranked], [alive], [site.what])[0]
    scores = state.now(orig, alive) if scores is None else scores
    mask = _mask_of(method, scores if answer(method, "reads") else scores.clone(), orig, alive)
    return checked_mask(mask, orig, alive, site.what)


def _mask_of(method: Any, scores: Tensor, orig: Tensor, alive: Tensor | None) -> Any:
    """The first call sees the whole tensor, later ones what is alive."""
    if alive is None:
        return method.compute_mask(scores, default_mask=torch.ones_like(orig.detach()))
    return method.on_living(scores, alive.to(orig.dtype))


def commit(
    site: Site,
    key: Any,
    method: Any,
    orig: Tensor,
    alive: Tensor | None,
    kept: Tensor,
    step: Callable[[Any], Any] | None,
) -> Any:
    """Write one step at one site; the hook that acts there afterwards is returned."""
    method._tensor_name = site.name
    old = state.hook_of(*site)
    hook = method if old is None else old.followed_by(method)
    hook._record = Record() if old is None else old._record
    hook._record.add(alive, kept, step and step(method))
    method.recorded(hook._record)
    state.enter(*site, hook, as_buffer(kept, orig), key)
    return hook


def hooks(site: Site) -> dict[Any, Any]:
    """The forward pre-hooks that act on a site, by key."""
    entries = site.module._forward_pre_hooks.items()
    return {key: hook for key, hook in entries if getattr(hook, "_tensor_name", None) == site.name}


def hook_key(site: Site) -> Any:
    """The key of the only hook that acts on a site, None if there is none."""
    found = hooks(site)
    if len(found) > 1:
        raise AssertionError(
            f"Avoid adding multiple pruning hooks to the same tensor {site.name} of module {site.module}. "
            "Use a PruningContainer."
        )
    return next(iter(found), None)
