"""Mixtures without some of their experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from masklib import _read

from .._module.same import Under, difference
from .._module.trial import tensors
from ._cut import kept_places, roots_of, smaller
from ._settings import Cut, follow_config
from ._shrink import fitted, read_all
from ._sizes import Change, changes, known_numbers, left, sizes_after
from ._structure import Structure
from ._told import number_of, set_number
from ._uses import Key, Watch
from ._walk import Route


def drop_experts(model: nn.Module, masks: Mapping[str, Tensor], structure: Structure) -> nn.Module:
    """Remove experts from the packed weights, from the router and from the config.

        drop_experts(model, masks, structure)(x) = model(x), if no router could ever choose the removed experts

    A router without an expert does what it would with the score minus infinity for it: softmax shares out among those
    that are left. Zeros in the weights would not do that, so that experts are no units of `shrink`. Where fewer are
    left than a router chooses, it chooses all. The smaller model is run beside the larger one before it is returned.

    Args:
        model: the one that the structure is of. It is left as it is.
        masks: bool (experts,), by the keys of `structure.experts`; mixtures that are not named stay whole. A config of
            transformers has one number of experts for all layers.
        structure: of the model, from `structure(model, example_inputs)`.

    Returns:
        A smaller model of the same classes, with tensors of its own.

    Raises:
        TypeError: if an argument is of another kind, or a mask not bool.
        ValueError: if a mask is of no mixture of the model or not of its shape; if no expert is removed, or all of a
            mixture are; or if the smaller model would not compute the same.

    >>> class Mixture(nn.Linear):
    ...     def forward(self, x):
    ...         gates, chosen = super().forward(x).softmax(-1).topk(2)
    ...         return torch.einsum("tk,tkij,tj->ti", gates, self.experts[chosen], x)
    >>> net = Mixture(3, 8)
    >>> net.experts = nn.Parameter(torch.randn(8, 3, 3))
    >>> small = drop_experts(net, {"": torch.arange(8) > 2}, structure(net, (torch.ones(1, 3),)))
    >>> small, small.experts.shape
    (Mixture(in_features=3, out_features=5, bias=True), torch.Size([5, 3, 3]))

    Reference: Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression", 2025.
    """
    chosen = of_experts(structure)
    read_all(model, {}, chosen)
    dead = _dead(masks, structure)
    gone = roots_of(chosen, dead)
    bounds = list(_bounds(model, structure, gone))
    small = smaller(model, {}, kept_places(chosen, dead, {name: t.shape for name, t in tensors(model)}))
    under, found = _without(structure, gone, bounds), [*changes(model, structure, gone), *(b.change for b in bounds)]
    why = fitted(model, {}, small, structure, gone, found, under)
    if why is not None:
        raise ValueError(
            f"`masks` remove experts from a model that would not compute the same without them: {why}. Where the code "
            "holds their number as a number of its own, let it read it from a tensor."
        )
    numbers = sizes_after(structure, gone)
    for old, change in bounds:
        numbers.setdefault(old, set()).add(change.value)
    cut = Cut(numbers, known_numbers(structure))
    follow_config(small, cut, lambda: difference(model, {}, small, structure.inputs, under) is None)
    return small


def of_experts(structure: Any) -> Any:
    """The structure whose sets are the experts, to be cut; what is no structure is refused later."""
    if not isinstance(structure, Structure):
        return structure
    names = {d.name for each in structure.experts.values() for d in each.dims}
    shapes = {name: structure.parameters[name] for name in names}
    return replace(structure, sets=tuple(structure.experts.values()), shapes=shapes)


class _Bound(NamedTuple):
    """A router that chooses more experts than are left: how many, and what that becomes."""

    old: int
    change: Change


def _bounds(model: nn.Module, structure: Structure, gone: Any) -> Iterator[_Bound]:
    for route in structure.walk.routes:
        name = structure.uses.calls.get((route.path, *route.call), {}).get(0) if route.call[0] == "topk" else None
        count = left(structure, route.labels, gone)
        if name and (old := number_of(model.get_submodule(route.path), name)) > count:
            yield _Bound(old, Change(route.path, name, count))


def _without(structure: Structure, gone: Any, bounds: list[_Bound]) -> Under:
    """What the larger model is run under, so that it cannot choose experts that are gone."""
    routes = {(r.path, *r.call): r for r in structure.walk.routes}

    def met(key: Key, func: Any, args: Any, kwargs: Any) -> Any:
        if key in routes:
            scores, *args = args if args else (kwargs.pop("input"),)
            args = [_never(scores, routes[key], structure, gone), *args]
        return func(*args, **kwargs)

    @contextmanager
    def under(hosts: nn.Module) -> Iterator[None]:
        for _, change in bounds:
            set_number(hosts.get_submodule(change.path), change.name, change.value)
        with Watch(hosts, met):
            yield

    return under


def _never(scores: Tensor, route: Route, structure: Structure, gone: Any) -> Tensor:
    """Scores that are minus infinity for experts that are gone."""
    dead = torch.from_numpy(np.isin(structure.walk.labels.roots(route.labels), gone)).to(scores.device)
    return scores.masked_fill(dead.reshape([-1] + [1] * (-route.dim - 1)), -torch.inf)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _dead(masks: Any, structure: Structure) -> list[Tensor]:
    """For each mixture, which experts are removed."""
    experts = structure.experts
    if not experts:
        raise ValueError("`structure` has no experts that can be removed. structure.explain() says why.")
    _read.known_names(_read.mapping(masks, "masks"), experts, "masks", "structure.experts")
    for path, mask in masks.items():
        if mask.is_meta:
            raise ValueError(f"{_read.place(path, 'masks')} must have values, got a mask on the meta device.")
        if mask.dtype != torch.bool or mask.shape != (experts[path].units,):
            raise (TypeError if mask.dtype != torch.bool else ValueError)(
                f"{_read.place(path, 'masks')} must be bool (True = kept) of shape ({experts[path].units},), got "
                f"{mask.dtype} of shape {tuple(mask.shape)}. For example compute_mask(scores, keep=4)."
            )
    dead = [
        ~masks[path].cpu() if path in masks else torch.zeros(each.units, dtype=torch.bool, device="cpu")
        for path, each in experts.items()
    ]
    ended = [path for path, gone in zip(experts, dead) if gone.all()]
    if ended or not any(gone.any() for gone in dead):
        what = f"leave no expert of {ended[0]!r}" if ended else "remove no expert"
        raise ValueError(f"`masks` {what}. For example compute_mask(scores, keep=4) for each layer.")
    return dead
