"""A model that is run only to look at what it does: a copy, its inputs, and silence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree


def twin(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares the parameters, in eval mode, with caches off."""
    shared = {id(t): t for t in model.parameters()}  # buffers are what a forward may write to
    hosts = copied(model, shared).eval()
    for module in hosts.modules():
        held: list[Any] = [getattr(module, name, None) for name in ("config", "generation_config")]
        for each in held:
            if hasattr(each, "use_cache"):
                each.use_cache = False
    return hosts


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a model, with what `memo` holds in the place of what it holds it for."""
    refuse_lazy(model)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ValueError(
            f"`model` must be one that copy.deepcopy copies: {first_line(error)} A weight that a hook of "
            "torch.nn.utils computes cannot be copied: call prune.remove or remove_weight_norm first."
        ) from error


def refuse_lazy(model: nn.Module) -> None:
    """Refuse parameters without shapes."""
    for name, tensor in tensors(model):
        if is_lazy(tensor):
            raise ValueError(f"`model` must have shapes, but {name!r} has none yet. Run the model on an input first.")


def refuse_meta(model: nn.Module) -> None:
    """Refuse a model that cannot be run."""
    if any(tensor.is_meta for _, tensor in tensors(model)):
        raise ValueError("`model` must have values, got one on the meta device. Load its weights first.")


def call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as positional and keyword arguments, copied: a model may write into what it is given."""
    if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
        return (), {name: pytree.tree_map(_own, value) for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(pytree.tree_map(_own, value) for value in inputs), {}
    raise TypeError(
        f"`example_inputs` must be a tuple of arguments or a dict of keyword arguments, got {type(inputs).__name__}. "
        "For one tensor x, pass (x,)."
    )


def _own(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers, under all their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def first_line(error: Exception) -> str:
    """The first line of a message, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."


@contextmanager
def quiet() -> Iterator[None]:
    """No gradients, no warnings and no random numbers of the caller, for what is run only to look at it."""
    with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        yield
