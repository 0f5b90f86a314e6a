"""Masks by the names of a model and by those of its checkpoint, which transformers puts together when it loads it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from masklib import _read

from .._module.values import a_module


def to_checkpoint(masks: Mapping[str, Tensor], model: nn.Module, source: Any) -> dict[str, Tensor]:
    """Give masks of a model the names and shapes of its checkpoint.

        to_model(to_checkpoint(masks, model, source), model, source) = masks

    Experts that are one parameter of the model, and many tensors of the checkpoint, are taken apart, for example.
    `files.prune_checkpoint` takes what comes out.

    Args:
        masks: bool by the names of the model's parameters.
        model: which may be on the meta device.
        source: its checkpoint, a folder or a file of safetensors.

    Returns:
        Masks by the names of the checkpoint. Whole are those that share a tensor of it with a mask, and have none.

    Raises:
        TypeError: if an argument is not of its type.
        ValueError: if a name is no parameter of the model, a shape is another one, or the checkpoint is of another
            model, or cannot be put together and taken apart again.
        OSError: if the system cannot read the checkpoint.
    """
    origins, entries = _opened(masks, model, source)
    _check(entries, origins.empty, f"parameters of {type(model).__name__}")
    result: dict[str, Tensor] = origins.packed(entries, lambda name: _whole(origins.empty[name].shape))
    return result


def to_model(masks: Mapping[str, Tensor], model: nn.Module, source: Any) -> dict[str, Tensor]:
    """Give masks of a checkpoint the names and shapes of its model.

        to_checkpoint(to_model(masks, model, source), model, source) = masks

    Args:
        masks: bool by the names of the checkpoint.
        model, source: as for `to_checkpoint`.

    Returns:
        Masks by the names of the model, as `prune`, `prune_checkpoint` and `attach` take them. Whole are those that
        share a tensor of it with a mask, and have none.

    Raises:
        TypeError, ValueError, OSError: as `to_checkpoint`; and if a tensor is in the checkpoint alone.
    """
    origins, entries = _opened(masks, model, source)
    tensors = {name: torch.empty(entry.shape, device="meta") for name, entry in origins.entries.items()}
    _check(entries, tensors, f"tensors that become parameters of {type(model).__name__}")
    others = [name for origin in origins.holding(entries) for name in origin.sources if name not in entries]
    result: dict[str, Tensor] = origins.unpacked({**entries, **{n: _whole(tensors[n].shape) for n in others}})
    return result


def _opened(masks: Any, model: Any, source: Any) -> tuple[Any, dict[str, Tensor]]:
    """The origins of the model's tensors, and the masks."""
    a_module(model, "model")
    entries = dict(_read.mapping(masks, "masks"))
    module: Any = import_module("._origins", __package__)  # which needs safetensors
    return module.origins_of(model, source), entries


def _check(masks: Mapping[str, Tensor], tensors: Mapping[str, Tensor], whose: str) -> None:
    _read.known_names(masks, tensors, "masks", whose)
    for name, mask in masks.items():
        here = torch.zeros((), device="cpu").expand(tensors[name].shape)
        _read.mask_like(mask, here, _read.place(name, "masks"), repr(name))


def _whole(shape: Any) -> Tensor:
    return torch.ones(shape, dtype=torch.bool, device="cpu")
