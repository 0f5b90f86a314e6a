"""Which parameters of a model an update gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from masklib import _read, algebra

from .._module.stepping import owned
from .._module.values import a_module
from .._module.weights import pickable

Names = Iterable[str] | Callable[[str, Tensor], bool]


def plain_model(model: Any) -> nn.Module:
    """The model behind torch.compile and DDP, whose parameters have the names it was written with."""
    module = a_module(model, "model")
    while isinstance(inner := getattr(module, "_orig_mod", _parallel(module)), nn.Module):
        module = inner
    return module


def _parallel(module: nn.Module) -> Any:
    return module.module if hasattr(module, "require_backward_grad_sync") else None


def chosen(model: nn.Module, names: Names | None, optimizer: Optimizer) -> dict[str, nn.Parameter]:
    """The parameters meant, by dotted name: the weights that the optimizer holds if nobody said which."""
    _refuse_flat(model)
    mine = owned(optimizer)
    found = _all_weights(model, mine) if names is None else _named(model, names)
    _refuse_empty(found)
    strangers = [name for name, param in found.items() if id(param) not in mine]
    if strangers or not found:
        raise ValueError(
            f"`optimizer` must hold what is to be pruned, but it does not hold {strangers or 'any weight of `model`'}. "
            "Make it from model.parameters(), or pass the names of what it holds, for example names=['fc1.weight']."
        )
    return found


def _refuse_empty(params: dict[str, nn.Parameter]) -> None:
    """Refuse parameters without values."""
    if empty := [name for name, param in params.items() if param.is_meta]:
        raise ValueError(
            f"`model` must have values, but {empty} are on the meta device. Call model.to_empty(device='cpu') and "
            "initialize or load it first."
        )


def _refuse_flat(model: nn.Module) -> None:
    """Refuse what the first FSDP makes of parameters."""
    if any(kind.__name__ == "FullyShardedDataParallel" for module in model.modules() for kind in type(module).__mro__):
        raise ValueError(
            "`model` is under FullyShardedDataParallel, whose parameters are flat pieces. "
            "Shard it with torch.distributed.fsdp.fully_shard, before the optimizer is made."
        )


def _all_weights(model: nn.Module, mine: set[int]) -> Any:
    return {name: param for name, param in pickable(model, "model").items() if id(param) in mine}


def _named(model: nn.Module, names: Names) -> Any:
    if callable(names):
        found = algebra.select(dict(model.named_parameters()), names)
        return found or _nothing("`names` chose nothing: it is False for every parameter.", model)
    known, wanted = dict(model.named_parameters(remove_duplicate=False)), _several(names)
    if unknown := [name for name in wanted if name not in known]:
        _nothing(f"`names` must be parameters of `model`, got {unknown}.", model)
    return _distinct({name: known[name] for name in wanted}) or _nothing("`names` is empty.", model)


def _several(names: Any) -> list[str]:
    """Read several names."""
    several = _read.iterates(names) and not isinstance(names, (str, Tensor))
    wanted = list(names) if several else [names]
    if not several or not all(isinstance(name, str) for name in wanted):
        example = names if isinstance(names, str) else "fc1.weight"
        raise TypeError(f"`names` must be several names or a predicate, got {names!r}. Pass names=[{example!r}].")
    return wanted


def _distinct(params: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Refuse one parameter under two names."""
    first: dict[int, str] = {}
    for name, param in params.items():
        if first.setdefault(id(param), name) != name:
            raise ValueError(f"`names` has {first[id(param)]!r} and {name!r}, which are one parameter. Name it once.")
    return params


def _nothing(why: str, model: nn.Module) -> Any:
    raise ValueError(f"{why} Its parameters: {[name for name, _ in model.named_parameters()]}.")
