"""Several parameters as one pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from masklib import l1_unstructured

from . import _site
from ._amounts import number_to_prune
from ._base import BasePruningMethod
from ._methods import L1Unstructured, as_built
from ._sites import Site


def global_method(pruning_method: Any, kwargs: dict[str, Any]) -> BasePruningMethod:
    makes = callable(pruning_method) and not isinstance(pruning_method, BasePruningMethod)
    method = pruning_method(**kwargs) if makes else None
    if not isinstance(method, BasePruningMethod):
        raise TypeError(
            f"`pruning_method` must be a class of methods, got {pruning_method!r}. Pass the class and, beside it, what "
            "its constructor takes: global_unstructured(model, prune.L1Unstructured, amount=0.5)."
        )
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. '
            f"Found method {pruning_method} of type {method.PRUNING_TYPE}"
        )
    return method


def global_scores(groups: list[list[Site]], importance_scores: Any) -> list[Tensor]:
    """The scores of each parameter: those given for any of its sites, else the parameter under its mask."""
    given = {} if importance_scores is None else importance_scores
    if not isinstance(given, Mapping):
        raise TypeError("global_unstructured(): `importance_scores` must be a dict from (module, name) to scores.")
    known = {site for group in groups for site in group}
    for key in given:
        if not (isinstance(key, tuple) and len(key) == 2):
            raise TypeError(f"`importance_scores` must have (module, name) pairs as keys, got {key!r}.")
        if key not in known:
            raise ValueError(f"`importance_scores` has scores for {key[1]!r} of {key[0]}, which is not being pruned.")
    return [_group_scores(group, given) for group in groups]


def _group_scores(group: list[Site], given: Mapping[Any, Tensor]) -> Tensor:
    orig, what = _site.parameter(*group[0]), group[0].what
    scores = [given[site] for site in group if site in given]
    if any(s is not scores[0] for s in scores):
        raise ValueError(f"`importance_scores` has several scores for the tied {what}. Pass one of them.")
    return _site.scores_for(_site.now(orig, _site.alive_at(group)), scores[0] if scores else None, what)


def global_masks(method: BasePruningMethod, groups: list[list[Site]], scores: list[Tensor]) -> list[Tensor]:
    """The mask of each parameter when all compete; magnitudes straight by the core, without concatenation."""
    _one_device(scores)
    _site.check_values(scores[0], "the pool")
    alive = [_alive(group) for group in groups]
    if isinstance(method, L1Unstructured) and as_built(method):
        return magnitude_masks(method, scores, alive, [group[0] for group in groups])
    flat = torch.cat([s.reshape(-1) for s in scores])
    mask = method.on_living(flat, torch.cat([a.reshape(-1) for a in alive]).to(flat.dtype))
    return [part.view(s.shape) != 0 for part, s in zip(mask.split([s.numel() for s in scores]), scores)]


def magnitude_masks(
    method: L1Unstructured, scores: list[Tensor], alive: list[Tensor], sites: list[Site]
) -> list[Tensor]:
    """The core's masks of one pool: it ranks under the masks, without copies. Names sort as the sites are ordered."""
    number = number_to_prune(method.amount, sum(int(a.count_nonzero()) for a in alive))
    width = len(str(len(sites)))
    names = [f"{i:0{width}} ({s.what})" for i, s in enumerate(sites)]
    return list(l1_unstructured(dict(zip(names, scores)), dict(zip(names, alive)), amount=number).values())


def _alive(group: list[Site]) -> Tensor:
    return _site.or_all(_site.alive_at(group), _site.parameter(*group[0]))


def _one_device(scores: list[Tensor]) -> None:
    devices = sorted({str(s.device) for s in scores})
    if len(devices) > 1:
        raise ValueError(f"`parameters` of one pool must be on one device, got {devices}. Move the model first.")
