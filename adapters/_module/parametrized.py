"""Masks as torch parametrizations: the parametrization itself, and where masks and originals are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import masklib
from masklib import _read
from masklib._shards._parts import on_part

from .sharded import aligned, follow, reshard
from .values import a_module, zero_one


class Masked(nn.Module):
    """The parametrization: where(mask, weight, 0), with the mask as a bool buffer of the weight's shape."""

    mask: Tensor

    def __init__(self, mask: Tensor, order: tuple[str, ...]) -> None:
        super().__init__()
        _read.is_dense(mask, "", "mask")
        if mask.dtype != torch.bool:
            raise TypeError(f"`mask` must be bool (True = kept), got {mask.dtype}. Pass mask != 0.")
        self.register_buffer("mask", mask)
        self.order = order  # of the module's parameters before, for `remove`

    def forward(self, weight: Tensor) -> Tensor:
        """Zero what the mask kills."""
        return masklib.apply(weight, aligned(self.mask, weight))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Take an assigned value as it is."""
        return weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse a mask that is not of 0 and 1, which copying it into a bool buffer would hide."""
        mask = state_dict.get(f"{prefix}mask")
        if isinstance(mask, Tensor):
            zero_one(mask, f"`{prefix}mask`")
        super()._load_from_state_dict(state_dict, prefix, *args)


Masked.__module__ = "masklib.adapters.parametrize"  # where pickles and documentation look for it


def chains(module: nn.Module) -> Mapping[str, Any]:
    """The module's own parametrizations by tensor name."""
    found = module._modules.get("parametrizations")  # torch's is_parametrized takes long to say no
    return dict(found.items()) if isinstance(found, nn.ModuleDict) else {}


def masked_part(chain: Any) -> Masked | None:
    """The mask among the parametrizations of one tensor."""
    return next((part for part in chain if isinstance(part, Masked)), None)


def others(chain: Any) -> list[str]:
    """The kinds of what else a tensor is computed by."""
    return [type(part).__name__ for part in chain if not isinstance(part, Masked)]


def behind(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters behind the module's own parametrizations, those of several tensors left out."""
    return {n: chain.original for n, chain in chains(module).items() if "original" in chain._parameters}


def _own(module: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in module._parameters.items() if p is not None} | behind(module)


def originals(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by every dotted name they have without parametrizations, those of several tensors left out."""
    return _dotted(module, _own)


def masked_parts(module: nn.Module) -> dict[str, Masked]:
    """The masks by every dotted name of what they mask."""
    found = _dotted(module, lambda m: {n: masked_part(chain) for n, chain in chains(m).items()})
    return {name: part for name, part in found.items() if part is not None}


def masks_in(module: nn.Module) -> dict[str, Tensor]:
    """The masks by every dotted name, sharded as their parameters are; of what others compute too, as they are."""
    found = _dotted(module, lambda m: {n: _mask_of(chain) for n, chain in chains(m).items()})
    return {name: mask for name, mask in found.items() if mask is not None}


def _mask_of(chain: Any) -> Tensor | None:
    part, original = masked_part(chain), chain._parameters.get("original")
    if part is None or original is None:
        return None if part is None else part.mask
    return aligned(part.mask, original)


def _dotted(module: nn.Module, own: Callable[[nn.Module], dict[str, Any]]) -> dict[str, Any]:
    a_module(module)
    found: dict[str, Any] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        reshard(owner)
        if not isinstance(owner, parametrize.ParametrizationList):
            found |= {f"{prefix}.{n}" if prefix else n: value for n, value in own(owner).items()}
    return found


def order_of(module: nn.Module) -> tuple[str, ...]:
    """The order that the module's parameters had before any of them was pruned."""
    parts = [part for chain in chains(module).values() if (part := masked_part(chain))]
    return parts[0].order if parts else tuple(module._parameters)


def mask_parametrized(module: nn.Module, name: str, kept: Tensor) -> None:
    """Set a copy of a bool mask, which training can use later."""
    with torch.inference_mode(False):
        kept = on_part(torch.clone, kept)
    part = masked_part(chains(module).get(name, ()))
    if part is None:
        _own_class(module)
        parametrize.register_parametrization(module, name, Masked(kept, order_of(module)))
        follow(module, name, chains(module)[name], "original")
    else:
        part.mask = kept


def unparametrize(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Give the parameter its name and its place back; if a value is given, write it into the parameter itself."""
    order, original = order_of(module), chains(module)[name].original
    if value is not None:
        with torch.no_grad():
            on_part(Tensor.copy_, original, value)
    follow(chains(module)[name], "original", module, name)
    _own_class(module)
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    parameters = dict(module._parameters)
    names = [n for n in parameters if n != name]
    later = [n for n in order[order.index(name) + 1 :] if n in names] if name in order else []
    names.insert(names.index(later[0]) if later else len(names), name)
    module._parameters.clear()
    module._parameters.update({n: parameters[n] for n in names})
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own: torch writes into the class, which deep copies share."""
    if parametrize.is_parametrized(module):
        kind, parametrized = type(module), _parametrized_class(module)
        outermost = kind if parametrized is kind else _wrapped(kind, parametrized)
        bases = kind.__bases__ if parametrized is kind else (outermost,)
        module.__class__ = type(parametrized.__name__, bases, _entries(parametrized))


def _parametrized_class(module: nn.Module) -> type:
    """The class that torch made for the parametrizations: that of the module, if `fully_shard` put none before it."""
    names = set(chains(module))
    return next(kind for kind in type(module).__mro__ if names & set(vars(kind)))


def _wrapped(kind: type, parametrized: type) -> type:
    """A class of `fully_shard` without the parametrized one in it, which torch looks for at the front."""
    bases = tuple(parametrized.__bases__[0] if base is parametrized else base for base in kind.__bases__)
    return type(kind.__name__.replace("Parametrized", "", 1), bases, _entries(kind))


def _entries(kind: type) -> dict[str, Any]:
    return {n: v for n, v in vars(kind).items() if n not in ("__dict__", "__weakref__")}
