"""Several parameters as one pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from masklib import _read

from .._module import state
from .._module.atomic import unchanged_on_error
from .._module.sharded import agreed
from .._module.sites import Site, global_sites
from .._module.values import check_values, checked_mask, scores_for
from ._base import BasePruningMethod
from ._methods import CustomFromMask
from ._step import commit, hook_key, masks_of


def global_unstructured(
    parameters: nn.Module | Iterable[tuple[nn.Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: Mapping[tuple[nn.Module, str], Tensor] | None = None,
    *,
    names: Iterable[str] | Callable[[str, Tensor], bool] | None = None,
    root: nn.Module | None = None,
    **kwargs: Any,
) -> None:
    """Prune several parameters as one pool.

    Args:
        parameters: any iterable of (module, name) pairs; or a module, of which `names` says the parameters.
        pruning_method: a method class with PRUNING_TYPE "unstructured".
        importance_scores: scores by (module, name), for some or all of the pairs.
        names: with a module, dotted parameter names or a filter `(name, tensor) -> bool`; by default
            `masklib.adapters.weights`, with a warning if a normed weight is left out.
        root: a module in which to look for other names of the same (tied) parameters; `parameters` itself if that is
            a module.
        kwargs: what the method's constructor takes, such as `amount`, counted over the live entries of all.

    Raises:
        TypeError: if the method is not unstructured, or the parameters or the scores are not of the form above.
        ValueError: if there is nothing to prune, or a name, a shape or a device does not fit; nothing is changed then.

    >>> net = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 1))
    >>> global_unstructured([(net[0], "weight"), (net[1], "weight")], L1Unstructured, amount=10)
    >>> int(sum((b == 0).sum() for b in net.buffers()))
    10
    """
    groups = global_sites(parameters, names, root)
    origs, alive = [state.parameter(*group[0]) for group in groups], [state.alive_at(group) for group in groups]
    sharded = next((orig for orig in origs if _read.is_sharded(orig)), None)
    scores, method = agreed(
        lambda: (_scores(groups, origs, importance_scores), _method(pruning_method, kwargs)), sharded
    )
    modules = [site.module for group in groups for site in group]
    with unchanged_on_error(modules, generator=getattr(method, "generator", None)):
        keys = [[hook_key(site) for site in group] for group in groups]
        kept = _masks(method, groups, scores, alive)
        for group, own_keys, orig, live, mask in zip(groups, keys, origs, alive, kept):
            for site, key in zip(group, own_keys):
                commit(site, key, CustomFromMask(mask), orig, live, mask, None)


def _masks(method: BasePruningMethod, groups: list[list[Site]], scores: list[Tensor], alive: list[Any]) -> list[Tensor]:
    """The mask of each parameter when all compete."""
    _refuse_several_devices(scores)
    check_values(scores[0], "the pool")
    masks, what = masks_of(method, scores), [group[0].what for group in groups]
    if masks is not None:
        return masks(method, scores, alive, what)
    flat = torch.cat([s.reshape(-1) for s in scores])
    live = torch.cat([state.or_all(a, s).reshape(-1) for a, s in zip(alive, scores)])
    mask = method.on_living(flat, live.to(flat.dtype))
    parts = [part.view(s.shape) for part, s in zip(mask.split([s.numel() for s in scores]), scores)]
    return [checked_mask(*each) for each in zip(parts, scores, alive, what)]


def _scores(groups: list[list[Site]], origs: list[Any], importance_scores: Any) -> list[Tensor]:
    """The scores of each parameter: those given for any of its sites, else the parameter itself."""
    given = {} if importance_scores is None else importance_scores
    _refuse_other_scores(given, groups)
    return [_group_scores(*entry, given) for entry in zip(groups, origs)]


def _group_scores(group: list[Site], orig: Tensor, given: Mapping[Any, Tensor]) -> Tensor:
    scores = [given[site] for site in group if site in given] if given else []
    if any(s is not scores[0] for s in scores):
        raise ValueError(f"`importance_scores` has several scores for the tied {group[0].what}. Pass one of them.")
    return scores_for(orig, scores[0], group[0].what) if scores else orig.detach()


# ---- what is refused ------------------------------------------------------------------------------------------------


def _method(pruning_method: Any, kwargs: dict[str, Any]) -> BasePruningMethod:
    makes = callable(pruning_method) and not isinstance(pruning_method, BasePruningMethod)
    method = pruning_method(**kwargs) if makes else None
    if not isinstance(method, BasePruningMethod):
        raise TypeError(
            f"`pruning_method` must be a class of methods, got {pruning_method!r}. Pass the class and, beside it, what "
            "its constructor takes: global_unstructured(model, prune.L1Unstructured, amount=0.5)."
        )
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            '`pruning_method` must have PRUNING_TYPE "unstructured", '
            f"got {pruning_method} of type {method.PRUNING_TYPE!r}. For example prune.L1Unstructured."
        )
    return method


def _refuse_other_scores(given: Any, groups: list[list[Site]]) -> None:
    if not isinstance(given, Mapping):
        raise TypeError("global_unstructured(): `importance_scores` must be a dict from (module, name) to scores.")
    known = {site for group in groups for site in group} if given else set()
    for key in given:
        if not (isinstance(key, tuple) and len(key) == 2):
            raise TypeError(f"`importance_scores` must have (module, name) pairs as keys, got {key!r}.")
        if key not in known:
            raise ValueError(f"`importance_scores` has scores for {key[1]!r} of {key[0]}, which is not being pruned.")


def _refuse_several_devices(scores: list[Tensor]) -> None:
    devices = sorted({str(s.device) for s in scores})
    if len(devices) > 1:
        raise ValueError(f"`parameters` of one pool must be on one device, got {devices}. Move the model first.")
