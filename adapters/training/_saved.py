"""The state of a pruning as tensors and numbers, and what of it is refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from masklib import _read

from .._module.stepping import owned
from ._described import described


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def everything(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, by name."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}


@torch.no_grad()
def rewind(pruning: Any) -> None:
    """Everything is what it was first, and the optimizer begins anew."""
    for name, tensor in tensors_of(pruning.model).items():
        tensor.copy_(pruning._first[name])
    for param in pruning.model.parameters():
        if id(param) in owned(pruning.optimizer):
            pruning.optimizer.state.pop(param, None)


def state_dict(pruning: Any) -> dict[str, Any]:
    """All that a run goes on from; the same keys at every step, so that it can be loaded in place."""
    leaves, _ = _evidence(pruning)
    groups = {"masks": pruning.masks, "values": pruning._values, "first": pruning._first}
    return {
        "step": pruning.step,
        "observed": pruning._seen is not None,
        "update": described(pruning.update, pruning._hold),
        **{key: {n: t.detach().clone() for n, t in group.items()} for key, group in groups.items()},
        "evidence": {str(i): _as_tensor(leaf).detach().clone() for i, leaf in enumerate(leaves)},
    }


def _as_tensor(leaf: Any) -> Tensor:
    """A tensor as it is: torch.as_tensor would take it to the default device."""
    return leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, device="cpu")


def _evidence(pruning: Any) -> tuple[list[Any], Any]:
    """What `observe` has gathered as a list of tensors and numbers, and its form; before the first step, any."""
    if pruning.update.observe is None:
        return [], None
    if pruning._seen is not None:
        return tree_flatten(pruning._seen)
    params = pruning._detached()
    leaves, form = tree_flatten(
        pruning.update.observe(None, params, {n: torch.zeros_like(p) for n, p in params.items()})
    )
    return leaves, form


def checked(pruning: Any, state: Any) -> Mapping[str, Any]:
    """Read a state that fits the pruning: keys, names, shapes and dtypes; that of another update is told."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"`state` must be what state_dict() gave, got {type(state).__name__}. Pass checkpoint['pruning'], say."
        )
    expected = state_dict(pruning)
    _read.same_names(state, expected, "state", "state_dict()")
    for key in ("masks", "values", "first", "evidence"):
        _refuse_others(state[key], expected[key], key)
    for key, kind in (("step", int), ("observed", bool), ("update", str)):
        if type(state[key]) is not kind:
            raise TypeError(f"{key!r} in `state` must be of type {kind.__name__}, got {state[key]!r}.")
    if state["observed"] and pruning.update.observe is None:
        raise ValueError("'observed' in `state` must be False for an update without `observe`, got True.")
    if state["update"] != expected["update"]:
        warnings.warn(
            f"`state` is of another update, or of other numbers: {state['update']}. Training goes on from it as "
            f"{expected['update']}.",
            stacklevel=4,
        )
    return state


def _refuse_others(tensors: Any, expected: Mapping[str, Tensor], key: str) -> None:
    """Refuse tensors that are not of the names, shapes and dtypes of these."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"{key!r} in `state` must be tensors by name, got {type(tensors).__name__}.")
    if missing := sorted(map(str, set(tensors) ^ set(expected))):
        raise ValueError(
            f"`state` does not fit: its {key!r} and those of this pruning differ by {missing}. Attach the same update "
            "with the same names and the same `hold`."
        )
    for name, tensor in expected.items():
        where = f"{key!r} of {name!r} in `state`"
        _read.is_dense(tensors[name], name, "state")
        _read.same_shape(tensors[name], tensor, where, "that of this pruning")
        if tensors[name].is_meta:
            raise ValueError(f"{where} must have values, but is on the meta device.")
        if _kind(tensors[name]) != _kind(tensor):
            raise TypeError(f"{where} must be {tensor.dtype}, got {tensors[name].dtype}.")


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """What no cast may change."""
    return tensor.dtype == torch.bool, tensor.is_complex()


def restore(pruning: Any, state: Mapping[str, Any]) -> None:
    """Bring a checked state in."""
    pruning.step = int(state["step"])
    pruning._take(state["masks"])
    for mine, saved in ((pruning._values, state["values"]), (pruning._first, state["first"])):
        for name, tensor in mine.items():
            mine[name] = torch.empty_like(tensor).copy_(saved[name])
    leaves, form = _evidence(pruning)
    copies = [_like(leaf, state["evidence"][str(i)]) for i, leaf in enumerate(leaves)]
    pruning._seen = tree_unflatten(copies, form) if state["observed"] else None


def _like(leaf: Any, saved: Tensor) -> Any:
    """A saved tensor or number, where and as the leaf is."""
    return torch.empty_like(leaf).copy_(saved) if isinstance(leaf, Tensor) else saved.item()
