"""Whether a model still is the one that was attached: its parameters, their shapes, its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from . import _saved

Paths = dict[str, tuple[str, ...]]


def paths(params: Mapping[str, Tensor]) -> Paths:
    """The names as parts; those of DTensors apart, which `fully_shard` puts others in place of."""
    return {name: tuple(name.split(".")) for name, param in params.items() if not hasattr(param, "to_local")}


def refuse_replaced(model: nn.Module, params: Mapping[str, Tensor], masks: Mapping[str, Tensor], where: Paths) -> None:
    """Refuse to train on if a module got another parameter, which nobody prunes, or one was cut."""
    for name, path in where.items():
        found = _at(model, path)
        if found is not None and found is not params[name] and not _has(model, params[name]):
            raise ValueError(
                f"`model` has another parameter at {name!r} than when it was attached, and that one is not pruned. "
                "Call remove(), then attach again, with state=pruning.state_dict() to go on from here."
            )
    for name, param in params.items():
        if param.shape != masks[name].shape:
            raise ValueError(
                f"{name!r} has the shape {tuple(param.shape)}, but had {tuple(masks[name].shape)} when it was "
                "attached. Call remove() before layers are cut, then attach again."
            )


def _at(model: nn.Module, path: tuple[str, ...]) -> Tensor | None:
    """The parameter at a place; None if nothing is there. Without the checks of `get_parameter`, at every step."""
    owner: nn.Module | None = model
    for part in path[:-1]:
        owner = owner._modules.get(part) if owner is not None else None
    return owner._parameters.get(path[-1]) if owner is not None else None


def _has(model: nn.Module, param: Tensor) -> bool:
    return any(other is param for other in model.parameters())


def refuse_others(model: nn.Module, first: Mapping[str, Tensor]) -> None:
    """Refuse to rewind a model that has other tensors than it had."""
    now = {name: tuple(tensor.shape) for name, tensor in _saved.tensors_of(model).items()}
    then = {name: tuple(tensor.shape) for name, tensor in first.items()}
    if others := sorted({name for name, _ in now.items() ^ then.items()}):
        raise ValueError(
            f"`model` cannot be rewound: {others} came, went or changed shape since its values were kept. Give it all "
            "parameters and buffers before you attach."
        )
