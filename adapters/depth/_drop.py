"""The model without some of its blocks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from masklib import _read

from .._module.blocks import first_of, split
from .._module.same import difference
from .._module.trial import call, copied, first_line, refuse_meta, twin
from .._module.values import a_module
from ._config import follow


def drop(model: nn.Module, masks: Mapping[str, Tensor], example_inputs: Any) -> nn.Module:
    """Drop the blocks that masks have killed out of a copy of the model.

        drop(model, masks, inputs)(x) = model(x) with h -> h for each dropped block

    The blocks behind move up: their names, the numbers that they hold of themselves, such as `layer_idx` for caches,
    and what a transformers `config` says of layers, one by one (`layer_types`) and in all. Both models are run on the
    example inputs, and on twice the batch, before the new one is returned.

    Args:
        model: it is left as it is.
        masks: bool without dims, by the names of blocks that are children of a `ModuleList` or `Sequential`, True =
            kept; as from `compute_mask(measure(...).scores, amount=3)` or `measure(...).lowest()`. Others are kept.
        example_inputs: a tuple of arguments or a dict of keyword arguments.

    Returns:
        A model of the same class, with tensors of its own, in the same mode.

    Raises:
        TypeError: if an argument is of another kind, or a mask not bool.
        ValueError: if a name is not that of such a block, no block is dropped, or all of a list are; if a block changes
            the shape of the hidden state; or if the model without the blocks does not compute what it does when they
            hand on what they get, as where another list is as long, or a block makes what later ones use.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    >>> drop(net, {"0": torch.tensor(False)}, (torch.ones(2, 4),))
    Sequential((0): ReLU() (1): Linear(in_features=4, out_features=4, bias=True))

    Reference: Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", 2024.
    """
    a_module(model, "model")
    refuse_meta(model)
    dropped = _dropped(model, masks)
    small = copied(model)
    for path, gone in dropped.items():
        kept = [name for name in small.get_submodule(path)._modules if name not in gone]
        _remove(small.get_submodule(path), kept)
    lost = follow(model, small, dropped)
    why = _difference(model, small, dropped, example_inputs)
    if why is not None:
        raise ValueError(
            "`masks` drop blocks without which the model does not compute what it does when they hand on their inputs: "
            f"{why}. Keep blocks that make what others use, or pass another list's blocks."
        )
    if lost is not None:
        warnings.warn(
            f"the config of {type(small).__name__} cannot hold these blocks ({lost}), so that from_pretrained will not "
            "load what save_pretrained writes. Save the module itself, or drop other blocks.",
            stacklevel=2,
        )
    return small


def _remove(owner: nn.Module, kept: list[str]) -> None:
    """Keep some children; those behind move up."""
    numbered = all(name.isdigit() for name in owner._modules)
    places = {name: int(name) for name in owner._modules if numbered}
    children = {str(i) if numbered else name: owner._modules[name] for i, name in enumerate(kept)}
    owner._modules.clear()
    owner._modules.update(children)
    for i, name in enumerate(kept if numbered else []):
        _renumber(owner._modules[str(i)], places[name], i)


def _renumber(block: Any, old: int, new: int) -> None:
    """Tell a block, and what is in it, its new place."""
    for module in block.modules():
        for name, value in list(vars(module).items()):
            if type(value) is int and value == old and _PLACE.fullmatch(name):
                setattr(module, name, new)


# What code calls the place of a block among the others: where its keys and values lie in a cache, say.
_PLACE = re.compile(r"_?(layer|block)_?(idx|id|index|number|num|i)", re.IGNORECASE)


def _difference(model: nn.Module, small: nn.Module, dropped: Mapping[str, set[str]], inputs: Any) -> str | None:
    """How the smaller model differs from the one whose dropped blocks hand on what they get."""
    call(inputs)
    big = twin(model)
    for path, names in dropped.items():
        for name in names:
            block: Any = big.get_submodule(path)._modules[name]
            block.register_forward_hook(_hand_on(f"{path}.{name}" if path else name), with_kwargs=True)
    try:
        return difference(big, {}, small, inputs)
    except _Shape as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise ValueError(
            f"`model` does not run on these `example_inputs`: {first_line(error)} "
            "Pass inputs that model(*example_inputs), or model(**example_inputs), takes."
        ) from error


class _Shape(Exception):
    """A block that cannot hand on what it gets."""


def _hand_on(name: str) -> Any:
    """A hook that puts what goes into a block in the place of what comes out."""

    def hook(module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> Any:
        state, after = split(name, args, kwargs)[0], first_of(outputs)
        if not isinstance(after, Tensor) or after.shape != state.shape:
            shape = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise _Shape(f"`masks` must keep {name!r}, which makes {shape} of a state of shape {tuple(state.shape)}.")
        return state if isinstance(outputs, Tensor) else type(outputs)((state, *outputs[1:]))

    return hook


# ---- what is refused ------------------------------------------------------------------------------------------------


def _dropped(model: nn.Module, masks: Any) -> dict[str, set[str]]:
    """The names of the children to drop, by the path of their list."""
    found: dict[str, set[str]] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, mask in _read.tensors(_read.mapping(masks, "masks"), "masks").items():
        path, _, last = name.rpartition(".")
        owner = modules.get(path)
        if not isinstance(owner, (nn.ModuleList, nn.Sequential)) or last not in owner._modules:
            raise ValueError(
                f"`masks` must name blocks of a ModuleList or Sequential of {type(model).__name__}, got {name!r}. "
                "For example measure(model, batches).lowest()."
            )
        if mask.dtype != torch.bool or mask.numel() != 1:
            raise TypeError(
                f"`masks` of {name!r} must be one bool (True = kept), got {mask.dtype} of shape {tuple(mask.shape)}."
            )
        if mask.is_meta:
            raise ValueError(f"`masks` of {name!r} must have a value, got one on the meta device.")
        if not mask.item():
            found.setdefault(path, set()).add(last)
    if not found:
        raise ValueError("`masks` drop no block. For example measure(model, batches).lowest().")
    for path, gone in found.items():
        if len(gone) == len(model.get_submodule(path)._modules):
            raise ValueError(f"`masks` leave no block of {path or 'the model'!r}. Keep one at least.")
    return found
