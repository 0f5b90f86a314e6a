"""What is asked for, read once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from masklib import _read
from masklib._amounts import how_many

from .._module.blocks import batches_of, blocks_of, listed
from .._module.weights import skipped, weights
from ._rules import Rule
from ._sites import Site, site_of

Progress = Callable[[int, int], None]  # from how many blocks are finished, and how many there are


class Asked(NamedTuple):
    """A call, read and checked."""

    model: nn.Module
    rule: Rule
    numbers: dict[str, Any]  # amount, keep and sparsity, as they were given
    masks: dict[str, Tensor]  # by name, what is alive before
    strict: bool
    batches: list[Any]
    blocks: dict[str, nn.Module]
    sites: dict[str, Site]
    left_out: dict[str, str]
    device: torch.device | None
    progress: Progress


def asked(
    model: nn.Module,
    batches: Any,
    rule: Any,
    numbers: dict[str, Any],
    default_masks: Any,
    names: Any,
    blocks: Any,
    strict: Any,
    device: Any,
    progress: Any,
) -> Asked:
    """Read the arguments of `prune` and `prune_checkpoint`."""
    _refuse_others(rule, strict)
    data, parts = batches_of(batches), blocks_of(model, blocks)
    sites, left_out = sites_of(model, parts, names)
    _refuse_numbers(numbers, sites)
    masks = _masks(default_masks, sites)
    if progress is not None:
        _read.function(progress, "progress", "progress=print")
    return Asked(
        model, rule, numbers, masks, strict, data, parts, sites, left_out, _device(device), progress or _nobody
    )


def _nobody(finished: int, blocks: int) -> None: ...


def _device(value: Any) -> torch.device | None:
    if value is None:
        return None
    if not isinstance(value, (str, torch.device)):
        raise TypeError(f"`device` must be a device or its name, got {value!r}. For example device='cuda'.")
    try:
        device = torch.device(value)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        cause = str(error).splitlines()[0]
        raise ValueError(f"`device` must be one of this machine, got {value!r}: {cause}. For example 'cpu'.") from None
    if device.type == "meta":
        raise ValueError(f"`device` must be one that computes, got {value!r}. For example 'cpu'.")
    return device


def _refuse_others(rule: Any, strict: Any) -> None:
    if not (callable(getattr(rule, "add", None)) and callable(getattr(rule, "solve", None))):
        raise TypeError(f"`rule` must be a Rule with functions `add` and `solve`, got {rule!r}. For example wanda().")
    if not (callable(prepare := getattr(rule, "prepare", None)) or prepare is None):
        raise TypeError(f"`rule.prepare` must be a function or None, got {prepare!r}. For example Rule(add, solve).")
    _read.flag(strict, "strict", "strict=False")


def sites_of(
    model: nn.Module, blocks: Mapping[str, nn.Module], names: Collection[str] | None
) -> tuple[dict[str, Site], dict[str, str]]:
    """The weights to prune, and why the other parameters are none."""
    left_out, sites, params = skipped(model), {}, dict(model.named_parameters())
    for name, param in weights(model).items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if not any(name.startswith(f"{block}.") for block in blocks):
            left_out[name] = "outside the blocks"
        elif params.get(name) is not param:
            left_out[name] = "pruned or computed already: bake it first"
        else:
            try:
                sites[name] = site_of(name, owner, param)
            except ValueError as error:
                left_out[name] = str(error)
    if names is not None:
        _known(names := listed(names, "names", "['fc.weight']"), sites, left_out)
        left_out |= {n: "not chosen" for n in sites if n not in names}
        sites = {n: s for n, s in sites.items() if n in names}
    if not sites:
        raise ValueError(f"`model` has no weights to prune in the blocks {list(blocks)}. Left out: {left_out}.")
    return sites, left_out


def _known(names: Collection[str], sites: Mapping[str, Site], left_out: Mapping[str, str]) -> None:
    unknown = {n: left_out.get(n, "no parameter of the model") for n in names if n not in sites}
    if unknown:
        raise ValueError(f"`names` must be weights in the blocks: {unknown}. Known names: {list(sites)}.")


def _refuse_numbers(numbers: Mapping[str, Any], sites: Mapping[str, Site]) -> None:
    for argument, value in numbers.items():
        if isinstance(value, Mapping):
            _read.same_names(value, sites, argument, "the weights to prune")
    for name in sites:
        how_many(**{a: v[name] if isinstance(v, Mapping) else v for a, v in numbers.items()})


def _masks(value: Any, sites: Mapping[str, Site]) -> dict[str, Tensor]:
    if value is None:
        return {}
    masks = _read.mapping(value, "default_masks")
    _read.known_names(masks, sites, "default_masks", "the weights to prune")
    for name, mask in masks.items():
        param = sites[name].param
        # masks of a checkpoint are on the CPU
        here = torch.zeros((), device="cpu").expand(param.shape) if param.is_meta else param
        _read.mask_like(mask, here, _read.place(name, "default_masks"), repr(name))
    return dict(masks)
